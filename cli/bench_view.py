"""What `bmtas bench` shows on the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

_LEFT = ("network", "runtime", "precision", "module", "tasks", "task", "verdict", "stable")


def show_report(report: Any, console: Any) -> None:
    """Print the table, what must be said beside it, and the command that repeats it."""
    from export.bench.tables import header, remarks, rows, title

    names = header(report)
    console.print(_table(title(report), names, [[row[name] for name in names] for row in rows(report)]))
    for margins in report.marginal:
        console.print(_margins(margins))
    for layers in report.layers:
        console.print(_layers(layers))
    for text in remarks(report):
        console.print(text, markup=False, soft_wrap=True)
    if report.command is not None:
        console.print(f"again: {report.command}", markup=False, soft_wrap=True)


def _table(title: str, names: list[str], rows: list[list[str]], caption: str | None = None) -> Table:
    view = Table(title=title, caption=caption)
    for name in names:
        view.add_column(name, justify="left" if name in _LEFT else "right")
    for row in rows:
        view.add_row(*row)
    return view


def _margins(margins: Any) -> Table:
    rows = [
        [
            task,
            f"{m.alone_ms:.4g}",
            "-" if m.without_ms is None else f"{m.without_ms:.4g}",
            f"{m.marginal_ms:.3g}",
            "too few" if m.low_ms is None else f"{m.low_ms:.3g} to {m.high_ms:.3g}",
        ]
        for task, m in margins.tasks.items()
    ]
    caption = (
        f"all tasks {margins.all_ms:.4g} ms; in no task's margin, because several need it: {margins.shared_ms:.3g} ms"
    )
    if not margins.stable:
        caption += "; unstable"
    names = ["task", "alone ms", "all without it ms", "it adds ms", "interval"]
    return _table(f"what each task of {margins.key} costs", names, rows, caption)


def _layers(layers: Any) -> Table:
    rows = [[m.module, ", ".join(m.tasks), str(m.operations), f"{m.ms:.3f}"] for m in layers.modules]
    rows.append(["unattributed", "", "", f"{layers.unattributed_ms:.3f}"])
    rows.append(["sum", "", "", f"{layers.sum_ms:.3f}"])
    return _table(f"where the time of {layers.key} goes", ["module", "tasks", "operations", "ms"], rows, layers.note)


def show_comparison(found: list[Any], console: Any) -> None:
    """Print a comparison of two measurements."""
    from export.bench.compare import NOTE

    rows = []
    for c in found:
        interval = c.ratio.interval
        rows.append(
            [
                c.first.key if c.first.key == c.second.key else f"{c.first.key} and {c.second.key}",
                f"{c.first.answers.median_ms:.4g}",
                f"{c.second.answers.median_ms:.4g}",
                f"{c.ratio.value:.3f}",
                "too few" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}",
                c.verdict,
            ]
        )
    names = ["network", "first ms", "second ms", "first / second", "interval", "verdict"]
    console.print(_table("latency of the first over that of the second", names, rows, NOTE))
