"""Does a search find the tree that was planted? Seeds, estimators and ablations on the data set `planted`.

    python benchmarks/planted_search.py [--seeds 0-9] [--estimators soft,sampled] [--variants budget,no-resource-term,no-warm-up]
        [--warmup 300] [--steps 200] [--batch 8] [--size 64]

The budget of a search is the cost of the planted tree. A search has found it if its tree differs from the planted one in
at most two layers. `pairs` says whether the tree ends in the planted pairs, wherever they part. Prints a line per search
and a table at the end; `--json FILE` writes all of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.config import Estimator
from bmtas.data.planted import PLANTED_PAIRS, planted_groupings
from bmtas.progress import Silent
from bmtas.search import Search
from bmtas.view import describe_tree
from bmtas.workflow import Plan, Request, plan_search
from costs.decode import best_architecture
from costs.partitions import Grouping
from costs.units import Resource

NEAR = 2
"""Layers in which a tree may differ from the planted one and still counts as found (issue: within two layers)."""
VARIANTS: dict[str, dict[str, Any]] = {
    "budget": {},
    "no-resource-term": {"resource_term": "none"},
    "no-warm-up": {"warmup_steps": 0},
}


def plan_for(variant: str, estimator: Estimator, seed: int, arguments: argparse.Namespace) -> Plan:
    """Return the search of one variant; without a resource term there is no budget either."""
    overrides = {
        "batch_size": arguments.batch,
        "warmup_steps": arguments.warmup,
        "weight_steps": arguments.steps,
        "weight_steps_per_cycle": arguments.cycle,
        "arch_steps_per_cycle": arguments.cycle,
        "arch_learning_rate": arguments.arch_rate,
        "learning_rate": arguments.rate,
        "resource_steps": arguments.resource_steps,
        "estimator": estimator.value,
    }
    size = (arguments.size, arguments.size)
    table = plan_search(Request(data="planted", size=size, search_overrides=overrides)).table
    names = list(table.tasks)
    planted = [
        [[names.index(task) for task in block] for block in grouping]
        for grouping in planted_groupings(len(table.layers))
    ]
    madds = table.architecture_cost(planted, Resource.MADDS)
    budgets = () if variant == "no-resource-term" else (f"{int(madds)}MAdds",)
    return plan_search(
        Request(
            data="planted",
            size=size,
            search_size=size,
            train_size=size,
            budgets=budgets,
            seed=seed,
            search_overrides={**overrides, **VARIANTS[variant]},
        )
    )


def run_one(variant: str, estimator: Estimator, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search once and hold the tree against the planted one."""
    plan = plan_for(variant, estimator, seed, arguments)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        search = Search(plan.config, plan.dataset, plan.table, plan.budgets, "auto")
        probabilities = search.run(Path(folder), None, Silent())
        history = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
    seconds = time.perf_counter() - start
    found = best_architecture(probabilities, plan.table, plan.budgets)
    names = list(plan.table.tasks)
    planted = _indices(planted_groupings(len(plan.table.layers)), names)
    different = sum(a != b for a, b in zip(found.groupings, planted, strict=True))
    last = [record for record in history if record["phase"] != "architecture"][-1]
    return {
        "variant": variant,
        "estimator": estimator.value,
        "seed": seed,
        "tree": describe_tree(found.groupings, names),
        "layers_different": different,
        "found": different <= NEAR,
        "pairs": found.groupings[-1] == _indices((PLANTED_PAIRS,), names)[0],
        "groups_at_the_end": len(found.groupings[-1]),
        "madds_share_of_split": found.cost[Resource.MADDS] / plan.table.split_total(Resource.MADDS),
        "losses": {name: round(last[f"loss.{name}"], 3) for name in names},
        "seconds": round(seconds, 1),
    }


def _indices(groupings: Any, names: list[str]) -> tuple[Grouping, ...]:
    return tuple(
        tuple(sorted(tuple(sorted(names.index(task) for task in block)) for block in grouping))
        for grouping in groupings
    )


def main() -> None:
    """Run all searches that were asked for and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0-9", help="first-last, or one")
    parser.add_argument("--estimators", default="soft,sampled")
    parser.add_argument("--variants", default="budget")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cycle", type=int, default=10, help="architecture and weight steps of a cycle, each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--arch-rate", type=float, default=0.05)
    parser.add_argument("--resource-steps", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    results = []
    for variant in arguments.variants.split(","):
        for estimator in arguments.estimators.split(","):
            for seed in range(int(first), int(last or first) + 1):
                result = run_one(variant, Estimator(estimator), seed, arguments)
                results.append(result)
                print(json.dumps(result), flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print("variant           estimator  searches  found  pairs  mean layers different  mean MAdds / only stem shared")
    for variant in arguments.variants.split(","):
        for estimator in arguments.estimators.split(","):
            mine = [r for r in results if (r["variant"], r["estimator"]) == (variant, estimator)]
            print(
                f"{variant:17s} {estimator:9s}  {len(mine):8d}  {sum(r['found'] for r in mine):5d}  "
                f"{sum(r['pairs'] for r in mine):5d}  {np.mean([r['layers_different'] for r in mine]):21.1f}  "
                f"{np.mean([r['madds_share_of_split'] for r in mine]):10.3f}"
            )


if __name__ == "__main__":
    main()
