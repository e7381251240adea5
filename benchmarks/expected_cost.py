"""The exact expected cost against the estimator as published: time with its gradient, and what the other one charges.

    python benchmarks/expected_cost.py [--quick]

The published estimator is written here from the paper's Eq. 6: P(kappa_l = k) is the probability that layer l's own draw
is the partition k, times that of all groupings before that are k or coarser; whatever is left over is charged T groups.
P(draw = k) is summed over the T^T draws of the candidates, listed once. It is there twice: here with loops over layers and
partitions, as the formula stands and as it was published, and `vectorised` over partitions as well, the best that we
could make of it (`costs.published`). All sides run forward and backward in float64, in turn, in one process with one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from costs.expected import expected_groups
from costs.lattice import lattice_of
from costs.parts import LayerCost
from costs.published import published_layer_costs
from costs.table import CostTable
from costs.units import Resource

LAYERS = 18


class Loops:
    """The published estimator with loops over layers and partitions, for T tasks and candidates; tables prepared once."""

    def __init__(self, tasks: int) -> None:
        lattice = lattice_of(tasks)
        draws = torch.tensor(list(itertools.product(range(tasks), repeat=tasks)))
        # Which partition each draw is: both as patterns of who is with whom, written as numbers.
        weights = 2 ** torch.arange(tasks * tasks, dtype=torch.int64)
        wanted = torch.from_numpy(lattice.labels.astype("int64"))
        pattern = (wanted[:, :, None] == wanted[:, None, :]).reshape(len(lattice), -1)
        number = {int(code): k for k, code in enumerate(pattern.long() @ weights)}
        codes = (draws[:, :, None] == draws[:, None, :]).reshape(len(draws), -1).long() @ weights
        partition = torch.tensor([number[int(code)] for code in codes])
        every = torch.arange(len(lattice)).numpy()
        coarser = torch.from_numpy(lattice.refines(every[:, None], every[None]))
        self.groups = torch.from_numpy(lattice.counts.astype(float))
        self.draws_of = [draws[partition == k] for k in range(len(lattice))]
        self.ancestors_of = [row.nonzero().ravel() for row in coarser]

    def __call__(self, probs: torch.Tensor) -> torch.Tensor:
        """Return the groups charged in each layer, (L,), for `probs` (L, T, T)."""
        layers, tasks, _ = probs.shape
        places = torch.arange(tasks)
        before = torch.zeros(len(self.groups), dtype=probs.dtype)
        before[0] = 1.0  # all tasks come to the first layer together
        charged = []
        for layer in range(layers):
            terms = [
                probs[layer, places, draws].prod(dim=1).sum() * before[ancestors].sum()
                for draws, ancestors in zip(self.draws_of, self.ancestors_of, strict=True)
            ]
            before = torch.stack(terms)
            charged.append((before * self.groups).sum() + (1 - before.sum()) * tasks)
        return torch.stack(charged)


def one_per_group(tasks: int) -> CostTable:
    """Return a table in which every group of every layer costs 1."""
    layers = [LayerCost(name=str(i), per_group={Resource.MADDS: 1.0}) for i in range(LAYERS)]
    names = [f"t{t}" for t in range(tasks)]
    return CostTable(backbone="any", tasks=names, input_size=(1, 1), batch=1, layers=layers, fixed=[], provenance={})


def agreeing(tasks: int, agreement: float) -> torch.Tensor:
    """Return probabilities in which every task puts `agreement` on the first candidate and the rest evenly."""
    probs = torch.full((LAYERS, tasks, tasks), (1 - agreement) / (tasks - 1), dtype=torch.float64)
    probs[:, :, 0] = agreement
    return probs


def step(estimate: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> float:
    """Return the seconds of one estimate with its gradient."""
    logits.grad = None
    start = time.perf_counter()
    estimate(logits.softmax(-1)).sum().backward()
    return time.perf_counter() - start


def compare(tasks: int, rounds: int) -> None:
    """Print the ratios of times at one number of tasks: in each round the others once, ours as a median of ten."""
    logits = torch.randn(LAYERS, tasks, tasks, dtype=torch.float64, requires_grad=True)
    table = one_per_group(tasks)
    sides = {"loops": Loops(tasks), "vectorised": lambda probs: published_layer_costs(probs, table, Resource.MADDS)}
    torch.testing.assert_close(sides["loops"](logits.softmax(-1)), sides["vectorised"](logits.softmax(-1)))
    times: dict[str, list[float]] = {name: [] for name in (*sides, "ours")}
    for turn in range(rounds + 1):
        found = {name: step(side, logits) for name, side in sides.items()}
        found["ours"] = statistics.median(step(expected_groups, logits) for _ in range(10))
        for name, seconds in found.items():
            times[name] += [seconds] if turn else []  # the first turn warms up
    shown = []
    for name in sides:
        ratios = sorted(a / b for a, b in zip(times[name], times["ours"], strict=True))
        low, middle, high = (ratios[round(q * (rounds - 1))] for q in (0.1, 0.5, 0.9))
        shown.append(
            f"{name} {statistics.median(times[name]) * 1e3:.2f} ms, ratio {middle:.0f} (10 % to 90 %: {low:.0f} to {high:.0f})"
        )
    print(
        f"T={tasks}: ours {statistics.median(times['ours']) * 1e3:.3f} ms;  published, {';  '.join(shown)}", flush=True
    )


def alone(tasks: int) -> dict[str, float]:
    """Return seconds (best of three) and peak memory of this process for ours, forward and backward."""
    logits = torch.randn(LAYERS, tasks, tasks, dtype=torch.float64, requires_grad=True)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = min(step(expected_groups, logits) for _ in range(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_gib": peak / 2**20, "above_start_gib": (peak - base) / 2**20}


def main() -> None:
    """Run all parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, up to 5 and 16 tasks")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.alone:
        print(json.dumps(alone(arguments.alone)))
        return
    torch.set_num_threads(1)  # such small steps gain nothing from more, and lose much on a busy machine
    print(f"forward and backward, float64, {LAYERS} layers")
    for tasks in (3, 4, 5) if arguments.quick else (3, 4, 5, 6):
        compare(tasks, rounds=5 if arguments.quick or tasks == 6 else 20)
    print("groups charged over all layers, five tasks, every task with this probability on the same candidate:")
    table = one_per_group(5)
    for agreement in (0.5, 0.8, 0.9, 0.95, 0.98, 0.999):
        probs = agreeing(5, agreement)
        charged = published_layer_costs(probs, table, Resource.MADDS).sum().item()
        true = expected_groups(probs).sum().item()
        print(f"  {agreement:5.3f}: published {charged:6.2f}   exact {true:6.2f}   x{charged / true:.3f}")
    print("ours alone, each in a process of its own, all threads:")
    for tasks in (8, 12, 16) if arguments.quick else (8, 12, 16, 18, 20):
        command = [sys.executable, __file__, "--alone", str(tasks)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"  T={tasks:2d}: {found['seconds'] * 1e3:9.2f} ms, peak {found['peak_gib']:.2f} GiB "
            f"({found['above_start_gib']:.2f} above the imports)",
            flush=True,
        )


if __name__ == "__main__":
    main()
