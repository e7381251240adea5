"""Do two claims of AutoMTL hold on a small problem? Retraining against fine-tuning, and what the policy regularisation does.

Four tasks of the data set `planted` on the backbone `tiny`. For each seed a search without a budget, with three weights of the policy
regularisation: what share of the choices it makes shared (paper, section 3.3: the regularisation draws tasks to the shared branch, near the
image most). The network sampled from the policies with the paper's weight is then trained from scratch, and from the weights of the
search, for equally many steps (supplement, table 9: from scratch is better).

    python benchmarks/automtl_retraining.py [--seeds 0-2] [--steps 160] [--train-steps 640] [--out docs/automtl_retraining.md]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _planted import seeds_of
from _study import markdown, tell, with_spread

from bmtas.config import Method
from bmtas.data.batches import Loader
from bmtas.evaluation import evaluate_network
from bmtas.files import read_json
from bmtas.methods.automtl.prices import SHARED
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Silent
from bmtas.run_training import train_network
from bmtas.runs import FOUND, INHERITED, Run
from bmtas.training import load_network
from bmtas.workflow import run_search

SIZE = (32, 32)
PAPER = 1e-3
WEIGHTS = (0.0, PAPER, 1e-2)
"""Of the policy regularisation."""
IMAGES = 256


@dataclass(frozen=True)
class Searched:
    """The probabilities of the shared branch that a search ended with, by convolution: the mean over the tasks; and its network's choices."""

    shared: list[float]
    chosen: float


@dataclass(frozen=True)
class Trained:
    """The mean angle in degrees, averaged over the tasks, from scratch and from the weights of the search."""

    retrained: float
    fine_tuned: float


def plan_of(weight: float, seed: int, steps: int, train_steps: int) -> Plan:
    """Return a search without a budget, with so many steps of the weights and half as many of pre-training before."""
    search = {
        "resource_term": "none",
        "batch_size": 8,
        "warmup_steps": steps // 2,
        "weight_steps": steps,
        "learning_rate": 2e-3,
        "weight_steps_per_cycle": 4,
        "arch_steps_per_cycle": 1,
        "arch_learning_rate": 0.05,
    }
    return plan_search(
        Request(
            data="planted",
            backbone="tiny",
            method=Method.AUTOMTL,
            seed=seed,
            size=SIZE,
            search_size=SIZE,
            train_size=SIZE,
            own={"regularisation_weight": str(weight), "temperature_decays": "40", "pretrain_learning_rate": "2e-3"},
            search_overrides=search,
            train_overrides={"steps": train_steps, "batch_size": 8},
        )
    )


def search(plan: Plan, folder: Path) -> tuple[Run, Searched]:
    """Search once."""
    run = run_search(plan, folder, Silent(), How.alone("cpu"))
    said = read_json(run.architecture_path, 2)
    probabilities = np.array(said["probabilities"])
    chosen = float((np.array(said["choices"]) == SHARED).mean())
    return run, Searched(probabilities[..., SHARED].mean(axis=0).tolist(), chosen)


def train(plan: Plan, run: Run) -> Trained:
    """Train the network of a search in both ways and measure both."""
    config, tasks = run.config(), plan.config.task_list()
    batches = list(Loader(plan.dataset, "val", tasks, SIZE).in_order(64, IMAGES))
    angles = []
    for name in (FOUND, INHERITED):
        train_network(run, name, Silent(), How.alone("cpu"))
        network = load_network(config, run.architecture(name), run.network(name) / "weights.pt")
        metrics = evaluate_network(network, batches, tasks)
        angles.append(float(np.mean([metrics[task.name][task.metric] for task in tasks])))
    return Trained(*angles)


def report(searched: dict[float, list[Searched]], trained: Sequence[Trained], steps: int, train_steps: int) -> str:
    """Return the page: both tables, and what they show."""
    rows = []
    for weight, found in searched.items():
        halves = [(np.mean(s.shared[: len(s.shared) // 2]), np.mean(s.shared[len(s.shared) // 2 :])) for s in found]
        rows.append(
            [
                f"{weight:g}",
                with_spread([100 * float(np.mean(s.shared)) for s in found], 1),
                with_spread([100 * float(first) for first, _ in halves], 1),
                with_spread([100 * float(second) for _, second in halves], 1),
                with_spread([100 * s.chosen for s in found], 1),
            ]
        )
    gaps = [t.fine_tuned - t.retrained for t in trained]
    ways = [
        ["from scratch", with_spread([t.retrained for t in trained], 2)],
        ["from the weights of the search", with_spread([t.fine_tuned for t in trained], 2)],
        ["the latter less the former", with_spread(gaps, 2, "+")],
    ]
    return "\n".join(
        [
            "# AutoMTL: retraining and the policy regularisation, measured on a small problem",
            "",
            f"The four tasks of `planted` at 32x32, backbone `tiny` with 13 convolutions. A search takes {steps // 2} steps of pre-training, {steps} of weights",
            f"and {steps // 4} of policies, without a budget. {len(trained)} seeds; mean and standard deviation over them.",
            "",
            "    python benchmarks/automtl_retraining.py",
            "",
            "## Policy regularisation",
            "",
            markdown(
                [
                    "weight",
                    "mean probability of the shared branch, %",
                    "in the first half of the convolutions",
                    "in the second half",
                    "shared choices of the network taken, %",
                ],
                rows,
            ),
            "",
            f"{PAPER:g} is the weight of the paper for NYU v2. {_verdict_of_weights(searched)}",
            "",
            "## Retraining or fine-tuning",
            "",
            f"The network taken from the search with weight {PAPER:g}, trained for {train_steps} steps in either way; mean angle in degrees on {IMAGES} validation",
            "images, the mean over the tasks (less is better).",
            "",
            markdown(["training", "mean angle, degrees"], ways),
            "",
            _verdict_of_ways(gaps),
            "",
        ]
    )


def _verdict_of_weights(searched: dict[float, list[Searched]]) -> str:
    means = {weight: [float(np.mean(s.shared)) for s in found] for weight, found in searched.items()}
    base = means[0.0]
    told = []
    for weight in WEIGHTS[1:]:
        more = sum(a > b for a, b in zip(means[weight], base, strict=True))
        change = 100 * (np.mean(means[weight]) - np.mean(base))
        told.append(
            f"with {weight:g} the shared branch is {change:+.1f} points as probable as without (higher with {more} of {len(base)} seeds)"
        )
    return "Here " + "; ".join(told) + "."


def _verdict_of_ways(gaps: Sequence[float]) -> str:
    wins = sum(gap > 0 for gap in gaps)
    direction = "holds here" if wins > len(gaps) / 2 else "does not show here"
    return (
        f"Retraining is better with {wins} of {len(gaps)} seeds. In the paper (supplement, table 9, Cityscapes) it is: 15.6 against 12.3 % of gain in "
        f"depth. That direction {direction}. Fine-tuning has had the steps of the search besides, which count most where steps are few."
    )


def main() -> None:
    """Search, train and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-2", help="first-last, or one")
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--train-steps", type=int, default=640)
    parser.add_argument("--out", type=Path, default=Path("docs/automtl_retraining.md"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # more threads win nothing at this size
    searched: dict[float, list[Searched]] = {weight: [] for weight in WEIGHTS}
    trained: list[Trained] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds_of(options.seeds):
            for weight in WEIGHTS:
                start = time.perf_counter()
                plan = plan_of(weight, seed, options.steps, options.train_steps)
                run, found = search(plan, Path(folder))
                searched[weight].append(found)
                tell(
                    f"seed {seed}, weight {weight:g}: shared {np.mean(found.shared):.3f}, {time.perf_counter() - start:.0f} s"
                )
                if weight == PAPER:
                    trained.append(train(plan, run))
                    tell(f"seed {seed}: retrained {trained[-1].retrained:.2f}, fine-tuned {trained[-1].fine_tuned:.2f}")
            if options.json:
                content = {str(weight): [asdict(s) for s in found] for weight, found in searched.items()}
                options.json.write_text(
                    json.dumps({"searched": content, "trained": [asdict(t) for t in trained]}) + "\n"
                )
    options.out.write_text(report(searched, trained, options.steps, options.train_steps))


if __name__ == "__main__":
    main()
