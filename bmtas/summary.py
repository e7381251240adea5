"""What a run has come to, gathered from its files: costs, metrics, Delta_m, latency. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bmtas.architecture import BranchedArchitecture, WiredArchitecture
from bmtas.files import read_json
from bmtas.runs import FOUND, INHERITED, SEPARATE, SHARED, Run
from bmtas.tables import architecture_costs
from bmtas.tasks import Task
from bmtas.wired import computed_for

BENCH_SCHEMA = 2
"""Version of the `bench.json` that this version of bmtas writes; those of version 1 are read, too."""


def delta_m(metrics: Mapping[str, float], baseline: Mapping[str, float], tasks: tuple[Task, ...]) -> float | None:
    """Return the mean relative gain over single-task networks, in percent: paper, Eq. 7.

    None if a baseline metric is 0 or a metric is not a number: relative to it nothing can be said.
    """
    gains = []
    for task in tasks:
        base, value = baseline[task.name], metrics[task.name]
        if base == 0 or not math.isfinite(base) or not math.isfinite(value):
            return None
        sign = 1.0 if task.higher_is_better else -1.0
        gains.append(sign * (value - base) / base)
    return 100.0 * sum(gains) / len(gains)


def undefined_reason(
    metrics: Mapping[str, float], baseline: Mapping[str, float], tasks: tuple[Task, ...]
) -> str | None:
    """Return in a few words why `delta_m` is None for these metrics; None where it is a number."""
    zero = [task.name for task in tasks if baseline[task.name] == 0]
    absent = [task.name for task in tasks if not math.isfinite(baseline[task.name])]
    own = [task.name for task in tasks if not math.isfinite(metrics[task.name])]
    told = [f"0 in {', '.join(zero)}"] if zero else []
    told += [f"no value in {', '.join(absent)}"] if absent else []
    if told:
        return f"the separate networks have {' and '.join(told)}"
    return f"the network has no value in {', '.join(own)}" if own else None


def network_costs(run: Run, name: str) -> dict[str, float]:
    """Return the costs of a network of `run` by its table, by resource, in base units: exact, or for peaks a bound.

    Of what is no tree, the peak is the one that was measured on the built network.
    """
    architecture = run.architecture(name)
    costs = {r.value: cost for r, cost in architecture_costs(run.table(), architecture).items()}
    if isinstance(architecture, BranchedArchitecture):
        return costs
    measured = (run.read_result(run.architecture_path) or {}).get("measured", {})
    return {**{key: float(value) for key, value in measured.items()}, **costs}


def summarise_run(run: Run) -> dict[str, Any]:
    """Return the tree found and the costs, metrics, Delta_m and latency of every network of `run` that there is.

    The tree is None while the search has not ended, what is not measured is None as well. Where Delta_m is None though the
    network and the separate ones are measured, `delta_m_undefined` tells why in a few words.
    """
    tasks = run.config().task_list()
    names = [n for n in (SHARED, FOUND, SEPARATE) if n != FOUND or run.architecture_path.exists()]
    if INHERITED in run.trained():
        names.insert(names.index(FOUND) + 1, INHERITED)
    baseline = run.read_result(run.network(SEPARATE) / "metrics.json")
    bench = read_bench(run)
    networks = {}
    for name in names:
        metrics = run.read_result(run.network(name) / "metrics.json")
        gain, undefined = _gain(metrics, baseline, tasks)
        networks[name] = {
            "costs": network_costs(run, name),
            "metrics": metrics,
            "delta_m_percent": gain,
            "delta_m_undefined": undefined,
            "latency": network_latency(bench, name),
        }
    config = run.config()
    head = {"schema_version": 1, "run": run.name, "method": config.method.value, "budgets": config.budgets}
    return {**head, "tree": _tree(run), "wired": _wired(run), "networks": networks}


def _tree(run: Run) -> dict[str, Any] | None:
    """Return the groupings of the tree found, how it was found, and how many layers each two tasks share; None of what is no tree."""
    stored = run.read_result(run.architecture_path)
    if stored is None:
        return None
    found = run.architecture(FOUND)
    if not isinstance(found, BranchedArchitecture):
        return None
    return {
        "tasks": list(found.tasks),
        "groupings": [[list(block) for block in grouping] for grouping in found.groupings],
        **{key: stored.get(key) for key in ("exact", "gap", "log_probability")},
        "layers_shared": {a: {b: found.shared_depth(a, b) for b in found.tasks if b != a} for a in found.tasks},
    }


def _wired(run: Run) -> dict[str, Any] | None:
    """Return what a network that is no tree computes for whom, and how its method came to it; None of trees."""
    stored = run.read_result(run.architecture_path)
    if stored is None:
        return None
    found = run.architecture(FOUND)
    if not isinstance(found, WiredArchitecture):
        return None
    own = {*found.to_json(), "costs", "measured"}
    return {
        "computed_for": [part.to_json() for part in computed_for(found, run.table())],
        "derivation": {key: value for key, value in stored.items() if key not in own},
    }


def _gain(
    metrics: dict[str, Any] | None, baseline: dict[str, Any] | None, tasks: tuple[Task, ...]
) -> tuple[float | None, str | None]:
    """Delta_m of two metric files, or why there is none; neither where one is missing."""
    if metrics is None or baseline is None:
        return None, None
    if (metrics["size"], metrics["images"]) != (baseline["size"], baseline["images"]):
        return None, "the separate networks are measured on other images"
    if any(m["tasks"][task.name]["metric"] != task.metric for m in (metrics, baseline) for task in tasks):
        return None, "an earlier version measured another metric; `bmtas evaluate` measures anew"
    values, base = ({n: _float(e["value"]) for n, e in m["tasks"].items()} for m in (metrics, baseline))
    return delta_m(values, base, tasks), undefined_reason(values, base, tasks)


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def read_bench(run: Run) -> dict[str, Any] | None:
    """Return what `bmtas bench` wrote into a run's folder, None if it was not measured. Raises UsageError on a newer schema."""
    path = run.path / "bench.json"
    return read_json(path, BENCH_SCHEMA) if path.exists() else None


def network_latency(bench: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """Return what `bench.json` says of a network in ONNX Runtime, None where it was not measured.

    `low_ms` to `high_ms` is where the median lies; a file of schema 1 does not tell that, and there both are None.
    """
    if bench is None:
        return None
    for result in bench["results"]:
        if result["network"] == name and result["runtime"].startswith("onnxruntime"):
            where = {key: result[key] for key in ("runtime", "provider")}
            return where | (_latency(result["compute"]) if "compute" in result else _first_schema(result))
    return None


def _latency(sample: dict[str, Any]) -> dict[str, Any]:
    told = {key: sample[key] for key in ("samples", "median_ms", "low_ms", "high_ms", "spread", "stable")}
    return told | {"p90_ms": sample["percentiles"].get("p90", {}).get("value_ms")}


def _first_schema(result: dict[str, Any]) -> dict[str, Any]:
    """Return the same of a file of schema 1, whose sample has no interval and was called stable by another rule."""
    told = {key: result[key] for key in ("samples", "median_ms", "spread", "p90_ms")}
    return told | {"low_ms": None, "high_ms": None, "stable": None}
