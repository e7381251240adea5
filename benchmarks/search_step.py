"""One step of the search over all tasks: the published step against ours, in time and in memory.

    python benchmarks/search_step.py [--rounds 10] [--profile | --parts] [--device cuda --precision bf16]

The published step is written from the paper (section 3, appendix A) and from what is known of its code (`_search_sides.py`). In every
layer all T candidates are run, for every task and in the warm-up too, where their weights are one-hot; their outputs are
multiplied, stacked and summed; the weights are updated once per task in sequence; architecture steps compute the
gradients of the weights as well, which nobody uses; layouts are PyTorch's own. The resource term is left out on both
sides (`expected_cost.py`). Ours are the steps of a search with the forms that `choose_forms` finds here. The floor is T
forward and backward passes of a network with one candidate per layer, without an optimiser. Only steps that share
prefixes, or that need no gradients of weights, can go below it.

First both sides are checked to compute the same. Then all steps run in turn in one process; a ratio is the median over
the rounds of published / ours, with its 10 to 90 % range. Memory is the peak above what the process took before its
first step (parameters, images and the libraries), each step in a process of its own.

MobileNetV2, the five tasks of PASCAL-Context, random images, labels and weights.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from _search_sides import BACKBONE, OURS, PUBLISHED, TASKS, Bench
from torch import Tensor, nn

from bmtas.config import Optimiser
from bmtas.networks.forms import FUSED, device_name
from bmtas.networks.relu6 import LeanReLU6
from bmtas.networks.subgrids import use_subgrids
from bmtas.optim import weight_optimiser

Key = TypeVar("Key")
# What ours is compared with: the published search has no sampled steps, a sampled one stands for the soft one.
STEPS = {
    "warm-up": "warm-up",
    "soft weights": "soft weights",
    "soft architecture": "soft architecture",
    "sampled weights": "soft weights",
    "sampled architecture": "soft architecture",
}


def check_same(arguments: argparse.Namespace, forms: tuple[str, ...]) -> None:
    """Print how far the two sides are apart for the same weights and mix: losses and all gradients, in float64.

    In float32 the gradients of so deep a network differ by percents between any two orders of summation.
    """
    exact = Bench(argparse.Namespace(**{**vars(arguments), "precision": "fp32"}), torch.float64)
    exact.ours.forms = forms
    apart = dict.fromkeys(("losses", "gradients of weights", "gradients of the mix"), 0.0)
    for t in range(len(TASKS)):
        mix = torch.softmax(torch.randn(exact.own[t].shape, device=exact.device, dtype=torch.float64), dim=-1)
        found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for side, model in exact.models.items():
            learned = mix.clone().requires_grad_()
            loss = exact.loss(t, exact.forward(side, t, learned))
            loss.backward()
            weights = torch.cat([p.grad.flatten() for p in model.layers.parameters() if p.grad is not None])
            found[side] = (loss.detach(), weights, learned.grad)
            model.zero_grad(set_to_none=True)
        for name, a, b in zip(apart, found[PUBLISHED], found[OURS], strict=True):
            apart[name] = max(apart[name], float((a - b).norm() / a.norm()))
    print("same weights, same mix, float64: apart by " + ", ".join(f"{name} {v:.0e}" for name, v in apart.items()))


def in_turn(actions: dict[Key, Callable[[], object]], rounds: int) -> dict[Key, list[float]]:
    """Return the seconds of each action in each round; the first round of all warms up and is left out."""
    times: dict[Key, list[float]] = {key: [] for key in actions}
    for _ in range(rounds + 1):
        for key, action in actions.items():
            start = time.perf_counter()
            action()
            times[key].append(time.perf_counter() - start)
    return {key: taken[1:] for key, taken in times.items()}


def compare(bench: Bench, rounds: int) -> None:
    """Print times and ratios; all steps in turn."""
    sides = [(PUBLISHED, name) for name in dict.fromkeys(STEPS.values())] + [(OURS, name) for name in STEPS]
    actions: dict[tuple[str, str], Callable[[], object]] = {key: partial(bench.step, *key) for key in sides}
    times = in_turn(actions | {("floor", ""): bench.floor}, rounds)
    print(f"\n{'step':22}{'published ms':>14}{'ours ms':>10}{'ratio':>8}  {'10 to 90 %':>14}{'over the floor':>16}")
    for name, reference in STEPS.items():
        theirs, mine = times[PUBLISHED, reference], times[OURS, name]
        ratios = sorted(a / b for a, b in zip(theirs, mine, strict=True))
        low, middle, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.1, 0.5, 0.9))
        over = statistics.median(a / b for a, b in zip(mine, times["floor", ""], strict=True))
        print(
            f"{name:22}{statistics.median(theirs) * 1e3:14.0f}{statistics.median(mine) * 1e3:10.0f}{middle:8.2f}"
            f"  {f'{low:.2f} to {high:.2f}':>14}{over:16.2f}"
        )
    print(f"floor: {statistics.median(times['floor', '']) * 1e3:.0f} ms", flush=True)


def peak_mib(bench: Bench, side: str, name: str) -> float:
    """Return the peak memory in MiB of two steps, above what was taken before."""
    on_gpu = bench.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # what the preparation has freed must not hide what a step takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; a process would inherit its parent's
    peak = (lambda: torch.cuda.max_memory_allocated() / 2**20) if on_gpu else high_water_mib
    before = peak()
    for _ in range(2):
        bench.step(side, name)
    return peak() - before


def high_water_mib() -> float:
    """Return the peak resident memory of this process (Linux)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10


def compare_memory(arguments: list[str]) -> None:
    """Print the peak of each step, each in a process of its own."""
    print(f"\n{'peak memory, MiB':22}{'published':>14}{'ours':>10}{'checkpointed':>14}")
    for name, other in STEPS.items():
        found = []
        for side, step, extra in ((PUBLISHED, other, []), (OURS, name, []), (OURS, name, ["--checkpointing"])):
            command = [sys.executable, __file__, *arguments, "--alone", side, step, *extra]
            found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"{name:22}{found[0]:14.0f}{found[1]:10.0f}{found[2]:14.0f}", flush=True)


def parts(bench: Bench, rounds: int) -> None:
    """Print what single parts of our step save on a CPU: each against PyTorch's own, in turn, medians."""
    channels, size = 960, bench.images.shape[-1] // 16
    dilated = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels)).to(bench.device)
    on_subgrids = nn.Sequential(dilated[0])
    use_subgrids(on_subgrids)
    deep = torch.randn(len(bench.images), channels, size, size, device=bench.device)
    wide = torch.randn(len(bench.images), 144, 4 * size, 4 * size, device=bench.device)

    def both_ways(module: nn.Module, x: Tensor) -> Callable[[], None]:
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        return lambda: module(x * 1).sum().backward()

    weights = list(bench.ours.parameters())
    for parameter in weights:
        parameter.grad = torch.randn_like(parameter)
    groups = [list(same) for layer in bench.ours.layers for same in zip(*(c.parameters() for c in layer), strict=True)]
    comparisons: dict[str, dict[str, Callable[[], object]]] = {
        f"dilated depthwise, {channels} channels, {size}x{size}": {
            "dilated": both_ways(dilated, deep),
            "subgrids": both_ways(on_subgrids, deep),
        },
        f"ReLU6, 144 channels, {4 * size}x{4 * size}": {
            "in place": both_ways(nn.ReLU6(inplace=True), wide),
            "lean": both_ways(LeanReLU6(), wide),
        },
        "joining all candidates' parameters": {"cat": lambda: [torch.cat(same) for same in groups]},
    }
    for kind, plain in ((Optimiser.SGD, torch.optim.SGD), (Optimiser.ADAMW, torch.optim.AdamW)):
        extra = {"momentum": 0.9} if kind is Optimiser.SGD else {}
        comparisons[kind.value] = {
            "loop": plain(weights, lr=1e-9, foreach=False, **extra).step,
            "foreach": plain(weights, lr=1e-9, foreach=True, **extra).step,
            "fused": weight_optimiser(kind, weights, 1e-9).step,
        }
    for name, sides in comparisons.items():
        shown = [f"{side} {statistics.median(taken) * 1e3:.2f}" for side, taken in in_turn(sides, rounds).items()]
        print(f"{name}, ms: {', '.join(shown)}", flush=True)


def profile(bench: Bench, side: str, name: str) -> None:
    """Print the operators that take most of one step's time."""
    bench.step(side, name)
    with torch.profiler.profile() as found:
        bench.step(side, name)
    key = "self_device_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    table = found.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=40)
    print(f"\n{side}, {name}\n{table}", flush=True)


def main() -> None:
    """Run all parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--optimiser", choices=["sgd", "adam"], default="sgd", help="paper: sgd; published code: adam")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, on both sides")
    parser.add_argument("--forms", choices=["measured", "sequential", "fused"], default="measured")
    parser.add_argument("--checkpointing", action="store_true", help="ours keeps only the inputs of layers")
    for name, shown in (("--profile", "where the time goes"), ("--parts", "what single parts save")):
        parser.add_argument(name, action="store_true", help=f"print {shown} instead")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    bench = Bench(arguments)
    if arguments.forms == "measured":
        with bench.autocast():
            bench.ours.choose_forms(bench.inputs[OURS])
    else:
        bench.ours.forms = (arguments.forms,) * BACKBONE.layers
    if arguments.alone:
        print(json.dumps(peak_mib(bench, *arguments.alone)))
        return
    print(
        f"{BACKBONE.name}, T={len(TASKS)}, batch {arguments.batch}, {arguments.size}x{arguments.size}, {arguments.precision}, "
        f"{arguments.optimiser}, {device_name(bench.device)}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    fused = [i for i, form in enumerate(bench.ours.forms) if form == FUSED]
    print(f"layers whose candidates run together: {fused or 'none'}")
    if arguments.parts:
        parts(bench, arguments.rounds)
        return
    if arguments.profile:
        for side, name in [(PUBLISHED, "soft weights"), *((OURS, name) for name in STEPS)]:
            profile(bench, side, name)
        return
    check_same(arguments, bench.ours.forms)
    compare(bench, arguments.rounds)
    compare_memory([a for a in sys.argv[1:] if a != "--checkpointing"])


if __name__ == "__main__":
    main()
