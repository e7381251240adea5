"""`bmtas profile`: what each layer costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
        typer.Option(min=1, max=20, help="So many copies of one dense task, instead of --tasks: what 1, 2, ... cost."),
    ] = None,
    json: Json = None,
) -> None:
    """Count multiply-adds and parameters per layer, and of all-shared and separate networks.

    Example: bmtas profile --backbone resnet50 --tasks pascal-context --size 512x512
    """
    from bmtas.errors import UsageError
    from bmtas.networks.backbone import get_backbone
    from bmtas.profile import build_table, cost_by_tasks, generic_tasks
    from cli.console import emit_json, err, out, parse_size
    from costs.units import format_quantity

    err().print("counting multiply-adds ...")
    if data is not None and tasks is not None:
        raise UsageError("--data and --tasks both name the tasks; give one of them")
    if tasks_count is not None:
        if data is not None or tasks is not None:
            raise UsageError("--tasks-count makes up its tasks; leave out --data and --tasks")
        table = build_table(
            get_backbone(backbone), generic_tasks(tasks_count), parse_size(size, "--size") or (512, 512)
        )
        rows = cost_by_tasks(table)
        if json is not None:
            emit_json({**_as_json(table), "by_tasks": rows}, json)
        if json != "-":
            out().print(_by_tasks(table, rows))
        return
    chosen, own_size = _tasks_and_size(data or tasks or "pascal-context")
    table = build_table(get_backbone(backbone), chosen, parse_size(size, "--size") or own_size)
    if json is not None:
        emit_json(_as_json(table), json)
    if json != "-":
        console = out()
        console.print(_as_table(table))
        ranges = [
            f"{format_quantity(table.shared_total(r), r)} to {format_quantity(table.split_total(r), r)}"
            for r in table.resources()
        ]
        console.print(f"budgets that a search can meet: {', or '.join(ranges)}", soft_wrap=True)


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


def _as_json(table: Any) -> dict[str, Any]:
    import json

    totals = {
        name: {resource.value: total(resource) for resource in table.resources()}
        for name, total in (
            ("shared", table.shared_total),
            ("split", table.split_total),
            ("separate", table.separate_total),
        )
    }
    content: dict[str, Any] = json.loads(table.to_json())
    return {**content, "totals": totals}


def _as_table(table: Any) -> Any:
    from rich.table import Table

    from costs.units import Resource, format_quantity

    count = len(table.tasks)
    height, width = table.input_size
    view = Table(title=f"{table.backbone}, {count} tasks, {height}x{width}")
    for name in ("layer", "MAdds", "Params", f"all {count} share it: MAdds", "separate: MAdds"):
        view.add_column(name, justify="left" if name == "layer" else "right")

    def row(name: str, cost: dict[Any, float], copies: int) -> None:
        madds, params = cost[Resource.MADDS], cost[Resource.PARAMS]
        texts = [format_quantity(madds, Resource.MADDS), format_quantity(params, Resource.PARAMS)]
        view.add_row(name, *texts, texts[0], format_quantity(copies * madds, Resource.MADDS))

    for part in table.fixed:
        if part.shared:
            row(part.name, part.cost, count)
    for layer in table.layers:
        row(layer.name, layer.per_group, count)
    for part in table.fixed:
        if not part.shared:
            row(part.name, part.cost, 1)
    view.add_section()
    for name, total in (("all shared", table.shared_total), ("separate networks", table.separate_total)):
        madds = format_quantity(total(Resource.MADDS), Resource.MADDS)
        shown = [madds, ""] if name == "all shared" else ["", madds]
        view.add_row(f"[bold]{name}[/]", "", format_quantity(total(Resource.PARAMS), Resource.PARAMS), *shown)
    return view


def _by_tasks(table: Any, rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from costs.units import Resource, format_quantity

    height, width = table.input_size
    view = Table(title=f"{table.backbone}, {height}x{width}: copies of one dense task")
    columns = [
        (f"{name}: {'MAdds' if resource is Resource.MADDS else 'Params'}", key, resource)
        for resource in (Resource.MADDS, Resource.PARAMS)
        for name, key in (("all shared", "shared"), ("expected", "expected"), ("separate", "separate"))
    ]
    for name in ("tasks", *(name for name, _, _ in columns)):
        view.add_column(name, justify="right")
    for row in rows:
        view.add_row(str(row["tasks"]), *(format_quantity(row[key][r.value], r) for _, key, r in columns))
    view.caption = "expected: of a search at its start, where every task takes every candidate with equal probability"
    return view
