"""`--fail-if 'p99>20ms'`: limits that a measurement must show to be kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bmtas.errors import UsageError
from export.bench.report import Report, Result, Stats

_RULE = re.compile(
    r"(?P<whole>end_to_end\.)?(?P<name>median|max|misses|energy|p\d+(?:\.\d+)?)\s*(?P<operator>>=|>)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-zA-Z]*)"
)
_UNITS = {
    "": {"misses": 1.0},
    "us": {"time": 1e-3},
    "ms": {"time": 1.0},
    "s": {"time": 1e3},
    "mJ": {"energy": 1.0},
    "J": {"energy": 1e3},
}


@dataclass(frozen=True)
class Gate:
    """One limit: the measurement fails if `name` is above `limit` (with `inclusive`, if it reaches it), in ms, mJ or frames.

    What is compared of a median or percentile is the upper end of its interval: a limit is kept where the sample shows it.
    """

    text: str
    name: str
    limit: float
    inclusive: bool
    end_to_end: bool

    @property
    def percentile(self) -> float | None:
        """The percentile that it asks for."""
        return float(self.name[1:]) if re.fullmatch(r"p[\d.]+", self.name) else None

    def broken_by(self, result: Result) -> str | None:
        """Return in words why `result` does not keep the limit; None if it does."""
        value, why = self._value(result)
        if value is None:
            return f"{result.key}: {self.text!r} cannot be told: {why}"
        if value > self.limit or (self.inclusive and value == self.limit):
            return f"{result.key}: {self.text!r}: {why} {value:.4g} {self._unit()}".rstrip()
        return None

    def _unit(self) -> str:
        return {"energy": "mJ", "misses": "frames"}.get(self.name, "ms")

    def _value(self, result: Result) -> tuple[float | None, str]:
        """Return what is compared with the words for it, or None and why there is nothing."""
        if self.name == "misses":
            if result.paced is None:
                return None, "deadlines are there with --fps alone"
            return float(result.paced.misses + result.paced.dropped), "deadlines missed and frames dropped are"
        if self.name == "energy":
            energy = result.energy
            if energy.gross_mj is None or energy.main_rail is None:
                return None, energy.unavailable or "no rail stands for the whole device"
            return energy.gross_mj[energy.main_rail], f"the energy per inference on {energy.main_rail} is"
        sample = result.end_to_end if self.end_to_end else result.answers
        if sample is None:
            return None, result.end_to_end_unavailable or "the latency from end to end was not measured"
        return self._latency(sample)

    def _latency(self, sample: Stats) -> tuple[float | None, str]:
        if self.name == "max":
            return sample.max_ms, "the longest of the sample is"
        if self.percentile is None:
            if sample.high_ms is None:
                return None, f"{sample.samples} samples are too few for an interval of the median"
            return (
                sample.high_ms,
                f"the median is {sample.median_ms:.4g} ms, at {sample.confidence:.0%} confidence up to",
            )
        found = sample.percentiles[self.name]
        if found.bound_ms is None:
            return None, f"it needs {found.needed} samples, there are {sample.samples}; measure longer (--time-cap)"
        return found.bound_ms, f"it is {found.value_ms:.4g} ms, with confidence up to"


def parse_gate(text: str) -> Gate:
    """Read `p99>20ms`. Raises UsageError for anything else."""
    match = _RULE.fullmatch(text.strip())
    factor = None if match is None else _UNITS.get(match["unit"], {}).get(_quantity(match["name"]))
    if match is None or factor is None:
        raise UsageError(
            f"--fail-if {text!r}: expected median, p90, p99, max, misses or energy, then > or >=, then a number with its unit, for example "
            "'p99>20ms', 'end_to_end.median>=8ms', 'misses>0' or 'energy>50mJ'"
        )
    name = match["name"]
    if name.startswith("p"):
        percentile = float(name[1:])
        if not 0 < percentile < 100:
            raise UsageError(f"--fail-if {text!r}: {percentile:g} is no percentile; it must lie between 0 and 100")
        name = f"p{percentile:g}"
    whole = match["whole"] is not None
    if whole and name in ("misses", "energy"):
        raise UsageError(f"--fail-if {text!r}: {name} is not told for a part of an inference; leave end_to_end away")
    return Gate(text.strip(), name, float(match["number"]) * factor, match["operator"] == ">=", whole)


def _quantity(name: str) -> str:
    return name if name in ("misses", "energy") else "time"


def broken(gates: list[Gate], report: Report) -> list[str]:
    """Return in words which limits are not kept by which results."""
    return [text for gate in gates for result in report.results if (text := gate.broken_by(result)) is not None]
