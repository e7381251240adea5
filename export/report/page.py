"""A run's part of a report: its answer in a line, the question, and all sections."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

from bmtas.architecture import BranchedArchitecture, WiredArchitecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.runs import FOUND
from bmtas.summary import network_latency
from bmtas.tables import column_label, digest
from bmtas.tasks import Task
from bmtas.wired import derivation_text
from costs.units import Budget, Resource, format_quantity
from export.report.blocks import (
    Block,
    Cell,
    Code,
    Details,
    Drawing,
    Facts,
    Remark,
    RunPage,
    Section,
    Table,
    cells,
)
from export.report.charts import Bar, bar_chart
from export.report.costing import cost_blocks
from export.report.gather import Material
from export.report.measuring import (
    embedded,
    gain_reason,
    latency_blocks,
    metric_blocks,
    parity_blocks,
    prediction_blocks,
)
from export.report.repeat import commands, next_step
from export.report.searching import search_blocks
from export.report.tree import sharing_table, tree_table
from export.report.tree_picture import draw_tree
from export.report.wired import draw_wired, wired_table
from export.report.words import ABSENT, ARROWS, costs_text, delta_text, milliseconds, size_text, wrapped

_CLASSES = 6
"""So many classes of a task are named."""


def run_page(told: Material, anchor: str) -> RunPage:
    """Return a run's part of a report, `anchor` its place on the page; files that turn out to be unreadable join its problems."""
    sections = [
        Section("question", "The question", _question(told)),
        Section("network", "The network found", _network(told, anchor)),
        Section("metrics", "Metrics", metric_blocks(told)),
        Section("predictions", "Predictions beside labels", prediction_blocks(told)),
        Section("costs", "Costs by task and layer", _costs(told)),
        Section("search", "The search", search_blocks(told, anchor)),
        Section("latency", "Latency", latency_blocks(told, anchor)),
        Section("parity", "Proof of the exported files", parity_blocks(told)),
        Section("repeat", "To make it again", _repeat(told)),
    ]
    top = [*_tiles(told), *_bars(told, anchor)]
    return RunPage(anchor, told.run.name, answer(told), top, sections, tuple(dict.fromkeys(told.problems)))


def answer(told: Material) -> str:
    """Return in a line what the network found costs against the budget, and what the all-shared and the separate ones cost."""
    step = next_step(told)
    if step is not None:
        return step.text
    found = told.network(FOUND)
    if found is None or found.costs is None or told.found is None:
        return "What was found cannot be told: its file cannot be read."
    lines = []
    resources = [budget.resource for budget in told.budgets] or [Resource.MADDS]
    for resource in resources:
        cost = found.costs.get(resource.value)
        if cost is None:
            continue
        budget = next((b for b in told.budgets if b.resource is resource), None)
        within = "without a budget" if budget is None else f"{cost / budget.value:.1%} of the budget of {budget.text}"
        by_table = "" if column_label(resource) == resource.label else " by the cost table"
        shared, separate = (f(resource) for f in (told.table.shared_total, told.table.separate_total))
        lines.append(
            f"{format_quantity(cost, resource)}{by_table}, {within}; all shared {format_quantity(shared, resource)}, "
            f"separate networks {format_quantity(separate, resource)}"
        )
    return "The network found costs " + "; and ".join(lines) + "."


def _tiles(told: Material) -> list[Block]:
    """Return the few numbers that a reader wants first."""
    found = told.network(FOUND)
    if found is None or found.costs is None:
        return []
    separate = {r: told.table.separate_total(r) for r in told.table.resources()}
    entries = []
    for resource in (Resource.MADDS, Resource.PARAMS):
        if resource.value in found.costs and resource in separate:
            cost = found.costs[resource.value]
            note = f"{cost / separate[resource]:.0%} of separate networks"
            entries.append((resource.label, format_quantity(cost, resource), note))
    gain = found.delta_m_percent
    why = gain_reason(told) if gain is None else "mean gain over separate networks"
    entries.append(("Delta_m", ABSENT if gain is None else f"{delta_text(gain)} %", why))
    latency = network_latency(None if told.bench is None else told.bench.to_json(), FOUND)
    if latency is None:
        entries.append(("Latency", ABSENT, "not measured"))
    else:
        stable = "stable" if latency["stable"] else "not stable"
        entries.append(
            ("Latency", f"{milliseconds(latency['median_ms'])} ms", f"median, {latency['runtime']}, {stable}")
        )
    proofs = list(found.proofs.values())
    held = bool(proofs) and not found.changed and all(proof.passed for proof in proofs)
    state = "passed" if held else "not held" if proofs else ABSENT
    note = f"{len(proofs)} exported file{'s' if len(proofs) != 1 else ''}" if proofs else "not exported"
    entries.append(("Proof", state, note))
    return [Facts(tuple(entries), tiles=True)]


def _bars(told: Material, anchor: str) -> list[Block]:
    """Return the found cost beside budget, all shared and separate networks, for each budget."""
    found = told.network(FOUND)
    if found is None or found.costs is None:
        return []
    limits: list[tuple[Resource, Budget | None]] = [(b.resource, b) for b in told.budgets] or [(Resource.MADDS, None)]
    blocks: list[Block] = []
    for resource, budget in limits:
        cost = found.costs.get(resource.value)
        if cost is None:
            continue
        bars = [
            Bar(name, value, format_quantity(value, resource), strong=name == FOUND)
            for name, value in (
                ("all shared", told.table.shared_total(resource)),
                (FOUND, cost),
                ("separate", told.table.separate_total(resource)),
            )
        ]
        limit = None if budget is None else Bar("budget", budget.value, format_quantity(budget.value, resource))
        title = f"{resource.label} of the network found beside all shared and separate ones"
        chart = bar_chart(f"{anchor}-bars-{resource.value}", title, bars, limit)
        blocks.append(Drawing(chart, narrow=True))
    return blocks


def _question(told: Material) -> list[Block]:
    config = told.config
    facts = [
        ("data", config.data, ""),
        ("backbone", f"{config.backbone}, initial weights: {config.weights}", ""),
        ("method", config.method.value, "" if config.decode.value == "best" else f"decoded by {config.decode.value}"),
        ("budget", ", ".join(config.budgets) or "none", ""),
        ("sizes", _sizes(told), ""),
        ("preset", config.preset.value, ""),
        ("steps", _steps(told), ""),
        ("seed", str(config.seed), ""),
        ("costs", "counted" if config.table_digest is None else "counted, and by the table that was given", ""),
        ("measured on", "no device yet" if told.bench is None else told.bench.device.title, ""),
    ]
    return [_task_table(told.tasks), Facts(tuple(facts))]


def _sizes(told: Material) -> str:
    config = told.config
    searched = f"search {size_text(config.search_size)}, " if config.method.searches else ""
    return f"deployed {size_text(config.deploy_size)}, {searched}training and metrics {size_text(config.train_size)}"


def _steps(told: Material) -> str:
    search, train = told.config.search, told.config.train
    trained = f"training {train.steps} of {train.batch_size} images ({train.optimiser.value})"
    if not told.config.method.searches:
        return trained
    return f"warm-up {search.warmup_steps}, search {search.weight_steps} of {search.batch_size} images ({search.optimiser.value}); {trained}"


def _task_table(tasks: tuple[Task, ...]) -> Table:
    rows = [
        cells(
            Cell(task.name, (i,)),
            task.kind.value,
            f"{task.metric}\u00a0{ARROWS[task.higher_is_better]}",
            f"{task.loss_weight:g}",
            _classes(task),
        )
        for i, task in enumerate(tasks)
    ]
    head = ("task", "kind", "metric", "loss weight", "classes")
    return Table(
        "The tasks, all on the same images; an arrow points to where better is",
        head,
        tuple(rows),
        frozenset((0, 1, 2, 4)),
    )


def _classes(task: Task) -> str:
    if not task.classes:
        return ABSENT
    more = f" and {len(task.classes) - _CLASSES} more" if len(task.classes) > _CLASSES else ""
    return f"{len(task.classes)}: {', '.join(task.classes[:_CLASSES])}{more}"


def _network(told: Material, anchor: str) -> list[Block]:
    architecture = told.found
    if architecture is None:
        step = next_step(told)
        if step is not None:
            return [step]
        return [Remark("The network found cannot be read: see the top of this page.", "problem")]
    if isinstance(architecture, BranchedArchitecture):
        blocks: list[Block] = [draw_tree(f"{anchor}-tree", architecture, told.table)]
        if all(count == 1 for count in architecture.group_counts) and told.config.method is Method.BRANCHED:
            blocks.append(
                Remark(
                    "All tasks share all layers: the most probable network of the search, though the budget may allow more."
                )
            )
        both = (tree_table(architecture, told.table), sharing_table(architecture))
        return [*blocks, Details("The same as tables, and how many layers each two tasks share", both)]
    assert isinstance(architecture, WiredArchitecture)
    blocks = [draw_wired(f"{anchor}-graph", architecture, told.table)]
    derived = _derivation(told)
    if derived:
        blocks.append(Remark(f"How it was derived: {derived}."))
    blocks.append(Details("The same as a table", (wired_table(architecture, told.table),)))
    return [*blocks, *_pictures(told)]


def _derivation(told: Material) -> str:
    path = told.run.architecture_path
    try:
        return derivation_text(told.config.method, told.stored or {})
    except (KeyError, TypeError, ValueError) as error:
        told.problems.append(f"{path}: how the network was derived is damaged ({error!r}); search anew with --new")
        return ""


def _pictures(told: Material) -> list[Block]:
    """Return the pictures that a method has drawn of its search."""
    blocks: list[Block] = []
    for path in sorted(told.run.search_folder.glob("*.png")):
        caption = f"{path.stem.replace('_', ' ')}, as the search drew it (search/{path.name})"
        try:
            blocks.append(embedded(path, f"Picture of the search: {path.stem}", caption))
        except UsageError as error:
            told.problems.append(str(error))
            blocks.append(Remark(str(error), "problem"))
    return blocks


def _costs(told: Material) -> list[Block]:
    if told.found is None:
        return [
            Remark(
                f"Of the network found nothing can be told yet. All shared: {_total(told, 'shared')}; separate: {_total(told, 'separate')}."
            )
        ]
    return cost_blocks(told, told.found)


def _total(told: Material, name: str) -> str:
    network = told.network(name)
    return costs_text((network.costs if network else None) or {})


def _repeat(told: Material) -> list[Block]:
    lines, notes = commands(told)
    config = told.config
    versions = [("cost table", ", ".join(f"{k} {v}" for k, v in told.table.provenance.items()) or "not told", "")]
    if told.bench is not None:
        runtimes = ", ".join(sorted({r.runtime for r in told.bench.results}))
        versions.append(("measured by", f"{told.bench.written_by}, {runtimes}", ""))
    versions += [
        (f"export of {network.name}", f"{file}: {proof.runtime or proof.format}, {proof.date or 'no date'}", "")
        for network in told.networks
        for file, proof in network.proofs.items()
    ]
    facts = [
        ("fingerprint of the data", config.data_fingerprint, ""),
        ("digest of the cost table", digest(told.table), ""),
        *([("digest of the table given", config.table_digest, "")] if config.table_digest else []),
        *versions,
        ("run begun", _file_date(told.run.path / "run.json"), "date of run.json"),
    ]
    if told.ended:
        facts.append(("search ended", _file_date(told.run.architecture_path), "date of architecture.json"))
    resolved = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return [
        Code("\n".join(map(wrapped, lines)), "The commands; train, export and bench take the latest run"),
        *(Remark(note[0].upper() + note[1:] + ".", "muted") for note in notes),
        Facts(tuple(facts)),
        Details("run.json, the configuration as resolved", (Code(resolved, "run.json"),)),
    ]


def _file_date(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="seconds")
