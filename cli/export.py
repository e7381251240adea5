"""`bmtas export`: files that are proved equal to the trained network, in the formats and precisions of the target."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

import typer

from cli.options import DEFAULT_RUNS, Json, Network, Quiet, RunName, Runs
from export.formats import help_text

_INT8 = "INT8"
_ENGINE = "TensorRT"


def export_command(
    file_format: Annotated[
        str | None,
        typer.Option("--format", help=f"One or several with commas; onnx if left out. {help_text()}."),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8, or several with commas.")] = "fp32",
    network: Network = "found",
    tasks: Annotated[
        str | None, typer.Option(help="Only these tasks, with commas: the network pruned to what they need.")
    ] = None,
    outputs: Annotated[
        Literal["logits", "predictions"],
        typer.Option(help="Raw outputs, or class ids, probabilities and unit normals, made inside the graph."),
    ] = "logits",
    input_type: Annotated[
        Literal["float32", "uint8"],
        typer.Option(
            "--input", help="float32: (1,3,H,W) in [-1,1]. uint8: camera frames (1,H,W,3), normalised inside."
        ),
    ] = "float32",
    dynamic: Annotated[
        str | None, typer.Option(help="batch, size, or batch,size: leave these dimensions free (fp32 onnx and pt2).")
    ] = None,
    split: Annotated[
        bool,
        typer.Option("--split-at-branches", help="Also one ONNX file per stage with a manifest, for rates per task."),
    ] = False,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge-branches", help="Join branches of equal shape where that measures faster; else leave them."
        ),
    ] = False,
    images: Annotated[int, typer.Option(min=1, help="Validation images on which every file is proved.")] = 8,
    tolerance: Annotated[
        Optional[list[str]],  # noqa: UP045 -- typer reads no other form on Python 3.10
        typer.Option(
            help="1e-4: the largest raw difference of fp32 that passes, relative to a task's largest output. TASK=NUMBER or "
            "PRECISION:TASK=NUMBER: a task's limit in its own unit (docs/export.md). Can be given several times."
        ),
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="Number of the run's training images, or a folder of pictures.", rich_help_panel=_INT8)
    ] = "64",
    calibration_method: Annotated[
        Literal["minmax", "percentile", "entropy"], typer.Option(help="How ranges are taken.", rich_help_panel=_INT8)
    ] = "minmax",
    max_drop: Annotated[
        str,
        typer.Option(
            help="Loss of each task's own metric that is allowed: 1%, or semseg=2%,depth=0.5%.", rich_help_panel=_INT8
        ),
    ] = "1%",
    score_images: Annotated[
        int, typer.Option(min=1, help="Validation images on which the loss is measured.", rich_help_panel=_INT8)
    ] = 64,
    samples: Annotated[int, typer.Option(min=5, help="Timed runs of each side, in turn.", rich_help_panel=_INT8)] = 30,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Measure each layer's effect even if nothing is lost.", rich_help_panel=_INT8
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write INT8 even if it is not faster or loses more.", rich_help_panel=_INT8)
    ] = False,
    workspace: Annotated[
        str | None, typer.Option(help="Most memory for the layers' work, as 2GiB.", rich_help_panel=_ENGINE)
    ] = None,
    optimisation_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Time spent on looking for fast kernels.", rich_help_panel=_ENGINE)
    ] = None,
    aux_streams: Annotated[
        int | None, typer.Option(min=0, help="Streams beside the main one, for branches.", rich_help_panel=_ENGINE)
    ] = None,
    hardware_compatibility: Annotated[
        str, typer.Option(help="none, ampere+ or same: which other GPUs may run it.", rich_help_panel=_ENGINE)
    ] = "none",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Later TensorRT may run it, too.", rich_help_panel=_ENGINE)
    ] = False,
    timing_cache: Annotated[
        bool, typer.Option("--timing-cache/--no-timing-cache", help="Keep kernel times.", rich_help_panel=_ENGINE)
    ] = True,
    remote: Annotated[
        str | None,
        typer.Option(
            help="user@host: prepare the files, print the two commands that build there.", rich_help_panel=_ENGINE
        ),
    ] = None,
    remote_program: Annotated[
        str, typer.Option(help="How bmtas is called there: a path, if not on its PATH.", rich_help_panel=_ENGINE)
    ] = "bmtas",
    threads: Annotated[int, typer.Option(min=0, help="Threads of the CPU runtimes; 0 lets them choose.")] = 0,
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Export trained networks at the deployed size and prove every file equal to PyTorch on real validation images.

    A file that computes something else is not written; the exit code is then 5. INT8 that is slower, or loses more than
    --max-drop, is reported and not written; the exit code is then 4.

    Example: bmtas export --format onnx,openvino --precision fp32,int8
    """
    from bmtas.errors import BuildError, ParityError
    from bmtas.run_training import open_run_dataset
    from bmtas.runs import open_run
    from cli.console import ShownProgress, emit_json, out
    from cli.networks import chosen_networks
    from cli.next_step import after_export, say_next
    from export.deliver import check_formats, export_network
    from export.exporting import Delivery
    from export.formats import parse_formats, parse_precisions
    from export.interface import Interface, parse_dynamic
    from export.precision.guard import parse_max_drop
    from export.proof.limits import parse_tolerances
    from export.request import ExportRequest, parse_calibration
    from export.tensorrt.options import EngineOptions, parse_mib

    formats = parse_formats(file_format or ("onnx" if remote is None else "tensorrt"))
    scaled, overrides = parse_tolerances(tolerance or [])
    request = ExportRequest(
        formats=tuple(formats),
        precisions=tuple(parse_precisions(precision, formats)),
        interface=Interface(input_type, outputs, parse_dynamic(dynamic)),
        tasks=None if tasks is None else tuple(name.strip() for name in tasks.split(",")),
        images=images,
        scaled=scaled,
        tolerances=overrides,
        split=split,
        merge=merge,
        calibration=parse_calibration(calibration),
        calibration_method=calibration_method,
        drop=parse_max_drop(max_drop),
        score_images=score_images,
        samples=samples,
        sensitivity=sensitivity,
        force=force,
        threads=threads,
        engine=EngineOptions(
            workspace_mib=None if workspace is None else parse_mib(workspace, "--workspace"),
            optimisation_level=optimisation_level,
            aux_streams=aux_streams,
            hardware_compatibility=hardware_compatibility,
            version_compatible=version_compatible,
            timing_cache=timing_cache,
        ),
        remote=remote,
        remote_program=remote_program,
    )
    check_formats(request.formats, request.precisions, remote=remote is not None)
    chosen = open_run(runs, run)
    names = chosen_networks(network)
    for name in names:
        chosen.require_trained(name)
    dataset = open_run_dataset(chosen)
    deliveries: dict[str, Delivery] = {}
    with ShownProgress(quiet=quiet) as progress:
        for name in names:
            try:
                deliveries[name] = export_network(chosen, name, dataset, request, progress)
            except (BuildError, ParityError) as error:  # the other networks are exported all the same
                deliveries[name] = Delivery(failures=[error])
    if json is not None:
        emit_json(_as_json(chosen.name, deliveries), json)
    if json != "-":
        for delivery in deliveries.values():
            for line in [*(str(artefact.path) for artefact in delivery.artefacts), *delivery.commands]:
                out().print(line, soft_wrap=True, markup=False)
    failures = [error for delivery in deliveries.values() for error in delivery.failures]
    if failures:
        told = BuildError("; ".join(map(str, failures)))
        # Not the same network is worse than none.
        codes = [error.exit_code for error in failures]
        told.exit_code = ParityError.exit_code if ParityError.exit_code in codes else codes[0]
        raise told
    made = [artefact for delivery in deliveries.values() for artefact in delivery.artefacts]
    following = after_export(chosen, [a.path for a in made if (a.precision, a.path.suffix) != ("bf16", ".onnx")])
    if following is not None and remote is None:  # what was built elsewhere is measured there
        say_next(following, chosen, run, runs, silent=quiet or json == "-")


def _as_json(run: str, deliveries: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "run": run,
        "networks": {
            name: {
                "artefacts": [{"path": str(a.path), "precision": a.precision, **a.report} for a in delivery.artefacts],
                "failures": [{"exit_code": error.exit_code, "message": str(error)} for error in delivery.failures],
                "commands": delivery.commands,
            }
            for name, delivery in deliveries.items()
        },
    }
