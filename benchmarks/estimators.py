"""What the paper's estimator of the expected cost changes: searches with it and with the exact cost, otherwise equal.

    python benchmarks/estimators.py [--budgets 2.7GMAdds,3.4GMAdds,4.1GMAdds] [--seeds 0,1] [--steps 150]
        [--size 96x64] [--folder runs/study] [--device auto]

The published estimator (paper, Eq. 5 and 6) over-counts: it charges draws that do not refine the grouping before them as if
no tasks shared anything. For each budget and seed: two searches; the exact expected cost of the probabilities that each
ends with, and what the published estimator takes for it; the tree that is decoded within the budget; and Delta_m of both
trees, trained alike. Goes on where it was stopped. Data: ccp, which is no part of the repository.
"""

from __future__ import annotations

import argparse

from _study import Searched, Study, add_options, interval, madds, madds_budget, markdown, run_study, with_spread

from bmtas.config import CostEstimate
from bmtas.view import describe_tree
from costs.trees import layers_different

Pair = dict[CostEstimate, Searched]


def summary(study: Study, budget: str, estimate: CostEstimate, pairs: dict[int, Pair]) -> list[str]:
    """Return one row: what the searches of one budget and estimator came to, mean ± standard deviation over seeds."""
    limit = madds_budget(budget).value
    searches = {seed: pair[estimate] for seed, pair in pairs.items()}
    shares = [
        with_spread([100 * getattr(searched, field) / limit for searched in searches.values()], 1)
        for field in ("exact", "published", "argmax", "cost")
    ]
    gains = [study.gain(study.architecture(searched.tree), seed) for seed, searched in searches.items()]
    entropy = with_spread([searched.entropy for searched in searches.values()], 2)
    return [budget, estimate.value, *shares, entropy, with_spread(gains, 2, "+")]


def comparison(study: Study, budget: str, seed: int, pair: Pair) -> list[str]:
    """Return one row: how the two trees of one budget and seed differ."""
    exact, published = pair[CostEstimate.EXACT], pair[CostEstimate.PUBLISHED]
    gains = [study.gain(study.architecture(searched.tree), seed) for searched in (exact, published)]
    names = [task.name for task in study.tasks]
    trees = [describe_tree(searched.tree, names).replace("|", "\\|") for searched in (exact, published)]
    different = layers_different(exact.tree, published.tree)
    costs = f"{madds(exact.cost)} / {madds(published.cost)}"
    return [budget, str(seed), str(different), costs, f"{gains[0] - gains[1]:+.2f}", *trees]


def study_estimators(options: argparse.Namespace) -> None:
    """Search, train, measure, and print the tables."""
    study = Study(options)
    pairs: dict[str, dict[int, Pair]] = {
        budget: {
            seed: {estimate: study.search(budget, seed, estimate) for estimate in CostEstimate}
            for seed in options.seeds
        }
        for budget in options.budgets
    }
    rows = [summary(study, budget, estimate, pairs[budget]) for budget in options.budgets for estimate in CostEstimate]
    single = [
        comparison(study, budget, seed, pair) for budget in options.budgets for seed, pair in pairs[budget].items()
    ]
    print(f"Seeds {', '.join(map(str, options.seeds))}. {study.scale()}\n")
    print("Costs in % of the budget, mean ± standard deviation over seeds.\n")
    head = ["budget", "searched with", "exact expected cost", "published estimate of it", "argmax tree", "decoded tree"]
    print(f"{markdown([*head, 'entropy, nats', 'Delta_m %'], rows)}\n")
    head = ["budget", "seed", "layers that differ", "MAdds exact / published", "Delta_m, exact - published"]
    print(f"{markdown([*head, 'tree by exact cost', 'tree by published estimator'], single)}\n")
    print(f"Delta_m, exact - published, over all budgets and seeds: {overall(study, pairs)}")


def overall(study: Study, pairs: dict[str, dict[int, Pair]]) -> str:
    """Return the mean ± standard deviation of the difference in Delta_m over all budgets and seeds, and its interval."""
    gaps = []
    for of_budget in pairs.values():
        for seed, pair in of_budget.items():
            exact, published = (study.gain(study.architecture(pair[e].tree), seed) for e in CostEstimate)
            gaps.append(exact - published)
    return f"{with_spread(gaps, 2, '+')} points (95 % interval of the mean: {interval(gaps)})"


def main() -> None:
    """Read the options and do the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    budgets = ["2.7GMAdds", "3.4GMAdds", "4.1GMAdds"]
    parser.add_argument("--budgets", type=lambda text: text.split(","), default=budgets, help="in MAdds")
    add_options(parser, seeds=[0, 1])
    run_study(study_estimators, parser.parse_args())


if __name__ == "__main__":
    main()
