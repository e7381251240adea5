"""The last two checkpoints of a run, whatever befalls the last one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from bmtas.checkpoint import belongs, broken, has_checkpoint, load_checkpoint, load_latest, previous, save_checkpoint
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
    assert load_latest(two, notes.append)[0]["done"] == 3
    assert load_checkpoint(previous(two))["done"] == 2
    assert notes == []


@pytest.mark.parametrize("length", [0, 100, 400, 700])
def test_a_broken_one_gives_way_to_the_one_before(two: Path, length: int) -> None:
    notes: list[str] = []
    damaged = two.read_bytes()[:length]
    two.write_bytes(damaged)
    assert load_latest(two, notes.append)[0]["done"] == 2
    assert len(notes) == 1
    assert "cut short" in notes[0]
    assert (
        "it is kept as checkpoint.broken.pt. Going on from the checkpoint before it, checkpoint.previous.pt" in notes[0]
    )
    # The broken one must not become the one before, and is not lost either.
    assert not two.exists()
    assert broken(two).read_bytes() == damaged
    assert has_checkpoint(two)
    save_checkpoint(two, {"done": 3}, rotate=True)
    assert (load_latest(two, notes.append)[0]["done"], load_checkpoint(previous(two))["done"]) == (3, 2)


def test_killed_between_the_two_renames(two: Path) -> None:
    two.unlink()
    half = two.with_name(f".{two.name}.half.pt")
    half.write_bytes(b"half")
    assert has_checkpoint(two)
    notes: list[str] = []
    state, path = load_latest(two, notes.append)
    assert (state["done"], path) == (2, previous(two))
    assert "checkpoint.pt does not exist; going on from the checkpoint before it" in notes[0]
    assert not half.exists()


def test_both_broken_is_an_error_that_says_what_to_do(two: Path) -> None:
    for path in (two, previous(two)):
        path.write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        load_latest(two, lambda _: None)
    assert f"{previous(two)} cannot be read" in str(caught.value)
    assert f"Delete {two} and {previous(two)} to begin this phase anew" in str(caught.value)


def test_what_a_disk_refuses_to_give_is_not_called_damaged(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(OSError, match="Input/output error"):
        load_latest(two, lambda _: None)
    assert two.exists()


def test_the_advice_for_a_checkpoint_of_something_else_names_all_that_must_go(two: Path) -> None:
    with pytest.raises(UsageError, match="does not belong to this search") as caught, belongs(two, "this search"):
        raise KeyError("watch")
    for path in (two, previous(two)):
        assert str(path) in str(caught.value)
        path.unlink()  # as it says
    assert not has_checkpoint(two)


def test_a_single_one_that_is_broken_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"checkpoint.pt cannot be read"):
        load_latest(path, lambda _: None)
    assert path.exists()
