"""Measures the networks that a search finds, on the device and in the way that its table was measured. On the host."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import BudgetError, EnvironmentProblem
from bmtas.progress import Progress
from bmtas.readings import Reading
from bmtas.tasks import Task
from costs.measurement import Measurement
from costs.reach import budget_range
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity
from export.latency.prepare import in_precision, known_runtime
from export.latency.setting import Setting, open_file, run_of
from export.latency.untrained import untrained_model
from export.machine.energy import energy_of_runs
from export.machine.sampler import Sampler
from export.sessions.onnx import PROVIDERS
from export.sessions.protocol import Session
from export.stopwatch import RULES, Rules, Timed, timed, watch
from export.stopwatch import Measurement as Timing

METER_RULES: Final = replace(RULES, spread_bound=0.02, percentiles=(50.0,), time_cap_s=15.0)
_LEAST_ROUNDS: Final = 24
"""Of slow networks; fewer have no interval that holds."""
_TRIALS: Final = 3
_ENERGY_S: Final = 3.0
_FOUND, _SHARED, _SEPARATE = "found", "shared", "separate"


class DeviceMeter:
    """Exports a network, runs it as the table's networks were run, and measures it in turn with all-shared and separate ones."""

    def __init__(
        self,
        tasks: Sequence[Task],
        table: CostTable,
        known: Mapping[Resource, Measurement],
        progress: Progress,
        root: Path = Path("/"),
        rules: Rules | None = None,
    ) -> None:
        """Take how each resource of `known` was measured; all by one runtime, in one precision."""
        self._tasks, self._table, self._known, self._progress = tuple(tasks), table, dict(known), progress
        self._root, self._rules = root, rules or METER_RULES
        self._how = next(iter(known.values()))
        self._sessions: dict[str, Session] = {}
        self.last: dict[str, Timing] = {}

    def __call__(self, architecture: Architecture) -> dict[Resource, Reading]:
        """Return what the network of `architecture` takes here; `last` then has the timings of all three networks."""
        for name in (_SHARED, _SEPARATE):
            self._open_fixed(name)
        self._sessions[_FOUND] = self._open(architecture, _FOUND)
        self._progress.note("measuring the network found, in turn with the all-shared and the separate ones ...")
        runs = {name: run_of(session) for name, session in self._sessions.items()}
        self._watch({name: timed(run) for name, run in runs.items()})
        shared, separate = (self.last[name].median_ms for name in (_SHARED, _SEPARATE))
        self._progress.note(f"measured beside it: all shared {shared:.4g} ms, separate networks {separate:.4g} ms")
        found = self.last[_FOUND]
        about = {
            "stable": found.stable,
            "samples": len(found.latencies_ms),
            "shared_ms": shared,
            "separate_ms": separate,
        }
        readings = {Resource.LATENCY_MS: Reading(found.median_ms, _upper(found), about)}
        if Resource.ENERGY_MJ in self._known:
            readings[Resource.ENERGY_MJ] = self._energy(runs[_FOUND])
        return {resource: reading for resource, reading in readings.items() if resource in self._known}

    def require_reach(self, budgets: Sequence[Budget]) -> None:
        """Raise BudgetError where the all-shared network, if no tree is faster by the table, is over a budget; before a search of hours."""
        limit = next((b for b in budgets if b.resource is Resource.LATENCY_MS and b.resource in self._known), None)
        if limit is None:
            return
        session = self._open_fixed(_SHARED)
        self._watch({_SHARED: timed(run_of(session))})
        timing = self.last[_SHARED]
        predicted = self._table.shared_total(Resource.LATENCY_MS)
        said = [format_quantity(v, Resource.LATENCY_MS, digits=4) for v in (predicted, timing.median_ms)]
        self._progress.note(f"all tasks sharing everything: predicted {said[0]}, measured {said[1]}")
        fastest = predicted <= budget_range(self._table, Resource.LATENCY_MS)[0]
        if fastest and timing.median_ms > limit.value:
            raise BudgetError(
                f"budget {limit.text}: the network that shares everything takes {said[1]} here now (the table says {said[0]}), and no "
                "tree takes less; raise the budget, end what else runs here, or measure the table again"
                + ("" if timing.stable else " (the machine was not at rest while that was measured)")
            )

    def _open_fixed(self, name: str) -> Session:
        """Load the all-shared or the separate networks, once."""
        if name not in self._sessions:
            make = BranchedArchitecture.shared if name == _SHARED else BranchedArchitecture.separate
            names = [task.name for task in self._tasks]
            self._sessions[name] = self._open(make(self._table.backbone, names, len(self._table.layers)), name)
        return self._sessions[name]

    def _open(self, architecture: Architecture, name: str) -> Session:
        self._progress.note(f"exporting the {name} network, to be measured ...")
        model = untrained_model(architecture, self._tasks, self._table.input_size)
        return open_model(model, self._how, self._progress)

    def _watch(self, candidates: Mapping[str, Timed]) -> None:
        """Measure the candidates in turn, again where they do not come to rest: what disturbs a machine for seconds is no network's time."""
        round_s = sum(once() for once in candidates.values()) / 1e3
        rules = replace(self._rules, time_cap_s=max(self._rules.time_cap_s, _LEAST_ROUNDS * round_s))
        for trial in range(_TRIALS):
            self.last = watch(candidates, rules)
            restless = {name: timing.unstable for name, timing in self.last.items() if timing.unstable}
            if not restless:
                return
            name, reasons = next(iter(restless.items()))
            again = "measured again" if trial + 1 < _TRIALS else "taken as it is"
            self._progress.note(f"not stable ({name}: {'; '.join(reasons)}): {again}")

    def _energy(self, run: Callable[[], object]) -> Reading:
        """Return the energy of one run in mJ: the median of some stretches of seconds, and the greatest of them."""
        rail = self._known[Resource.ENERGY_MJ].rail
        with Sampler(self._root) as sampler:
            found = (
                [energy_of_runs(run, sampler, _ENERGY_S, rail) for _ in range(_TRIALS)] if rail is not None else [None]
            )
        values = [energy for energy in found if energy is not None]
        if len(values) < len(found):
            raise EnvironmentProblem(
                f"the power rail {rail!r} of the table is not measured here any more; a budget in mJ cannot be kept"
            )
        return Reading(statistics.median(values), max(values), {"stretches": len(values), "rail": rail})


def _upper(timing: Timing) -> float:
    """Return the upper end of the median's interval; of the sample where it is too small for one."""
    return max(timing.latencies_ms) if timing.interval is None else timing.interval.high


def open_model(model: object, how: Measurement, progress: Progress) -> Session:
    """Load an FP32 ModelProto in the precision, runtime and provider of a table. Raises what the sessions raise."""
    runtime = known_runtime(how.runtime.split()[0])
    known = {own: name for name, own in PROVIDERS.items()} if runtime == "onnxruntime" else {how.provider: "cpu"}
    provider = known.get(how.provider, how.provider)  # one that is not known is refused where it is opened
    setting = Setting(how.precision, provider, how.threads, runtime)
    with tempfile.TemporaryDirectory(prefix="bmtas-meter-") as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(in_precision(model, how.precision, runtime).SerializeToString())
        return open_file(path, setting, progress)
