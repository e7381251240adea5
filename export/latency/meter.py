"""Measures the networks that a search finds, on the device and in the way that its table was measured. On the host."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from bmtas.architecture import Architecture
from bmtas.closing import Reading
from bmtas.errors import BudgetError, EnvironmentProblem, UsageError
from bmtas.planning import Plan
from bmtas.progress import Progress
from bmtas.tasks import Task
from costs.correction import scaled
from costs.errors import BudgetBelowReach
from costs.measurement import MOST_ERROR, Measurement
from costs.reach import budget_range, check_budgets
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity
from export.interface import Interface
from export.latency.prepare import in_precision, known_runtime
from export.latency.untrained import untrained_network
from export.machine.identity import Identity, identify, unlike
from export.machine.sampler import Sampler
from export.onnx_file import master_model
from export.sessions.onnx import PROVIDERS, OnnxSession
from export.sessions.openvino import OpenVinoSession
from export.sessions.protocol import Array, Session
from export.stopwatch import RULES, Rules, Timed, timed, watch
from export.stopwatch import Measurement as Timing
from export.tensorrt.build import build_plan
from export.tensorrt.engine import LoadedEngine
from export.tensorrt.options import EngineOptions

METERED: Final = (Resource.LATENCY_MS, Resource.ENERGY_MJ)
"""Resources that a table has from a device."""
METER_RULES: Final = replace(RULES, spread_bound=0.02, percentiles=(50.0,), time_cap_s=15.0)
_TRIALS: Final = 3
_ENERGY_S: Final = 3.0
_FOUND, _SHARED, _SEPARATE = "found", "shared", "separate"


@dataclass(frozen=True)
class Metered:
    """A plan that keeps budgets in measured resources; `meter` is None where the table is of another machine."""

    plan: Plan
    meter: DeviceMeter | None


def metered(plan: Plan, progress: Progress, root: Path = Path("/")) -> Metered:
    """Return how the plan's budgets in ms and mJ are kept: by measuring here, or with a margin for what the table may be wrong by.

    Raises UsageError where the table is too far off to keep a budget by.
    """
    budgets = [budget for budget in plan.budgets if budget.resource in METERED]
    if not budgets:
        return Metered(plan, None)
    for budget in budgets:
        if budget.resource not in plan.table.measured:
            progress.note(
                f"budget {budget.text}: the table does not say how it was measured, so it is taken at its word; "
                "`bmtas profile --latency` measures one that is held against whole networks"
            )
    known = {b.resource: plan.table.measured[b.resource] for b in budgets if b.resource in plan.table.measured}
    if not known:
        return Metered(plan, None)
    for budget in budgets:
        if budget.resource in known:
            require_trustworthy(known[budget.resource], budget)
    elsewhere = differences(next(iter(known.values())), identify(root))
    if not elsewhere:
        meter = DeviceMeter(plan.config.task_list(), plan.table, known, progress, root, METER_RULES)
        meter.require_reach(plan.budgets)
        return Metered(plan, meter)
    return Metered(_with_margin(plan, known, elsewhere, progress), None)


def require_trustworthy(measurement: Measurement, budget: Budget) -> None:
    """Raise UsageError where a table is too far from whole networks to keep `budget` by it."""
    error = measurement.held_out.median_error
    if error > MOST_ERROR:
        raise UsageError(
            f"budget {budget.text}: the table is {error:.1%} off on whole networks that it was not fitted to (median of "
            f"{measurement.held_out.networks}), and a budget is kept by tables that are within {MOST_ERROR:.0%}; measure again "
            "with nothing else running on the device, or with more passes (`bmtas profile run KIT --passes`)"
        )


def differences(measurement: Measurement, here: Identity) -> list[str]:
    """Return in what the machine that a table was measured on differs from this one; nothing if times are comparable."""
    try:
        there = Identity.model_validate(measurement.device)
    except ValueError as error:
        raise UsageError(f"the table does not tell what it was measured on ({error}); measure it again") from None
    return unlike(there, here)


def _with_margin(
    plan: Plan, known: Mapping[Resource, Measurement], elsewhere: Sequence[str], progress: Progress
) -> Plan:
    """Return the plan with costs as high as whole networks were found above the table, for nothing can be measured here."""
    table = plan.table
    for resource, measurement in known.items():
        margin = max(measurement.held_out.ratio_interval[1], 1.0)
        table = scaled(table, resource, margin)
        progress.note(
            f"{resource.label.lower()}: the table is of another machine ({'; '.join(elsewhere)}), so the network found cannot be measured "
            f"here. Costs are taken {margin - 1:.1%} higher, which is how far whole networks were above the table; measure the "
            "exported network there with `bmtas bench`"
        )
    try:
        check_budgets(table, plan.budgets)
    except BudgetBelowReach as error:
        raise BudgetError(f"with that margin, {error}") from None
    return replace(plan, table=table)


class DeviceMeter:
    """Exports a network, runs it as the table's networks were run, and measures it in turn with all-shared and separate ones."""

    def __init__(
        self,
        tasks: Sequence[Task],
        table: CostTable,
        known: Mapping[Resource, Measurement],
        progress: Progress,
        root: Path = Path("/"),
        rules: Rules = METER_RULES,
    ) -> None:
        """Take how each resource of `known` was measured; all by one runtime, in one precision."""
        self._tasks, self._table, self._known, self._progress = tuple(tasks), table, dict(known), progress
        self._root, self._rules = root, rules
        self._how = next(iter(known.values()))
        self._sessions: dict[str, Session] = {}
        self.last: dict[str, Timing] = {}

    def __call__(self, architecture: Architecture) -> dict[Resource, Reading]:
        """Return what the network of `architecture` takes here; `last` then has the timings of all three networks."""
        for name in (_SHARED, _SEPARATE):
            self._open_fixed(name)
        self._sessions[_FOUND] = self._open(architecture, _FOUND)
        self._progress.note("measuring the network found, in turn with the all-shared and the separate ones ...")
        runs = {name: partial(session.run, _feeds(session)) for name, session in self._sessions.items()}
        self._watch({name: timed(run) for name, run in runs.items()})
        shared, separate = (self.last[name].median_ms for name in (_SHARED, _SEPARATE))
        self._progress.note(f"measured beside it: all shared {shared:.4g} ms, separate networks {separate:.4g} ms")
        found = self.last[_FOUND]
        upper = found.median_ms if found.interval is None else found.interval.high
        readings = {Resource.LATENCY_MS: Reading(found.median_ms, upper)}
        if Resource.ENERGY_MJ in self._known:
            readings[Resource.ENERGY_MJ] = self._energy(runs[_FOUND])
        return {resource: reading for resource, reading in readings.items() if resource in self._known}

    def require_reach(self, budgets: Sequence[Budget]) -> None:
        """Raise BudgetError where the all-shared network, if no tree is faster by the table, is over a budget; before a search of hours."""
        limit = next((b for b in budgets if b.resource is Resource.LATENCY_MS and b.resource in self._known), None)
        if limit is None:
            return
        session = self._open_fixed(_SHARED)
        self._watch({_SHARED: timed(partial(session.run, _feeds(session)))})
        timing = self.last[_SHARED]
        predicted = self._table.shared_total(Resource.LATENCY_MS)
        said = [format_quantity(v, Resource.LATENCY_MS, digits=4) for v in (predicted, timing.median_ms)]
        self._progress.note(f"all tasks sharing everything: predicted {said[0]}, measured {said[1]}")
        fastest = predicted <= budget_range(self._table, Resource.LATENCY_MS)[0]
        if fastest and timing.median_ms > limit.value:
            raise BudgetError(
                f"budget {limit.text}: the network that shares everything takes {said[1]} here now (the table says {said[0]}), and no "
                "tree takes less; raise the budget, end what else runs here, or measure the table again"
            )

    def _open_fixed(self, name: str) -> Session:
        """Load the all-shared or the separate networks, once."""
        if name not in self._sessions:
            make = Architecture.shared if name == _SHARED else Architecture.separate
            names = [task.name for task in self._tasks]
            self._sessions[name] = self._open(make(self._table.backbone, names, len(self._table.layers)), name)
        return self._sessions[name]

    def _open(self, architecture: Architecture, name: str) -> Session:
        self._progress.note(f"exporting the {name} network, to be measured ...")
        model = master_model(
            untrained_network(architecture, self._tasks),
            architecture=architecture,
            tasks=self._tasks,
            size=self._table.input_size,
            costs={},
            interface=Interface(),
        )
        return open_model(model, self._how, self._progress)

    def _watch(self, candidates: Mapping[str, Timed]) -> None:
        """Measure the candidates in turn, again where they do not come to rest: what disturbs a machine for seconds is no network's time."""
        for trial in range(_TRIALS):
            self.last = watch(candidates, self._rules)
            restless = {name: timing.unstable for name, timing in self.last.items() if timing.unstable}
            if not restless:
                return
            name, reasons = next(iter(restless.items()))
            again = "measured again" if trial + 1 < _TRIALS else "taken as it is"
            self._progress.note(f"not stable ({name}: {'; '.join(reasons)}): {again}")

    def _energy(self, run: object) -> Reading:
        """Return the energy of one run in mJ, over a stretch of seconds; a sensor's noise gives no interval."""
        assert callable(run)
        with Sampler(self._root) as sampler:
            start, runs = time.perf_counter(), 0
            while time.perf_counter() - start < _ENERGY_S:
                run()
                runs += 1
            end = time.perf_counter()
            time.sleep(2 * sampler.interval_s)
            energy, rail = sampler.energy_mj(start, end), sampler.main_rail
        if energy is None or rail is None or rail not in energy:
            raise EnvironmentProblem("nothing measures power here any more; a budget in mJ cannot be kept")
        return Reading(energy[rail] / runs, energy[rail] / runs)


def open_model(model: object, how: Measurement, progress: Progress) -> Session:
    """Load an FP32 ModelProto in the precision, runtime and provider of a table. Raises what the sessions raise."""
    runtime = known_runtime(how.runtime.split()[0])
    content: bytes = in_precision(model, how.precision, runtime).SerializeToString()
    if runtime == "onnxruntime":
        provider = next((name for name, own in PROVIDERS.items() if own == how.provider), how.provider)
        return OnnxSession(content, provider, how.threads)
    if runtime == "openvino":
        return OpenVinoSession(content, how.precision, how.threads, how.provider)
    with tempfile.TemporaryDirectory(prefix="bmtas-meter-") as folder:
        path = Path(folder) / "found.onnx"
        path.write_bytes(content)
        return LoadedEngine(build_plan(path, EngineOptions(), progress))


def _feeds(session: Session) -> dict[str, Array]:
    return {name: spec.noise() for name, spec in session.inputs.items()}
