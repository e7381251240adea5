"""A comparison as Markdown, LaTeX, CSV and JSON. Needs no torch."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from bmtas.comparison import Comparison, Row, Spread
from bmtas.tables import column_label
from bmtas.tasks import Task
from costs.units import Resource, format_quantity

_ARROWS = {True: "\u2191", False: "\u2193"}
_PLUS_MINUS = "\u00b1"
_SHARE_DIGITS, _OTHER_DIGITS = 4, 2


def table_head(comparison: Comparison, *, brief: bool = False) -> list[str]:
    """Return the titles of the columns that tables for people have; `brief` leaves out all costs but the first."""
    resources = _resources(comparison, brief=brief)
    latency = ["ms"] if any(row.latency_ms for row in comparison.rows) else []
    backbone = ["backbone"] if comparison.several_backbones else []
    tasks = [f"{task.name} {task.metric} {_ARROWS[task.higher_is_better]}" for task in comparison.tasks]
    costs = [column_label(resource) for resource in resources]
    return ["network", *backbone, "budget", "seeds", *costs, *latency, *tasks, "Delta_m % \u2191"]


def table_cells(comparison: Comparison, *, brief: bool = False) -> list[list[str]]:
    """Return the rows of tables for people, a cell per title of `table_head`; mean \u00b1 deviation, `-` where not measured."""
    latency = any(row.latency_ms for row in comparison.rows)
    return [
        [
            row.label,
            *([row.backbone] if comparison.several_backbones else []),
            ", ".join(row.budgets),
            str(len(row.seeds)),
            *(_cost(row.costs.get(resource.value), resource) for resource in _resources(comparison, brief=brief)),
            *([_number(row.latency_ms, 1)] if latency else []),
            *(_metric(row, task) for task in comparison.tasks),
            _number(row.delta_m_percent, 2, "+"),
        ]
        for row in comparison.rows
    ]


def caption(comparison: Comparison) -> str:
    """Return on what the metrics were measured."""
    height, width = comparison.size
    several = any(len(row.seeds) > 1 for row in comparison.rows)
    spread = "; mean \u00b1 standard deviation over seeds" if several else ""
    return f"metrics on {comparison.images} validation images at {height}x{width}{spread}"


def to_markdown(comparison: Comparison) -> str:
    """Return the table in Markdown, with its caption and notes below."""
    head = table_head(comparison)
    right = ["---:" if i else "---" for i in range(len(head))]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, right, *table_cells(comparison))]
    notes = "".join(f"\n- {note}" for note in comparison.notes)
    return (
        "\n".join(lines)
        + f"\n\n{caption(comparison)[0].upper()}{caption(comparison)[1:]}.\n"
        + (notes + "\n" if notes else "")
    )


def to_latex(comparison: Comparison) -> str:
    """Return the table as a LaTeX tabular; it needs the package booktabs."""
    head = [_escaped(title) for title in table_head(comparison)]
    rows = [" & ".join(_escaped(cell) for cell in cells) + r" \\" for cells in table_cells(comparison)]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% {caption(comparison).replace(_PLUS_MINUS, '+-')}",
        *(f"% {note}" for note in comparison.notes),
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Return one line per row with mean and deviation of every cost, in base units, and of every metric; empty where missing."""
    costs = [resource.value for resource in _resources(comparison)]
    metrics = [(t, m) for t, of_task in comparison.rows[0].metrics.items() for m in of_task]
    columns = [*costs, "latency_ms", *(f"{t}.{m}" for t, m in metrics), "delta_m_percent"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["network", "backbone", "budget", "seeds", *(n for c in columns for n in (c, f"{c}.deviation"))])
    for row in comparison.rows:
        spreads = [
            *(row.costs.get(cost) for cost in costs),
            row.latency_ms,
            *(row.metrics[t].get(m) for t, m in metrics),
            row.delta_m_percent,
        ]
        values = [v for s in spreads for v in ((None, None) if s is None else (s.mean, s.deviation))]
        seeds = " ".join(map(str, row.seeds))
        writer.writerow(
            [row.label, row.backbone, " ".join(row.budgets), seeds, *("" if v is None else v for v in values)]
        )
    return file.getvalue()


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return rows, and the networks behind them, as plain JSON values."""
    return {
        "schema_version": 1,
        "tasks": [
            {**task.to_json(), "metric": task.metric, "higher_is_better": task.higher_is_better}
            for task in comparison.tasks
        ],
        "size": list(comparison.size),
        "images": comparison.images,
        "rows": [asdict(row) for row in comparison.rows],
        "networks": [asdict(network) for network in comparison.networks],
        "notes": list(comparison.notes),
    }


def _resources(comparison: Comparison, *, brief: bool = False) -> list[Resource]:
    known = [r for r in Resource if any(r.value in row.costs for row in comparison.rows)]
    return known[:1] if brief else known


def _cost(spread: Spread | None, resource: Resource) -> str:
    if spread is None:
        return "-"
    text = format_quantity(spread.mean, resource)
    return text if not spread.deviation else f"{text} \u00b1 {spread.deviation / spread.mean:.1%}"


def _metric(row: Row, task: Task) -> str:
    spread = row.metrics[task.name].get(task.metric)
    return _number(spread, _SHARE_DIGITS if spread is None or abs(spread.mean) < 1 else _OTHER_DIGITS)


def _number(spread: Spread | None, digits: int, sign: str = "") -> str:
    if spread is None:
        return "-"
    deviation = "" if spread.deviation is None else f" \u00b1 {spread.deviation:.{digits}f}"
    return f"{spread.mean:{sign}.{digits}f}{deviation}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "\u00b1": r"$\pm$",
    "\u2191": r"$\uparrow$",
    "\u2193": r"$\downarrow$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
