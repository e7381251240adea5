"""Does flow-based reduction keep what a search of dynamic topologies has found, and what do warm-up and squeeze loss do to it?

Four tasks of the data set `planted` on the backbone `tiny`. Per seed and variant: a warm-up, a search, the reduction to nine tenths
of the flow (and, in the variant with a budget, to a quarter of the reach), and fine-tuning from the weights of the warm-up's end.
Losses are sums over the tasks, of the validation images: of all arcs with the scalars of the search, of the reduced network with the
weights of the search, of the reduced network rewound, and after fine-tuning; `kept weights` is fine-tuned from those of the search instead.

    python benchmarks/dynamic_reduction.py [--seeds 0-2] [--warmup 150] [--steps 60] [--tune 150] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _planted import EVALUATION_BATCH, fit, seeds_of, validation_losses
from _study import Remembered

from bmtas.config import Method
from bmtas.data.batches import Loader
from bmtas.data.planted import TASKS, Planted
from bmtas.losses import task_loss
from bmtas.methods.dynamic.derivation import start_network
from bmtas.methods.dynamic.finder import TopologyFinder
from bmtas.methods.dynamic.losses import scalars_of
from bmtas.methods.dynamic.stages import snapshot
from bmtas.methods.finder import choose_finder
from bmtas.networks.network import GraphNetwork
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Silent
from bmtas.runs import Run
from bmtas.tables import architecture_costs
from costs.units import Resource

FREE = {"resource_term": "none"}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "as the method": (FREE, {}),
    "no warm-up": ({**FREE, "warmup_steps": 0}, {}),
    "no squeeze loss": (FREE, {"squeeze_weight": "0"}),
    "a quarter of the reach": ({}, {}),
}
"""What each changes in the settings of the search and in the method's own."""
BUDGETED = "a quarter of the reach"
"""The variant with a budget; the others have no resource term."""
_RATE, _ARCH_RATE, _BATCH = 1e-2, 0.05, 8
DATA = Remembered(Planted())


@dataclass(frozen=True)
class Outcome:
    """What one search came to."""

    seed: int
    variant: str
    connected: bool
    arcs: float  # mean over tasks
    flow: float  # the least of a task
    madds: float  # share of the network with all arcs
    relaxed: float
    reduced: float
    rewound: float
    tuned: float
    kept_weights: float
    seconds: float


def planned(variant: str, seed: int, options: argparse.Namespace) -> Plan:
    """Return the search of a variant."""
    search, own = VARIANTS[variant]
    steps = {"warmup_steps": options.warmup, "weight_steps": options.steps, "batch_size": _BATCH}
    rates = {"learning_rate": _RATE, "arch_learning_rate": _ARCH_RATE}
    request = {"data": "planted", "method": Method.DYNAMIC, "backbone": "tiny", "seed": seed, "own": own}
    sizes = dict.fromkeys(("size", "search_size", "train_size"), DATA.size)
    asked = {**request, **sizes, "search_overrides": {**steps, **rates, **search}}
    if variant != BUDGETED:
        return plan_search(Request(**asked))  # type: ignore[arg-type]
    halfway = plan_search(Request(**asked))  # type: ignore[arg-type] # only to know the reach
    finder = choose_finder(halfway, How.alone("cpu"))
    assert isinstance(finder, TopologyFinder)
    low, high = finder.space.reach(halfway.table, Resource.MADDS)
    return plan_search(Request(**asked, budgets=(f"{low + (high - low) / 4:.0f}MAdds",)))  # type: ignore[arg-type]


@torch.no_grad()
def relaxed_loss(finder: TopologyFinder) -> float:
    """Return the validation loss of the network with all arcs."""
    network = finder.relaxed.network.eval()
    scalars = scalars_of(finder.space.topology, finder.relaxed.logits)
    found = []
    for batch in Loader(DATA, "val", TASKS, DATA.size).in_order(EVALUATION_BATCH):
        predictions = network.predict(batch.images, scalars, finder.space.tasks)
        found.append(sum(float(task_loss(t, predictions[t.name], batch.labels[t.name])) for t in TASKS))
    return float(np.mean(found))


def tune(network: GraphNetwork, seed: int, steps: int) -> float:
    """Train a network as it stands and return its validation loss."""
    fit(network, DATA, seed=seed, steps=steps, batch=_BATCH, rate=_RATE)
    return validation_loss(network)


def validation_loss(network: GraphNetwork) -> float:
    """Return the sum over the tasks of the mean validation loss."""
    return sum(validation_losses(network, DATA).values())


def run_one(variant: str, seed: int, options: argparse.Namespace) -> Outcome:
    """Search, reduce and fine-tune once."""
    begin = time.perf_counter()
    plan = planned(variant, seed, options)
    finder = choose_finder(plan, How.alone("cpu"))
    assert isinstance(finder, TopologyFinder)
    finder.prepare(begun=False)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        run.search_folder.mkdir(parents=True)
        finder.learn(run, Silent())
    space, logits = finder.space, finder.relaxed.logits.detach()
    reduced = finder.reduced(plan.table)
    costs = architecture_costs(plan.table, space.architecture(reduced.kept))
    starts = [
        start_network(space, TASKS, reduced, logits, w)
        for w in (finder.relaxed.rewound, snapshot(finder.relaxed.network))
    ]
    connected = all(space.topology.connected(kept) and space.topology.alive(kept) == kept for kept in reduced.kept)
    return Outcome(
        seed=seed,
        variant=variant,
        connected=connected,
        arcs=float(np.mean([len(kept) for kept in reduced.kept])),
        flow=min(reduced.flows),
        madds=costs[Resource.MADDS] / space.reach(plan.table, Resource.MADDS)[1],
        relaxed=relaxed_loss(finder),
        rewound=validation_loss(starts[0]),
        reduced=validation_loss(starts[1]),
        tuned=tune(starts[0], seed, options.tune),
        kept_weights=tune(starts[1], seed, options.tune),
        seconds=round(time.perf_counter() - begin, 1),
    )


def table_of(outcomes: list[Outcome]) -> str:
    """Return the results as a Markdown table: means over the seeds, with the least and the most of what is tuned."""
    head = "| variant | connected | arcs | MAdds of all arcs | all arcs | reduced | rewound | tuned | tuned from kept weights |"
    lines = [head, "|---" * 9 + "|"]
    for variant in dict.fromkeys(o.variant for o in outcomes):
        mine = [o for o in outcomes if o.variant == variant]
        mean = {
            key: np.mean([getattr(o, key) for o in mine]) for key in ("arcs", "madds", "relaxed", "reduced", "rewound")
        }
        spread = [[getattr(o, key) for o in mine] for key in ("tuned", "kept_weights")]
        lines.append(
            f"| {variant} | {sum(o.connected for o in mine)} of {len(mine)} | {mean['arcs']:.1f} | {mean['madds']:.0%} | "
            + " | ".join(f"{mean[key]:.2f}" for key in ("relaxed", "reduced", "rewound"))
            + "".join(f" | {np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in spread)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all variants and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-2", help="first-last, or one")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--steps", type=int, default=60, help="architecture and weight steps of the search, each")
    parser.add_argument("--tune", type=int, default=150)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # more threads win nothing at this size
    outcomes: list[Outcome] = []
    for variant in options.variants.split(","):
        for seed in seeds_of(options.seeds):
            outcomes.append(run_one(variant, seed, options))
            print(json.dumps(asdict(outcomes[-1])), flush=True)
            if options.json:
                options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=2) + "\n")
    print(table_of(outcomes))


if __name__ == "__main__":
    main()
