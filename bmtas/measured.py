"""The measured networks of runs, as they are compared: what each is called, what decides it, and whether they are alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bmtas.config import Method, RunConfig
from bmtas.errors import UsageError
from bmtas.runs import FOUND, INHERITED, SEPARATE, SHARED, Run
from bmtas.summary import network_costs, network_latency, read_bench
from bmtas.tasks import Task

_SHORT = 40
"""So many characters of a setting stand in a row's name."""


@dataclass(frozen=True)
class Measured:
    """One trained and measured network. `metrics` are by task, then by the metric's name; None where nothing was valid.

    `path` is its run's folder, whose name several runs may have. `label` names its row, `method` the method alone; `costs` are by resource in base units; `settings` are those that decide the
    network, but for the seed; `delta_m_percent` is None where it is undefined. `weight_steps` are all updates that its weights have had.
    """

    path: str
    run: str
    network: str
    method: str
    label: str
    budgets: tuple[str, ...]
    backbone: str
    seed: int
    costs: dict[str, float]
    latency_ms: float | None
    metrics: dict[str, dict[str, float | None]]
    settings: dict[str, Any]
    delta_m_percent: float | None = None
    weight_steps: int = 0

    @property
    def row(self) -> tuple[str, str, tuple[str, ...]]:
        """What is equal for networks that differ in the seed alone."""
        return self.backbone, self.label, self.budgets


def check_alike(runs: Sequence[Run], configs: Sequence[RunConfig]) -> None:
    """Raise UsageError unless all runs have the same data, tasks and deployed size."""
    for run, config in zip(runs, configs, strict=True):
        for what, one, other in (
            ("data", configs[0].data_fingerprint, config.data_fingerprint),
            ("tasks", _compared_tasks(configs[0]), _compared_tasks(config)),
            ("deployed size", configs[0].deploy_size, config.deploy_size),
        ):
            if one != other:
                values = "" if what == "data" else f": {_short(one)} and {_short(other)}"
                said = f"{configs[0].data} and {config.data}" if what == "data" else what
                raise UsageError(
                    f"{runs[0].name} and {run.name} have different {what}{values}; numbers of different {said} say nothing about "
                    "the networks: compare runs of the same ones"
                )


def alike_the_last(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return those of `runs` that have data, tasks and size of the last one, and a note on the others."""
    kept, left = [], []
    for run in runs:
        try:
            check_alike([runs[-1], run], [runs[-1].config(), run.config()])
        except UsageError:
            left.append(run.name)
        else:
            kept.append(run)
    if not left:
        return kept, []
    names = ", ".join(left)
    return kept, [f"left out, because data, tasks or size are not those of {runs[-1].name}: {names}"]


def _compared_tasks(config: RunConfig) -> list[dict[str, Any]]:
    """Return what of the tasks decides the metrics."""
    return [
        {k: v for k, v in task.items() if k not in ("loss_weight", "edge_positive_weight")} for task in config.tasks
    ]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(task["name"] for task in value)
    return "x".join(map(str, value))


def measured_networks(run: Run, config: RunConfig) -> list[tuple[Measured, dict[str, Any]]]:
    """Return the measured networks of a run, each with the content of its `metrics.json`."""
    bench = read_bench(run)
    result = []
    for name in run.trained():
        content = run.read_result(run.network(name) / "metrics.json")
        if content is None:
            continue
        label, budgets = _label(config, name)
        _check_current(run, name, config.task_list(), content)
        metrics = {t: {e["metric"]: e["value"], **e.get("more", {})} for t, e in content["tasks"].items()}
        latency = network_latency(bench, name)
        milliseconds = None if latency is None else float(latency["median_ms"])
        network = Measured(
            path=str(run.path),
            run=run.name,
            network=name,
            method=label,
            label=label,
            budgets=budgets,
            backbone=config.backbone,
            seed=config.seed,
            costs=network_costs(run, name),
            latency_ms=milliseconds,
            metrics=metrics,
            settings=_deciding(config, label),
            weight_steps=weight_steps(config, name),
        )
        result.append((network, content))
    return result


def _label(config: RunConfig, network: str) -> tuple[str, tuple[str, ...]]:
    """Return what a network is called in a table, and the budgets that it was made for."""
    if network == SEPARATE or (network == FOUND and config.method is Method.SINGLE):
        return Method.SINGLE.value, ()
    if network == SHARED or (network == FOUND and config.method is Method.SHARED):
        return Method.SHARED.value, ()
    inherited = ", inherited weights" if network == INHERITED else ""
    return config.method.value + inherited, tuple(config.budgets)


def weight_steps(config: RunConfig, network: str) -> int:
    """Return how many updates the weights of a network have had since random or pretrained ones, those of a search among them."""
    steps, searched = config.train.steps, config.search.warmup_steps + config.search.weight_steps
    if network == INHERITED:
        return searched + steps
    if network != FOUND:
        return steps
    separate = steps if config.own.get("init") == "separate" else 0
    if config.method is Method.MTL_NAS:  # not trained after its search
        return separate + searched
    if config.method is Method.DYNAMIC:
        before = {"fresh": 0, "warm-up": config.search.warmup_steps}
        return steps + before.get(config.own["tune_from"], searched)
    joined = config.method in (Method.CROSS_STITCH, Method.NDDR_CNN, Method.SLUICE)
    return 2 * steps if joined and config.own.get("init") != "backbone" else steps


_NOT_DECIDING = {
    "data",
    "data_fingerprint",
    "budgets",
    "preset",
    "seed",
    "method",
    "schema_version",
    "train.evaluate_images",
}
_OF_THE_ARCHITECTURE = {"decode", "reference", "table_digest", "search_size", "own"}


def _deciding(config: RunConfig, label: str) -> dict[str, Any]:
    """Return the settings that decide a network, but for its method, budgets and seed."""
    fixed = label in (Method.SINGLE.value, Method.SHARED.value)
    unused = _NOT_DECIDING | _OF_THE_ARCHITECTURE if fixed else _NOT_DECIDING
    searched = config.method.searches and not fixed
    return {k: v for k, v in config.flat().items() if k not in unused and (searched or not k.startswith("search."))}


def _check_current(run: Run, network: str, tasks: Sequence[Task], content: dict[str, Any]) -> None:
    """Raise UsageError where a network was measured by a metric that is no longer the one that is compared."""
    for task in tasks:
        stored = content["tasks"][task.name]["metric"]
        if stored != task.metric:
            raise UsageError(
                f"{network} of {run.name} was measured by {stored} on {task.name!r}, and {task.metric} is compared; measure it again "
                f"with `bmtas evaluate --run {run.name}`"
            )


def by_row(networks: Sequence[Measured]) -> list[list[Measured]]:
    """Return the networks of each row, rows in the order of their first networks."""
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for network in networks:
        groups.setdefault(network.row, []).append(network)
    return list(groups.values())


def told_apart(measured: Sequence[Measured]) -> list[Measured]:
    """Return the networks with labels that say in what settings they differ, where more than the seed differs."""
    labels: dict[int, str] = {}
    for group in by_row(measured):
        keys = [key for key in group[0].settings if len({repr(n.settings.get(key)) for n in group}) > 1]
        for network in group:
            values = [_value(key, network, group) for key in keys]
            labels[id(network)] = network.label + (f" ({', '.join(values)})" if values else "")
    return [replace(network, label=labels[id(network)]) for network in measured]


def _value(key: str, network: Measured, group: Sequence[Measured]) -> str:
    """Return a setting in a few words; what is too long for that gets a number."""
    text = str(network.settings.get(key))
    if len(text) > _SHORT:
        known = list(dict.fromkeys(str(n.settings.get(key)) for n in group))
        text = str(known.index(text) + 1)
    return f"{key.removeprefix('search.').replace('_', ' ')} {text}"


def latencies_of_one_device(runs: Sequence[Run], measured: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """Return the networks without their latencies, and a note, if these were not all measured in the same way."""
    ways: dict[str, list[str]] = {}
    for run in runs:
        bench = read_bench(run)
        if bench is not None:
            compared = [r for r in bench["results"] if r["runtime"].startswith("onnxruntime")]
            providers = sorted({r["provider"] for r in compared})
            way = {"device": _device(bench), "threads": _threads(bench), "providers": providers, "fps": _pace(bench)}
            if bench.get("device_key"):  # where there is none the device itself tells its runtimes
                way["runtimes"] = sorted({r["runtime"] for r in compared})
            ways.setdefault(json.dumps(way, sort_keys=True), []).append(run.name)
    if len(ways) < 2:
        return list(measured), []
    said = " and ".join(", ".join(names) for names in ways.values())
    note = f"latencies of {said} come from different devices, providers or numbers of threads and are left out"
    return [replace(network, latency_ms=None) for network in measured], [note]


def _device(bench: dict[str, Any]) -> Any:
    """Return what of the device decides about latencies: its key, or where an older bmtas wrote none, all but its Python and kernel."""
    if bench.get("device_key"):
        return bench["device_key"]
    device = bench.get("device")
    unimportant = ("system", "container", "unavailable")
    return {k: v for k, v in device.items() if k not in unimportant} if isinstance(device, dict) else device


def _threads(bench: dict[str, Any]) -> Any:
    return bench.get("settings", {}).get("threads", bench.get("threads"))


def _pace(bench: dict[str, Any]) -> Any:
    return bench.get("settings", {}).get("fps")


def check_metrics(contents: Sequence[tuple[Measured, dict[str, Any]]]) -> None:
    """Raise UsageError unless all were measured on the same images."""
    first, content = contents[0]
    for network, other in contents:
        for what, one, two, fix in (
            ("at different sizes", content["size"], other["size"], "begin runs with the same --train-size"),
            (
                "on different numbers of images",
                content["images"],
                other["images"],
                "measure them alike: `bmtas evaluate --images`",
            ),
        ):
            if one != two:
                raise UsageError(
                    f"{first.network} of {first.run} and {network.network} of {network.run} were measured {what} ({one} and {two}); "
                    f"{fix}"
                )
