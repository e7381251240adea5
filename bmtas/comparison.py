"""Networks of several runs side by side: costs, metrics, Delta_m over seeds. Needs no torch.

Runs that differ in the seed alone are one row, with mean and standard deviation. Delta_m is relative to the single-task networks
of the same backbone and seed; where that seed has none, to the mean of those of the other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bmtas.config import Method, RunConfig
from bmtas.errors import UsageError
from bmtas.runs import FOUND, INHERITED, SEPARATE, SHARED, Run
from bmtas.summary import delta_m, network_costs, network_latency
from bmtas.tasks import Task
from costs.units import Resource

_ORDER = [Method.SINGLE, Method.SHARED, Method.VANILLA, Method.RANDOM, Method.PERMUTED, Method.FAFS, Method.BMN]


@dataclass(frozen=True)
class Measured:
    """One trained and measured network. `metrics` are by task, then by the metric's name; None where nothing was valid.

    `costs` are by resource in base units; `delta_m_percent` is None where it is undefined.
    """

    run: str
    network: str
    label: str
    budgets: tuple[str, ...]
    backbone: str
    seed: int
    costs: dict[str, float]
    latency_ms: float | None
    metrics: dict[str, dict[str, float | None]]
    delta_m_percent: float | None = None

    @property
    def row(self) -> tuple[str, str, tuple[str, ...]]:
        """What is equal for networks that differ in the seed alone."""
        return self.backbone, self.label, self.budgets


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of some values; the deviation is None for one value."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of `values`, None if one is missing or there are none."""
        known = list(values)
        if not known or any(v is None or not math.isfinite(v) for v in known):
            return None
        numbers = [float(v) for v in known if v is not None]
        mean = math.fsum(numbers) / len(numbers)
        if len(numbers) == 1:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1)))


@dataclass(frozen=True)
class Row:
    """The networks of one method, budget and backbone over seeds."""

    label: str
    budgets: tuple[str, ...]
    backbone: str
    seeds: tuple[int, ...]
    costs: dict[str, Spread]
    latency_ms: Spread | None
    metrics: dict[str, dict[str, Spread | None]]
    delta_m_percent: Spread | None


@dataclass(frozen=True)
class Comparison:
    """Rows in a fixed order, the networks behind them, and what the reader should know.

    `size` is the (height, width) at which metrics were taken, `images` on how many images of the validation split.
    """

    tasks: tuple[Task, ...]
    size: tuple[int, int]
    images: int
    rows: tuple[Row, ...]
    networks: tuple[Measured, ...]
    notes: tuple[str, ...]

    @property
    def several_backbones(self) -> bool:
        """Whether rows have to be told apart by their backbones."""
        return len({row.backbone for row in self.rows}) > 1


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Gather all measured networks of `runs`.

    Raises UsageError if the runs' data, tasks or metrics differ, or if nothing has been measured.
    """
    if not runs:
        raise UsageError("there is nothing to compare; name at least one run")
    configs = [run.config() for run in runs]
    _check_alike(runs, configs)
    found = [_measured(run, config) for run, config in zip(runs, configs, strict=True)]
    measured = [network for of_run in found for network, _ in of_run]
    contents = [(network, content) for of_run in found for network, content in of_run]
    if not measured:
        raise UsageError(
            f"no network of {', '.join(run.name for run in runs)} has been measured; `bmtas train --run RUN` trains and measures"
        )
    _check_metrics(contents)
    tasks = configs[0].task_list()
    kept, repeated = _once_per_seed(measured)
    networks, notes = _with_gains(kept, tasks)
    rows = tuple(_row(group) for group in _grouped(networks))
    first = contents[0][1]
    return Comparison(
        tasks,
        (first["size"][0], first["size"][1]),
        first["images"],
        rows,
        tuple(networks),
        (*notes, *repeated, *_differences_in_training(runs, configs)),
    )


def _check_alike(runs: Sequence[Run], configs: Sequence[RunConfig]) -> None:
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


def _compared_tasks(config: RunConfig) -> list[dict[str, Any]]:
    """Return what of the tasks decides the metrics."""
    return [
        {k: v for k, v in task.items() if k not in ("loss_weight", "edge_positive_weight")} for task in config.tasks
    ]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(task["name"] for task in value)
    return "x".join(map(str, value))


def _measured(run: Run, config: RunConfig) -> list[tuple[Measured, dict[str, Any]]]:
    """Return the measured networks of a run, each with the content of its `metrics.json`."""
    bench = run.read_result(run.path / "bench.json")
    result = []
    for name in run.trained():
        content = run.read_result(run.network(name) / "metrics.json")
        if content is None:
            continue
        label, budgets = _label(config, name)
        metrics = {t: {e["metric"]: e["value"], **e.get("more", {})} for t, e in content["tasks"].items()}
        latency = network_latency(bench, name)
        milliseconds = None if latency is None else float(latency["median_ms"])
        network = Measured(
            run.name,
            name,
            label,
            budgets,
            config.backbone,
            config.seed,
            network_costs(run, name),
            milliseconds,
            metrics,
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


def _check_metrics(contents: Sequence[tuple[Measured, dict[str, Any]]]) -> None:
    """Raise UsageError unless all were measured by the same metrics on the same images."""
    first, content = contents[0]
    for network, other in contents:
        for what, one, two in (
            ("at different sizes", content["size"], other["size"]),
            ("on different numbers of images", content["images"], other["images"]),
            (
                "by different metrics",
                {t: e["metric"] for t, e in content["tasks"].items()},
                {t: e["metric"] for t, e in other["tasks"].items()},
            ),
        ):
            if one != two:
                raise UsageError(
                    f"{first.network} of {first.run} and {network.network} of {network.run} were measured {what} ({one} and {two}); "
                    "measure them alike with `bmtas evaluate`, or begin runs with the same --train-size"
                )


def _once_per_seed(measured: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """Return the first network of every row and seed, and a note on those that were left out though they differ."""
    kept: dict[tuple[Any, ...], Measured] = {}
    notes = []
    for network in measured:
        first = kept.setdefault((*network.row, network.seed), network)
        if (first.costs, first.metrics) != (network.costs, network.metrics):
            notes.append(
                f"{network.network} of {network.run} stands for the same row and seed as {first.network} of {first.run}, "
                "with other numbers; the latter is shown"
            )
    return list(kept.values()), notes


def _with_gains(measured: Sequence[Measured], tasks: tuple[Task, ...]) -> tuple[list[Measured], list[str]]:
    """Return the networks with their Delta_m, and a note where it is missing or relative to other seeds."""
    notes, result = [], []
    singles: dict[str, dict[int, dict[str, float]]] = {}
    for network in measured:
        if network.label == Method.SINGLE.value:
            singles.setdefault(network.backbone, {})[network.seed] = _primary(network, tasks)
    for network in measured:
        of_seed = singles.get(network.backbone)
        if not of_seed:
            notes.append(
                f"no single-task networks of {network.backbone}: Delta_m is left out; `bmtas search --method single`"
            )
            result.append(network)
            continue
        baseline = of_seed.get(network.seed)
        if baseline is None:
            notes.append(
                f"seed {network.seed} has no single-task networks: Delta_m is relative to the mean of other seeds"
            )
            baseline = {t.name: math.fsum(m[t.name] for m in of_seed.values()) / len(of_seed) for t in tasks}
        gain = delta_m(_primary(network, tasks), baseline, tasks)
        result.append(Measured(**{**vars(network), "delta_m_percent": gain}))
    return result, list(dict.fromkeys(notes))


def _primary(network: Measured, tasks: tuple[Task, ...]) -> dict[str, float]:
    """Return the metric of each task that Delta_m compares, NaN where there is none."""
    values = {task.name: network.metrics[task.name][task.metric] for task in tasks}
    return {name: math.nan if value is None else value for name, value in values.items()}


def _grouped(networks: Sequence[Measured]) -> list[list[Measured]]:
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for network in networks:
        groups.setdefault(network.row, []).append(network)
    labels = [method.value for method in _ORDER]

    def place(group: list[Measured]) -> tuple[Any, ...]:
        first = group[0]
        rank = labels.index(first.label) if first.label in labels else len(labels)
        cost = math.fsum(n.costs.get(Resource.MADDS.value, 0.0) for n in group) / len(group)
        return first.backbone, rank, first.label, cost

    return sorted(groups.values(), key=place)


def _row(group: Sequence[Measured]) -> Row:
    first = group[0]
    costs = {name: Spread.of(network.costs.get(name) for network in group) for name in first.costs}
    return Row(
        first.label,
        first.budgets,
        first.backbone,
        tuple(sorted(network.seed for network in group)),
        {name: spread for name, spread in costs.items() if spread is not None},
        Spread.of(network.latency_ms for network in group),
        {
            t: {m: Spread.of(n.metrics[t].get(m) for n in group) for m in of_task}
            for t, of_task in first.metrics.items()
        },
        Spread.of(network.delta_m_percent for network in group),
    )


def _differences_in_training(runs: Sequence[Run], configs: Sequence[RunConfig]) -> list[str]:
    """Return notes on what was trained differently; that is no reason not to compare, but one to know."""
    notes = []
    settings = [{**c.train.model_dump(mode="json"), "weights": c.weights, "train_size": c.train_size} for c in configs]
    for key in settings[0]:
        values = {str(of_run[key]): run.name for run, of_run in zip(runs, settings, strict=True)}
        if len(values) > 1:
            notes.append(
                f"trained differently: {key} is " + ", ".join(f"{value} in {name}" for value, name in values.items())
            )
    return notes
