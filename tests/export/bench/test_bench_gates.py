"""Limits: how they are written, and that a limit is kept only where the sample shows it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from bmtas.errors import UsageError
from export.bench.gates import broken, parse_gate
from export.bench.report import Energy, Report


def told(text: str, report: Report) -> list[str]:
    return broken([parse_gate(text)], report)


def test_a_percentile_s_bound_is_what_counts(report: Callable[..., Report], noise: Callable[..., list[float]]) -> None:
    values = noise(10.0, 200)
    rank = next(r for r in range(1, 201) if scipy.stats.binom.cdf(r - 1, 200, 0.9) >= 0.99)
    bound, percentile = sorted(values)[rank - 1], float(np.percentile(values, 90))
    assert percentile < bound
    made = report({"a/onnxruntime": values})
    assert told(f"p90>{bound + 0.001:.4f}ms", made) == []
    (text,) = told(f"p90>{(bound + percentile) / 2:.4f}ms", made)
    assert text.startswith("a/onnxruntime: 'p90>")
    assert f"{bound:.4g} ms" in text


def test_what_the_sample_does_not_support_is_not_kept(
    report: Callable[..., Report], noise: Callable[..., list[float]]
) -> None:
    (text,) = told("p90>99s", report({"a/onnxruntime": noise(10.0, 63)}))
    assert "it needs 64 samples, there are 63" in text
    (text,) = told("median>99s", report({"a/onnxruntime": [1.0, 2.0]}))
    assert "2 samples are too few" in text
    (text,) = told("misses>0", report({"a/onnxruntime": noise(10.0)}))
    assert "--fps" in text
    (text,) = told("end_to_end.max>1s", report({"a/onnxruntime": noise(10.0)}))
    assert "cannot be told" in text


def test_the_median_s_interval_and_the_maximum(
    report: Callable[..., Report], noise: Callable[..., list[float]]
) -> None:
    made = report({"a/onnxruntime": noise(10.0), "b/onnxruntime": noise(20.0)})
    high = made.results[0].compute.high_ms
    assert high is not None
    assert [text.split(":")[0] for text in told(f"median>{high - 0.001:.4f}ms", made)] == [
        "a/onnxruntime",
        "b/onnxruntime",
    ]
    assert [text.split(":")[0] for text in told(f"median>{high + 0.001:.4f}ms", made)] == ["b/onnxruntime"]
    longest = max(made.results[1].compute.latencies_ms)
    assert told(f"max>{longest + 0.01:.4f}ms", made) == []
    assert len(told(f"max>{longest - 0.01:.4f}ms", made)) == 1


def test_at_the_limit_itself_the_operator_decides(report: Callable[..., Report]) -> None:
    made = report({"a/onnxruntime": [0.5] * 20})
    assert told("max>0.5ms", made) == []
    assert len(told("max>=0.5ms", made)) == 1
    assert len(told("max>=500us", made)) == 1


def test_energy_is_that_of_the_main_rail(report: Callable[..., Report]) -> None:
    energy = Energy(inferences=10, seconds=1.0, main_rail="VDD_IN", gross_mj={"VDD_IN": 55.0, "VDD_CPU": 20.0})
    made = report({"a/onnxruntime": [1.0] * 20}, energy=energy)
    assert told("energy>60mJ", made) == []
    assert "VDD_IN is 55 mJ" in told("energy>0.05J", made)[0]
    assert "no sensor of power was found" in told("energy>60mJ", report({"a/onnxruntime": [1.0] * 20}))[0]


@pytest.mark.parametrize(
    "text",
    [
        *("p99<20ms", "p99>20mJ", "energy>20ms", "misses>1ms", "p100>2ms", "mean>2ms", "p99>", "p99>-1ms"),
        *("median>2 hours", "end_to_end.misses>0"),
    ],
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse_gate(text)


def test_throttling_and_restlessness_are_unmet(
    report: Callable[..., Report], noise: Callable[..., list[float]]
) -> None:
    assert report({"a/onnxruntime": noise(10.0)}, throttled=False).unmet() == []
    assert report({"a/onnxruntime": noise(10.0)}, throttled=True).unmet() == ["the device was throttled: gpu: heat"]
    drifting = [10.0 + 0.01 * i for i in range(200)]
    unmet = report({"a/onnxruntime": drifting}).unmet()
    assert any("it drifts" in text for text in unmet)
