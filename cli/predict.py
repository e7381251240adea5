"""`bmtas predict`: an exported network on a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Quiet


def predict_command(
    artefact: Annotated[Path, typer.Argument(help="An ONNX file, an engine, a folder of OpenVINO or of stages.")],
    images: Annotated[Path, typer.Option(help="Folder of pictures, or of .npy arrays (H,W,3) uint8.")],
    out: Annotated[Path, typer.Option(help="Folder for one .npz per image, with one array per task.")],
    rates: Annotated[
        str | None,
        typer.Option(help="How often each task is computed, as semseg=1,depth=1/5; for a folder of stages."),
    ] = None,
    provider: Annotated[str, typer.Option(help="cpu, cuda or tensorrt: where ONNX Runtime runs.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Threads on the CPU; 0 lets the runtime choose.")] = 0,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Run an exported network on images, without PyTorch.

    Example: bmtas predict model.onnx --images frames --out predictions
    """
    from cli.console import ShownProgress, emit_json
    from cli.console import out as console
    from export.predict import open_artefact, parse_rates, predict

    asked = None if rates is None else parse_rates(rates)
    runner = open_artefact(artefact, provider, threads)
    with ShownProgress(quiet=quiet) as progress:
        report = predict(runner, images, out, asked, progress)
    if json is not None:
        emit_json(report, json)
    if json != "-":
        told = ", ".join(f"{task} {count}" for task, count in report["computed"].items())
        console().print(f"{report['images']} images to {out}; computed: {told}", soft_wrap=True, markup=False)
