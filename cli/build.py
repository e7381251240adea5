"""`bmtas build`: TensorRT engines, on the machine that will run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cli.options import Json, Quiet


def build_command(
    target: Annotated[
        Path, typer.Argument(help="A kit folder from `bmtas export --format tensorrt`, or one exported ONNX file.")
    ] = Path(),
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, bf16 or int8: what a single ONNX file holds; the file's own word if left out."),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="PyTorch's outputs, to prove a single file; references.npz beside it if left out."),
    ] = None,
    unproved: Annotated[
        bool, typer.Option("--unproved", help="Build a single file without references: nothing proves the engine then.")
    ] = False,
    tolerance: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="For a single file: 1e-3 (raw, of fp32 alone), or TASK=NUMBER or PRECISION:TASK=NUMBER in the task's unit; repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Engine of a single file; its name with .engine if left out.")
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="Most memory of layers beside their tensors, for example 512MiB or 2GiB.")
    ] = None,
    optimisation_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How long to look for fast kernels: 0 to 5; TensorRT's own is 3.")
    ] = None,
    aux_streams: Annotated[
        int | None, typer.Option(min=0, help="Streams that may run branches beside each other; 0 is a single stream.")
    ] = None,
    hardware_compatibility: Annotated[
        str | None, typer.Option(help="none (this GPU), same (its compute capability), or ampere+ (8.0 and later).")
    ] = None,
    version_compatible: Annotated[
        bool | None,
        typer.Option(
            "--version-compatible/--this-version", help="Later versions of TensorRT run it, too; may be slower."
        ),
    ] = None,
    tf32: Annotated[
        bool | None, typer.Option("--tf32/--no-tf32", help="Layers in FP32 may round factors to 10 bits; not for fp32.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of kernel timings to use and extend; one is kept per device if left out.")
    ] = None,
    no_timing_cache: Annotated[bool, typer.Option("--no-timing-cache", help="Time all kernels anew.")] = False,
    least_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least share of layer tensors in the precision asked for; 0.5, of int8 0.25."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Measured runs of each engine of a kit.")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Rounds before measuring a kit's engines.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Keep a kit's INT8 engine even if it is not faster.")] = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Build TensorRT engines here, read their precision back and prove them against PyTorch's outputs; needs no PyTorch.

    A kit's engines are measured in turn, too, and the INT8 one is kept only if it is faster. Options given here replace the kit's. Where
    one engine fails, the others are still built, and the command ends with that failure.

    Example: bmtas build kit
    """
    from bmtas.errors import BmtasError, UsageError
    from cli.console import ShownProgress, emit_json, out
    from export.tensorrt.options import parse_mib

    if timing_cache is not None and no_timing_cache:
        raise UsageError("--timing-cache and --no-timing-cache exclude each other")
    given: dict[str, Any] = {
        "workspace_mib": None if workspace is None else parse_mib(workspace, "--workspace"),
        "optimisation_level": optimisation_level,
        "aux_streams": aux_streams,
        "hardware_compatibility": hardware_compatibility,
        "version_compatible": version_compatible,
        "tf32": tf32,
        "timing_cache": False if no_timing_cache else timing_cache,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    single = {"--precision": precision, "--references": references, "--tolerance": tolerance, "--output": output}
    failure: BmtasError | None = None
    with ShownProgress(quiet=quiet) as progress:
        if target.is_dir():
            _only("an ONNX file", {**single, "--unproved": unproved or None})
            from export.tensorrt.on_device import KitIncomplete, build_kit

            try:
                report = build_kit(
                    target,
                    progress,
                    changes=changes,
                    samples=samples,
                    warmup=warmup,
                    keep_slow_int8=force,
                    least_share=least_share,
                )
            except KitIncomplete as error:
                report, failure = error.report, error
        else:
            _only("a kit", {"--samples": samples, "--warmup": warmup, "--force": force or None})
            report = _build_file(
                target, precision, references, unproved, tolerance or [], output, changes, least_share, progress
            )
    if json is not None:
        emit_json(report, json)
    if json != "-":
        _show(report, target, out())
    if failure is not None:
        raise failure  # what could be built was shown


def _only(of: str, values: dict[str, Any]) -> None:
    """Raise UsageError if an option was given that belongs to the other kind of target."""
    from bmtas.errors import UsageError

    for name, value in values.items():
        if value is not None and value != []:
            raise UsageError(f"{name} belongs to {of}, which was not given; leave it out")


def _build_file(
    path: Path,
    precision: str | None,
    references_path: Path | None,
    unproved: bool,
    tolerance: list[str],
    output: Path | None,
    changes: dict[str, Any],
    least_share: float | None,
    progress: Any,
) -> dict[str, Any]:
    """Build the engine of one ONNX file and return what its sidecar says, with its path."""
    from bmtas.errors import UsageError
    from export.onnx_metadata import onnx_metadata
    from export.proof.limits import parse_tolerances
    from export.proof.references import FILE_NAME, References
    from export.tensorrt.engine_file import build_engine, engine_limits
    from export.tensorrt.options import EngineOptions

    holds = precision or onnx_metadata(path).get("precision")
    if holds is None:
        raise UsageError(f"{path} does not tell its precision; say which one it holds, for example --precision fp32")
    beside = path.with_name(FILE_NAME) if references_path is None else references_path
    given = references_path is not None or beside.is_file()
    if unproved and given:
        raise UsageError(f"--unproved, but {beside} is there to prove the engine; leave --unproved out")
    if not unproved and not given:
        raise UsageError(
            f"nothing can prove an engine of {path}: there is no {FILE_NAME} beside it. `bmtas export --format tensorrt` writes a kit with one; "
            "--references names another file, and --unproved builds without proof"
        )
    references = References.load(beside) if given else None
    scaled, overrides = parse_tolerances(tolerance)
    if references is None and tolerance:
        raise UsageError("--tolerance belongs to a proof, and --unproved makes none; leave one of them out")
    engine = output or path.with_suffix(".engine")
    sidecar = build_engine(
        path,
        engine,
        precision=holds,
        references=references,
        limits=None if references is None else engine_limits(holds, references, overrides, scaled),
        options=EngineOptions(**changes),
        progress=progress,
        least_share=least_share,
    )
    if references is None:
        progress.note(f"{engine}: built, but nothing has proved that it computes what the trained network computes")
    return {**sidecar.model_dump(mode="json"), "engine": str(engine)}


def _show(report: dict[str, Any], target: Path, console: Any) -> None:
    """Print the engines' paths, and a table of a kit's latencies."""
    if "engines" not in report:
        console.print(report["engine"], soft_wrap=True)
        return
    from rich.table import Table

    machine = report["machine"]
    view = Table(
        title=f"latency in ms, batch 1, {machine['device']}, TensorRT {machine['tensorrt']}",
        caption="measured in turn, copies to and from the GPU included; spread is the interquartile range over the median",
    )
    for name in ("precision", "engine", "samples", "median", "p90", "min", "spread"):
        view.add_column(name, justify="left" if name in ("precision", "engine") else "right")
    for name, entry in report["engines"].items():
        timing = entry["timing"]
        if timing is None:
            view.add_row(name, entry["file"] if entry["kept"] else "not kept", *["not measured"] * 5)
            continue
        p90 = timing["p90_ms"]
        view.add_row(
            name,
            entry["file"] if entry["kept"] else "not kept",
            str(timing["samples"]),
            f"{timing['median_ms']:.2f}",
            "too few" if p90 is None else f"{p90:.2f}",
            f"{timing['min_ms']:.2f}",
            f"{timing['spread']:.0%}" + ("" if timing["stable"] else " unstable"),
        )
    if report["int8"] is not None:
        view.caption = f"{view.caption}; int8 {report['int8']['reason']}"
    console.print(view)
    for entry in report["engines"].values():
        if entry["kept"]:
            console.print(str(target / entry["file"]), soft_wrap=True)
