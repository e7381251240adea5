"""`bmtas profile`: what each layer costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from bmtas.errors import UsageError
from bmtas.plugins import load_named_plugins
from cli.groups import DefaultGroup
from cli.options import Json, Quiet, completing
from cli.profile_kit import (
    PASSES,
    Asked,
    Energy,
    How,
    OptionalPasses,
    OptionalPrecisions,
    OptionalProvider,
    OptionalRuntime,
    OptionalThreads,
    measure_here,
    prepare_command,
    run_command,
    show_command,
)


class ProfileGroup(DefaultGroup):
    """`bmtas profile` itself counts; its other commands measure."""

    DEFAULT = "count"


profile_app = typer.Typer(
    cls=ProfileGroup,
    name="profile",
    help="What each layer costs: counted, or measured on a device (--latency; prepare, run, show).",
)


profile_app.command("prepare")(prepare_command)
profile_app.command("run")(run_command)
profile_app.command("show")(show_command)


@profile_app.command(
    ProfileGroup.DEFAULT,
    hidden=True,
    epilog="A table for another device: bmtas profile prepare KIT here, bmtas profile run KIT there; bmtas profile show TABLE shows one.",
)
def profile_command(
    backbone: Annotated[str, typer.Option(help="mobilenet_v2, resnet50, or tiny (for checks).")] = "mobilenet_v2",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Without --data a known task set (pascal-context, nyud-v2), scenes, or a manifest; pascal-context if left "
            "out. With --data some of its tasks, with commas, as in `bmtas search`."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="scenes or a manifest, as in `bmtas search`, or a known task set.",
            autocompletion=completing("scenes", "planted"),
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH; the data's own size, or 512x512 for a task set.")
    ] = None,
    tasks_count: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=20,
            help="So many copies of one dense task, instead of --tasks: what 1, 2, ... cost, and what a search of all of "
            "them expects at its start.",
        ),
    ] = None,
    picture: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it on 3.10
        typer.Option(help="Draw what --tasks-count expects per layer into this file (.png)."),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure the latency per layer and number of groups on this machine, too.")
    ] = False,
    kit: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="With --latency: folder for what is measured, with which the same command goes on; latency-kit if left out."
        ),
    ] = None,
    precision: OptionalPrecisions = None,
    runtime: OptionalRuntime = None,
    provider: OptionalProvider = None,
    threads: OptionalThreads = None,
    passes: OptionalPasses = None,
    energy: Energy = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Count multiply-adds, parameters and peak memory per layer, and of all-shared and separate networks.

    Example: bmtas profile --backbone resnet50 --tasks pascal-context --size 512x512
    """
    load_named_plugins()
    given: dict[str, object] = {
        "kit": kit,
        "precision": precision,
        "runtime": runtime,
        "provider": provider,
        "threads": threads,
    }
    given |= {"passes": passes, "energy": energy or None}
    if latency:
        if tasks_count is not None:
            raise UsageError(
                "--tasks-count makes up its tasks, and --latency measures networks of real ones; leave one out"
            )
        asked = Asked(
            data or tasks or "scenes",  # what `bmtas search` takes, so that the table fits it
            tasks if data is not None else None,
            backbone,
            size,
            precision or "fp32",
            runtime or "onnxruntime",
        )
        how = How(provider or "cpu", threads or "0", passes or PASSES, energy)
        measure_here(kit, asked, how, picture, json, quiet=quiet)
        return
    if useless := [f"--{name}" for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{', '.join(useless)}: means nothing without --latency, which measures; add it, or leave that out"
        )
    from bmtas.networks.backbone import get_backbone
    from bmtas.profile import build_table
    from bmtas.tables import table_json
    from cli.console import emit_json, err, out, parse_size

    if picture is not None and picture.suffix.lower() != ".png":
        raise UsageError(f"--picture {picture}: the picture is a PNG; give it a name that ends in .png")
    err().print("counting multiply-adds and memory ...")
    if tasks_count is not None:
        if data is not None or tasks is not None:
            raise UsageError("--tasks-count makes up its tasks; leave out --data and --tasks")
        _profile_copies(backbone, tasks_count, parse_size(size, "--size") or (512, 512), json, picture)
        return
    if picture is not None:
        raise UsageError("--picture draws what --tasks-count computes, which is not given; give both, or neither")
    names = [name.strip() for name in tasks.split(",")] if tasks and data is not None else None
    chosen, own_size = tasks_and_size(data or tasks or "pascal-context", names)
    table = build_table(get_backbone(backbone), chosen, parse_size(size, "--size") or own_size)
    if json is not None:
        emit_json(table_json(table), json)
    if json != "-":
        out().print(_table_view(table))
        _print_range(table)


def _profile_copies(backbone: str, count: int, size: tuple[int, int], json: str | None, picture: Path | None) -> None:
    """Show what copies of one task cost, and what a search of `count` of them expects at its start."""
    from bmtas.expectation import expect
    from bmtas.networks.backbone import get_backbone
    from bmtas.plots import draw_expected
    from bmtas.profile import cost_by_tasks, generic_tasks, tables_by_count, uniform_probabilities
    from bmtas.tables import table_json
    from cli.console import emit_json, err, out
    from cli.expected import expectation_view

    tables = tables_by_count(get_backbone(backbone), generic_tasks(count), size, range(1, count + 1))
    table, rows = tables[-1], cost_by_tasks(tables)
    expectation = expect(table, uniform_probabilities(len(table.layers), count))
    title = f"start of a search for {count} tasks ({table.backbone}, {size[0]}x{size[1]})"
    if picture is not None:
        draw_expected(expectation, title, picture)
        err().print(f"picture: {picture}", markup=False)
    if json is not None:
        emit_json(table_json(table, by_tasks=rows, expectation=expectation), json)
    if json != "-":
        out().print(_by_tasks_view(table, rows))
        _print_range(table)
        out().print(expectation_view(expectation, title))


def _print_range(table: Any) -> None:
    from cli.console import out
    from costs.reach import budget_range
    from costs.units import format_quantity

    ranges = [
        " to ".join(format_quantity(end, resource) for end in budget_range(table, resource))
        for resource in table.resources()
    ]
    count = f"{len(table.tasks)} task{'s' if len(table.tasks) > 1 else ''}"
    out().print(f"budgets that a search for {count} can meet: {', or '.join(ranges)}", soft_wrap=True)


def tasks_and_size(spec: str, names: list[str] | None) -> tuple[Any, tuple[int, int]]:
    """Return the tasks of a task set or of data, those called `names` or else all, and the size to count at."""
    from bmtas.data.source import NAMES, open_with_tasks
    from bmtas.errors import nearest
    from bmtas.tasks import TASK_SETS, select_tasks

    if spec in TASK_SETS:
        return select_tasks(TASK_SETS[spec], names), (512, 512)
    if spec in NAMES or "." in spec or Path(spec).exists():
        dataset, tasks = open_with_tasks(spec, names)
        return tasks, dataset.size
    raise UsageError(
        f"unknown task set {spec!r}; {nearest(spec, [*TASK_SETS, *NAMES])}, or the path of a manifest (.yaml); to choose tasks "
        "of one, name it by --data"
    )


def _table_view(table: Any) -> Any:
    """Return what every part costs where all tasks share it and where each has its own, in all resources of the table."""
    from rich.table import Table

    from bmtas.tables import column_label
    from costs.units import format_quantity

    count = len(table.tasks)
    height, width = table.input_size
    view = Table(title=f"{table.backbone}, {count} tasks, {height}x{width}")
    view.add_column("layer")
    numbers = (1, count) if count > 1 else (1,)
    for resource in table.resources():
        for n in numbers:
            view.add_column(f"{column_label(resource)}\n{n} group{'s' if n > 1 else ''}", justify="right")

    def add(name: str, cost: Any) -> None:
        view.add_row(name, *(format_quantity(cost(r, n), r) for r in table.resources() for n in numbers))

    for part in (p for p in table.fixed if p.shared):
        add(part.name, lambda r, n, part=part: part.cost[r] * (1 if r.is_peak else min(n, len(part.tasks) or count)))
    for layer in range(len(table.layers)):
        add(table.layers[layer].name, lambda r, n, layer=layer: table.layer_cost(layer, n, r))
    for part in (p for p in table.fixed if not p.shared):
        add(part.name, lambda r, _, part=part: part.cost[r])
    view.add_section()
    totals = {"all shared": table.shared_total, "separate networks": table.separate_total}
    for name, total in totals.items():
        cells = [
            format_quantity(total(r), r) if count == 1 or (n == 1) == (name == "all shared") else ""
            for r in table.resources()
            for n in numbers
        ]
        view.add_row(f"[bold]{name}[/]", *cells)
    if any(resource.is_peak for resource in table.resources()):
        view.caption = (
            "peak memory: float32 activations, batch 1; of a network the greatest of its parts, not their sum"
        )
    return view


def _by_tasks_view(table: Any, rows: list[dict[str, Any]]) -> Any:
    """Return what networks for 1, 2, ... tasks cost: a section per resource, a row per number of tasks."""
    from rich.table import Table

    from bmtas.tables import column_label
    from costs.units import format_quantity

    height, width = table.input_size
    view = Table(title=f"{table.backbone}, {height}x{width}: copies of one dense task")
    view.add_column("")
    for name in ("tasks", "all shared", "expected", "split", "separate"):
        view.add_column(name, justify="right", no_wrap=True)
    for resource in table.resources():
        view.add_section()
        for number, row in enumerate(rows):
            values = [row[key][resource.value] for key in ("shared", "expected", "split", "separate")]
            cells = ["-" if value is None else format_quantity(value, resource) for value in values]
            view.add_row("" if number else column_label(resource), str(row["tasks"]), *cells)
    view.caption = (
        "expected: of a search at its start, where every task takes every candidate with equal probability ('-' for a peak, "
        "which is no sum); split: only the stem is shared"
    )
    return view
