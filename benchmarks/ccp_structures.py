"""Are the trees that a search finds better than other trees of the same cost? Found, random and vanilla ones, trained alike.

    python benchmarks/ccp_structures.py [--budget 3.4GMAdds] [--seeds 0,1,2,3] [--structures 5] [--steps 150]
        [--size 96x64] [--folder runs/study] [--device auto]

Under one budget:

    found      a search with each seed, and what it finds trained with the same seed
    random     so many trees drawn by refining groupings, of 97 to 100 % of the budget; each trained with every seed
    vanilla    all tasks part at one layer, the earliest that the budget allows (paper, Table 3)
    shared, separate    the ends of the range, for reference; Delta_m is relative to `separate` of the same seed

Everything is trained in the same way: images, their order, steps, rate and size. A network's seed decides its initial
weights and the order of the images. Random trees are the same for all seeds. Goes on where it was stopped; what it has
done is said on standard error, the tables come on standard output. Data: ccp, which is no part of the repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from _study import (
    Metrics,
    Study,
    add_options,
    interval,
    madds,
    madds_budget,
    markdown,
    mean_and_spread,
    run_study,
    with_spread,
)
from _trees import Tree, random_trees, vanilla_tree

from bmtas.architecture import Architecture
from bmtas.view import describe_tree
from costs.units import Budget, Resource


@dataclass(frozen=True)
class Row:
    """One row of the table: cost in MAdds, and for each seed the metrics and Delta_m in percent."""

    label: str
    cost: float
    metrics: list[Metrics]
    gains: list[float]


def measured(study: Study, label: str, cost: float, networks: Sequence[Architecture], seeds: Sequence[int]) -> Row:
    """Train and measure one network for each seed."""
    metrics = [study.metrics(network, seed) for network, seed in zip(networks, seeds, strict=True)]
    gains = [study.gain(network, seed) for network, seed in zip(networks, seeds, strict=True)]
    return Row(label, cost, metrics, gains)


def averaged(label: str, rows: Sequence[Row]) -> Row:
    """Return the mean of several rows for each seed by itself."""
    seeds = range(len(rows[0].gains))
    return Row(
        label,
        sum(row.cost for row in rows) / len(rows),
        [
            {name: sum(row.metrics[seed][name] for row in rows) / len(rows) for name in rows[0].metrics[seed]}
            for seed in seeds
        ],
        [sum(row.gains[seed] for row in rows) / len(rows) for seed in seeds],
    )


def line(row: Row, names: Sequence[str], budget: Budget, over_structures: str = "") -> list[str]:
    """Return a row as cells; metrics and Delta_m as mean ± standard deviation over the seeds."""
    share = f"{100 * row.cost / budget.value:.1f}"
    metrics = [with_spread([values[name] for values in row.metrics], 4) for name in names]
    return [row.label, madds(row.cost), share, *metrics, with_spread(row.gains, 2, "+"), over_structures]


def difference(found: Row, other: Row) -> list[str]:
    """Return how much better the found networks are, seed by seed, in points of Delta_m."""
    gaps = [a - b for a, b in zip(found.gains, other.gains, strict=True)]
    wins = sum(gap > 0 for gap in gaps)
    return [f"found - {other.label}", with_spread(gaps, 2, "+"), interval(gaps), f"{wins} of {len(gaps)}"]


def study_structures(options: argparse.Namespace) -> None:
    """Search, train, measure, and print the tables."""
    study, seeds, budget = Study(options), options.seeds, madds_budget(options.budget)
    names, count = [task.name for task in study.tasks], len(options.seeds)
    try:
        drawn = random_trees(study.table, budget, options.structures, options.structure_seed, options.at_least)
        vanilla = vanilla_tree(study.table, budget)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    searches = [study.search(options.budget, seed) for seed in seeds]

    def same(label: str, tree: Tree) -> Row:
        cost = study.table.architecture_cost(tree, Resource.MADDS)
        return measured(study, label, cost, [study.architecture(tree)] * count, seeds)

    table = study.table
    separate = measured(study, "separate", table.separate_total(Resource.MADDS), [study.separate] * count, seeds)
    shared = measured(study, "shared", table.shared_total(Resource.MADDS), [study.shared] * count, seeds)
    cost = sum(searched.cost for searched in searches) / count
    found = measured(study, "found", cost, [study.architecture(searched.tree) for searched in searches], seeds)
    parted = same("vanilla", vanilla)
    randoms = [same(f"random {i}", tree) for i, tree in enumerate(drawn, start=1)]
    together = averaged(f"random, mean of {len(randoms)}", randoms)
    means = [mean_and_spread(row.gains)[0] for row in randoms]
    spread = f"{mean_and_spread(means)[1]:.2f}" if len(means) > 1 else ""

    print(f"Budget {budget.text}; seeds {', '.join(map(str, seeds))}. {study.scale()}\n")
    metrics = [f"{task.name} {task.metric} {'↑' if task.higher_is_better else '↓'}" for task in study.tasks]
    rows = [line(row, names, budget) for row in (separate, shared, found, parted)]
    rows += [line(together, names, budget, spread), *(line(row, names, budget) for row in randoms)]
    rows.append(["best constant", "", "", *(f"{study.constants[name]:.4f}" for name in names), "", ""])
    head = ["network", "MAdds", "% of budget", *metrics, "Delta_m %", "± over structures"]
    print(f"{markdown(head, rows)}\n")
    others = [parted, together, *randoms, shared]
    head = ["difference", "points of Delta_m", "95 % interval of the mean", "seeds with found ahead"]
    print(f"{markdown(head, [difference(found, row) for row in others])}\n")
    trees = [(f"found, seed {seed}", searched.tree) for seed, searched in zip(seeds, searches, strict=True)]
    trees += [("vanilla", vanilla), *((f"random {i}", tree) for i, tree in enumerate(drawn, start=1))]
    rows = [
        [label, madds(study.table.architecture_cost(tree, Resource.MADDS)), describe_tree(tree, names)]
        for label, tree in trees
    ]
    print(markdown(["tree", "MAdds", "layers"], [[a, b, c.replace("|", "\\|")] for a, b, c in rows]))


def main() -> None:
    """Read the options and do the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="3.4GMAdds", help="in MAdds")
    parser.add_argument("--structures", type=int, default=5, help="how many random trees")
    parser.add_argument("--structure-seed", type=int, default=0)
    parser.add_argument(
        "--at-least", type=float, default=0.97, help="random trees cost this share of the budget or more"
    )
    add_options(parser, seeds=[0, 1, 2, 3])
    run_study(study_structures, parser.parse_args())


if __name__ == "__main__":
    main()
