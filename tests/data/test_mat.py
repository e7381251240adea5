"""Files of MATLAB: what is damaged or of another version is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bmtas.data.downloads.mat import read_mat
from bmtas.errors import UsageError
from tests.data.trees_pascal import (
    anno,
    block,
    save_mat,
    thing,
)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def hdf5(path: Path) -> None:
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(100))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot read the .mat file"),
        (empty, "cannot read the .mat file"),
        (hdf5, r"version 7\.3.*HDF5.*-v7"),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "a.mat"
    save_mat(path, LabelMap=np.ones((12, 16)))
    damage(path)
    with pytest.raises(UsageError, match=message) as caught:
        read_mat(path, "LabelMap")
    assert str(path) in str(caught.value)


def test_a_variable_or_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with pytest.raises(UsageError, match=r"cannot read the \.mat file .*a\.mat"):
        read_mat(path, "x")
    save_mat(path, b=1, a=np.eye(2))
    assert read_mat(path, "a").tolist() == [[1, 0], [0, 1]]
    with pytest.raises(UsageError, match=r"a\.mat has no variable 'x'; it has a, b: "):
        read_mat(path, "x")


def test_a_mat_file_cut_anywhere_or_scrambled_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    mask = block(slice(0, 3), slice(0, 3))
    save_mat(path, anno=anno([thing(15, mask, [("head", mask)])]))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"a\.mat"):
            read_mat(path, "anno")
    for _ in range(200):
        scrambled = bytearray(whole)
        for at in rng.integers(128, len(whole), 3):
            scrambled[at] = rng.integers(256)
        path.write_bytes(bytes(scrambled))
        try:
            read_mat(path, "anno")
        except UsageError as error:
            assert "a.mat" in str(error)  # noqa: PT017 - damage that does not show is no failure
