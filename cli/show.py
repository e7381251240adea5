"""`bmtas show`: the tree, who shares what down to which layer, its cost and its metrics."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.options import DEFAULT_RUNS, Json, RunName, Runs
from cli.wired import wired_view

_UNUSED = 0.1
"""A searched tree that leaves more of its budget than this share unused is explained."""


def show_command(
    run: RunName = None,
    runs: Runs = DEFAULT_RUNS,
    expected: Annotated[
        bool,
        typer.Option(
            "--expected",
            help="Show the expected cost and the likely groupings of each layer instead, and write two pictures into the "
            "run folder: search/budget.png and search/expected.png.",
        ),
    ] = False,
    json: Json = None,
) -> None:
    """Show what a run has found and measured so far. Needs no PyTorch.

    Example: bmtas show --run 003-scenes-9GMAdds
    """
    from bmtas.runs import open_run
    from cli.console import emit_json, out

    chosen = open_run(runs, run)
    if expected:
        _show_expected(chosen, json)
        return
    if json is not None:
        from bmtas.summary import summarise_run

        emit_json(summarise_run(chosen), json)
    if json != "-":
        console = out()
        render_run(chosen, console)
        render_results(chosen, console)


def _show_expected(run: Any, json: str | None) -> None:
    """Print the expected cost and the likely groupings of each layer, and draw them where that can be done."""
    from bmtas.errors import EnvironmentProblem
    from bmtas.expectation import expect_run
    from bmtas.plots import draw_search
    from cli.console import emit_json, err, out
    from cli.expected import expectation_view

    expectation = expect_run(run)
    if json is not None:
        emit_json(expectation, json)
    if json == "-":
        return
    out().print(expectation_view(expectation, run.name))
    try:
        drawn = draw_search(run, expectation)
    except (EnvironmentProblem, OSError) as error:
        err().print(f"no pictures: {error}", markup=False)
    else:
        err().print("pictures: " + ", ".join(str(path) for path in drawn), markup=False)


def render_run(run: Any, console: Any) -> None:
    """Print the tree of the found architecture and what the tasks share."""
    from bmtas.architecture import BranchedArchitecture
    from bmtas.config import Method
    from bmtas.summary import network_costs
    from bmtas.tables import column_label
    from bmtas.wired import derivation_text
    from costs.units import format_quantity

    config, table = run.config(), run.table()
    console.print(f"[bold]{run.path}[/]", soft_wrap=True)
    architecture = run.architecture("found")
    costs = network_costs(run, "found")
    tree = architecture if isinstance(architecture, BranchedArchitecture) else None
    console.print(_tree(tree, table) if tree else wired_view(architecture, table))
    console.print(f"budget {', '.join(config.budgets) or 'none'}")
    found = run.read_result(run.architecture_path)
    for r in [r for r in table.resources() if r.value in costs]:
        measured = found.get("measured", {}).get(r.value) if column_label(r) != r.label else None
        told = "" if measured is None else f", measured {format_quantity(measured, r)} here"
        console.print(
            f"found {format_quantity(costs[r.value], r)}; all shared {format_quantity(table.shared_total(r), r)}, "
            f"separate networks {format_quantity(table.separate_total(r), r)}"
            + ("" if column_label(r) == r.label else f" (table{told})")
        )
    if config.method.wired:
        drawn = [f"search/{path.name}" for path in sorted(run.search_folder.glob("*.png"))]
        pictures = f"; pictures: {', '.join(drawn)}" if drawn else ""
        console.print(f"method: {config.method.value}{pictures}", markup=False, soft_wrap=True)
        derived = derivation_text(config.method, found)
        if derived:
            console.print(derived, markup=False, soft_wrap=True)
    elif config.method is not Method.BRANCHED:
        console.print(f"method: {config.method.value}, no search{_how(run)}", markup=False, soft_wrap=True)
    elif tree:
        for line in left_over(run, tree, costs):
            console.print(line, markup=False, soft_wrap=True)
    if found.get("exact") is False:
        gap = found.get("gap")
        bound = "" if gap is None else f", up to e^{gap:.3g} times as probable"
        console.print(
            f"this is the best tree that a bounded search found; with so many tasks a more probable one may exist{bound}"
        )
    if tree:
        console.print(_sharing(tree))


def left_over(run: Any, tree: Any, costs: dict[str, float]) -> list[str]:
    """Return what to say of a searched tree that is all shared, or that leaves more than a tenth of each budget unused."""
    from bmtas.config import Decode
    from costs.units import format_quantity, parse_budget

    config = run.config()
    budgets = [parse_budget(text) for text in config.budgets]
    used = [costs[budget.resource.value] / budget.value for budget in budgets]
    told = ["this is the all-shared network"] if all(count == 1 for count in tree.group_counts) else []
    if not used or max(used) >= 1 - _UNUSED or config.decode is not Decode.BEST:
        return told
    fullest = budgets[used.index(max(used))].resource
    expected = _expected(run).get(fullest.value)
    mean = (
        ""
        if expected is None
        else f": the search ended with an expected cost of {format_quantity(expected, fullest)}, the mean over many trees"
    )
    return [
        *told,
        f"{1 - max(used):.0%} of the budget is unused{mean}; handed over is the most probable tree within the budget",
        f"`bmtas sweep --decode {run.path}` lists the most probable tree of each budget",
    ]


def _expected(run: Any) -> dict[str, float | None]:
    """Return the expected costs that the search ended with, by resource; none where its probabilities are not at hand."""
    from bmtas.errors import UsageError
    from bmtas.expectation import expected_totals, read_probabilities

    try:
        return expected_totals(run.table(), read_probabilities(run))
    except UsageError:  # `show --expected` says what is wrong with them; the tree is whole without
        return {}


def _how(run: Any) -> str:
    """Return what is worth knowing of how a baseline came to its tree."""
    share = (run.read_result(run.architecture_path) or {}).get("share_of_budget")
    picture = run.search_folder / "affinity.png"
    told = [f"{share:.1%} of the budget used"] if share is not None else []
    told += [f"the tasks' affinities are drawn in {picture}"] if picture.exists() else []
    return "".join(f"; {text}" for text in told)


def _tree(architecture: Any, table: Any) -> Any:
    from rich.tree import Tree

    from costs.units import format_quantity

    groupings = architecture.groupings
    # In the order of resources, so MAdds if they are known. Of what depends on all groups, one has no share of its own.
    shown = [r for r in table.resources() if table.dependence(r) == "groups_proportional"][:1]

    def label(first: int, last: int, block: tuple[str, ...]) -> str:
        costs = [format_quantity(sum(table.layer_costs(r)[first : last + 1]), r) for r in shown]
        span = f"layer {first}" if first == last else f"layers {first}-{last}"
        return "  ".join([span, f"[bold]{' + '.join(block)}[/]", *costs])

    def grow(parent: Any, layer: int, block: tuple[str, ...]) -> None:
        last = layer
        while last + 1 < len(groupings) and block in groupings[last + 1]:
            last += 1
        branch = parent.add(label(layer, last, block))
        if last + 1 == len(groupings):
            for task in block:
                branch.add(f"head [bold]{task}[/]")
            return
        for child in groupings[last + 1]:
            if set(child) <= set(block):
                grow(branch, last + 1, child)

    stem = "stem" if architecture.shared_stem else "a stem per task"
    root = Tree(f"image, {stem} ({architecture.backbone})")
    for block in groupings[0]:
        grow(root, 0, block)
    return root


def _sharing(architecture: Any) -> Any:
    from rich.table import Table

    view = Table(title=f"layers shared, of {len(architecture.groupings)}")
    view.add_column("")
    for task in architecture.tasks:
        view.add_column(task, justify="right")
    for a in architecture.tasks:
        view.add_row(a, *("" if a == b else str(architecture.shared_depth(a, b)) for b in architecture.tasks))
    return view


def render_results(run: Any, console: Any) -> None:
    """Print shared, found and separate networks side by side, as far as they are measured."""
    from rich.table import Table

    from bmtas.summary import summarise_run
    from bmtas.tables import column_label
    from costs.units import format_quantity

    summary = summarise_run(run)
    resources = run.table().resources()
    tasks = run.config().task_list()
    view = Table(title="networks side by side")
    for name in ("network", *(column_label(r) for r in resources)):
        view.add_column(name, justify="left" if name == "network" else "right")
    for task in tasks:
        view.add_column(f"{task.name}\n{task.metric} {'↑' if task.higher_is_better else '↓'}", justify="right")
    view.add_column("Delta_m %", justify="right")
    view.add_column("ONNX ms", justify="right")
    constants, missing = None, False
    for name, entry in summary["networks"].items():
        metrics = entry["metrics"]
        cells = ["-"] * len(tasks)
        if metrics is not None:
            constants = metrics
            cells = [_number(metrics["tasks"][t.name]["value"]) for t in tasks]
        delta, latency = entry["delta_m_percent"], entry["latency"]
        missing |= metrics is None or latency is None or (delta is None and entry["delta_m_undefined"] is None)
        view.add_row(
            f"[bold]{name}[/]" if name == "found" else name,
            *(format_quantity(entry["costs"][r.value], r) if r.value in entry["costs"] else "-" for r in resources),
            *cells,
            "-" if delta is None else f"{delta:+.2f}",
            "-" if latency is None else _milliseconds(latency["median_ms"]),
        )
    if constants is not None:
        cells = [_number(constants["tasks"][t.name]["best_constant"]) for t in tasks]
        view.add_section()
        view.add_row("best constant", *[""] * len(resources), *cells, "", "")
        height, width = constants["size"]
        view.caption = f"metrics on {constants['images']} validation images at {height}x{width}" + (
            "; '-' is not measured yet" if missing else ""
        )
    else:
        view.caption = "'-' is not measured yet: bmtas train --network all, bmtas export --network all, bmtas bench"
    console.print(view)
    for line in _undefined(summary["networks"]):
        console.print(line, markup=False, soft_wrap=True)


def _undefined(networks: dict[str, Any]) -> list[str]:
    """Return why networks that are measured have no Delta_m, a line per reason."""
    reasons: dict[str, list[str]] = {}
    for name, entry in networks.items():
        if entry["delta_m_undefined"] is not None:
            reasons.setdefault(entry["delta_m_undefined"], []).append(name)
    measured = [name for name, entry in networks.items() if entry["metrics"] is not None]
    return [
        f"Delta_m {'' if names == measured else 'of ' + ', '.join(names) + ' '}is undefined: {reason}"
        for reason, names in reasons.items()
    ]


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _number(value: float | None) -> str:
    if value is None:
        return "no label"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
