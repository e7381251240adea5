"""`bmtas profile`: what each layer costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from cli.options import Json


def profile_command(
    backbone: Annotated[str, typer.Option(help="mobilenet_v2 or resnet50.")] = "mobilenet_v2",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="A known task set (pascal-context, nyud-v2), scenes, or a manifest; pascal-context if left out."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="scenes or a manifest, as in `bmtas search`; the same as giving it to --tasks.")
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
    json: Json = None,
) -> None:
    """Count multiply-adds, parameters and peak memory per layer, and of all-shared and separate networks.

    Example: bmtas profile --backbone resnet50 --tasks pascal-context --size 512x512
    """
    from bmtas.errors import UsageError
    from bmtas.networks.backbone import get_backbone
    from bmtas.profile import build_table
    from bmtas.tables import table_json
    from cli.console import emit_json, err, out, parse_size
    from costs.units import format_quantity

    if picture is not None and picture.suffix.lower() != ".png":
        raise UsageError(f"--picture {picture}: the picture is a PNG; give it a name that ends in .png")
    err().print("counting multiply-adds and memory ...")
    if data is not None and tasks is not None:
        raise UsageError("--data and --tasks both name the tasks; give one of them")
    if tasks_count is not None:
        if data is not None or tasks is not None:
            raise UsageError("--tasks-count makes up its tasks; leave out --data and --tasks")
        _profile_copies(backbone, tasks_count, parse_size(size, "--size") or (512, 512), json, picture)
        return
    if picture is not None:
        raise UsageError("--picture draws what --tasks-count computes, which is not given; give both, or neither")
    chosen, own_size = _tasks_and_size(data or tasks or "pascal-context")
    table = build_table(get_backbone(backbone), chosen, parse_size(size, "--size") or own_size)
    if json is not None:
        emit_json(table_json(table), json)
    if json != "-":
        console = out()
        console.print(_table_view(table))
        ranges = [
            f"{format_quantity(table.shared_total(r), r)} to {format_quantity(table.split_total(r), r)}"
            for r in table.resources()
        ]
        console.print(f"budgets that a search can meet: {', or '.join(ranges)}", soft_wrap=True)


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
        out().print(expectation_view(expectation, title))


def _tasks_and_size(spec: str) -> tuple[Any, tuple[int, int]]:
    from bmtas.data.source import NAMES, open_with_tasks
    from bmtas.errors import UsageError, nearest
    from bmtas.tasks import TASK_SETS

    if spec in TASK_SETS:
        return TASK_SETS[spec], (512, 512)
    if spec in NAMES or "." in spec or Path(spec).exists():
        dataset, tasks = open_with_tasks(spec, None)
        return tasks, dataset.size
    raise UsageError(
        f"unknown task set {spec!r}; {nearest(spec, [*TASK_SETS, *NAMES])}, or the path of a manifest (.yaml)"
    )


def _table_view(table: Any) -> Any:
    """Return what every part costs where all tasks share it and where each has its own, in all resources of the table."""
    from rich.table import Table

    from costs.units import format_quantity

    count = len(table.tasks)
    height, width = table.input_size
    view = Table(title=f"{table.backbone}, {count} tasks, {height}x{width}")
    view.add_column("layer")
    numbers = (1, count) if count > 1 else (1,)
    for resource in table.resources():
        for n in numbers:
            view.add_column(f"{resource.label}\n{n} group{'s' if n > 1 else ''}", justify="right")

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
    from rich.table import Table

    from costs.units import format_quantity

    height, width = table.input_size
    view = Table(title=f"{table.backbone}, {height}x{width}: copies of one dense task")
    columns = [
        (f"{name}:\n{resource.label}", key, resource)
        for resource in table.resources()
        for name, key in (("all shared", "shared"), ("expected", "expected"), ("separate", "separate"))
        if not (key == "expected" and resource.is_peak)  # which has no expected sum
    ]
    for name in ("tasks", *(name for name, _, _ in columns)):
        view.add_column(name, justify="right")
    for row in rows:
        values = [(row[key][r.value], r) for _, key, r in columns]
        view.add_row(str(row["tasks"]), *("-" if v is None else format_quantity(v, r) for v, r in values))
    view.caption = "expected: of a search at its start, where every task takes every candidate with equal probability"
    return view
