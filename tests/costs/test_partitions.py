import itertools

import pytest

from costs.errors import CostError
from costs.partitions import (
    bell,
    canonical,
    meet,
    moebius,
    partitions_of,
    partitions_up_to,
    refines,
    restrict,
    tasks_of,
)


def test_bell_numbers() -> None:
    assert [bell(n) for n in range(7)] == [1, 1, 2, 5, 15, 52, 203]


@pytest.mark.parametrize("tasks", range(7))
def test_partitions_are_all_there_once(tasks: int) -> None:
    mask = 2**tasks - 1
    found = partitions_of(mask)
    assert len(found) == len(set(found)) == bell(tasks)
    for partition in found:
        assert sum(partition) == mask
        assert canonical(partition) == partition
        assert all(a & b == 0 for a, b in itertools.combinations(partition, 2))


def test_canonical_order_goes_by_restricted_growth_strings() -> None:
    assert partitions_of(0b111) == ((0b111,), (0b011, 0b100), (0b101, 0b010), (0b001, 0b110), (0b001, 0b010, 0b100))


def test_partitions_of_a_set_with_gaps() -> None:
    assert partitions_of(0b101000) == ((0b101000,), (0b001000, 0b100000))


def test_few_blocks_only() -> None:
    assert partitions_up_to(0b1111, 2) == tuple(p for p in partitions_of(0b1111) if len(p) <= 2)


def test_too_many_tasks_are_refused() -> None:
    with pytest.raises(CostError, match=r"12 tasks .* 0 to 11"):
        partitions_of(2**12 - 1)


def test_refinement_meet_and_restriction() -> None:
    assert refines((1, 2, 4), (3, 4))
    assert refines((3, 4), (3, 4))
    assert not refines((3, 4), (1, 6))
    assert not refines((1, 2), (3, 4))
    assert meet((0b0011, 0b1100), (0b0101, 0b1010)) == (1, 2, 4, 8)
    assert restrict((0b0011, 0b1100), 0b0110) == (0b0010, 0b0100)
    assert tasks_of(0b1010) == (1, 3)


def test_moebius_by_hand() -> None:
    assert moebius((1, 2, 4), (1, 2, 4)) == 1
    assert moebius((1, 2, 4), (3, 4)) == -1
    assert moebius((1, 2, 4), (7,)) == 2
    assert moebius((1, 2, 4, 8), (15,)) == -6
    assert moebius((1, 2, 4, 8), (3, 12)) == 1
    with pytest.raises(CostError, match="does not refine"):
        moebius((3, 4), (1, 6))


def test_moebius_inverts_summing_over_coarser_partitions() -> None:
    listed = partitions_of(0b1111)
    for fine, coarse in itertools.product(listed, repeat=2):
        if refines(fine, coarse):
            between = [p for p in listed if refines(fine, p) and refines(p, coarse)]
            assert sum(moebius(p, coarse) for p in between) == (fine == coarse)
