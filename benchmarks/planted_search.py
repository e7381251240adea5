"""Does a search find the tree that was planted? Seeds, estimators and ablations on the data set `planted`.

    python benchmarks/planted_search.py [--seeds 0-9] [--estimators soft,sampled]
        [--variants budget,no-resource-term,no-warm-up] [--json FILE]

All candidates of a layer start from the same weights, as they do from those of ImageNet in the paper: here from a short
training of the network that shares all layers, a new one for each seed (`--start`). The budget of a search is the cost of the
planted tree; without a resource term there is none. A search has found the tree if its own differs from it in at most two
layers. `pairs` says whether its tree ends in the planted pairs, wherever they part; `loss` is that of the last weight step
of the search, the sum over the tasks.

Prints a line per search and a table at the end; `--json FILE` keeps all of it, written after every search.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _planted import seeds_of
from planted_trees import BACKBONE, NAMES, madds, train

from bmtas.architecture import BranchedArchitecture
from bmtas.config import Estimator
from bmtas.data.planted import Planted, planted_groupings
from bmtas.methods.branched.finder import branched_search, probabilities_after
from bmtas.networks.weights import Weights
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Silent
from bmtas.view import describe_tree
from costs.decode import best_architecture
from costs.units import Resource

NEAR = 2
"""Layers in which a tree may differ from the planted one and still counts as found."""
VARIANTS: dict[str, dict[str, Any]] = {
    "budget": {},
    "no-resource-term": {"resource_term": "none"},
    "no-warm-up": {"warmup_steps": 0},
}
PLANTED = BranchedArchitecture(backbone=BACKBONE.name, tasks=NAMES, groupings=planted_groupings(BACKBONE.layers))
_SEED_OF_START = 1000  # so that the start sees other batches and other random values than the search


def common_start(seed: int, steps: int, batch: int, rate: float) -> Weights:
    """Return the encoder's weights after a short training of the network that shares all layers."""
    shared = BranchedArchitecture.shared(BACKBONE.name, NAMES, BACKBONE.layers)
    network = train(shared, Planted(), seed=_SEED_OF_START + seed, steps=steps, batch=batch, rate=rate)
    return Weights(
        "the network that shares all layers",
        {
            operation: network.get_submodule(module).state_dict()
            for module, operation in network.graph.modules().items()
            if not operation.startswith("heads.")
        },
    )


def plan_for(variant: str, estimator: Estimator, seed: int, options: argparse.Namespace) -> Plan:
    """Return the search of one variant; without a resource term there is no budget either."""
    overrides = {
        "batch_size": options.batch,
        "warmup_steps": options.warmup,
        "weight_steps": options.steps,
        "weight_steps_per_cycle": options.cycle,
        "arch_steps_per_cycle": options.cycle,
        "arch_learning_rate": options.arch_rate,
        "learning_rate": options.rate,
        "resource_steps": options.resource_steps,
        "temperature_start": options.temperature,
        "estimator": estimator.value,
        **VARIANTS[variant],
    }
    size = Planted().size
    request = {"data": "planted", "backbone": BACKBONE.name, "size": size, "search_size": size, "train_size": size}
    free = {"resource_term": "none"}
    table = plan_search(Request(**request, search_overrides=free)).table  # type: ignore[arg-type]
    budgets = () if variant == "no-resource-term" else (f"{int(madds(table, PLANTED))}MAdds",)
    return plan_search(Request(**request, budgets=budgets, seed=seed, search_overrides=overrides))  # type: ignore[arg-type]


def run_one(variant: str, estimator: Estimator, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Search once and hold the tree against the planted one."""
    start = time.perf_counter()
    plan = plan_for(variant, estimator, seed, options)
    weights = common_start(seed, options.start, options.batch, options.rate) if options.start else None
    with tempfile.TemporaryDirectory() as folder:
        search = branched_search(plan, How.alone("cpu"))
        probabilities = probabilities_after(search.run(Path(folder), weights, Silent()))
        history = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
    found = best_architecture(probabilities, plan.table, plan.budgets)
    different = sum(a != b for a, b in zip(found.groupings, PLANTED.task_indices, strict=True))
    last = [record for record in history if record["phase"] == "weights"][-1]
    return {
        "variant": variant,
        "estimator": estimator.value,
        "seed": seed,
        "tree": describe_tree(found.groupings, NAMES),
        "layers_different": different,
        "found": different <= NEAR,
        "pairs": found.groupings[-1] == PLANTED.task_indices[-1],
        "groups": [len(grouping) for grouping in found.groupings],
        "madds_share_of_split": found.cost[Resource.MADDS] / plan.table.split_total(Resource.MADDS),
        "loss": round(sum(last[f"loss.{name}"] for name in NAMES), 3),
        "seconds": round(time.perf_counter() - start, 1),
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """Print one line for each variant and estimator."""
    print(
        "variant           estimator  searches  found  exactly  pairs  layers different  loss   MAdds / only stem shared"
    )
    for variant, estimator in dict.fromkeys((r["variant"], r["estimator"]) for r in results):
        mine = [r for r in results if (r["variant"], r["estimator"]) == (variant, estimator)]
        mean = {key: np.mean([r[key] for r in mine]) for key in ("layers_different", "loss", "madds_share_of_split")}
        print(
            f"{variant:17s} {estimator:9s}  {len(mine):8d}  {sum(r['found'] for r in mine):5d}  "
            f"{sum(r['layers_different'] == 0 for r in mine):7d}  {sum(r['pairs'] for r in mine):5d}  "
            f"{mean['layers_different']:16.1f}  {mean['loss']:.3f}  {mean['madds_share_of_split']:.3f}"
        )


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for; without arguments given, those of this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-9", help="first-last, or one")
    parser.add_argument("--estimators", default="soft,sampled")
    parser.add_argument("--variants", default="budget")
    parser.add_argument("--start", type=int, default=300, help="steps of the common start; 0: random values for each")
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100, help="weight steps after the warm-up")
    parser.add_argument("--cycle", type=int, default=10, help="architecture and weight steps of a cycle, each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--arch-rate", type=float, default=0.05)
    parser.add_argument("--resource-steps", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=5.0, help="at the start")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main() -> None:
    """Run all searches that were asked for and print what they found."""
    options = options_of()
    torch.set_num_threads(1)  # more threads win nothing at this size
    results = []
    for variant in options.variants.split(","):
        for estimator in options.estimators.split(","):
            for seed in seeds_of(options.seeds):
                result = run_one(variant, Estimator(estimator), seed, options)
                results.append(result)
                print(json.dumps(result), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(results, indent=2) + "\n")
    print_table(results)


if __name__ == "__main__":
    main()
