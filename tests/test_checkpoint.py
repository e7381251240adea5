"""The last two checkpoints of a run, whatever befalls the last one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmtas.checkpoint import has_checkpoint, load_latest, previous, save_checkpoint
from bmtas.errors import UsageError


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    for done in (1, 2, 3):
        save_checkpoint(path, {"done": done}, rotate=True)
    return path


def test_the_one_before_is_kept(two: Path) -> None:
    notes: list[str] = []
    assert sorted(p.name for p in two.parent.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]
    assert load_latest(two, notes.append)["done"] == 3
    assert load_latest(previous(two), notes.append)["done"] == 2
    assert notes == []


@pytest.mark.parametrize("length", [0, 100])
def test_a_broken_one_gives_way_to_the_one_before(two: Path, length: int) -> None:
    notes: list[str] = []
    two.write_bytes(two.read_bytes()[:length])
    assert load_latest(two, notes.append)["done"] == 2
    assert len(notes) == 1
    assert "cut short" in notes[0]
    assert "going on from the checkpoint before it, checkpoint.previous.pt" in notes[0]
    # The broken one must not become the one before.
    assert not two.exists()
    assert has_checkpoint(two)
    save_checkpoint(two, {"done": 3}, rotate=True)
    assert (load_latest(two, notes.append)["done"], load_latest(previous(two), notes.append)["done"]) == (3, 2)


def test_killed_between_the_two_renames(two: Path) -> None:
    two.unlink()
    assert has_checkpoint(two)
    assert load_latest(two, lambda _: None)["done"] == 2


def test_both_broken_is_an_error_that_says_what_to_do(two: Path) -> None:
    for path in (two, previous(two)):
        path.write_bytes(b"x")
    with pytest.raises(
        UsageError, match=r"checkpoint.previous.pt cannot be read .* Delete it to begin this phase anew"
    ):
        load_latest(two, lambda _: None)


def test_a_single_one_that_is_broken_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"checkpoint.pt cannot be read"):
        load_latest(path, lambda _: None)
    assert path.exists()
