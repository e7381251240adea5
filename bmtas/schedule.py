"""The steps of a search in order: warm-up, then cycles of architecture and weight steps (paper, appendix A)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bmtas.config import SearchSettings
from bmtas.relaxation import annealed

WARMUP, ARCH, WEIGHTS = "warm-up", "architecture", "weights"


@dataclass(frozen=True)
class Step:
    """One step of the schedule: its phase, its index among the steps of that kind, whether the phase begins here."""

    phase: str
    index: int
    first: bool


class Schedule:
    """All steps of a search, and what depends on how far it has come."""

    def __init__(self, settings: SearchSettings) -> None:
        """List the warm-up, then cycles until the weights have had their number of steps."""
        self._settings = settings
        steps = [Step(WARMUP, i, i == 0) for i in range(settings.warmup_steps)]
        arch = weights = 0
        while weights < settings.weight_steps:
            for i in range(settings.arch_steps_per_cycle):
                steps.append(Step(ARCH, arch, i == 0))
                arch += 1
            for i in range(min(settings.weight_steps_per_cycle, settings.weight_steps - weights)):
                steps.append(Step(WEIGHTS, weights, i == 0))
                weights += 1
        self._steps = tuple(steps)
        self._counts = Counter(step.phase for step in steps)

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._steps)

    def __getitem__(self, index: int) -> Step:
        """Return step `index`. Raises IndexError beyond the last one, so that a schedule can be iterated over."""
        return self._steps[index]

    def count(self, phase: str) -> int:
        """Return the number of steps of a phase."""
        return self._counts[phase]

    def progress(self, step: Step) -> float:
        """Return the share of the steps of its phase that are done, in [0, 1]; 0 throughout the warm-up."""
        return 0.0 if step.phase == WARMUP else step.index / max(self._counts[step.phase] - 1, 1)

    def temperature(self, step: Step) -> float:
        """Return the temperature of the samples: linear over the search after the warm-up (paper, appendix A)."""
        return annealed(self._settings.temperature_start, self._settings.temperature_end, self.progress(step))

    def weight_progress(self, step: Step) -> float:
        """Return the share of all weight updates that are done, the warm-up included, in [0, 1)."""
        return self.batch(step) / (self._settings.warmup_steps + self._settings.weight_steps)

    def batch(self, step: Step) -> int:
        """Return which batch of its part of the images a step takes: weight steps go on after the warm-up."""
        return step.index + (self._settings.warmup_steps if step.phase == WEIGHTS else 0)
