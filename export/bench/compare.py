"""`bmtas bench compare`: two measurements of different times, with an interval, and only if they are of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bmtas.errors import UsageError
from export.bench.report import Report, Result
from export.machine.identity import unlike
from export.stopwatch import Ratio, apart_ratio

NOTE = (
    "measured at different times: the interval does not hold what changed on the machine in between; to tell small differences, measure "
    "both files in one call of bmtas bench"
)


@dataclass(frozen=True)
class Compared:
    """The same candidate in both: latency of the first over that of the second."""

    first: Result
    second: Result
    ratio: Ratio

    @property
    def verdict(self) -> str:
        """What can be said: nothing where one of the two had not come to rest."""
        if self.ratio.differs is None:
            return "too few samples to tell"
        unstable = [
            word
            for word, result in (("the first", self.first), ("the second", self.second))
            if not result.answers.stable
        ]
        if unstable:
            return f"no verdict: {' and '.join(unstable)} {'is' if len(unstable) == 1 else 'are'} not stable"
        if not self.ratio.differs:
            return "no clear difference"
        return "the second is faster" if self.ratio.value > 1 else "the second is slower"


def compare_reports(first: Report, second: Report, *, force: bool = False) -> list[Compared]:
    """Return what is in both, compared. Raises UsageError if devices or settings differ, unless `force`, or nothing is in both."""
    pairs = _pairs(first, second)
    runtimes = {result.runtime for pair in pairs for result in pair}
    differences = [*unlike(first.device, second.device, runtimes), *_settings(first, second)]
    differences += [text for pair in pairs for text in _inputs(*pair)]
    if differences and not force:
        raise UsageError(
            f"these measurements cannot be compared: {'; '.join(dict.fromkeys(differences))}. Measure both alike on one machine, or compare "
            "them all the same with --force"
        )
    return [Compared(a, b, _ratio(a, b)) for a, b in pairs]


def _pairs(first: Report, second: Report) -> list[tuple[Result, Result]]:
    """Return the results that have one key; where each report has one alone, these two."""
    others = {result.key: result for result in second.results}
    found = [(a, others[a.key]) for a in first.results if a.key in others]
    if not found and len(first.results) == len(second.results) == 1:
        return [(first.results[0], second.results[0])]
    if not found:
        raise UsageError(
            f"nothing was measured in both: the first has {', '.join(r.key for r in first.results)}, the second {', '.join(others)}; "
            "measure files of the same names"
        )
    return found


def _settings(first: Report, second: Report) -> list[str]:
    found = []
    for name in ("provider", "batch", "rates", "fps"):
        one, other = (getattr(report.settings, name) for report in (first, second))
        if one != other:
            found.append(f"the setting {name} differs: {_shown(one)} and {_shown(other)}")
    return found


def _inputs(first: Result, second: Result) -> list[str]:
    found = []
    for name, word in (
        ("threads", "the number of threads"),
        ("provider", "the provider"),
        ("input_shape", "the input"),
    ):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            found.append(f"{first.key}: {word} differs: {_shown(one)} and {_shown(other)}")
    return found


def _ratio(first: Result, second: Result) -> Ratio:
    one, other = first.answers, second.answers
    return apart_ratio(one.latencies_ms, other.latencies_ms, (len(one.window_ends), len(other.window_ends)))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    return "none" if value is None else str(value)


def to_json(found: list[Compared]) -> dict[str, Any]:
    """Return the comparison as plain JSON values."""
    rows = [
        {
            "first": c.first.key,
            "second": c.second.key,
            "first_ms": c.first.answers.median_ms,
            "second_ms": c.second.answers.median_ms,
            **c.ratio.to_json(),
            "verdict": c.verdict,
            "stable": c.first.answers.stable and c.second.answers.stable,
        }
        for c in found
    ]
    return {"schema_version": 1, "compared": rows, "note": NOTE}
