"""Several runs side by side: one table of their networks, and Delta_m over multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bmtas.comparison import Comparison, compare_runs
from bmtas.comparison_text import caption, table_cells, table_head
from bmtas.errors import UsageError
from bmtas.measured import Measured
from bmtas.plots_pareto import axis_scale
from bmtas.runs import FOUND
from costs.errors import CostError
from costs.units import Resource, format_quantity
from export.report.blocks import Block, Cell, Details, Drawing, Missing, Remark, Remarks, RunPage, Section, Table, cells
from export.report.charts import Point, scatter
from export.report.gather import Material
from export.report.words import ABSENT, delta_text, metric_text, metric_title, milliseconds, quantity


@dataclass(frozen=True)
class _Line:
    """A row of the overview: a network that was compared, or a run's found network that was not."""

    run: str
    anchor: str
    network: str
    method: str
    budgets: str
    seed: int
    costs: dict[str, float]
    compared: Measured | None


def compare(told: Sequence[Material]) -> tuple[Comparison | None, str]:
    """Compare the networks of several runs and hand each its Delta_m; where that cannot be done, return None and why."""
    try:
        comparison = compare_runs([material.run for material in told])
    except (UsageError, CostError) as error:
        return None, str(error)
    for material in told:
        of_run = {n.network: n.delta_m_percent for n in comparison.networks if n.path == str(material.run.path)}
        material.take_gains(of_run)
    return comparison, ""


def overview(told: Sequence[Material], pages: Sequence[RunPage], comparison: Comparison | None, reason: str) -> Section:
    """Return the section that shows several runs together; where they cannot be compared, it gives the `reason`."""
    anchors = {material.run.path: page.anchor for material, page in zip(told, pages, strict=True)}
    blocks: list[Block] = [_table(_lines(told, comparison, anchors), comparison)]
    if comparison is None:
        blocks.append(Remark(f"Metrics are not compared: {reason.rstrip('.')}.", "problem"))
    else:
        blocks.append(Remark(_sentence(caption(comparison)), "muted"))
        blocks += _pareto(comparison)
        if comparison.notes:
            blocks.append(Remarks(tuple(map(_sentence, comparison.notes))))
        if any(len(row.seeds) > 1 for row in comparison.rows):
            blocks.append(_over_seeds(comparison))
    return Section("overview", "All runs side by side", blocks)


def _lines(told: Sequence[Material], comparison: Comparison | None, anchors: dict[Path, str]) -> list[_Line]:
    compared = {(n.path, n.network): n for n in (comparison.networks if comparison is not None else ())}
    shown = _told_apart([material.run.path for material in told])
    lines = []
    for material in told:
        config, run = material.config, material.run
        costs = {network.name: network.costs or {} for network in material.networks}
        for name in {FOUND: None, **dict.fromkeys(costs)}:
            measured = compared.get((str(run.path), name))
            if measured is None and name != FOUND:
                continue
            method = config.method.value if measured is None else measured.label
            budgets = config.budgets if measured is None else measured.budgets
            lines.append(
                _Line(
                    shown[run.path],
                    anchors[run.path],
                    name,
                    method,
                    ", ".join(budgets),
                    config.seed,
                    costs.get(name, {}),
                    measured,
                )
            )
    return sorted(lines, key=lambda line: line.costs.get(Resource.MADDS.value, float("inf")))


def _told_apart(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a name for each run folder: its own, with as many of the folders around it as tell it from the others."""
    names = {path: path.name for path in paths}
    for depth in range(2, max(len(path.resolve().parts) for path in paths)):
        doubled = {name for name in names.values() if list(names.values()).count(name) > 1}
        if not doubled:
            break
        names = {p: "/".join(p.resolve().parts[-depth:]) if n in doubled else n for p, n in names.items()}
    return names


def _table(lines: Sequence[_Line], comparison: Comparison | None) -> Table:
    """Return a row per network; what is the same in all rows, and no number, has no column."""
    tasks = () if comparison is None else comparison.tasks
    resources = [r for r in Resource if any(r.value in line.costs for line in lines)]
    networks, seeds = ({getattr(line, name) for line in lines} for name in ("network", "seed"))
    rows = []
    for line in lines:
        found = line.compared
        values = [ABSENT if found is None else metric_text(found.metrics[t.name].get(t.metric)) for t in tasks]
        gain = delta_text(None if found is None else found.delta_m_percent)
        rows.append(
            cells(
                Cell(line.run, href=f"#{line.anchor}"),
                line.method,
                *([line.network] if len(networks) > 1 else []),
                line.budgets or ABSENT,
                *([str(line.seed)] if len(seeds) > 1 else []),
                *([Cell(gain, strong=True)] if tasks else []),
                *values,
                *(quantity(line.costs.get(r.value), r) for r in resources),
                milliseconds(None if found is None else found.latency_ms),
            )
        )
    head = (
        *("run", "method"),
        *(("network",) if len(networks) > 1 else ()),
        "budget",
        *(("seed",) if len(seeds) > 1 else ()),
        *(("Delta_m\u00a0%\u00a0\u2191",) if tasks else ()),
        *map(metric_title, tasks),
        *(r.label for r in resources),
        "ms",
    )
    left = frozenset(range(2 + (len(networks) > 1)))
    return Table("Networks of all runs, the cheapest first", head, tuple(rows), left)


def _pareto(comparison: Comparison) -> list[Block]:
    """Return the picture of Delta_m over multiply-adds, or what it lacks."""
    points = []
    for row in comparison.rows:
        gain, cost = row.delta_m_percent, row.costs.get(Resource.MADDS.value)
        if gain is None or cost is None:
            continue
        name = f"{row.label} ({row.backbone})" if comparison.several_backbones else row.label
        tip = (
            f"{name} {', '.join(row.budgets)}: {format_quantity(cost.mean, Resource.MADDS)}, Delta_m {gain.mean:+.2f} %"
        )
        points.append(Point(name, cost.mean, gain.mean, gain.deviation or 0.0, tip))
    if not points:
        text = "Delta_m is relative to single-task networks, of which none is among these runs."
        return [Missing(text, "bmtas search --method single && bmtas train")]
    most = max(point.x for point in points)
    scale, unit = axis_scale(most, Resource.MADDS)
    scaled = [Point(p.series, p.x / scale, p.y, p.deviation, p.tip) for p in points]
    title = "Delta_m over multiply-adds: further up and further left is better"
    return [
        Drawing(
            scatter("overview-pareto", title, scaled, unit, "Delta_m %"),
            f"{title}. Bars are the standard deviation over seeds, where there are several.",
        )
    ]


def _over_seeds(comparison: Comparison) -> Block:
    rows = tuple(cells(*texts) for texts in table_cells(comparison))
    table = Table("Mean and standard deviation over seeds", tuple(table_head(comparison)), rows)
    return Details("Mean and standard deviation over seeds", (table,))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."
