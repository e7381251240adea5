"""Energy per inference: each candidate on its own without pause, for power is sampled far more seldom than candidates change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from export.bench.candidates import Candidate
from export.bench.report import Energy
from export.machine.sampler import Sampler, sources_of
from export.stopwatch.timing import Clock

IDLE_S = 1.0
_BLOCK_S, _LEAST_CALLS = 2.0, 3


def measures_power(root: Path = Path("/")) -> bool:
    """Return whether this machine tells what power it takes."""
    sources = sources_of(root)
    try:
        return bool(sources.counters) or any(sensor.quantity == "power_w" for sensor in sources.sensors)
    finally:
        sources.close()


def why_not(sampler: Sampler) -> str:
    """Return why there is no energy."""
    told = sampler.conditions().unavailable
    reasons = [f"{name}: {reason}" for name, reason in told.items() if "power" in name or "energy" in name]
    return "; ".join(reasons) or "no reading of power covers the measurement"


def energy_of(sampler: Sampler, start_s: float, end_s: float, inferences: int, *, least_s: float = 5.0) -> Energy:
    """Return the energy per inference over an interval of time.perf_counter, gross and less what the idle machine takes.

    An interval shorter than `least_s` sampling intervals is too short to tell.
    """
    found = sampler.energy_mj(start_s, end_s)
    seconds = end_s - start_s
    if found is None or seconds < least_s * sampler.interval_s:
        reason = (
            why_not(sampler)
            if found is None
            else f"{seconds:.2f} s are too short for power sampled every {sampler.interval_s} s"
        )
        return Energy(unavailable=reason)
    idle = sampler.idle_power_w or {}
    net = {rail: (mj - idle[rail] * seconds * 1e3) / inferences for rail, mj in found.items() if rail in idle}
    return Energy(
        inferences=inferences,
        seconds=seconds,
        sampling_interval_s=sampler.interval_s,
        main_rail=sampler.main_rail,
        gross_mj={rail: mj / inferences for rail, mj in found.items()},
        net_mj=net or None,
    )


def measure_energy(
    candidates: Sequence[Candidate], sampler: Sampler, clock: Clock = time.perf_counter
) -> dict[str, Energy]:
    """Return the energy of each candidate by its key."""
    found = {}
    for candidate in candidates:
        start, calls = clock(), 0
        while calls < _LEAST_CALLS or clock() - start < _BLOCK_S:
            candidate.timed()
            calls += 1
        found[candidate.key] = energy_of(sampler, start, clock(), calls * candidate.frames_per_call)
    return found
