"""Two measurements: what may be compared, what is said of it, and the tables that people read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest

from bmtas.errors import UsageError
from export.bench.compare import compare_reports, to_json
from export.bench.report import Energy, RatioEntry, Report
from export.bench.tables import as_csv, as_markdown, remarks
from tests.export.bench.conftest import identity

KEY = "a/onnxruntime"
Make = Callable[..., Report]
Noise = Callable[..., list[float]]


def test_a_clear_difference_and_none(report: Make, noise: Noise) -> None:
    base = report({KEY: noise(10.0), "b/openvino": noise(5.0, seed=3)})
    slower = report({KEY: noise(11.0, seed=1), "b/openvino": noise(5.0, seed=4), "c/onnxruntime": noise(1.0)})
    first, second = compare_reports(base, slower)
    assert (first.verdict, second.verdict) == ("the second is slower", "no clear difference")
    assert first.ratio.interval is not None
    assert first.ratio.interval.low < 10 / 11 < first.ratio.interval.high < 1
    assert compare_reports(slower, base)[0].verdict == "the second is faster"
    told = to_json([first])
    assert told["schema_version"] == 1
    assert told["compared"][0]["first_ms"] == base.results[0].compute.median_ms
    few = compare_reports(report({KEY: [1.0, 2.0]}), base)[0]
    assert few.verdict == "too few samples to tell"


def test_of_one_result_each_names_do_not_matter(report: Make, noise: Noise) -> None:
    (found,) = compare_reports(report({KEY: noise(10.0)}), report({"b/onnxruntime": noise(10.0)}))
    assert (found.first.key, found.second.key) == (KEY, "b/onnxruntime")
    two = report({"b/onnxruntime": noise(1.0), "c/onnxruntime": noise(1.0)})
    with pytest.raises(UsageError, match="nothing was measured in both: the first has a/onnxruntime, the second b"):
        compare_reports(report({KEY: noise(10.0)}), two)


def test_unlike_devices_and_settings_are_refused_unless_forced(report: Make, noise: Noise) -> None:
    here = report({KEY: noise(10.0)})
    for other, said in (
        (report({KEY: noise(10.0)}, identity("Another")), "the processor differs: A processor and Another"),
        (report({KEY: noise(10.0)}, identity(usable=4)), "usable CPUs differs: 2 and 4"),
        (report({KEY: noise(10.0)}, provider="cuda"), "the setting provider differs: cpu and cuda"),
    ):
        with pytest.raises(UsageError, match=said):
            compare_reports(here, other)
        assert len(compare_reports(here, other, force=True)) == 1
    changed = here.results[0].model_copy(update={"threads": 2, "input_shape": [1, 3, 32, 32]})
    with pytest.raises(UsageError, match=r"number of threads differs: 1 and 2.*input differs: 1x3x64x64 and 1x3x32x32"):
        compare_reports(here, here.model_copy(update={"results": [changed]}))


def test_a_runtime_beside_makes_no_other_device(report: Make, noise: Noise) -> None:
    def on(**versions: str) -> Report:
        return report({KEY: noise(10.0)}, identity().model_copy(update={"runtimes": versions}))

    before = on(onnxruntime="1.20.0")
    assert len(compare_reports(before, on(onnxruntime="1.20.0", openvino="2025.1.0"))) == 1
    with pytest.raises(UsageError, match=r"onnxruntime differs: 1\.20\.0 and 1\.21\.0"):
        compare_reports(before, on(onnxruntime="1.21.0"))


def test_csv_has_the_numbers_in_full(report: Make, noise: Noise) -> None:
    energy = Energy(inferences=9, main_rail="board", gross_mj={"board": 5.25}, net_mj={"board": 1.5})
    made = report({KEY: noise(10.0), "b/openvino": noise(5.0, 20)}, energy=energy)
    lines = list(csv.DictReader(io.StringIO(as_csv(made))))
    assert [line["key"] for line in lines] == [KEY, "b/openvino"]
    assert float(lines[0]["median_ms"]) == made.results[0].compute.median_ms
    assert float(lines[0]["p90_bound_ms"]) == made.results[0].compute.percentiles["p90"].bound_ms
    assert lines[1]["p90_ms"] == ""  # of twenty samples
    assert lines[1]["end_to_end_median_ms"] == ""
    assert (lines[0]["energy_rail"], lines[0]["energy_gross_mj"], lines[0]["energy_net_mj"]) == ("board", "5.25", "1.5")


def test_markdown_has_the_table_its_remarks_and_the_command(report: Make, noise: Noise) -> None:
    text = as_markdown(report({KEY: noise(10.0), "b/openvino": [*noise(5.0, 19), 9.0]}))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert "too few (20/64)" in table[3]
    assert "b/openvino: 1 of 20 samples are outliers" in text
    assert "energy is unavailable: no sensor of power was found" in text
    assert text.endswith("\n    bmtas bench model.onnx\n")
    assert text.startswith("latency, fp32, batch 1; A processor, 2 CPUs") or "threads 1" in text.splitlines()[0]


def test_throttling_that_cannot_be_told_is_told(report: Make, noise: Noise) -> None:
    assert any("cannot be told" in text for text in remarks(report({KEY: noise(10.0)})))
    said = remarks(report({KEY: noise(10.0)}, throttled=True))
    assert "not met: the device was throttled: gpu: heat" in said


def test_of_what_is_not_stable_no_verdict_is_given(report: Make, noise: Noise) -> None:
    calm, wild = "a/onnxruntime", "b/openvino"
    drifting = [5.0 * (1 + i / 100) for i in range(200)]
    made = report({calm: noise(10.0), wild: drifting})
    assert [r.compute.stable for r in made.results] == [True, False]
    ratio = RatioEntry(first=wild, second=calm, ratio=0.99, low=0.2, high=0.9, confidence=0.99, differs=True)
    (said,) = (text for text in remarks(made.model_copy(update={"ratios": [ratio]})) if " times as long as " in text)
    assert said.endswith("times as long as a/onnxruntime: no verdict: b/openvino is not stable")
    slower = report({calm: [2 * ms for ms in drifting], wild: drifting})
    first, second = compare_reports(made, slower)
    assert (first.verdict, second.verdict) == (
        "no verdict: the second is not stable",
        "no verdict: the first and the second are not stable",
    )
