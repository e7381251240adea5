"""Merges branches where measuring on this machine shows that it wins, and nowhere else."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bmtas.errors import BuildError, UsageError
from bmtas.progress import Progress, Silent
from export import stopwatch
from export.merging.merge import merge
from export.merging.sites import Site, ancestors, sites
from export.sessions.onnx import OnnxSession
from export.sessions.protocol import Array, Session
from export.stages.part import Part, part
from export.stages.values import specs, used
from export.stopwatch import Timed, ratio, timed

if TYPE_CHECKING:
    from onnx import ModelProto

Feeds = Mapping[str, Array]
Measure = Callable[[Mapping[str, Timed]], Mapping[str, Sequence[float]]]
"""Measures candidates in turn: latencies in ms, as many for each."""

TOLERANCE = 1e-5
"""Largest difference of a merged FP32 network from the original, relative to the output's largest value (absolute below 1)."""


@dataclass(frozen=True)
class Verdict:
    """What measuring a site on its own said: latency of the separate over that of the merged operations, with quartiles."""

    site: Site
    ratio: Mapping[str, float]
    saved_ms: float
    chosen: bool


@dataclass(frozen=True)
class MergeResult:
    """The network to use, and why.

    `model` is the merged one only if the lower quartile of `whole`, the latency of the original over that of the merged network, is
    above 1; otherwise it is the original. `whole` is None where no site won on its own.
    """

    model: ModelProto
    merged: bool
    verdicts: tuple[Verdict, ...]
    whole: Mapping[str, float] | None

    @property
    def chosen(self) -> tuple[Site, ...]:
        """The sites that won on their own and do not overlap."""
        return tuple(v.site for v in self.verdicts if v.chosen)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        measured = [
            {
                "layer": v.site.layer,
                "branches": list(v.site.branches),
                "kind": v.site.kind,
                "separate_over_merged": dict(v.ratio),
                "saved_ms": v.saved_ms,
                "chosen": v.chosen,
            }
            for v in self.verdicts
        ]
        return {
            "merged": self.merged,
            "separate_over_merged": dict(self.whole) if self.whole else None,
            "sites": measured,
        }


def in_turn(samples: int, warmup: int) -> Measure:
    """Return the house's stopwatch with so many samples of each candidate after `warmup` rounds. Raises UsageError below 2 samples."""
    if samples < 2 or warmup < 0:
        raise UsageError(
            f"found {samples} samples and {warmup} warm-up rounds; quartiles need at least 2 samples, and 0 rounds"
        )
    return lambda candidates: stopwatch.measure(candidates, samples=samples, warmup=warmup)


def choose(
    model: ModelProto,
    feeds: Sequence[Feeds],
    measure: Measure,
    progress: Progress | None = None,
    *,
    sessions: Callable[[bytes], Session] = OnnxSession,
    tolerance: float = TOLERANCE,
) -> MergeResult:
    """Return `model` with branches merged where that is faster, and what was measured.

    Each site is measured on its own sub-model, separate and merged in turn; those whose ratio has a lower quartile above 1 win, and of
    winners that overlap the one that saves most is taken. Then the whole merged network is compared with the original on
    `feeds`, its outputs within `tolerance`, and measured in turn with it. Raises UsageError without feeds, BuildError if outputs differ.
    """
    if not feeds:
        raise UsageError("merging branches is checked and measured on images; give at least one")
    progress = progress or Silent()
    found = sites(model)
    progress.start("branch merging", total=len(found) + 1)
    measured = [_on_its_own(model, site, measure, sessions, progress) for site in found]
    verdicts = _without_overlap(measured)
    chosen = [v.site for v in verdicts if v.chosen]
    if not chosen:
        progress.advance()
        return MergeResult(model, False, verdicts, None)
    merged = merge(model, chosen)
    separate, joint = (sessions(m.SerializeToString()) for m in (model, merged))
    require_equal(separate, joint, feeds, tolerance)
    whole = _ratio(measure(_candidates(separate, joint, feeds[0])))
    progress.advance(ratio=whole["median"])
    won = whole["q1"] > 1
    return MergeResult(merged if won else model, won, verdicts, whole)


def require_equal(separate: Session, joint: Session, feeds: Sequence[Feeds], tolerance: float = TOLERANCE) -> float:
    """Return the largest difference of two sessions' outputs, relative to the output's largest value (absolute below 1).

    Raises BuildError if it is above `tolerance` or a number is NaN.
    """
    worst = 0.0
    for values in feeds:
        expected, found = separate.run(values), joint.run(values)
        for name, reference in expected.items():
            bound = tolerance * max(1.0, float(np.abs(reference).max()))
            difference = float(np.abs(found[name].astype(np.float64) - reference).max())
            if not difference <= bound:
                raise BuildError(
                    f"with merged branches, output {name!r} differs from the original by {difference:.3g}; {bound:.3g} is allowed. "
                    "The original network is unchanged; leave its branches apart"
                )
            worst = max(worst, difference / bound * tolerance)
    return worst


def site_part(model: ModelProto, site: Site) -> Part:
    """Return the sub-model on which a site is measured: its nodes, and those that lie between them."""
    graph = model.graph
    behind = ancestors(graph)
    own = sum(1 << i for i, node in enumerate(graph.node) if node.name in site.nodes)
    needed = 0
    for name in site.nodes:
        needed |= behind[name]
    indices = [i for i, node in enumerate(graph.node) if needed >> i & 1 and behind[node.name] & own]
    inside = set(indices)
    elsewhere = set(used(node for i, node in enumerate(graph.node) if i not in inside))
    elsewhere |= {output.name for output in graph.output}
    outputs = [v for i in indices for v in graph.node[i].output if v in elsewhere]
    return part(model, indices, outputs, specs(model), site.layer)


def _on_its_own(
    model: ModelProto, site: Site, measure: Measure, sessions: Callable[[bytes], Session], progress: Progress
) -> Verdict:
    own = site_part(model, site)
    feeds = {value.name: value.noise(seed) for seed, value in enumerate(own.inputs)}
    separate, joint = (sessions(m.SerializeToString()) for m in (own.model, merge(own.model, [site])))
    latencies = measure(_candidates(separate, joint, feeds))
    found = _ratio(latencies)
    progress.advance(ratio=found["median"])
    saved = statistics.median(latencies["separate"]) - statistics.median(latencies["merged"])
    return Verdict(site, found, saved, found["q1"] > 1)


def _without_overlap(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Return the verdicts, of winners that overlap only the one that saves most chosen."""
    taken: set[str] = set()
    chosen: set[Site] = set()
    for verdict in sorted(verdicts, key=lambda v: -v.saved_ms):
        if verdict.chosen and taken.isdisjoint(verdict.site.nodes):
            taken |= verdict.site.nodes
            chosen.add(verdict.site)
    return tuple(Verdict(v.site, v.ratio, v.saved_ms, v.site in chosen) for v in verdicts)


def _candidates(separate: Session, joint: Session, feeds: Feeds) -> dict[str, Timed]:
    return {"separate": timed(partial(separate.run, feeds)), "merged": timed(partial(joint.run, feeds))}


def _ratio(latencies: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return ratio(latencies["separate"], latencies["merged"])
