"""Dominance, against its definition by brute force and against points set by hand."""

from __future__ import annotations

import random

import pytest

from bmtas.sweep.front import pareto


@pytest.mark.parametrize(
    ("points", "on"),
    [
        ([], []),
        ([(1.0, 0.0)], [True]),
        ([(1.0, 0.0), (2.0, 1.0)], [True, True]),  # dearer and better
        ([(1.0, 1.0), (2.0, 0.0)], [True, False]),  # dearer and worse
        ([(1.0, 1.0), (2.0, 1.0)], [True, False]),  # as good, but dearer
        ([(1.0, 1.0), (1.0, 0.5)], [True, False]),  # as dear, but worse
        ([(1.0, 1.0), (1.0, 1.0)], [True, True]),  # equal in both: neither beats the other
        ([(1.0, 1.0), (2.0, 0.0), (2.0, 0.0)], [True, False, False]),  # equal, and both beaten
        ([(3.0, 5.0), (1.0, -2.0), (2.0, -2.0), (3.0, 4.0), (4.0, 6.0)], [True, True, False, False, True]),
    ],
)
def test_by_hand(points: list[tuple[float, float]], on: list[bool]) -> None:
    assert pareto(points) == on


def test_against_the_definition() -> None:
    rng = random.Random(3)
    for _ in range(300):
        # Few values, so that there are many ties.
        points = [(float(rng.randrange(5)), float(rng.randrange(-2, 3))) for _ in range(rng.randrange(1, 12))]
        expected = [
            not any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points) for cost, gain in points
        ]
        assert pareto(points) == expected, points
