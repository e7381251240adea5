"""`bmtas bench`: latency, here or on the edge device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import DEFAULT_RUNS, Json, Quiet, RunName, Runs


def bench_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Exported files or folders; model.onnx of the run's networks if left out."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="found, shared, separate, or all; every exported one if left out."),
    ] = None,
    eager: Annotated[
        bool, typer.Option("--eager/--no-eager", help="Measure PyTorch eager in turn with ONNX Runtime.")
    ] = True,
    provider: Annotated[str, typer.Option(help="cpu, cuda or tensorrt: where ONNX Runtime runs.")] = "cpu",
    threads: Annotated[
        int, typer.Option(min=0, help="Threads per operator on the CPU; 0 lets the runtimes choose.")
    ] = 0,
    samples: Annotated[int, typer.Option(min=1, help="Measured runs of each candidate.")] = 30,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before measuring.")] = 5,
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Measure latency: ONNX Runtime and PyTorch eager in turn, with sample count, median, p90 and spread.

    On a device without PyTorch, name the ONNX file: bmtas bench model.onnx

    Example: bmtas bench --samples 50
    """
    from bmtas.errors import UsageError
    from bmtas.files import write_json
    from bmtas.runs import open_run
    from cli.console import ShownProgress, emit_json, out
    from export.bench import bench, eager_available

    chosen = None if files else open_run(runs, run)
    if chosen is None:
        for path in files or ():
            if not path.exists():
                raise UsageError(f"{path} does not exist; `bmtas export` writes exported networks")
        names = [path.name for path in files or ()]
        targets = {path.name if names.count(path.name) == 1 else str(path): path for path in files or ()}
    else:
        targets = _of_run(chosen, network)
    with ShownProgress(quiet=quiet) as progress:
        beside: dict[str, tuple[Path, str]] = {}
        if eager and chosen is not None:
            if eager_available():
                beside = {name: (chosen.path, name) for name in targets}
            else:
                progress.note("PyTorch is not installed here; eager is left out")
        progress.start("bench", samples + warmup)
        report = bench(
            targets,
            eager=beside,
            provider=provider,
            threads=threads,
            samples=samples,
            warmup=warmup,
            tick=progress.advance,
        )
    if chosen is not None:
        write_json(chosen.path / "bench.json", report)
    if json is not None:
        emit_json(report, json)
    if json != "-":
        out().print(_as_table(report))


def _of_run(run: Any, network: str | None) -> dict[str, Path]:
    from bmtas.errors import UsageError
    from bmtas.runs import FOUND
    from cli.networks import chosen_networks

    names = chosen_networks(network) if network else run.exported()
    if not names:
        run.require_trained(FOUND)
    for name in names or [FOUND]:
        if name not in run.exported():
            raise UsageError(
                f"{run.path}: the network {name!r} is not exported yet; run `bmtas export --network {name}` first"
            )
    return {name: run.network(name) / "model.onnx" for name in names}


def _as_table(report: dict[str, Any]) -> Any:
    from rich.table import Table

    device = report["device"]
    view = Table(
        title=f"latency in ms, batch 1, {device['cpu']}, {device['cpus']} CPUs",
        caption="measured in turn; spread is the interquartile range over the median",
    )
    for name in ("network", "runtime", "samples", "median", "p90", "min", "spread"):
        view.add_column(name, justify="left" if name in ("network", "runtime") else "right")
    for result in report["results"]:
        p90 = result["p90_ms"]
        view.add_row(
            result["network"],
            f"{result['runtime']} {result['provider'].removesuffix('ExecutionProvider').lower()}",
            str(result["samples"]),
            f"{result['median_ms']:.1f}",
            "too few" if p90 is None else f"{p90:.1f}",
            f"{result['min_ms']:.1f}",
            f"{result['spread']:.0%}" + ("" if result["stable"] else " unstable"),
        )
    for name, value in report["eager_over_onnxruntime"].items():
        quartiles = f"{value['q1']:.2f} to {value['q3']:.2f}"
        view.caption = f"{view.caption}; {name}: eager takes {value['median']:.2f}x ONNX Runtime ({quartiles})"
    return view
