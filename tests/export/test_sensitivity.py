"""Which part suffers in 8 bits is found, and no more parts than needed are kept above."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from bmtas.errors import UsageError
from bmtas.progress import Silent
from export.precision.quantise import Ranges, calibrate, quantise
from export.precision.sensitivity import Sensitivity, centred_relative_rms, mixed, sensitivities
from tests.export.branched import PARTS, branched, feeds, run


class Counted(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.steps = 0

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.totals.append(total)

    def advance(self, **values: float) -> None:
        self.steps += 1


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """One channel of what the branches take is fifty times as large as the others, and the depth branch does not use it."""
    rng = np.random.default_rng(5)
    shared, right = (rng.normal(0, 0.1, (8, 8, 3, 3)).astype(np.float32) for _ in range(2))
    shared[0] *= 50
    right[:, 0] = 0
    return branched(shared=shared, right=right)


@pytest.fixture(scope="module")
def ranges(model: onnx.ModelProto) -> Ranges:
    return calibrate(model, feeds(4))


def test_the_error_by_hand() -> None:
    reference = np.array([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # around their means: -1, 1 and -2, 2; mean square 2.5
    value = reference + np.array(
        [[[[10.0, 10.0]], [[7.0, 9.0]]]]
    )  # around their means: 0, 0 and -1, 1; mean square 0.5
    assert centred_relative_rms(reference, value) == pytest.approx(math.sqrt(0.5 / 2.5))
    assert centred_relative_rms(reference, reference) == 0
    assert centred_relative_rms(reference, 2 * reference) == pytest.approx(1)
    classes, other = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 6.0]])  # -1, 0, 1 and -1, -1, 2
    assert centred_relative_rms(classes, other) == pytest.approx(math.sqrt(6 / 2))
    constant = np.ones((1, 1, 2, 2))
    assert centred_relative_rms(constant, constant) == 0
    assert centred_relative_rms(constant, constant * np.arange(4.0).reshape(1, 1, 2, 2)) == math.inf
    assert centred_relative_rms(reference, np.full_like(reference, np.nan)) == math.inf


def test_each_part_alone_the_most_sensitive_first(model: onnx.ModelProto, ranges: Ranges) -> None:
    told = Counted()
    found = sensitivities(model, ranges, "tensorrt", iter(feeds(2)), progress=told)
    assert sorted(s.module for s in found) == sorted(PARTS)
    assert (told.totals, told.steps) == ([6], 6)
    totals = [s.total for s in found]
    assert totals == sorted(totals, reverse=True)
    by_part = {s.module: s for s in found}
    assert found[0].module == "layers.01.depth"
    for part, untouched in (("heads.semseg", "depth"), ("layers.01.semseg", "depth"), ("layers.01.depth", "semseg")):
        assert by_part[part].errors[untouched] == 0
        assert by_part[part].total == max(by_part[part].errors.values()) > 0
    assert all(error > 0 for error in by_part["stem.semseg+depth"].errors.values())


def test_an_error_is_the_mean_over_images_of_the_score_asked_for(model: onnx.ModelProto, ranges: Ranges) -> None:
    def worst(reference: np.ndarray, value: np.ndarray) -> float:
        return float(np.abs(reference - value).max())

    found = {s.module: s for s in sensitivities(model, ranges, "tensorrt", feeds(2), worst)}
    one = quantise(model, ranges, "tensorrt", only=["heads.depth"])
    expected = [worst(run(model, feed)["depth"], run(one, feed)["depth"]) for feed in feeds(2)]
    assert found["heads.depth"].errors == pytest.approx({"semseg": 0, "depth": sum(expected) / 2}, rel=1e-3)


def test_keeping_the_most_sensitive_part_helps_most(model: onnx.ModelProto, ranges: Ranges) -> None:
    exact = [run(model, feed) for feed in feeds(2)]

    def error(candidate: onnx.ModelProto) -> float:
        return max(
            centred_relative_rms(e["depth"], run(candidate, f)["depth"]) for e, f in zip(exact, feeds(2), strict=True)
        )

    order = sensitivities(model, ranges, "tensorrt", feeds(2))
    whole, without = (error(quantise(model, ranges, "tensorrt", keep)) for keep in ((), ("layers.01.depth",)))
    others = [error(quantise(model, ranges, "tensorrt", [part])) for part in PARTS if part != "layers.01.depth"]
    assert without < whole
    assert without < min(others)
    chosen = mixed(model, ranges, "tensorrt", order, lambda candidate: error(candidate) <= without)
    assert chosen.kept == ("layers.01.depth",)
    assert chosen.trail == ((0, False), (1, True))
    assert chosen.model is not None
    assert error(chosen.model) == without


def order_of(*parts: str) -> list[Sensitivity]:
    return [Sensitivity(part, {}, 1 / (i + 1)) for i, part in enumerate(parts)]


def in_fp32(candidate: onnx.ModelProto) -> int:
    """Convolutions whose weights are not in 8 bits."""
    held = {i.name for i in candidate.graph.initializer}
    return sum(node.op_type == "Conv" and node.input[1] in held for node in candidate.graph.node)


# Five of the six parts have one convolution, the head of semseg, kept last, has two.
@pytest.mark.parametrize(
    ("accept", "trail", "kept"),
    [
        (lambda count: True, [(0, True)], 0),
        (lambda count: count >= 1, [(0, False), (1, True)], 1),
        (lambda count: count >= 2, [(0, False), (1, False), (2, True)], 2),
        (lambda count: count >= 3, [(0, False), (1, False), (2, False), (4, True), (3, True)], 3),
        (lambda count: count >= 4, [(0, False), (1, False), (2, False), (4, True), (3, False)], 4),
        (lambda count: count >= 5, [(0, False), (1, False), (2, False), (4, False), (5, True)], 5),
        (lambda count: count >= 6, [(0, False), (1, False), (2, False), (4, False), (5, False)], None),
    ],
)
def test_the_fewest_parts_are_kept_by_doubling_and_halving(
    model: onnx.ModelProto,
    ranges: Ranges,
    accept: Callable[[int], bool],
    trail: list[tuple[int, bool]],
    kept: int | None,
) -> None:
    parts = (*PARTS[:4], "heads.depth", "heads.semseg")
    told = Counted()
    found = mixed(model, ranges, "cpu", order_of(*parts), lambda candidate: accept(in_fp32(candidate)), progress=told)
    assert list(found.trail) == trail
    assert told.steps == len(trail) <= told.totals[0]
    assert found.accepted == (kept is not None)
    assert found.kept == parts[: kept or 0]
    if found.model is None:
        assert kept is None
    else:
        assert in_fp32(found.model) == kept
    assert found.to_json() == {
        "accepted": found.accepted,
        "kept": list(found.kept),
        "parts": 6,
        "trail": [{"kept": count, "accepted": passed} for count, passed in trail],
    }


def test_what_is_kept_in_a_mixed_network_can_be_fp16(model: onnx.ModelProto, ranges: Ranges) -> None:
    found = mixed(model, ranges, "tensorrt", order_of(*PARTS), lambda c: in_fp32(c) >= 1, rest="fp16")
    assert found.kept == PARTS[:1]
    assert found.model is not None
    held = {i.name: i.data_type for i in found.model.graph.initializer}
    assert held["stem.weight.fp16"] == onnx.TensorProto.FLOAT16


def test_without_images_or_an_order_nothing_can_be_told(model: onnx.ModelProto, ranges: Ranges) -> None:
    with pytest.raises(UsageError, match="needs images"):
        sensitivities(model, ranges, "cpu", [])
    with pytest.raises(UsageError, match="no sensitivities"):
        mixed(model, ranges, "cpu", [], lambda candidate: True)
