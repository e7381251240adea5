"""Energy per inference: each candidate on its own without pause, for power is sampled far more seldom than candidates change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from export.bench.candidates import Candidate
from export.bench.report import Energy
from export.machine.energy import rail_for, run_for
from export.machine.sampler import Sampler, sources_of

IDLE_S = 1.0
_BLOCK_S, _LEAST_CALLS, _LEAST_GAPS = 2.0, 3, 5.0


def measures_power(root: Path = Path("/")) -> bool:
    """Return whether this machine tells what power it takes."""
    sources = sources_of(root)
    try:
        return bool(sources.counters) or any(sensor.quantity == "power_w" for sensor in sources.sensors)
    finally:
        sources.close()


def energy_of(sampler: Sampler, start_s: float, end_s: float, inferences: int, provider: str) -> Energy:
    """Return the energy per inference over an interval of the sampler's clock, gross and less what the idle machine takes.

    `provider` is what ran, and tells which rail counts (see `rail_for`): without that one there is no energy, whatever other rails
    tell. An interval of fewer than five gaps between readings is too short to tell.
    """
    found, rail = sampler.energy_mj(start_s, end_s) or {}, rail_for(sampler, provider)
    seconds = end_s - start_s
    if seconds < _LEAST_GAPS * sampler.gap_s:
        return Energy(unavailable=f"{seconds:.2f} s are too short for power sampled every {sampler.gap_s:.3g} s")
    if rail not in found or inferences < 1:
        return Energy(unavailable=sampler.why_no_energy(rail))
    idle = sampler.idle_power_w or {}
    net = {name: (mj - idle[name] * seconds * 1e3) / inferences for name, mj in found.items() if name in idle}
    return Energy(
        inferences=inferences,
        seconds=seconds,
        sampling_interval_s=sampler.gap_s,
        main_rail=rail,
        gross_mj={name: mj / inferences for name, mj in found.items()},
        net_mj=net or None,
    )


def measure_energy(candidates: Sequence[Candidate], sampler: Sampler) -> dict[str, Energy]:
    """Return the energy of each candidate by its key."""
    found = {}
    for candidate in candidates:
        stretch = run_for(candidate.timed, sampler, max(_BLOCK_S, _LEAST_GAPS * sampler.gap_s), _LEAST_CALLS)
        inferences = stretch.runs * candidate.frames_per_call
        found[candidate.key] = energy_of(
            sampler, stretch.start_s, stretch.end_s, inferences, candidate.about["provider"]
        )
    return found
