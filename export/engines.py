"""TensorRT from a network of a run: the kit with everything that a build needs, and the build, here or on another machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from bmtas.errors import BuildError, ParityError
from bmtas.extras import require
from bmtas.files import read_json
from export.exporting import Exporting
from export.formats import Format
from export.int8 import int8_model
from export.proof.references import collect
from export.sessions.files import open_onnx
from export.tensorrt.kit import prepare_kit
from export.tensorrt.on_device import REPORT, SCHEMA_VERSION, build_kit


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
        commands = prepare_kit(
            folder,
            networks,
            references,
            options=request.engine,
            remote=request.remote,
            program=request.remote_program,
            tolerances=request.tolerances,
            scaled=request.scaled,
            samples=request.samples,
            keep_slow_int8=request.force,
            host=host,
        )
    if commands is not None:
        export.delivery.commands += [commands.copy, commands.build]
        export.progress.note(
            f"{folder} is the kit; two commands to type follow. Afterwards, for the report: {commands.fetch}"
        )
        return
    try:
        report = build_kit(folder, export.progress)
    except (BuildError, ParityError):
        _deliver(export, folder, known, read_json(folder / REPORT, SCHEMA_VERSION))
        raise
    _deliver(export, folder, known, report)


def _deliver(export: Exporting, folder: Path, known: Format, report: dict[str, Any]) -> None:
    for precision, entry in report["engines"].items():
        if entry["kept"]:
            export.wrote(folder / entry["file"], precision, known, entry["parity"])
        else:
            export.failed(
                BuildError(
                    f"the {precision} engine was not kept: {report['int8']['reason']}; --force keeps it all the same"
                )
            )


def _networks(export: Exporting, place: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write the ONNX files that engines are built from, by precision, each proved here; return them and what was found."""
    onnx = require("onnx", "host")
    networks: dict[str, Path] = {}
    host: dict[str, Any] = {}
    precisions = list(export.request.precisions)
    if "int8" in precisions and "fp16" not in precisions:
        precisions.insert(0, "fp16")  # what INT8 has to beat on the GPU
    for precision in precisions:
        if precision == "int8":
            int8 = int8_model(export.base, export.subject, "tensorrt", export.request, export.progress, export.ranges)
            export.ranges = int8.ranges
            if int8.model is None:
                export.failed(
                    BuildError(f"int8 for tensorrt is not in the kit: {'; '.join(int8.reasons)}; --force takes it")
                )
                continue
            model, about = int8.model, {"int8": int8.report}
        else:
            model, about = export.typed(precision)
        path = place / f"model{'' if precision == 'fp32' else '.' + precision}.onnx"
        onnx.save(export.finished(model, precision), str(path))
        as_run = export.prove_session(open_onnx(path, threads=export.request.threads), precision)
        host[precision] = {**about, **export.rounded(model, precision, as_run)}
        networks[precision] = path
    return networks, host
