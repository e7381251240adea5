"""What a search says of itself while it runs, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bmtas.view import current_tree, describe_tree, grouping_entropy

ALL, PAIRS, ALONE = ((0, 1, 2),), ((0, 2), (1,)), ((0,), (1,), (2,))


def test_a_tree_in_words() -> None:
    names = ("a", "b", "c")
    assert describe_tree([ALL, ALL, PAIRS, ALONE, ALONE], names) == "0-1 all, 2 a+c|b, 3-4 each alone"
    assert describe_tree([ALL], names) == "0 all"


def test_the_tree_of_the_most_probable_candidates() -> None:
    probs = np.full((2, 3, 3), 0.1)
    for layer, draws in enumerate(((1, 1, 1), (0, 2, 0))):
        for task, candidate in enumerate(draws):
            probs[layer, task, candidate] = 0.8
    assert current_tree(probs, ("a", "b", "c")) == "0 all, 1 a+c|b"


def test_entropy_of_two_tasks_by_hand() -> None:
    probs = np.array([[[0.5, 0.5], [0.9, 0.1]], [[1.0, 0.0], [1.0, 0.0]]])
    # Together with 1/2 in the first layer, and the second keeps together what is: ln 2 in both.
    assert grouping_entropy(probs) == pytest.approx(math.log(2))
    certain = np.eye(2)[[[0, 0], [0, 1]]]
    assert grouping_entropy(certain) == 0
    assert grouping_entropy(np.full((1, 9, 2), 0.5)) is None
