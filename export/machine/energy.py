"""Energy per run: something runs again and again for seconds, for power is read far more seldom than a run takes. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from export.machine.sampler import Sampler


@dataclass(frozen=True)
class Stretch:
    """So many runs between two times of the sampler's clock, without a pause; readings lie at or before its start and at or after its end."""

    start_s: float
    end_s: float
    runs: int


def rail_for(sampler: Sampler, provider_or_device: str) -> str | None:
    """Return the rail that tells the energy of what a runtime runs; None where nothing measures it.

    `provider_or_device` is what a session calls its provider: CPUExecutionProvider, CPU or cpu is the processor, all else (CUDA's and
    TensorRT's providers, cuda, the name of a GPU) the GPU. A rail of the whole board, as on a Jetson, tells both.
    """
    return sampler.rail_of("cpu" if provider_or_device.lower().startswith("cpu") else "gpu")


def run_for(run: Callable[[], object], sampler: Sampler, seconds: float, least: int = 1) -> Stretch:
    """Call `run` for `seconds` and at least `least` times, with a reading of all sensors before and after; return when, and how often.

    Raises ValueError unless both are above 0.
    """
    if not seconds > 0 or least < 1:
        raise ValueError(f"found {seconds} s and at least {least} runs; both must be above 0")
    sampler.read_now()
    start, runs = sampler.clock(), 0
    while runs < least or sampler.clock() - start < seconds:
        run()
        runs += 1
    end = sampler.clock()
    sampler.read_now()
    return Stretch(start, end, runs)


def energy_of_runs(run: Callable[[], object], sampler: Sampler, seconds: float, rail: str) -> float | None:
    """Return the energy of one run in mJ on `rail`, gross, over `seconds` of runs without a pause.

    None where the rail told nothing in that time; `sampler.why_no_energy(rail)` then says why. Raises ValueError unless `seconds` is
    above 0.
    """
    stretch = run_for(run, sampler, seconds)
    energy = sampler.energy_mj(stretch.start_s, stretch.end_s)
    return None if energy is None or rail not in energy else energy[rail] / stretch.runs
