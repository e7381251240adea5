"""Networks of several runs side by side: costs, metrics, Delta_m over seeds. Needs no torch.

Runs that differ in the seed alone are one row, with mean and standard deviation; where other settings differ, rows are apart and
their names say in what. Delta_m is relative to the single-task networks of the same backbone and seed; where that seed has
none, to the mean of those of the other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.measured import (
    Measured,
    by_row,
    check_alike,
    check_metrics,
    latencies_of_one_device,
    measured_networks,
    told_apart,
)
from bmtas.runs import Run
from bmtas.summary import delta_m
from bmtas.tasks import Task
from costs.units import Resource

_ORDER = [
    *(Method.SINGLE, Method.SHARED, Method.VANILLA, Method.RANDOM, Method.PERMUTED, Method.FAFS, Method.BMN),
    *(Method.MTAN, Method.CROSS_STITCH, Method.SLUICE, Method.NDDR_CNN),
    *(Method.MTL_NAS, Method.AUTOMTL, Method.DYNAMIC),
]


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
    check_alike(runs, configs)
    found = [measured_networks(run, config) for run, config in zip(runs, configs, strict=True)]
    idle = [run.name for run, of_run in zip(runs, found, strict=True) if not of_run]
    measured = [network for of_run in found for network, _ in of_run]
    contents = [(network, content) for of_run in found for network, content in of_run]
    if not measured:
        raise UsageError(
            f"no network of {', '.join(run.name for run in runs)} has been measured; `bmtas train --run RUN` trains and measures"
        )
    check_metrics(contents)
    tasks = configs[0].task_list()
    alike, devices = latencies_of_one_device(runs, measured)
    kept, repeated = _once_per_seed(told_apart(alike))
    networks, notes = _with_gains(kept, tasks)
    rows = tuple(_row(group) for group in _grouped(networks))
    first = contents[0][1]
    return Comparison(
        tasks,
        (first["size"][0], first["size"][1]),
        first["images"],
        rows,
        tuple(networks),
        (
            *(f"{name} has no measured network and is left out" for name in idle),
            *notes,
            *repeated,
            *devices,
            *_differences_in_training([run for run in runs if run.name not in idle]),
            *_differences_in_steps(networks),
        ),
    )


def _once_per_seed(measured: Sequence[Measured]) -> tuple[list[Measured], list[str]]:
    """Return the first network of every row and seed, and a note on those that were left out though they differ."""
    kept: dict[tuple[Any, ...], Measured] = {}
    notes = []
    for network in measured:
        key = (*network.row, network.seed)
        first = kept.setdefault(key, network)
        if first.latency_ms is None and (first.costs, first.metrics) == (network.costs, network.metrics):
            kept[key] = network  # the same network, perhaps with its latency
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
        if network.method == Method.SINGLE.value:
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
        result.append(replace(network, delta_m_percent=gain))
    return result, list(dict.fromkeys(notes))


def _primary(network: Measured, tasks: tuple[Task, ...]) -> dict[str, float]:
    """Return the metric of each task that Delta_m compares, NaN where there is none."""
    values = {task.name: network.metrics[task.name][task.metric] for task in tasks}
    return {name: math.nan if value is None else value for name, value in values.items()}


def _grouped(networks: Sequence[Measured]) -> list[list[Measured]]:
    labels = [method.value for method in _ORDER]

    def place(group: list[Measured]) -> tuple[Any, ...]:
        first = group[0]
        rank = labels.index(first.method) if first.method in labels else len(labels)
        cost = math.fsum(n.costs.get(Resource.MADDS.value, 0.0) for n in group) / len(group)
        return first.backbone, rank, first.label, cost

    return sorted(by_row(networks), key=place)


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


def _differences_in_steps(networks: Sequence[Measured]) -> list[str]:
    """Return a note where methods, as they are, have trained some networks longer than others: a gain may be no more than that."""
    steps: dict[int, list[str]] = {}
    for network in networks:
        labels = steps.setdefault(network.weight_steps, [])
        if network.label not in labels:
            labels.append(network.label)
    if len(steps) < 2:
        return []
    told = "; ".join(f"{count}: {', '.join(labels)}" for count, labels in sorted(steps.items()))
    return [f"not trained equally long, updates of weights in all, searches included, {told}"]


def _differences_in_training(runs: Sequence[Run]) -> list[str]:
    """Return notes on what was trained differently; that is no reason not to compare, but one to know."""
    notes = []
    configs = [run.config() for run in runs]
    settings = [{**c.train.model_dump(mode="json"), "weights": c.weights, "train_size": c.train_size} for c in configs]
    for key in settings[0]:
        values = {str(of_run[key]): run.name for run, of_run in zip(runs, settings, strict=True)}
        if len(values) > 1:
            notes.append(
                f"trained differently: {key} is " + ", ".join(f"{value} in {name}" for value, name in values.items())
            )
    return notes
