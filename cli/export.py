"""`bmtas export`: ONNX and TensorRT files that are proved equal to the trained network."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import DEFAULT_RUNS, Network, Quiet, RunName, Runs


def export_command(
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or tensorrt (an engine, built from the ONNX file).")
    ] = "onnx",
    network: Network = "found",
    images: Annotated[int, typer.Option(min=1, help="Validation images on which the export is proved.")] = 8,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Largest difference of raw outputs that passes, relative to a task's largest output (absolute below 1); "
            "1e-4 for onnx and 1e-3 for tensorrt if left out.",
        ),
    ] = None,
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    quiet: Quiet = False,
) -> None:
    """Export trained networks at the deployed size and prove the files equal to PyTorch on real validation images.

    A file that computes something else is not written; the exit code is then 5.

    Example: bmtas export --format onnx
    """
    from bmtas.run_training import open_run_dataset
    from bmtas.runs import open_run
    from cli.console import ShownProgress, out
    from cli.networks import chosen_networks
    from export.deliver import check_format, export_network

    check_format(file_format)
    chosen = open_run(runs, run)
    names = chosen_networks(network)
    for name in names:
        chosen.require_trained(name)
    dataset = open_run_dataset(chosen)
    with ShownProgress(quiet=quiet) as progress:
        progress.start("export", len(names))
        for name in names:
            report = export_network(chosen, name, dataset, file_format=file_format, images=images, tolerance=tolerance)
            progress.advance()
            worst = max(entry["max_scaled_difference"] for entry in report["tasks"].values())
            progress.note(
                f"{chosen.network(name)}: {len(report['tasks'])} tasks equal PyTorch within {worst:.2g} on {report['images']} "
                f"images (tolerance {report['tolerance']:g})"
            )
    console = out()
    for name in names:
        suffix = "onnx" if file_format == "onnx" else "engine"
        console.print(str(chosen.network(name) / f"model.{suffix}"), soft_wrap=True)
