"""What a search means to do, told before it begins (`bmtas search --dry-run`)."""

from __future__ import annotations

import importlib

from bmtas.config import Method, RunConfig
from bmtas.methods.sharing.settings import Init
from bmtas.methods.sharing.space import NETWORKS, initial
from bmtas.methods.spaces import kit_of, open_space
from bmtas.planning import Plan
from bmtas.schedule import Schedule
from cli.console import emit_json, out
from costs.reach import budget_range
from costs.units import Resource, format_quantity


def show_plan(plan: Plan, json: str | None) -> None:
    """Print what would be searched, trained and kept, and write the resolved configuration where `json` says."""
    if json is not None:
        emit_json(plan.config.model_dump(mode="json"), json)
    if json == "-":
        return
    config = plan.config
    lines = [
        f"tasks: {', '.join(t['name'] for t in config.tasks)}; backbone {config.backbone}, weights {config.weights}",
        *_budgets(plan),
        *_method(config),
        *_training(config),
        "nothing was written, and weights were not fetched (--dry-run)",
    ]
    for line in lines:
        out().print(line, markup=False)


def _budgets(plan: Plan) -> list[str]:
    config = plan.config
    if not plan.budgets:
        if not config.method.searches and config.method.wired:
            cost = " and ".join(format_quantity(_reach(plan, r)[0], r) for r in (Resource.MADDS, Resource.PARAMS))
            return [f"no budget: the network of {config.method.value} costs {cost}"]
        return [
            f"no budget: {'whatever the search comes to is handed over' if config.method.searches else 'none is kept'}"
        ]
    lines = []
    for budget in plan.budgets:
        resource = budget.resource
        least, most = (format_quantity(value, resource) for value in _reach(plan, resource))
        shared, split, separate = (
            format_quantity(total(resource), resource)
            for total in (plan.table.shared_total, plan.table.split_total, plan.table.separate_total)
        )
        what = f"networks of {config.method.value}" if config.method.wired else "trees"
        reach = f"{what} cost {least} to {most}" if least != most else f"{what} cost {least}"
        lines.append(
            f"budget: {budget.text}; {reach} (all shared {shared}, only the stem shared {split}), separate networks {separate}"
        )
    return lines


def _reach(plan: Plan, resource: Resource) -> tuple[float, float]:
    """Return what the cheapest and the dearest network of the plan's method cost."""
    config = plan.config
    if not config.method.wired:
        return budget_range(plan.table, resource)
    return open_space(config.method, kit_of(config), config.own).reach(plan.table, resource)


def _method(config: RunConfig) -> list[str]:
    """Return what is searched how, and what is trained before."""
    search, lines = config.search, []
    told = ", ".join(f"{name}={value}" for name, value in _own_texts(config).items())
    first = _trained_first(config)
    before = f", for which the {first} trained first" if first else ""
    if config.method is not Method.BRANCHED:
        lines.append(f"method: {config.method.value}{before}" + (f"; {told}" if told else ""))
    else:
        lines.append(f"estimator: {search.estimator.value}; decode: {config.decode.value}")
    if config.method.searches:
        lines.append(
            f"search: {len(Schedule(search))} steps at {config.search_size[0]}x{config.search_size[1]}, batch {search.batch_size}: "
            f"{search.warmup_steps} of warm-up, {search.weight_steps} of weights, the others of the architecture"
        )
    return lines


def _own_texts(config: RunConfig) -> dict[str, str]:
    """Return the method's own settings; where one is left to the network, what it comes to."""
    if config.method in NETWORKS:
        return {"init": initial(config.method, config.own).value}
    if not config.own:
        return {}
    fields = importlib.import_module(f"bmtas.methods.{config.method.folder}.settings").Own.model_fields
    return {
        name: f"({fields[name].description})" if value is None else str(value) for name, value in config.own.items()
    }


def _trained_first(config: RunConfig) -> str:
    """Return which networks the method trains before it begins, with their verb; empty where there are none."""
    if config.method is Method.FAFS:
        return "shared network is"
    separate = config.method is Method.BMN or _init(config) is Init.SEPARATE
    return "separate networks are" if separate else ""


def _init(config: RunConfig) -> Init | None:
    """Return what the tasks' encoders begin from, where the method has that setting."""
    if "init" not in config.own:
        return None
    return initial(config.method, config.own) if config.method in NETWORKS else Init(config.own["init"])


def _training(config: RunConfig) -> list[str]:
    height, width = config.train_size
    if config.method is Method.MTL_NAS:
        return [f"then `bmtas train`: evaluates alone, at {height}x{width}; the search has trained the network by then"]
    return [f"then `bmtas train`: {config.train.steps} steps at {height}x{width}, batch {config.train.batch_size}"]
