"""Thinning against scikit-image, bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.morphology import thin

from bmtas.thinning import thin_bits

Maps = npt.NDArray[np.bool_]


def pack(maps: Maps) -> npt.NDArray[np.uint64]:
    """Maps (K, H, W), K at most 64, as words (H, W)."""
    return sum((m.astype(np.uint64) << np.uint64(k) for k, m in enumerate(maps)), np.zeros(maps.shape[1:], np.uint64))


def unpack(words: npt.NDArray[np.uint64], count: int = 64) -> Maps:
    return np.stack([words >> np.uint64(k) & np.uint64(1) != 0 for k in range(count)])


def check(maps: Maps) -> None:
    np.testing.assert_array_equal(unpack(thin_bits(pack(maps)), len(maps)), np.stack([thin(m) for m in maps]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 7), (5, 7), (23, 40), (48, 31)])
@pytest.mark.parametrize("density", [0.1, 0.4, 0.6, 0.8, 0.95])
def test_random_maps(shape: tuple[int, int], density: float) -> None:
    rng = np.random.default_rng([*shape, int(100 * density)])
    check(rng.random((64, *shape)) < density)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 30), (20, 21), (33, 50)])
def test_empty_and_full_maps(shape: tuple[int, int]) -> None:
    check(np.stack([np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)]))


def test_lines_and_bars_at_and_near_the_border() -> None:
    maps = []
    for thickness in (1, 2, 3, 4):
        for first in (0, 1, 2):
            upright = np.zeros((16, 19), dtype=bool)
            upright[:, first : first + thickness] = True
            maps += [upright, upright[:, ::-1], upright | upright[:, ::-1]]
            lying = np.zeros((16, 19), dtype=bool)
            lying[first : first + thickness] = True
            maps += [lying, lying[::-1], lying | lying[::-1]]
    frame = np.ones((16, 19), dtype=bool)
    frame[1:-1, 1:-1] = False
    check(np.stack([*maps[:62], frame]))
    check(np.stack([*maps[62:], maps[0] | frame]))


def test_nested_maps_of_one_smooth_picture() -> None:
    y, x = np.mgrid[:60, :80] / 10
    height = np.sin(x) * np.cos(y) + 0.1 * np.random.default_rng(0).random((60, 80))
    check(np.stack([height > level for level in np.linspace(-1, 1, 64)]))


def test_a_line_stays() -> None:
    line = np.eye(12, dtype=np.uint64)
    np.testing.assert_array_equal(thin_bits(line), line)


def test_what_is_thin_stays() -> None:
    rng = np.random.default_rng(3)
    once = thin_bits(rng.integers(0, 1 << 63, (30, 30), dtype=np.uint64))
    np.testing.assert_array_equal(thin_bits(once), once)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2**64 - 1)))
def test_any_words(words: npt.NDArray[np.uint64]) -> None:
    before = words.copy()
    thinned = thin_bits(words)
    np.testing.assert_array_equal(words, before)
    for k, one in enumerate(unpack(words)):
        np.testing.assert_array_equal(thinned >> np.uint64(k) & np.uint64(1) != 0, thin(one))
