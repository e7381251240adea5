"""Does merging branches win on ONNX Runtime CPU? Each site and each whole network, separate and merged in turn.

    python benchmarks/branch_merging.py [--backbones mobilenet_v2 resnet50] [--tasks 3 5] [--size 128] [--rounds 20] [--threads 1]

A tree parts in two after a third of the layers and into single tasks after two thirds; its weights are random, its latency is not.
Printed is the latency of the separate over that of the merged operations, median and quartiles: above 1, merging wins. A site
counts as won if its lower quartile is above 1. The last lines of a tree are the whole network with what `choose` took, and with
every layer merged whether it wins or not.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial

import numpy as np

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.networks.backbone import get_backbone
from bmtas.profile import generic_tasks
from export.latency.untrained import untrained_model
from export.machine.identity import identify
from export.merging.choose import choose, in_turn, require_equal
from export.merging.merge import merge
from export.merging.sites import sites
from export.sessions.onnx import OnnxSession, runtime_version
from export.stopwatch import ratio, timed


def tree(backbone: str, names: Sequence[str]) -> Architecture:
    """Return the tree that parts after one third and two thirds of the layers."""
    layers, half = get_backbone(backbone).layers, (len(names) + 1) // 2
    parted = [(tuple(names),), (tuple(names[:half]), tuple(names[half:])), tuple((name,) for name in names)]
    groupings = tuple(parted[min(3 * layer // layers, 2)] for layer in range(layers))
    return BranchedArchitecture(backbone=backbone, tasks=tuple(names), groupings=groupings)


def exported(backbone: str, count: int, size: int) -> bytes:
    """Return the ONNX content of a random network on such a tree."""
    tasks = generic_tasks(count)
    architecture = tree(backbone, [task.name for task in tasks])
    model = untrained_model(architecture, tasks, (size, size))
    content: bytes = model.SerializeToString()
    return content


def shown(found: Mapping[str, float]) -> str:
    """Return a ratio with its quartiles."""
    return f"{found['median']:5.2f}  ({found['q1']:.2f} to {found['q3']:.2f})"


def compare(backbone: str, count: int, size: int, rounds: int, threads: int) -> None:
    """Measure one tree and print it."""
    import onnx

    model = onnx.load_from_string(exported(backbone, count, size))
    feeds = [
        {"image": np.random.default_rng(i).uniform(-1, 1, (1, 3, size, size)).astype(np.float32)} for i in range(2)
    ]

    def session(content: bytes) -> OnnxSession:
        return OnnxSession(content, "cpu", threads)

    measure = in_turn(rounds, warmup=3)
    result = choose(model, feeds, measure, sessions=session)
    print(f"\n{backbone}, {count} tasks, {size}x{size}: separate over merged")
    for verdict in result.verdicts:
        taken = "  taken" if verdict.chosen else ""
        print(f"  {verdict.site.name:62} {shown(verdict.ratio)}  {verdict.saved_ms:+8.3f} ms{taken}")
    if result.whole is not None:
        print(f"  {'whole network, what won':62} {shown(result.whole)}  {'kept' if result.merged else 'given back'}")
    every = [s for s in sites(model) if s.kind == "grouped" and "-" not in s.layer]
    joint = merge(model, every)
    sides = {"separate": session(model.SerializeToString()), "merged": session(joint.SerializeToString())}
    difference = require_equal(sides["separate"], sides["merged"], feeds)
    latencies = measure({name: timed(partial(side.run, feeds[0])) for name, side in sides.items()})
    found = ratio(latencies["separate"], latencies["merged"])
    print(f"  {'whole network, every layer merged':62} {shown(found)}")
    print(f"  largest relative difference of the outputs {difference:.1e}")


def main() -> None:
    """Print all trees asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--tasks", nargs="+", type=int, default=[3, 5])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"{date.today()}, {identify().title}, load {os.getloadavg()[0]:.1f}; ONNX Runtime {runtime_version()}, "
        f"{arguments.threads} threads, {arguments.rounds} rounds"
    )
    for backbone in arguments.backbones:
        for count in arguments.tasks:
            compare(backbone, count, arguments.size, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
