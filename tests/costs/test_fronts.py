import numpy as np
import pytest

from costs.fronts import Front, join, merge, shorten, undominated


@pytest.mark.parametrize("resources", [1, 2, 3])
@pytest.mark.parametrize("points", [1, 7, 700])
def test_undominated_agrees_with_all_pairs(resources: int, points: int) -> None:
    rng = np.random.default_rng(points)
    table = rng.integers(0, 12 if points < 100 else 40, size=(points, resources + 1)).astype(float)  # with ties
    kept = undominated(table[:, :-1], table[:, -1])
    expected = {
        tuple(row)
        for row in table.tolist()
        if not any(other != row and all(a <= b for a, b in zip(other, row, strict=True)) for other in table.tolist())
    }
    assert len(kept) == len(expected)
    assert {tuple(row) for row in table[kept].tolist()} == expected
    assert table[kept, 0].tolist() == sorted(table[kept, 0].tolist())


def front(points: list[tuple[float, float]]) -> Front:
    costs, scores = zip(*points, strict=True)
    n = len(points)
    return Front(np.array(costs)[:, None], np.array(scores), np.zeros(n, int), np.zeros((n, 3), int))


def test_join_adds_every_pair_and_remembers_the_picks() -> None:
    one, other = front([(0, 5), (2, 1)]), front([(0, 3), (1, 0)])
    joined = join(one, other, 1, lambda cost, score: cost[:, 0] <= 2)
    assert joined is not None
    assert [(c, s) for (c,), s in zip(joined.cost, joined.score, strict=True)] == [(0, 8), (1, 5), (2, 4)]
    assert joined.picks[:, 1].tolist() == [0, 1, 0]
    assert join(one, other, 1, lambda cost, score: cost[:, 0] < 0) is None


def test_merge_and_shorten() -> None:
    merged = merge([front([(0, 5), (2, 1)]), front([(1, 4), (2, 3), (3, 0)])])
    assert merged is not None
    assert merged.cost.ravel().tolist() == [0, 1, 2, 3]
    short = shorten(merged, np.array([1.0]), 2)
    assert short.cost.ravel().tolist() == [0, 2]  # the one that the price favours, and the cheapest
    assert merge([]) is None
