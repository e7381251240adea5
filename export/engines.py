"""TensorRT from a network of a run: the kit with everything that a build needs, and the build, here or on another machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bmtas.errors import BuildError, ParityError
from bmtas.extras import require
from bmtas.files import atomic_folder
from export.exporting import Exporting
from export.formats import Format
from export.proof.references import collect
from export.request import ExportRequest
from export.sessions.files import open_onnx
from export.tensorrt.kit import prepare_kit
from export.tensorrt.on_device import KitIncomplete, build_kit


def deliver_engines(export: Exporting, known: Format) -> None:
    """Write the kit for the engines of all precisions asked for; build it here, or tell the commands for the other machine.

    Raises BuildError or ParityError for what could not be built or proved; engines that could be are delivered all the same.
    """
    request, subject = export.request, export.subject
    references = collect(
        subject.reference,
        subject.feeds(request.images),
        subject.tasks,
        final=subject.interface.final,
        made_by=f"PyTorch {torch.__version__}",
    )
    with tempfile.TemporaryDirectory() as place:
        networks, host = _networks(export, Path(place))
        if not networks:
            return
        # A kit of other precisions keeps its own folder, and its engines with it.
        folder = export.folder / f"{export.stem('fp32')}.{'+'.join(networks)}{known.suffix.rstrip('/')}"
        prepare = partial(
            prepare_kit,
            networks=networks,
            references=references,
            options=request.engine,
            remote=request.remote,
            program=request.remote_program,
            tolerances=_own_tolerances(request),
            scaled=request.scaled,
            samples=request.samples,
            keep_slow_int8=request.force,
            host=host,
        )
        if request.remote is None:
            _build_here(export, folder, prepare, known)
            return
        commands = prepare(folder)
    assert commands is not None  # there is a remote
    export.delivery.commands += [commands.copy, commands.build]
    export.progress.note(
        f"{folder} is the kit; two commands to type follow. Afterwards, for the report: {commands.fetch}"
    )


def _build_here(export: Exporting, folder: Path, prepare: Callable[[Path], Any], known: Format) -> None:
    """Build the engines beside `folder`, which is replaced only if one of them is what it should be."""
    with atomic_folder(folder) as fresh:
        prepare(fresh)
        try:
            report, failure = build_kit(fresh, export.progress), None
        except KitIncomplete as error:
            report, failure = error.report, error
            if not any(entry["kept"] for entry in report["engines"].values()):
                raise
    for precision, entry in report["engines"].items():
        if entry["kept"]:
            # What an engine is stands in its own description, which a later `bmtas build` writes anew.
            export.wrote(folder / entry["file"], precision, known, entry["parity"], recorded=False)
        else:
            export.failed(
                BuildError(
                    f"the {precision} engine was not kept: {report['int8']['reason']}; --force keeps it all the same"
                )
            )
    if failure is not None:
        raise failure


def _own_tolerances(request: ExportRequest) -> dict[str, float]:
    """Return the limits for the precisions that were asked for; what INT8 is compared with keeps its own."""
    named = {key: value for key, value in request.tolerances.items() if ":" in key}
    return {
        f"{p}:{key}": v for p in request.precisions for key, v in request.tolerances.items() if ":" not in key
    } | named


def _networks(export: Exporting, place: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the ONNX files that engines are built from, by precision, each proved here; return them and what was found."""
    networks: dict[str, Path] = {}
    host: dict[str, Any] = {}
    precisions = list(export.request.precisions)
    if "int8" in precisions and "fp16" not in precisions:
        precisions.insert(0, "fp16")  # what INT8 has to beat on the GPU
    for precision in precisions:
        path = place / f"model{'' if precision == 'fp32' else '.' + precision}.onnx"
        try:
            found = _network(export, precision, path)
        except (BuildError, ParityError) as error:
            export.failed(error)
            continue
        if found is not None:
            networks[precision], host[precision] = path, found
    if "int8" not in networks:  # then nothing has to be beaten
        networks = {p: path for p, path in networks.items() if p in export.request.precisions}
    return networks, {p: host[p] for p in networks}


def _network(export: Exporting, precision: str, path: Path) -> dict[str, Any] | None:
    """Write the ONNX file of one precision, proved here, and return what was found; None for INT8 that was refused."""
    if precision == "int8":
        int8 = export.int8("tensorrt")
        if int8.model is None:
            export.failed(
                BuildError(f"int8 for tensorrt is not in the kit: {'; '.join(int8.reasons)}; --force takes it")
            )
            return None
        model, about = int8.model, {"int8": int8.report}
    else:
        model, about = export.typed(precision)
    require("onnx", "host").save(export.finished(model, precision), str(path))
    as_run = export.prove_session(open_onnx(path, threads=export.request.threads), precision)
    return {**about, **export.rounded(model, precision, as_run)}
