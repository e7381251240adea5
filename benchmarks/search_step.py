"""One step of the search over all tasks: the published step against ours, in time and in memory.

    python benchmarks/search_step.py [--rounds 10] [--profile | --parts] [--device cuda --precision bf16]

The published step is written here from the paper (section 3, appendix A) and from what is known of its code. In every
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
import contextlib
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.config import Optimiser
from bmtas.losses import task_loss
from bmtas.networks.backbone import channels_last, fresh_copy, get_backbone
from bmtas.networks.forms import FUSED, device_name
from bmtas.networks.heads import build_head
from bmtas.networks.relu6 import LeanReLU6
from bmtas.networks.subgrids import use_subgrids
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.optim import weight_optimiser
from bmtas.relaxation import gumbel_softmax
from bmtas.tasks import TASK_SETS, TaskKind

TASKS = TASK_SETS["pascal-context"]
BACKBONE = get_backbone("mobilenet_v2")
RATE, TEMPERATURE = 0.005, 2.5  # paper: the rate at the start, the temperature halfway
PUBLISHED, OURS = "published", "ours"
Key = TypeVar("Key")
# What ours is compared with: the published search has no sampled steps, a sampled one stands for the soft one.
STEPS = {
    "warm-up": "warm-up",
    "soft weights": "soft weights",
    "soft architecture": "soft architecture",
    "sampled weights": "soft weights",
    "sampled architecture": "soft architecture",
}


class PublishedSupergraph(nn.Module):
    """The supergraph of the paper, section 3.1, in the plainest form. Its state dict has the names of ours."""

    def __init__(self) -> None:
        super().__init__()
        operations = BACKBONE.operations()
        self.stem = operations.pop("stem")
        self.layers = nn.ModuleList(
            nn.ModuleList(fresh_copy(layer, pretrained=False) for _ in TASKS) for layer in operations.values()
        )
        for candidates in self.layers:
            for candidate in candidates:
                parent, _, child = BACKBONE.last_norm(candidate).rpartition(".")
                place = candidate.get_submodule(parent)
                setattr(place, child, nn.BatchNorm2d(getattr(place, child).num_features, affine=False))
        self.heads = nn.ModuleDict({task.name: build_head(task, BACKBONE) for task in TASKS})

    def forward(self, image: Tensor, task: int, mix: Tensor) -> Tensor:
        """Map (N, 3, H, W) to one task's prediction (N, channels, H, W); `mix` is (L, C)."""
        x = tap = self.stem(image)
        for index, candidates in enumerate(self.layers):
            x = torch.stack([w * candidate(x) for w, candidate in zip(mix[index], candidates, strict=True)]).sum(dim=0)
            tap = x if index == BACKBONE.tap else tap
        prediction = self.heads[TASKS[task].name](x, tap)
        return F.interpolate(prediction, size=image.shape[-2:], mode="bilinear", align_corners=False)

    @contextlib.contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Normalise by the batch within this block; weights go on having gradients."""
        norms = [m for m in self.layers.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats = False
        yield
        for norm in norms:
            norm.track_running_stats = True


class Bench:
    """Both sides with the same weights, one batch, and the steps by name."""

    def __init__(self, arguments: argparse.Namespace, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.device = torch.device(arguments.device)
        self.precision = arguments.precision
        self.published = PublishedSupergraph().to(self.device, dtype)
        self.ours = Supergraph(BACKBONE, TASKS, None)
        self.ours.load_state_dict(self.published.state_dict())
        channels_last(self.ours.to(self.device, dtype))
        batch, size = arguments.batch, arguments.size
        self.images = torch.randn(batch, 3, size, size).to(self.device, dtype)
        self.labels = {task.name: random_label(task.kind, task.channels, batch, size).to(self.device) for task in TASKS}
        count = len(TASKS)
        self.own = [own_candidates(BACKBONE.layers, count, t).to(self.device) for t in range(count)]
        self.logits = torch.zeros(self.ours.shape, device=self.device, requires_grad=True)
        self.arch = torch.optim.Adam([self.logits], lr=0.01, weight_decay=5e-5)
        adam, theirs, mine = arguments.optimiser == "adam", self.published.parameters(), self.ours.parameters()
        self.optimisers = {
            PUBLISHED: torch.optim.Adam(theirs, lr=1e-3, weight_decay=1e-4)
            if adam
            else torch.optim.SGD(theirs, lr=RATE, momentum=0.9, weight_decay=1e-4),
            OURS: weight_optimiser(*((Optimiser.ADAMW, mine, 1e-3) if adam else (Optimiser.SGD, mine, RATE))),
        }
        self.models: dict[str, PublishedSupergraph | Supergraph] = {PUBLISHED: self.published, OURS: self.ours}
        self.ours.checkpointing = arguments.checkpointing
        self.inputs = {PUBLISHED: self.images, OURS: self.images.to(memory_format=torch.channels_last)}

    def step(self, side: str, name: str) -> None:
        """Take one step over all tasks."""
        {
            "warm-up": lambda: self._weights(side, warm_up=True),
            "soft weights": lambda: self._weights(side, warm_up=False),
            "soft architecture": lambda: self._architecture(side),
            "sampled weights": self._sampled_weights,
            "sampled architecture": self._sampled_architecture,
        }[name]()
        self.wait()

    def floor(self) -> None:
        """Pass forward and backward through one candidate per layer, once for every task."""
        for t in range(len(TASKS)):
            self.loss(t, self.forward(OURS, t, self.own[t])).backward()
        self.ours.zero_grad(set_to_none=True)
        self.wait()

    def forward(self, side: str, task: int, mix: Tensor) -> Tensor:
        """Return the prediction of one task."""
        with self.autocast():
            prediction: Tensor = self.models[side](self.inputs[side], task, mix)
        return prediction

    def autocast(self) -> torch.autocast:
        """Return the context of the chosen precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def loss(self, task: int, prediction: Tensor) -> Tensor:
        """Return the weighted loss of one task."""
        precise = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        return TASKS[task].loss_weight * task_loss(TASKS[task], precise, self.labels[TASKS[task].name])

    def soft(self, task: int) -> Tensor:
        """Return a soft sample (L, C) of one task's candidates, through which gradients flow."""
        return gumbel_softmax(self.logits[:, task], TEMPERATURE)

    def wait(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize() if self.device.type == "cuda" else None

    def _weights(self, side: str, *, warm_up: bool) -> None:
        optimiser = self.optimisers[side]
        for t in range(len(TASKS)):
            mix = self.own[t] if warm_up else self.soft(t)
            # The published weight step draws its mix from parameters that ask for gradients, and gets them.
            loss = self.loss(t, self.forward(side, t, mix if side == PUBLISHED else mix.detach()))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            loss.item()

    def _architecture(self, side: str) -> None:
        self.arch.zero_grad(set_to_none=True)
        with self.models[side].batch_statistics():
            for t in range(len(TASKS)):
                loss = self.loss(t, self.forward(side, t, self.soft(t)))
                loss.backward()
                loss.item()
        self.arch.step()

    def _sampled_weights(self) -> None:
        optimiser = self.optimisers[OURS]
        choices = torch.stack([self.soft(t).detach() for t in range(len(TASKS))], dim=1).argmax(dim=-1)
        with self.autocast():
            run = self.ours.forward_sampled(self.inputs[OURS], choices)
        losses = torch.stack([self.loss(t, prediction) for t, prediction in enumerate(run.predictions)])
        optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimiser.step()
        losses.tolist()

    def _sampled_architecture(self) -> None:
        self.arch.zero_grad(set_to_none=True)
        soft = torch.stack([self.soft(t) for t in range(len(TASKS))], dim=1)
        choices = soft.detach().argmax(dim=-1)
        with self.ours.batch_statistics():
            with self.autocast():
                run = self.ours.forward_sampled(self.inputs[OURS], choices)
            losses = [self.loss(t, prediction) for t, prediction in enumerate(run.predictions)]
            gradients = self.ours.mix_gradients(run, losses)
            torch.stack([loss.detach() for loss in losses]).tolist()
        soft.backward(gradients)
        self.arch.step()


def random_label(kind: TaskKind, channels: int, batch: int, size: int) -> Tensor:
    """Return labels as `bmtas.tasks` has them, normals with their channels first."""
    if kind is TaskKind.NORMALS:
        return F.normalize(torch.randn(batch, 3, size, size), dim=1)
    return torch.randint(0, max(channels, 2), (batch, size, size), dtype=torch.uint8)


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
