"""Branched multi-task networks: correlations by numpy and scipy, features by direct passes, trees by enumeration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import spearmanr

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.config import Method
from bmtas.data.batches import Loader
from bmtas.data.planted import TASKS, Planted
from bmtas.methods import bmn
from bmtas.methods.bmn import dissimilarities, dissimilarity, grouping_penalties, rank_correlations
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Silent
from bmtas.workflow import run_search
from costs.least import groupings_of
from costs.partitions import Grouping

NAMES = [task.name for task in TASKS]
IMAGES = [0, 3, 4, 7, 9]
UPPER = np.triu_indices(len(IMAGES), k=1)


def test_dissimilarity_is_one_minus_pearsons_correlation() -> None:
    features = np.random.default_rng(0).normal(3, 2, (6, 40))
    expected = [1 - np.corrcoef(features[i], features[j])[0, 1] for i in range(6) for j in range(i + 1, 6)]
    np.testing.assert_allclose(dissimilarity(features), expected, atol=1e-12)
    np.testing.assert_allclose(dissimilarity(features.astype(np.float32)), expected, atol=1e-5)
    np.testing.assert_allclose(dissimilarity(np.array([[1.0, 2, 3], [5, 7, 9], [3, 2, 1]])), [0, 2, 2], atol=1e-12)


def test_features_that_are_the_same_everywhere_correlate_with_nothing() -> None:
    # The mean of so many equal float32 numbers is not quite the number itself.
    features = np.stack([np.full(1536, value, dtype=np.float32) for value in (0.1, 0.7, 0.7, 0.0)])
    features = np.vstack([features, np.linspace(0, 1, 1536, dtype=np.float32)[None]])
    assert dissimilarity(features).tolist() == [1.0] * 10


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlations_are_spearmans(seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 6, (4, 30)).astype(float)  # many ties
    np.testing.assert_allclose(rank_correlations(rows), spearmanr(rows, axis=1).statistic, atol=1e-12)


def test_rank_correlations_with_a_row_of_equal_values_are_0() -> None:
    rows = np.array([[0.1, 0.2, 0.7], [1.0, 1.0, 1.0], [3.0, 9.0, 10.0], [1.0, 1.0, 0.0]])
    # Ranks 1 2 3 against 2.5 2.5 1: the covariance is -1.5, the variances 2 and 1.5.
    half = -1.5 / 3**0.5
    expected = [[1, 0, 1, half], [0, 1, 0, 0], [1, 0, 1, half], [half, 0, half, 1]]
    np.testing.assert_allclose(rank_correlations(rows), expected, atol=1e-12)


def test_penalties_of_groupings_by_hand() -> None:
    first = np.array([[0.0, 0.2, 0.5], [0.2, 0.0, 0.7], [0.5, 0.7, 0.0]])
    found = grouping_penalties(np.stack([first, 10 * first, first - 1]))
    by_grouping = {grouping: found[:, k] for k, grouping in enumerate(groupings_of(3))}
    expected = {
        ((0, 1, 2),): 0.7,
        ((0, 1), (2,)): 0.2 / 2,
        ((0, 2), (1,)): 0.5 / 2,
        ((0,), (1, 2)): 0.7 / 2,
        ((0,), (1,), (2,)): 0.0,
    }
    assert set(by_grouping) == set(expected)
    for grouping, penalty in expected.items():
        # Less than nothing, as rounding may give, counts as nothing.
        np.testing.assert_allclose(by_grouping[grouping], [penalty, 10 * penalty, 0], atol=1e-12)


class Counting(Silent):
    """Counts the layers that are told of."""

    def __init__(self) -> None:
        self.layers = 0

    def advance(self, **values: float) -> None:
        self.layers += 1


@pytest.fixture(scope="module")
def network() -> GraphNetwork:
    torch.manual_seed(0)
    separate = build_network(BranchedArchitecture.separate("tiny", NAMES, 6), TASKS)
    with torch.no_grad():
        separate.train()(torch.randn(4, 3, 32, 32))  # statistics that are not the first ones
    return separate.eval()


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader(Planted(train=12), "train", TASKS, (32, 32))


@pytest.fixture(scope="module")
def by_hand(network: GraphNetwork, loader: Loader) -> list[npt.NDArray[np.float64]]:
    """The dissimilarities of each layer, (T, P), of features computed layer after layer, all images at once."""
    found: list[list[npt.NDArray[np.float64]]] = [[] for _ in range(6)]
    with torch.no_grad():
        for name in NAMES:
            x = network.get_submodule(f"stem.{name}")(loader.batch(IMAGES).images)
            for layer in range(6):
                x = network.get_submodule(f"layers.{layer:02d}.{name}")(x)
                found[layer].append(1 - np.corrcoef(x.flatten(1).double().numpy())[UPPER])
    return [np.stack(rows) for rows in found]


# Of five images a wide layer's 12 channels on 8 x 8 places take 15,360 bytes, a narrow one's 4 channels 5,120. With room
# for two wide ones layers 0 and 1 fit, then 2 to 5; without any room every pass gives one layer.
@pytest.mark.parametrize(("room", "passes"), [(1 << 30, 1), (2 * 15_360, 2), (1, 6), (0, 6)])
def test_dissimilarities_are_those_of_direct_passes_whatever_may_be_kept(
    network: GraphNetwork,
    loader: Loader,
    by_hand: list[npt.NDArray[np.float64]],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    passes: int,
) -> None:
    monkeypatch.setattr(bmn, "_FEATURE_BYTES", room)
    made, progress = [], Counting()
    hook = network.get_submodule("stem.b1").register_forward_hook(lambda *_: made.append(1))
    try:
        found = dissimilarities(network, loader, IMAGES, progress)
    finally:
        hook.remove()
    assert len(made) == passes * len(IMAGES)
    assert progress.layers == 4 * 6
    assert len(found) == 6
    for layer, expected in zip(found, by_hand, strict=True):
        assert layer.shape == (4, 10)
        np.testing.assert_allclose(layer, expected, atol=1e-5)
    assert np.abs(by_hand[0][0] - by_hand[0][1]).max() > 1e-3  # tasks differ, or this would show little


def refines(fine: Grouping, coarse: Grouping) -> bool:
    return all(any(set(block) <= set(parent) for parent in coarse) for block in fine)


PARTITIONS: list[Grouping] = [
    *[((0, 1, 2, 3),), ((0,), (1,), (2,), (3,))],
    *[tuple(sorted(((i,), tuple(t for t in range(4) if t != i)))) for i in range(4)],
    *[tuple(sorted(((0, i), tuple(t for t in (1, 2, 3) if t != i)))) for i in (1, 2, 3)],
    *[tuple(sorted(((i, j), *((t,) for t in range(4) if t not in (i, j))))) for i in range(4) for j in range(i + 1, 4)],
]


def all_trees(layers: int, within: Sequence[Grouping] = (((0, 1, 2, 3),),)) -> Iterator[tuple[Grouping, ...]]:
    for grouping in PARTITIONS:
        if refines(grouping, within[-1]):
            if layers == 1:
                yield (grouping,)
            else:
                for rest in all_trees(layers - 1, (grouping,)):
                    yield (grouping, *rest)


def test_a_whole_run_takes_the_tree_that_is_best_by_its_affinities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(set(PARTITIONS)) == len(PARTITIONS) == 15  # the fourth Bell number
    monkeypatch.setattr(bmn, "IMAGES", 12)
    overrides = {"steps": 2, "batch_size": 4}
    request = Request(
        data="planted", backbone="tiny", method=Method.BMN, budgets=("4.3MMAdds",), train_overrides=overrides
    )
    run = run_search(plan_search(request), tmp_path, Silent(), How.alone("cpu"))
    found = json.loads(run.architecture_path.read_text(encoding="utf-8"))
    affinity = np.array(found["affinity"])
    assert affinity.shape == (6, 4, 4)
    np.testing.assert_allclose(affinity, affinity.transpose(0, 2, 1), atol=1e-12)

    def penalty(layer: int, grouping: Grouping) -> float:
        worst = [max(1 - affinity[layer, a, b] for a in block for b in block) for block in grouping]
        return float(sum(worst) / len(worst))

    # Stem, heads and layers as tests/networks/test_tiny.py counts them: a budget is a number of groups.
    most = (4.3e6 / 64 - 576 - 4 * 10032) // 1680
    by_layer = [{grouping: penalty(layer, grouping) for grouping in PARTITIONS} for layer in range(6)]
    trees = [tree for tree in all_trees(6) if sum(map(len, tree)) <= most]
    totals = [sum(by_layer[layer][grouping] for layer, grouping in enumerate(tree)) for tree in trees]
    names = found["tasks"]
    tree = Architecture.from_json(found).task_indices
    assert names == NAMES
    assert tree in trees
    assert sum(by_layer[layer][grouping] for layer, grouping in enumerate(tree)) == pytest.approx(min(totals), abs=1e-9)
    assert found["dissimilarity"] == pytest.approx(min(totals), abs=1e-9)
    assert sorted(totals)[1] > min(totals) + 1e-9  # no other tree is as good
    assert found["costs"]["madds"] == 64 * (576 + 4 * 10032 + 1680 * sum(map(len, tree))) <= 4.3e6
    assert run.trained() == ["separate"]
    assert (run.search_folder / "affinity.png").stat().st_size > 1000
