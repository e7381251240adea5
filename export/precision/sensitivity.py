"""Which parts of a network suffer most from 8 bits, and how many of them must stay above. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bmtas.errors import UsageError
from bmtas.progress import Progress, Silent
from export.precision.graph import each, session
from export.precision.quantise import Ranges, quantise, weighted_parts
from export.sessions.protocol import Array

if TYPE_CHECKING:
    from onnx import ModelProto

Score = Callable[[Array, Array], float]
"""How far one output of one image, given second, is from the FP32 one, given first; 0 where they are equal."""


@dataclass(frozen=True)
class Sensitivity:
    """What 8 bits in one part of the network alone do to the outputs: the error per task, and the largest of them."""

    module: str
    errors: Mapping[str, float]
    total: float


@dataclass(frozen=True)
class Mixed:
    """The network with the fewest sensitive parts above 8 bits that is accepted; `model` is None where none is.

    `trail` holds, in the order of the trials, how many parts were kept and whether that was accepted.
    """

    model: ModelProto | None
    kept: tuple[str, ...]
    trail: tuple[tuple[int, bool], ...]
    parts: int

    @property
    def accepted(self) -> bool:
        """Whether a network was found."""
        return self.model is not None

    def to_json(self) -> dict[str, Any]:
        """Return all but the model as plain JSON values."""
        trail = [{"kept": count, "accepted": passed} for count, passed in self.trail]
        return {"accepted": self.accepted, "kept": list(self.kept), "parts": self.parts, "trail": trail}


def centred_relative_rms(reference: Array, value: Array) -> float:
    """Return rms(d - mean d) / rms(r - mean r) of d = value - reference and r = reference, both (N, channels, ...).

    Means are taken per image and channel, or over the channels of (N, channels): an offset that all pixels of a channel share
    would hide what happens between them. Infinite where a reference that is constant meets a difference, or a value is NaN.
    """
    axes = tuple(range(2, reference.ndim)) or (reference.ndim - 1,)
    exact = reference.astype(np.float64)
    difference = value.astype(np.float64) - exact
    off, size = (np.sqrt(np.mean((x - x.mean(axes, keepdims=True)) ** 2)) for x in (difference, exact))
    if not np.isfinite(off):
        return float("inf")
    return float(off / size) if size else (float("inf") if off else 0.0)


def sensitivities(
    model: ModelProto,
    ranges: Ranges,
    style: str,
    feeds: Iterable[Mapping[str, Array]],
    score: Score = centred_relative_rms,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """Return how the outputs suffer when one part alone is in 8 bits, for each part, the most sensitive first.

    A part is the stem, a layer of one group of tasks or a head (`graph.part_of`), with all its convolutions: as many parts as
    decisions of the architecture, where single convolutions would be three to five times as many. An error is the mean of
    `score` over `feeds`, all of which are held with their FP32 outputs: a handful is enough. Raises UsageError without feeds, and
    as `quantise` does.
    """
    told = progress or Silent()
    reference = session(model)
    held = [(feed, reference.run(feed)) for feed in each(feeds, "measuring the sensitivity to 8 bits")]
    parts = weighted_parts(model)
    told.start("sensitivity to 8 bits", len(parts))
    found = []
    for part, nodes in parts.items():
        runner = session(quantise(model, ranges, style, only=nodes))
        sums = dict.fromkeys(reference.outputs, 0.0)
        for feed, exact in held:
            for task, value in runner.run(feed).items():
                sums[task] += score(exact[task], value) / len(held)
        found.append(Sensitivity(part, sums, max(sums.values())))
        told.advance(error=found[-1].total)
    return sorted(found, key=lambda s: -s.total)


def mixed(
    model: ModelProto,
    ranges: Ranges,
    style: str,
    order: Sequence[Sensitivity],
    accept: Callable[[ModelProto], bool],
    *,
    rest: str = "fp32",
    keep_fp32: Iterable[str] = (),
    progress: Progress | None = None,
) -> Mixed:
    """Return the network that keeps the fewest of the most sensitive parts above 8 bits and that `accept` takes.

    None is kept at first, then 1, 2, 4, ... of `order`, then the gap between the last refused and the first accepted number is
    halved: some 2 log2 n trials, each a quantisation and a call of `accept`. At least one part stays in 8 bits. That more
    kept parts are no worse is taken for granted; whatever is returned was itself accepted. What is kept is in `rest`, and
    `keep_fp32` in FP32. Raises UsageError if `order` is empty, and as `quantise` does.
    """
    if not order:
        raise UsageError("no sensitivities are given to choose the layers in 8 bits by")
    told, names, fp32 = progress or Silent(), [entry.module for entry in order], tuple(keep_fp32)
    trials = _Trials(
        lambda count: quantise(model, ranges, style, names[:count], rest=rest, keep_fp32=fp32), accept, told
    )
    told.start("layers above 8 bits", 2 * len(names).bit_length() + 1)
    most = len(names) - 1
    refused, count = -1, 0
    while not trials(count):
        if count == most:
            return Mixed(None, (), tuple(trials.trail), len(names))
        refused, count = count, min(max(1, 2 * count), most)
    while count - refused > 1:
        middle = (refused + count) // 2
        if trials(middle):
            count = middle
        else:
            refused = middle
    return Mixed(trials.best, tuple(names[:count]), tuple(trials.trail), len(names))


@dataclass
class _Trials:
    """Builds and tries networks, and remembers the last one that was accepted."""

    build: Callable[[int], ModelProto]
    accept: Callable[[ModelProto], bool]
    told: Progress
    trail: list[tuple[int, bool]] = field(default_factory=list)
    best: ModelProto | None = None

    def __call__(self, count: int) -> bool:
        built = self.build(count)
        passed = self.accept(built)
        self.trail.append((count, passed))
        self.told.advance(kept=float(count), accepted=float(passed))
        if passed:
            self.best = built
        return passed
