"""The Pareto front of a sweep: which networks no other one is both as cheap and as good as. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bmtas.comparison import Comparison, Row, compare_runs
from bmtas.comparison_text import caption, table_cells, table_head, to_json
from bmtas.errors import EnvironmentProblem
from bmtas.files import write_json, write_text
from bmtas.measured import measured_networks
from bmtas.plots_pareto import draw_pareto
from bmtas.sweep.ledger import Sweep
from bmtas.tables import column_label
from costs.units import Resource

ON_FRONT = "*"
"""The mark of a row that is on the front."""


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Say of each point (cost, gain) whether it is on the Pareto front: whether no other point dominates it.

    A point dominates another if it costs at most as much and gains at least as much, and one of the two strictly. So of points
    that are equal in both all are on the front or none; of points of equal cost only those of the greatest gain can be, of points of
    equal gain only the cheapest.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    found = [False] * len(points)
    best, cost_of_best = -math.inf, -math.inf
    for i in order:
        cost, gain = points[i]
        if gain > best:
            best, cost_of_best = gain, cost
        found[i] = gain == best and cost == cost_of_best
    return found


@dataclass(frozen=True)
class SweepFront:
    """The measured networks of a sweep, and which rows of the comparison are on the front of Delta_m over the cost in `resource`.

    Means over seeds are compared, deviations are not. A row without Delta_m or without that cost is not on the front.
    `jobs` names the jobs behind each row; `no_picture` says why there is none, if that is so.
    """

    comparison: Comparison
    resource: Resource
    on_front: tuple[bool, ...]
    jobs: tuple[tuple[str, ...], ...]
    no_picture: str | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows on the front, the cheapest first."""
        rows = [row for row, on in zip(self.comparison.rows, self.on_front, strict=True) if on]
        return sorted(rows, key=lambda row: row.costs[self.resource.value].mean)


def gather_front(sweep: Sweep) -> SweepFront | None:
    """Return the front over all jobs that are done, None as long as none has a measured network.

    Raises UsageError as `compare_runs` does, where the runs cannot be compared.
    """
    finished = [(job, run) for job, run in sweep.finished_runs() if run.trained()]
    if not sweep.spec.train or not finished:
        return None
    comparison = compare_runs([run for _, run in finished])
    named: dict[tuple[str, str, tuple[str, ...], int], list[str]] = {}
    for job, run in finished:
        for network, _ in measured_networks(run, run.config()):
            key = (run.name, network.method, network.budgets, network.seed)
            named.setdefault(key, []).append(job.name)
    behind = [
        sorted(
            {
                name
                for n in comparison.networks
                if n.row == (row.backbone, row.label, row.budgets)
                for name in named[n.run, n.method, n.budgets, n.seed]
            }
        )
        for row in comparison.rows
    ]
    resource = sweep.spec.resource
    return SweepFront(comparison, resource, tuple(_marks(comparison.rows, resource)), tuple(map(tuple, behind)))


def _marks(rows: Sequence[Row], resource: Resource) -> list[bool]:
    points = {
        i: (row.costs[resource.value].mean, row.delta_m_percent.mean)
        for i, row in enumerate(rows)
        if row.delta_m_percent is not None and resource.value in row.costs
    }
    on = dict(zip(points, pareto(list(points.values())), strict=True))
    return [on.get(i, False) for i in range(len(rows))]


def front_head(front: SweepFront, *, brief: bool = False) -> list[str]:
    """Return the titles of the columns of the table; `brief` leaves out all costs but the first."""
    return ["front", *table_head(front.comparison, brief=brief)]


def front_cells(front: SweepFront, *, brief: bool = False) -> list[list[str]]:
    """Return the rows of the table, a cell per title; `*` in the first column marks those on the front."""
    cells = table_cells(front.comparison, brief=brief)
    return [[ON_FRONT if on else "", *row] for on, row in zip(front.on_front, cells, strict=True)]


def front_caption(front: SweepFront) -> str:
    """Return what the front is, and on what the metrics were measured."""
    what = f"{ON_FRONT}: on the Pareto front of Delta_m over {column_label(front.resource)}, where no other row costs as little and gains as much"
    return f"{what}; {caption(front.comparison)}"


def front_json(front: SweepFront) -> dict[str, Any]:
    """Return the comparison as plain JSON values, each row with whether it is on the front and with its jobs."""
    data = to_json(front.comparison)
    for row, on, jobs in zip(data["rows"], front.on_front, front.jobs, strict=True):
        row |= {"on_front": on, "jobs": list(jobs)}
    return {"schema_version": 1, "resource": front.resource.value, **data}


def front_markdown(front: SweepFront) -> str:
    """Return the table in Markdown, with its caption and notes below."""
    head = front_head(front)
    rule = ["---", "---", *(["---:"] * (len(head) - 2))]
    lines = ["| " + " | ".join(_plain(cells)) + " |" for cells in (head, rule, *front_cells(front))]
    notes = "".join(f"\n- {note}" for note in front.comparison.notes)
    return "\n".join(lines) + f"\n\n{_plain([front_caption(front)])[0]}.\n" + (notes + "\n" if notes else "")


def _plain(cells: Sequence[str]) -> list[str]:
    return [cell.replace(ON_FRONT, r"\*") for cell in cells]


def write_front(sweep: Sweep) -> SweepFront | None:
    """Write `front.json`, `front.md` and `front.png` into the sweep's folder and return the front; None if there is none yet.

    The picture is left out as long as no row has a Delta_m, and where matplotlib is not installed, which the front tells. Raises as `gather_front` does.
    """
    front = gather_front(sweep)
    if front is None:
        return None
    write_json(sweep.path / "front.json", front_json(front))
    write_text(sweep.path / "front.md", front_markdown(front))
    drawn = [row.delta_m_percent is not None and front.resource.value in row.costs for row in front.comparison.rows]
    if not any(drawn):
        return replace(front, no_picture="no picture: no row has a Delta_m and a cost yet")
    try:
        draw_pareto(front.comparison, sweep.path / "front.png", front.resource, front.rows)
    except EnvironmentProblem as error:
        return replace(front, no_picture=f"no picture: {error}")
    return front
