"""`bmtas export`: from a trained network of a run to files that have been proved, each before it gets its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.data.protocol import Dataset
from bmtas.errors import BuildError, ParityError, UsageError
from bmtas.extras import require
from bmtas.files import atomic_folder, atomic_path, write_json
from bmtas.progress import Progress
from bmtas.runs import Run
from export.engines import deliver_engines
from export.exporting import Delivery, Exporting
from export.formats import Format
from export.openvino_file import write_openvino
from export.program import ProgramSession, write_program
from export.proof.limits import limits_for
from export.request import ExportRequest
from export.sessions.files import open_onnx
from export.sessions.openvino import OpenVinoSession
from export.stages.runner import StageRunner
from export.stages.write import write_split
from export.subject import open_subject
from export.tensorrt.preflight import this_machine


def check_formats(formats: Iterable[Format], precisions: Iterable[str], *, remote: bool) -> None:
    """Raise EnvironmentProblem if this machine lacks what one of the formats or precisions needs."""
    if "bf16" in precisions:
        require("openvino", "openvino")  # ONNX Runtime cannot run such a file on a CPU
    for known in formats:
        if known.name == "tensorrt":
            if not remote:
                this_machine()
        elif known.needs is not None:
            require(known.needs, known.extra)


def export_network(run: Run, name: str, dataset: Dataset, request: ExportRequest, progress: Progress) -> Delivery:
    """Export the trained network `name` of `run` in all formats and precisions asked for, each proved on validation images.

    Each proof is recorded in `parity.json` beside the files. A format and precision that cannot be built or is not the same network is
    not written and stands in the delivery's failures; the others are. Raises ParityError or BuildError if not even the FP32 ONNX
    model, from which all else is made, is what was trained.
    """
    check_formats(request.formats, request.precisions, remote=request.remote is not None)
    subject = open_subject(run, name, dataset, request.tasks, request.interface)
    request.drop.require_known(subject.tasks)
    for precision in ("fp32", *request.precisions):  # a wrong limit is told before minutes of work
        limits_for(precision, subject.tasks, request.tolerances, request.scaled)
    export = Exporting(subject, run.network(name), request, progress)
    export.make_base()
    for known in request.formats:
        if known.name == "tensorrt":
            _attempt(export, partial(deliver_engines, export, known))
            continue
        for precision in request.precisions:
            _attempt(export, partial(_WRITERS[known.name], export, precision, known))
    return export.delivery


def _attempt(export: Exporting, write: Callable[[], None]) -> None:
    """Let one artefact fail without the others."""
    try:
        write()
    except (BuildError, ParityError, UsageError) as error:  # the last from a runtime that cannot load what was made
        export.failed(error)


def _typed(export: Exporting, precision: str, runtime: str) -> tuple[Any, dict[str, Any]] | None:
    """Return the model with `precision` in its graph and what is told of it; None for INT8 that was refused, and why told."""
    if precision != "int8":
        # OpenVINO chooses the precision when it runs the FP32 model, and is held to it.
        return export.typed("fp32" if runtime == "openvino" else precision)
    int8 = export.int8(runtime)
    suffix = "" if runtime == "onnx" else f".{runtime}"
    path = export.folder / f"{export.stem('int8')}{suffix}.report.json"
    write_json(path, int8.report)
    for reason in int8.reasons:
        export.progress.note(f"int8 for {runtime}: {reason}")
    if int8.model is None:
        reasons = "; ".join(int8.reasons)
        export.failed(
            BuildError(
                f"int8 for {runtime} was not written ({reasons}); {path} has the figures, --force writes it all the same"
            )
        )
        return None
    return int8.model, {"int8": int8.report}


def _write_from_onnx(export: Exporting, precision: str, known: Format) -> None:
    """Write what is made from the ONNX model of one precision: the file itself, with its stages, or OpenVINO's folder."""
    typed = _typed(export, precision, known.name)
    if typed is None:
        return
    model, about = typed
    finished = export.finished(model, precision)
    path = export.folder / f"{export.stem(precision)}{known.suffix.rstrip('/')}"
    write = _openvino if known.name == "openvino" else _onnx
    export.wrote(path, precision, known, {**about, **write(export, model, finished, path, precision)})
    if known.name == "onnx" and export.request.split:
        _write_stages(export, finished, precision, known)


def _onnx(export: Exporting, model: Any, finished: Any, path: Path, precision: str) -> dict[str, Any]:
    onnx = require("onnx", "host")
    with atomic_path(path) as temporary:
        onnx.save(finished, str(temporary))
        report = export.prove_session(open_onnx(temporary, threads=export.request.threads), precision)
        return export.rounded(model, precision, report)


def _openvino(export: Exporting, _: Any, finished: Any, folder: Path, precision: str) -> dict[str, Any]:
    with atomic_folder(folder) as temporary:
        write_openvino(finished, temporary)
        session = OpenVinoSession(temporary, precision, export.request.threads)
        return {"executed": session.executed, **export.prove_session(session, precision)}


def _write_stages(export: Exporting, model: Any, precision: str, known: Format) -> None:
    folder = export.folder / f"{export.stem(precision)}.stages"
    with atomic_folder(folder) as temporary:
        manifest = write_split(model, temporary)
        runner = StageRunner(temporary, threads=export.request.threads)
        report = export.prove(runner.run, precision)
    export.wrote(folder, precision, known, {"stages": len(manifest.stages), "runtime": runner.runtime, **report})


def _write_program(export: Exporting, precision: str, known: Format) -> None:
    subject = export.subject
    path = export.folder / f"{export.stem(precision, merged=False)}{known.suffix}"
    with atomic_path(path) as temporary:
        write_program(
            subject.network.subset([task.name for task in subject.tasks]),
            temporary,
            tasks=subject.tasks,
            size=subject.size,
            interface=subject.interface,
            metadata=export.metadata(),
        )
        report = export.prove_session(ProgramSession(temporary), precision)
    export.wrote(path, precision, known, report)


_WRITERS = {"onnx": _write_from_onnx, "openvino": _write_from_onnx, "pt2": _write_program}
