"""What a run holds, read part by part: what cannot be read is told with the file's name, and the other parts stay."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bmtas.architecture import Architecture
from bmtas.config import Method, RunConfig
from bmtas.errors import BmtasError, UsageError
from bmtas.expectation import expect_run
from bmtas.files import first_problem, read_lines
from bmtas.runs import FOUND, INHERITED, SEPARATE, SHARED, Run
from bmtas.summary import BENCH_SCHEMA, delta_m, network_costs, read_bench
from bmtas.tasks import Task
from costs.errors import CostError
from costs.table import CostTable
from costs.units import Budget, parse_budget
from export.artefacts import read_proofs, require_unchanged
from export.bench.report import Report as Bench
from export.bench.report import read_report

_T = TypeVar("_T")


class _Metric(BaseModel):
    metric: str
    value: float | None
    best_constant: float | None
    more: dict[str, float | None] = {}


class Metrics(BaseModel):
    """The content of `metrics.json`; `size` is (height, width)."""

    size: tuple[int, int]
    images: int
    tasks: dict[str, _Metric]


class Difference(BaseModel):
    """How far a task's outputs are from PyTorch's, and how far they may be; `limit_is_most` is False where more is better."""

    unit: str
    value: float | None
    limit: float
    limit_is_most: bool
    passed: bool


class Proof(BaseModel):
    """What `parity.json` says of one exported file."""

    date: str = ""
    format: str
    precision: str
    runtime: str = ""
    images: int
    outputs: str = "logits"
    input: dict[str, Any] = {}
    tasks: dict[str, Difference]
    passed: bool


@dataclass(frozen=True)
class Network:
    """One network of a run. What is None has not been made, or could not be read."""

    name: str
    folder: Path
    trained: bool
    costs: dict[str, float] | None
    metrics: Metrics | None
    delta_m_percent: float | None
    predictions: Path | None
    proofs: dict[str, Proof]
    changed: dict[str, str]


@dataclass
class Material:
    """All that a report tells of a run. `problems` are messages about files that could not be read.

    With `compared`, the run is told of beside others, and Delta_m is relative to the single-task networks of any of them.
    """

    run: Run
    config: RunConfig
    table: CostTable
    tasks: tuple[Task, ...]
    problems: list[str] = field(default_factory=list)
    stored: dict[str, Any] | None = None
    found: Architecture | None = None
    networks: list[Network] = field(default_factory=list)
    bench: Bench | None = None
    bench_remark: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    expectation: dict[str, Any] | None = None
    expectation_remark: str | None = None
    compared: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks, in output order."""
        return tuple(task.name for task in self.tasks)

    @property
    def ended(self) -> bool:
        """Whether the search has handed a network over, even if it cannot be read."""
        return self.run.architecture_path.exists()

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets of the run."""
        return tuple(map(parse_budget, self.config.budgets))

    def network(self, name: str) -> Network | None:
        """Return the network called `name`, None where there is none."""
        return next((network for network in self.networks if network.name == name), None)

    def take_gains(self, gains: Mapping[str, float | None]) -> None:
        """Take the Delta_m of a comparison of several runs, by network; networks that it leaves out keep that of their run."""
        self.compared = True
        self.networks = [
            replace(network, delta_m_percent=gains.get(network.name, network.delta_m_percent))
            for network in self.networks
        ]

    def command(self, name: str, options: str) -> str:
        """Return a command line of bmtas on this run."""
        path = self.run.path
        named = path.name if path.parent == Path("runs") else shlex.quote(str(path))
        return " ".join(part for part in ("bmtas", name, options, "--run", named) if part)


def gather(run: Run) -> Material:
    """Read a run.

    Raises UsageError if its configuration or cost table cannot be read, without which nothing can be told of it; whatever else cannot be
    read is among the problems.
    """
    try:
        config = run.config()
        table = run.table()
        told = Material(run, config, table, config.task_list())
    except CostError as error:  # its message names the file
        raise UsageError(str(error)) from None
    told.stored = _attempt(told, lambda: run.read_result(run.architecture_path))
    if told.stored is not None:
        told.found = _attempt(told, lambda: _named(run.architecture_path, lambda: run.architecture(FOUND)))
    told.networks = _with_gains([_network(told, name) for name in _network_names(told)], told.tasks)
    _read_bench(told)
    told.history = [
        line
        for line in _attempt(told, lambda: read_lines(run.search_folder / "history.jsonl")) or []
        if isinstance(line, dict) and isinstance(line.get("step"), int)
    ]
    _read_expectation(told)
    told.problems = list(dict.fromkeys(told.problems))
    return told


def _attempt(told: Material, read: Callable[[], _T]) -> _T | None:
    """Return what `read` returns, or None and note why not."""
    try:
        return read()
    except (BmtasError, CostError, OSError, UnicodeDecodeError) as error:
        told.problems.append(str(error))
        return None


def _named(path: Path, read: Callable[[], _T]) -> _T:
    """Return what `read` returns. Raises UsageError naming `path` for content of another form than is written there."""
    try:
        return read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"{path}: not what bmtas writes there ({error!r}); restore it, or make it anew") from None
    except (UsageError, CostError) as error:
        raise UsageError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _network_names(told: Material) -> list[str]:
    """Return the networks to tell of, the cheapest usually first; separate ones are those found where the method makes them."""
    found = [FOUND] if told.ended else []
    inherited = [INHERITED] if told.run.network(INHERITED).joinpath("weights.pt").exists() else []
    same = {Method.SINGLE: SEPARATE, Method.SHARED: SHARED}.get(told.config.method)
    return [name for name in (SHARED, *found, *inherited, SEPARATE) if name != same]


def _network(told: Material, name: str) -> Network:
    run, folder = told.run, told.run.network(name)
    metrics_path, picture = folder / "metrics.json", folder / "predictions.png"
    metrics = _attempt(told, lambda: _metrics(told, metrics_path))
    proofs = _attempt(told, lambda: _proofs(folder)) or {}
    costs = None
    if name not in (FOUND, INHERITED) or told.found is not None:
        costs = _attempt(told, lambda: _named(run.architecture_path, lambda: network_costs(run, name)))
    return Network(
        name,
        folder,
        (folder / "weights.pt").exists(),
        costs,
        metrics,
        None,
        picture if picture.exists() else None,
        proofs,
        {file: message for file in proofs if (message := _changed(folder / file)) is not None},
    )


def _metrics(told: Material, path: Path) -> Metrics | None:
    content = told.run.read_result(path)
    if content is None:
        return None
    try:
        metrics = Metrics.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}; measure again with `bmtas evaluate`") from None
    missing = [task.name for task in told.tasks if task.name not in metrics.tasks]
    if missing:
        raise UsageError(f"{path} says nothing of {', '.join(missing)}; measure again with `bmtas evaluate`")
    return metrics


def _proofs(folder: Path) -> dict[str, Proof]:
    found = {}
    for file, content in read_proofs(folder).items():
        try:
            found[file] = Proof.model_validate(content)
        except ValidationError as error:
            raise UsageError(
                f"{folder / 'parity.json'}: the proof of {file} is damaged at {first_problem(error)}; export the network again"
            ) from None
    return found


def _changed(path: Path) -> str | None:
    """Return why a proof no longer holds for the file at `path`, None while it does."""
    if not path.exists():
        return f"{path.name} is no longer there; export it again"
    try:
        require_unchanged(path)
    except UsageError as error:
        return str(error)
    return None


def _with_gains(networks: list[Network], tasks: tuple[Task, ...]) -> list[Network]:
    """Return the networks with Delta_m where they were measured on the same images as the separate ones."""
    base = next((n.metrics for n in networks if n.name == SEPARATE), None)
    return [replace(network, delta_m_percent=_gain(network.metrics, base, tasks)) for network in networks]


def _gain(metrics: Metrics | None, base: Metrics | None, tasks: tuple[Task, ...]) -> float | None:
    if metrics is None or base is None or (metrics.size, metrics.images) != (base.size, base.images):
        return None
    if any(found.tasks[task.name].metric != task.metric for found in (metrics, base) for task in tasks):
        return None
    values, relative = (
        {name: float("nan") if entry.value is None else entry.value for name, entry in found.tasks.items()}
        for found in (metrics, base)
    )
    return delta_m(values, relative, tasks)


def _read_bench(told: Material) -> None:
    path = told.run.path / "bench.json"
    content = _attempt(told, lambda: read_bench(told.run))
    if content is None:
        return
    if content["schema_version"] < BENCH_SCHEMA:
        told.bench_remark = (
            f"{path.name} was written by an earlier version of bmtas and has neither intervals nor conditions"
        )
        return
    told.bench = _attempt(told, lambda: read_report(path))


def _read_expectation(told: Material) -> None:
    """Read what the probabilities promise; of methods that have none, and of a search under way, there is nothing to tell."""
    path = told.run.search_folder / "probabilities.json"
    if told.config.method is not Method.BRANCHED or not told.ended:
        return
    if not path.exists():
        told.expectation_remark = f"search/{path.name} is missing, though the search has ended"
        return
    told.expectation = _attempt(told, lambda: _named(path, lambda: expect_run(told.run)))
