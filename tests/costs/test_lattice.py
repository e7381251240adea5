import itertools

import numpy as np
import pytest

from costs.errors import CostError
from costs.lattice import lattice_of
from costs.partitions import bell, meet, moebius, partitions_of, refines
from costs.splits import complete_splits, split_numbers


@pytest.mark.parametrize("tasks", range(1, 7))
def test_partitions_are_those_of_the_list_and_are_found_again(tasks: int) -> None:
    lattice = lattice_of(tasks)
    assert len(lattice) == bell(tasks)
    rows = [tuple(int(block) for block in row if block) for row in lattice.blocks]
    assert rows == list(partitions_of(2**tasks - 1))
    np.testing.assert_array_equal(lattice.rank(lattice.labels), np.arange(len(lattice)))
    assert lattice.counts.tolist() == [len(row) for row in rows]


@pytest.mark.parametrize("tasks", range(1, 6))
def test_order_meet_and_moebius_agree_with_the_scalar_functions(tasks: int) -> None:
    lattice, listed = lattice_of(tasks), partitions_of(2**tasks - 1)
    for (i, one), (j, other) in itertools.product(enumerate(listed), repeat=2):
        assert bool(lattice.refines(i, j)) == refines(one, other)
        assert listed[int(lattice.meet(i, j))] == meet(one, other)
        assert int(lattice.moebius(i, j)) == (moebius(one, other) if refines(one, other) else 0)


@pytest.mark.parametrize("tasks", [1, 3, 6])
def test_sums_and_inverses_agree_with_the_matrices(tasks: int) -> None:
    lattice = lattice_of(tasks)
    every = np.arange(len(lattice))
    order = lattice.refines(every[:, None], every[None]).astype(float)
    inverse = lattice.moebius(every[:, None], every[None]).astype(float)
    values = np.random.default_rng(tasks).normal(size=(2, 3, len(lattice)))
    np.testing.assert_array_equal(order @ inverse, np.eye(len(lattice)))
    np.testing.assert_allclose(lattice.zeta(values), values @ order.T, atol=1e-10)
    np.testing.assert_allclose(lattice.unzeta(lattice.zeta(values)), values, atol=1e-9)
    np.testing.assert_allclose(lattice.invert_costs(values), values @ inverse, atol=1e-9)


def test_as_many_intervals_as_there_are_chains_of_two() -> None:
    # Sum of Stirling(T, b) Bell(b); 8 tasks: 167,894, 9 tasks: 1,606,137 (OEIS A000258, partitions of partitions)
    for tasks, count in ((2, 3), (3, 12), (4, 60), (5, 358), (8, 167_894), (9, 1_606_137)):
        assert sum(interval.coarse.size for interval in lattice_of(tasks).intervals) == count


def test_intervals_are_all_comparable_pairs() -> None:
    lattice = lattice_of(5)
    found = {(int(f), int(c)) for i in lattice.intervals for row in i.coarse for f, c in zip(i.fine, row, strict=True)}
    every = np.arange(len(lattice))
    assert found == set(zip(*map(np.ndarray.tolist, np.nonzero(lattice.refines(every[:, None], every))), strict=True))


def test_splits_of_a_partition_are_numbered() -> None:
    splits, numbers = complete_splits(4), split_numbers(4)
    lattice, listed = lattice_of(4), partitions_of(15)
    for b, rows in enumerate(numbers, start=1):
        for column, k in enumerate(np.flatnonzero(lattice.counts == b)):
            for chosen, number in enumerate(rows[:, column]):
                wanted = tuple(block for i, block in enumerate(listed[k]) if chosen >> i & 1)
                assert (splits.partition(int(number) - 1) if number else ()) == wanted


def test_sizes_out_of_reach_are_refused() -> None:
    with pytest.raises(CostError, match="12 tasks: listed for 1 to 11"):
        lattice_of(12)
    with pytest.raises(CostError, match=r"11 tasks: sums .* up to 10"):
        _ = lattice_of(11).intervals
