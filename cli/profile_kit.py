"""`bmtas profile prepare`, `run` and `show`: cost tables measured on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from cli.options import Json, Quiet, completing

if TYPE_CHECKING:
    from bmtas.progress import Progress
    from costs.table import CostTable
    from export.latency.fit import Fitted
    from export.latency.kit import Kit, PrecisionName, RuntimeName
    from export.latency.setting import Setting

PASSES = 10
_FOLDER = Path("latency-kit")
_PRECISION = typer.Option("--precision", help="fp32, fp16, bf16 or int8; several with commas, a table each.")
_RUNTIME = typer.Option("--runtime", help="onnxruntime, openvino or tensorrt: what will run the networks.")
_PROVIDER = typer.Option("--provider", help="cpu, cuda or tensorrt: where ONNX Runtime runs.")
_THREADS = typer.Option(
    "--threads", help="Threads per operator on the CPU, 0 lets the runtime choose; several with commas, a table each."
)
_PASSES = typer.Option("--passes", min=3, help="Visits of every part, at most; parts that are known well get fewer.")
Precisions = Annotated[str, _PRECISION]
Runtime = Annotated[str, _RUNTIME]
Provider = Annotated[str, _PROVIDER]
Threads = Annotated[str, _THREADS]
Passes = Annotated[int, _PASSES]
Energy = Annotated[bool, typer.Option("--energy", help="Measure energy too, where the device has a power sensor.")]
Picture = Annotated[Optional[Path], typer.Option(help="Draw the table into this file (.png).")]  # noqa: UP045

# The same for `bmtas profile` itself, where they go with --latency alone.
OptionalPrecisions = Annotated[Optional[str], _PRECISION]  # noqa: UP045
OptionalRuntime = Annotated[Optional[str], _RUNTIME]  # noqa: UP045
OptionalProvider = Annotated[Optional[str], _PROVIDER]  # noqa: UP045
OptionalThreads = Annotated[Optional[str], _THREADS]  # noqa: UP045
OptionalPasses = Annotated[Optional[int], _PASSES]  # noqa: UP045

_LEAST_PASSES = 4
_ENERGY_S = 1.0


def prepare_command(
    kit: Annotated[Path, typer.Argument(help="Folder for the kit; new or empty.")],
    data: Annotated[
        str,
        typer.Option(help="Data or task set, as in `bmtas profile`.", autocompletion=completing("scenes", "planted")),
    ] = "scenes",
    tasks: Annotated[str | None, typer.Option(help="Some of its tasks, with commas.")] = None,
    backbone: Annotated[str, typer.Option(help="mobilenet_v2, resnet50, or tiny (for checks).")] = "mobilenet_v2",
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of the deployed network; the data's own if left out.")
    ] = None,
    precision: Precisions = "fp32",
    runtime: Runtime = "onnxruntime",
    held_out: Annotated[int, typer.Option(min=1, help="Whole networks that the table is held against.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Decides which whole networks.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write a kit: small ONNX files of all parts of the network, to be measured on the device with `bmtas profile run`.

    Example: bmtas profile prepare kit --data examples/ccp.yaml
    """
    from bmtas.plugins import load_named_plugins
    from cli.console import ShownProgress, out

    load_named_plugins()
    with ShownProgress(quiet=quiet) as progress:
        asked = Asked(data, tasks, backbone, size, precision, runtime)
        made = prepare(kit, asked, progress, held_out=held_out, seed=seed)
    out().print(
        f"{kit}: {len(made.items())} networks in {', '.join(made.precisions)}, for {made.runtime}",
        soft_wrap=True,
        markup=False,
    )
    out().print(f"copy the folder to the device, and there: bmtas profile run {kit.name}", soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Asked:
    """The network of which a kit is asked for, in the words of the options."""

    data: str
    tasks: str | None
    backbone: str
    size: str | None
    precision: str = "fp32"
    runtime: str = "onnxruntime"

    def resolved(self) -> tuple[Any, tuple[int, int]]:
        """Return the tasks, and the size of the deployed network."""
        from cli.console import parse_size
        from cli.profile import tasks_and_size

        chosen, own_size = tasks_and_size(self.data, _listed(self.tasks) if self.tasks else None)
        return chosen, parse_size(self.size, "--size") or own_size


def prepare(kit: Path, asked: Asked, progress: Progress, *, held_out: int = 20, seed: int = 0) -> Kit:
    """Write the kit that is asked for and return its manifest."""
    from bmtas.networks.backbone import get_backbone
    from bmtas.profile import build_table
    from export.latency.prepare import KitRequest, known_precisions, known_runtime, prepare_kit

    tasks, size = asked.resolved()
    request = KitRequest(
        table=build_table(get_backbone(asked.backbone), tasks, size),
        tasks=tuple(tasks),
        precisions=known_precisions(_listed(asked.precision)),
        runtime=known_runtime(asked.runtime),
        data=asked.data,
        held_out=held_out,
        seed=seed,
    )
    return prepare_kit(kit, request, progress)


def run_command(
    kit: Annotated[Path, typer.Argument(help="Folder of a kit (`bmtas profile prepare`).")],
    precision: Annotated[str | None, typer.Option("--precision", help="Of the kit's; all of them if left out.")] = None,
    provider: Provider = "cpu",
    threads: Threads = "0",
    passes: Passes = PASSES,
    energy: Energy = False,
    picture: Picture = None,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Measure a kit on this device and write its cost table; goes on where it was stopped. Needs no PyTorch.

    Example: bmtas profile run kit --threads 2
    """
    from cli.console import ShownProgress
    from export.latency.kit import read_kit

    how = How(provider, threads, passes, energy)
    with ShownProgress(quiet=quiet) as progress:
        found = read_kit(kit)
        settings = _settings(found.precisions, found.runtime, precision, how)
        _check_shown(picture, json, settings)
        made = measure(kit, found, settings, how, progress)
    _present(made, picture, json)


def measure_here(
    folder: Path | None,
    asked: Asked,
    how: How,
    picture: Path | None,
    json: str | None,
    *,
    quiet: bool,
) -> None:
    """Prepare a kit and measure it at once: `bmtas profile --latency`. One that is in `folder` already is gone on with, if it is as asked for."""
    from cli.console import ShownProgress
    from export.latency.kit import MANIFEST, read_kit
    from export.latency.prepare import known_precisions, known_runtime

    folder = folder or _FOLDER
    settings = _settings(known_precisions(_listed(asked.precision)), known_runtime(asked.runtime), None, how)
    _check_shown(picture, json, settings)
    with ShownProgress(quiet=quiet) as progress:
        if (folder / MANIFEST).exists():
            kit = read_kit(folder)
            _require_same(folder, kit, asked)
            progress.note(f"going on with the kit in {folder}")
        else:
            kit = prepare(folder, asked, progress)
        made = measure(folder, kit, settings, how, progress)
    _present(made, picture, json)


def _require_same(folder: Path, kit: Kit, asked: Asked) -> None:
    """Raise UsageError if the kit in `folder` is not the one that the options describe."""
    from bmtas.errors import UsageError
    from bmtas.networks.backbone import get_backbone
    from bmtas.profile import build_table
    from costs.units import Resource

    tasks, size = asked.resolved()
    table, wanted_table = kit.counted(), build_table(get_backbone(asked.backbone), tasks, size)
    for what, found, wanted in (
        ("the backbone", table.backbone, asked.backbone),
        ("the tasks", list(table.tasks), list(wanted_table.tasks)),
        ("the size", tuple(table.input_size), tuple(size)),
        ("the runtime", kit.runtime, asked.runtime),
        ("the precisions", sorted(kit.precisions), sorted({*kit.precisions, *_listed(asked.precision)})),
        ("multiply-adds", table.separate_total(Resource.MADDS), wanted_table.separate_total(Resource.MADDS)),
    ):
        if found != wanted:
            raise UsageError(
                f"{folder} holds a kit of {what} {found}, and {wanted} is asked for; give another folder with --kit"
            )


@dataclass(frozen=True)
class How:
    """How a kit is measured, in the words of the options."""

    provider: str = "cpu"
    threads: str = "0"
    passes: int = PASSES
    energy: bool = False


def measure(folder: Path, kit: Kit, settings: list[Setting], how: How, progress: Progress) -> list[tuple[Path, Fitted]]:
    """Measure the settings one after the other; return the tables' files and contents."""
    from export.latency.measure import Effort
    from export.latency.tables import measured_table

    effort = Effort(least=min(_LEAST_PASSES, how.passes), most=how.passes, energy_s=_ENERGY_S if how.energy else 0.0)
    made = []
    for setting in settings:
        progress.note(f"measuring {setting.label}")
        made.append(measured_table(folder, kit, setting, progress, effort))
    return made


def _settings(precisions: Sequence[PrecisionName], runtime: RuntimeName, chosen: str | None, how: How) -> list[Setting]:
    """Return all settings that the options ask for, each checked: measuring takes minutes."""
    from bmtas.errors import UsageError
    from export.bench.options import parse_threads
    from export.latency.setting import Setting, check_setting

    names = list(precisions) if chosen is None else list(dict.fromkeys(_listed(chosen)))
    if not names:
        raise UsageError(f"--precision {chosen!r}: expected one of {', '.join(precisions)}, or several with commas")
    settings = [Setting(name, how.provider, count, runtime) for count in parse_threads(how.threads) for name in names]
    for setting in settings:
        check_setting(setting, precisions, runtime)
    return settings


def _check_shown(picture: Path | None, json: str | None, settings: Sequence[Setting]) -> None:
    """Raise, before anything is measured, for what could not be written afterwards."""
    from bmtas.errors import UsageError
    from bmtas.extras import require

    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise UsageError(f"--picture {picture}: the picture is a PNG; give it a name that ends in .png")
        require("matplotlib.figure", "train")
    if len(settings) > 1 and (picture is not None or json is not None):
        raise UsageError(
            "--picture and --json are of one table, and several are asked for; each is written into the kit's folder, and "
            "`bmtas profile show TABLE` draws it and gives its JSON"
        )


def show_command(
    table: Annotated[Path, typer.Argument(help="A measured table (JSON).")], picture: Picture = None, json: Json = None
) -> None:
    """Show a measured table: cost per layer and number of groups, and how far whole networks are from it.

    Example: bmtas profile show kit/table-fp32-cpu.json --picture table.png
    """
    from export.latency.tables import read_fitted

    _present([(table, read_fitted(table))], picture, json)


def _present(made: list[tuple[Path, Fitted]], picture: Path | None, json: str | None) -> None:
    """Show the tables; the picture and the JSON are of the last one."""
    from cli.console import emit_json, err, out
    from cli.profile_view import measured_view, networks_view, trusted, verdict
    from export.latency.picture import draw_table
    from export.latency.tables import fitted_json

    path, fitted = made[-1]
    if picture is not None:
        draw_table(fitted.table, fitted.networks, picture)
        err().print(f"picture: {picture}", markup=False)
    if json is not None:
        emit_json(fitted_json(fitted), json)
    if json == "-":
        return
    for path, fitted in made:
        for resource in fitted.networks or fitted.table.measured:
            out().print(measured_view(fitted.table, resource))
            if resource in fitted.networks:
                out().print(networks_view(fitted.networks[resource], resource))
            for line in verdict(fitted.table, resource):
                out().print(line, soft_wrap=True, markup=False)
        out().print(f"table: {path}", soft_wrap=True, markup=False)
        if trusted(fitted.table):
            out().print(f"search with it:\n    {_search_command(path, fitted.table)}", soft_wrap=True, markup=False)


def _search_command(path: Path, table: CostTable) -> str:
    """Return the command that keeps a budget by the table: halfway between what trees can take."""
    from bmtas.tasks import TASK_SETS
    from costs.reach import budget_range
    from costs.units import Resource, format_quantity

    height, width = table.input_size
    named = table.provenance.get("data") or "DATA"
    data = "DATA" if named in TASK_SETS else named  # tasks alone have no images to search with
    resource = Resource.LATENCY_MS if Resource.LATENCY_MS in table.resources() else table.resources()[0]
    budget = format_quantity(sum(budget_range(table, resource)) / 2, resource).replace(" ", "")
    return (
        f"bmtas search --data {data} --tasks {','.join(table.tasks)} --backbone {table.backbone} "
        f"--size {height}x{width} --costs {path} --budget {budget}"
    )


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
