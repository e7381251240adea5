"""The generated data sets: the same bits in any order and in any process."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from bmtas.data.planted import Planted
from bmtas.data.scenes import Scenes

KINDS: dict[str, type[Scenes] | type[Planted]] = {"Scenes": Scenes, "Planted": Planted}


def digest(data: Scenes | Planted, indices: list[int]) -> str:
    """Hash of images and labels, in the order of indices."""
    names = [task.name for task in data.tasks]
    hashes = {}
    for i in indices:
        sample = data.load("val", i, size=(40, 50), tasks=names)
        parts = [sample.image.tobytes(), *(sample.labels[t].tobytes() for t in names)]
        hashes[i] = hashlib.sha256(b"".join(parts)).hexdigest()
    return " ".join(hashes[i] for i in sorted(hashes))


@pytest.mark.parametrize("kind", list(KINDS))
def test_equal_bits_in_any_order_and_process(kind: str) -> None:
    here = digest(KINDS[kind](), [2, 0, 1, 0])
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("there", {__file__!r})
there = importlib.util.module_from_spec(spec)
spec.loader.exec_module(there)
print(there.digest(there.{kind}(train=7, val=3), [0, 1, 2]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == here.split()
    assert len(set(here.split())) == 3
