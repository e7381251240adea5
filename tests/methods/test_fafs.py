"""FAFS: affinities by hand, greedy grouping against one written out with sets, budgets by counting groups."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bmtas.architecture import BranchedArchitecture
from bmtas.config import Method
from bmtas.data.batches import Loader
from bmtas.data.planted import TASKS, Planted
from bmtas.data.protocol import Sample
from bmtas.losses import task_loss
from bmtas.methods import fafs
from bmtas.methods.fafs import affinities, branch_affinity, budgeted_tree, greedy_tree, sample_losses, separation
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.profile import build_table
from bmtas.progress import Silent
from bmtas.workflow import run_search
from costs.errors import BudgetBelowReach, CostError
from costs.partitions import Grouping, partitions_of, write_key
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource, parse_budget

Floats = npt.NDArray[np.float64]
WEIGHTS = [0.0, *np.geomspace(1e-3, 1e3, 241).tolist()]
THREE = np.array([[1.0, 0.9, 0.4], [0.9, 1.0, 0.6], [0.4, 0.6, 1.0]])


def random_affinity(seed: int, tasks: int) -> Floats:
    upper = np.triu(np.random.default_rng(seed).random((tasks, tasks)), k=1)
    return upper + upper.T + np.eye(tasks)


def refines(fine: Grouping, coarse: Grouping) -> bool:
    return all(any(set(block) <= set(parent) for parent in coarse) for block in fine)


def table_of(costs: Sequence[float], tasks: int, params: Sequence[float] | None = None) -> CostTable:
    """Costs of a group in each layer, in MAdds and, where given, in Params; nothing else costs anything."""
    by_layer = [{Resource.MADDS: cost} for cost in costs]
    for layer, cost in zip(by_layer, params or (), strict=False):
        layer[Resource.PARAMS] = cost
    return CostTable(
        backbone="toy",
        tasks=[f"t{i}" for i in range(tasks)],
        input_size=(8, 8),
        batch=1,
        layers=[LayerCost(name=f"layers.{i}", per_group=layer) for i, layer in enumerate(by_layer)],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost=dict.fromkeys(by_layer[0], 0.0))],
        provenance={},
    )


def test_affinities_by_hand() -> None:
    nan = float("nan")
    losses = np.array(
        [
            [1.0, 4.0, nan],
            [2.0, nan, 5.0],
            [3.0, 8.0, nan],
            [6.0, 0.0, nan],
        ]
    )
    # Means 3, 4 and 5; a loss equal to it is easy: task 0 yes yes yes no, task 1 yes - no yes, task 2 - yes - -.
    # 0 and 1 have three samples in common and agree on the first; 0 and 2 agree on their only one; 1 and 2 have none.
    expected = [[1, 1 / 3, 1], [1 / 3, 1, 0.5], [1, 0.5, 1]]
    np.testing.assert_allclose(affinities(losses), expected, rtol=1e-12)


def test_a_task_without_any_label_stands_to_all_others_as_by_chance() -> None:
    losses = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert affinities(losses).tolist() == [[1.0, 0.5], [0.5, 1.0]]


def test_affinity_of_branches_by_hand() -> None:
    assert branch_affinity(THREE, (0,), (1,)) == pytest.approx(0.9)
    # Of {0, 1} the least to {2} are 0.4 and 0.6, mean 0.5; of {2} to {0, 1} it is 0.4.
    assert branch_affinity(THREE, (0, 1), (2,)) == pytest.approx(0.45)
    assert branch_affinity(THREE, (2,), (0, 1)) == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([((0,),), ((1,),), ((2,),)], 0),
        ([((0,), (1,)), ((2,),)], 0.1 / 2),  # the mean over two groups, one of which joins nothing
        ([((0,), (2,)), ((1,),)], 0.6 / 2),
        ([((0,), (1,), (2,))], 1 - (0.4 + 0.6 + 0.4) / 3),
        ([((0, 1), (2,))], 0.55),
        ([((0, 1),), ((2,),)], 0),  # what has been joined above costs nothing here
    ],
)
def test_separation_by_hand(groups: list[fafs.Branches], expected: float) -> None:
    assert separation(THREE, groups) == pytest.approx(expected, abs=1e-12)


def listed(items: list[tuple[int, ...]]) -> list[list[list[tuple[int, ...]]]]:
    """All partitions of a list, by putting its first item alone or into a group of each partition of the rest."""
    if not items:
        return [[]]
    first, found = items[0], []
    for rest in listed(items[1:]):
        found.append([[first], *rest])
        found += [[*rest[:i], [first, *rest[i]], *rest[i + 1 :]] for i in range(len(rest))]
    return found


def greedy_by_hand(affinity: Floats, shares: Sequence[float], weight: float) -> list[set[frozenset[int]]]:
    def between(one: tuple[int, ...], other: tuple[int, ...]) -> float:
        if one == other:
            return 1.0
        there = sum(min(affinity[a, b] for b in other) for a in one) / len(one)
        back = sum(min(affinity[a, b] for a in one) for b in other) / len(other)
        return float(there + back) / 2

    def apart(group: list[tuple[int, ...]]) -> float:
        return 1 - sum(min(between(a, b) for b in group) for a in group) / len(group)

    branches, layers = [(t,) for t in range(len(affinity))], []
    for share in reversed(shares):
        priced = [
            ((len(groups) - 1) * share + weight * sum(map(apart, groups)) / len(groups), groups)
            for groups in listed(branches)
        ]
        _, best = min(priced, key=lambda pair: pair[0])
        branches = [tuple(t for branch in group for t in branch) for group in best]
        layers.insert(0, {frozenset(branch) for branch in branches})
    return layers


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("tasks", "layers"), [(3, 2), (3, 3), (4, 2), (4, 3)])
def test_the_greedy_tree_is_that_of_all_groupings_compared_layer_by_layer(seed: int, tasks: int, layers: int) -> None:
    rng = np.random.default_rng(100 + seed)
    affinity, shares = random_affinity(seed, tasks), rng.dirichlet([1.0] * layers)
    trees = set()
    for weight in (0.05, 0.3, 0.7, 1.5, 4.0):
        tree = greedy_tree(affinity, shares, weight)
        assert [set(map(frozenset, grouping)) for grouping in tree] == greedy_by_hand(affinity, shares.tolist(), weight)
        assert all(refines(fine, coarse) for coarse, fine in itertools.pairwise(tree))
        trees.add(tree)
    assert len(trees) > 1  # the weight does something


@pytest.mark.parametrize("tasks", [3, 9])
def test_no_weight_shares_everything_and_a_huge_one_nothing_that_is_not_alike(tasks: int) -> None:
    affinity, shares = random_affinity(0, tasks), np.array([0.5, 0.3, 0.2])
    everything = (tuple(range(tasks)),)
    assert greedy_tree(affinity, shares, 0.0) == (everything,) * 3
    assert greedy_tree(affinity, shares, 1e9) == (tuple((t,) for t in range(tasks)),) * 3
    assert greedy_tree(np.ones((tasks, tasks)), shares, 1e9) == (everything,) * 3


def test_only_those_who_are_alike_share_at_a_huge_weight() -> None:
    affinity = np.array([[1.0, 0.2, 1.0], [0.2, 1.0, 0.2], [1.0, 0.2, 1.0]])
    assert greedy_tree(affinity, np.array([0.5, 0.5]), 1e9) == (((0, 2), (1,)),) * 2


def test_more_branches_than_can_be_listed_are_merged_two_by_two() -> None:
    """Three clusters of three, alike within and not at all between."""
    clusters = [(0, 3, 6), (1, 4, 7), (2, 5, 8)]
    affinity = np.zeros((9, 9))
    for cluster in clusters:
        affinity[np.ix_(cluster, cluster)] = 1.0
    assert greedy_tree(affinity, np.array([0.5, 0.5]), 1e6) == (tuple(clusters),) * 2
    for weight in (0.2, 0.8, 3.0):
        tree = greedy_tree(random_affinity(5, 9), np.full(4, 0.25), weight)
        assert all(sorted(t for block in grouping for t in block) == list(range(9)) for grouping in tree)
        assert all(refines(fine, coarse) for coarse, fine in itertools.pairwise(tree))


COSTS = (30.0, 20.0, 10.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [60, 85, 119, 120, 171, 240, 1000])
def test_of_all_weights_the_costliest_tree_within_the_budget_is_taken(seed: int, budget: int) -> None:
    affinity = random_affinity(seed, 4)
    tree, weight = budgeted_tree(affinity, table_of(COSTS, 4), [parse_budget(f"{budget}MAdds")])
    shares = [cost / sum(COSTS) for cost in COSTS]

    def cost_of(groupings: Sequence[object]) -> float:
        return sum(cost * len(grouping) for cost, grouping in zip(COSTS, groupings, strict=True))  # type: ignore[arg-type]

    reached = [cost_of(greedy_by_hand(affinity, shares, w)) for w in WEIGHTS]
    assert cost_of(tree) == max(cost for cost in reached if cost <= budget)
    assert [set(map(frozenset, grouping)) for grouping in tree] == greedy_by_hand(affinity, shares, weight)


def test_all_budgets_are_kept_and_the_first_decides_what_is_costly() -> None:
    """Params rise where MAdds fall, so that either of the budgets binds at another weight."""
    table, affinity = table_of(COSTS, 4, params=(1.0, 5.0, 9.0)), random_affinity(2, 4)
    budgets = [parse_budget("170MAdds"), parse_budget("40Params")]
    tree, _ = budgeted_tree(affinity, table, budgets)
    counts = [len(grouping) for grouping in tree]
    assert np.dot(COSTS, counts) <= 170
    assert np.dot((1.0, 5.0, 9.0), counts) <= 40
    alone, _ = budgeted_tree(affinity, table, budgets[:1])
    assert np.dot((1.0, 5.0, 9.0), [len(grouping) for grouping in alone]) > 40
    shares = [cost / sum(COSTS) for cost in COSTS]
    kept = []
    for weight in WEIGHTS:
        counts = [len(grouping) for grouping in greedy_by_hand(affinity, shares, weight)]
        if np.dot((1.0, 5.0, 9.0), counts) <= 40 and np.dot(COSTS, counts) <= 170:
            kept.append(np.dot(COSTS, counts))
    assert np.dot(COSTS, [len(grouping) for grouping in tree]) == max(kept)


def test_a_budget_out_of_reach_and_a_cost_that_is_no_sum_of_shares() -> None:
    with pytest.raises(BudgetBelowReach, match="59MAdds"):
        budgeted_tree(random_affinity(0, 4), table_of(COSTS, 4), [parse_budget("59MAdds")])
    by_grouping = {write_key(p, ["a", "b"]): float(len(p)) for p in partitions_of(3)}
    table = CostTable(
        backbone="toy",
        tasks=["a", "b"],
        input_size=(8, 8),
        batch=1,
        depends_on="partition",
        layers=[LayerCost(name="layers.0", per_partition={Resource.LATENCY_MS: by_grouping})],
        fixed=[],
        provenance={},
    )
    with pytest.raises(CostError, match="depends on the partition"):
        budgeted_tree(random_affinity(0, 2), table, [])


def test_costs_per_grouping_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    names = [task.name for task in TASKS]
    counted = build_table(get_backbone("tiny"), TASKS, (32, 32))
    costs = {write_key(partition, names): float(len(partition)) for partition in partitions_of(15)}
    own = {
        "schema_version": 1,
        "backbone": "tiny",
        "tasks": names,
        "input_size": [32, 32],
        "batch": 1,
        "depends_on": "partition",
        "layers": [{"name": layer.name, "per_partition": {"latency_ms": costs}} for layer in counted.layers],
        "fixed": [{**part.model_dump(), "cost": {"latency_ms": 0.0}} for part in counted.fixed],
        "provenance": {},
    }
    (tmp_path / "own.json").write_text(json.dumps(own), encoding="utf-8")
    request = Request(
        data="planted", backbone="tiny", method=Method.FAFS, budgets=("12ms",), table=tmp_path / "own.json"
    )
    with pytest.raises(CostError, match="depends on the partition"):
        run_search(plan_search(request), tmp_path / "runs", Silent(), How.alone("cpu"))
    assert not (tmp_path / "runs").exists()


class SomeUnlabelled(Planted):
    """The third image has no label of b1."""

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        sample = super().load(split, index, size=size, tasks=tasks)
        kept = {name: label for name, label in sample.labels.items() if (index, name) != (2, "b1")}
        return Sample(sample.id, sample.image, kept)


def test_losses_of_samples_are_those_of_each_image_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fafs, "MOST_SAMPLES", 11)  # a full batch and a part of one
    torch.manual_seed(0)
    names = [task.name for task in TASKS]
    network = build_network(BranchedArchitecture.shared("tiny", names, 6), TASKS)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 32, 32))  # statistics that are not the first ones
    loader = Loader(SomeUnlabelled(train=20), "train", TASKS, (32, 32))
    found = sample_losses(network, loader, TASKS, Silent())
    assert found.shape == (11, 4)
    network.eval()
    # Eleven of twenty images, spread evenly: every one or two further on, the unlabelled one among them.
    chosen = [0, 2, 4, 6, 8, 10, 11, 13, 15, 17, 19]
    for i, index in enumerate(chosen):
        batch = loader.batch([index])
        with torch.no_grad():
            predictions = network(batch.images)
        for t, task in enumerate(TASKS):
            if (index, task.name) == (2, "b1"):
                assert np.isnan(found[i, t])
            else:
                alone = float(task_loss(task, predictions[task.name], batch.labels[task.name]))
                assert found[i, t] == pytest.approx(alone, rel=1e-5)


def test_a_whole_run_groups_by_the_affinities_that_it_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fafs, "MOST_SAMPLES", 40)
    overrides = {"steps": 2, "batch_size": 4}
    request = Request(
        data="planted", backbone="tiny", method=Method.FAFS, budgets=("4.3MMAdds",), train_overrides=overrides
    )
    run = run_search(plan_search(request), tmp_path, Silent(), How.alone("cpu"))
    found = json.loads(run.architecture_path.read_text(encoding="utf-8"))
    affinity = np.array(found["affinity"])
    assert affinity.shape == (4, 4)
    np.testing.assert_allclose(affinity * 40, np.rint(affinity * 40), atol=1e-9)  # shares of forty samples
    names = found["tasks"]
    groupings = [{frozenset(names.index(t) for t in block) for block in grouping} for grouping in found["groupings"]]
    # All layers of `tiny` cost the same.
    assert groupings == greedy_by_hand(affinity, [1 / 6] * 6, found["separation_weight"])
    # Stem, heads and layers as tests/networks/test_tiny.py counts them.
    cost = 64 * (576 + 4 * 10032 + 1680 * sum(map(len, groupings)))
    assert found["costs"]["madds"] == cost <= 4.3e6
    assert run.trained() == ["shared"]
    assert (run.search_folder / "affinity.png").stat().st_size > 1000
