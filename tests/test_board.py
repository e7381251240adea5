"""What TensorBoard is given, read back by TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmtas.board import Board

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = {tag: [(e.step, round(e.value, 6)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    found["trees"] = [(e.step, 0.0) for tag in events.Tags()["tensors"] for e in events.Tensors(tag)]
    return found


def test_losses_costs_and_trees_by_step_and_none_twice(tmp_path: Path) -> None:
    def steps(board: Board, first: int, last: int, loss: float) -> None:
        for step in range(first, last):
            record = {"step": step, "phase": "weights", "loss.depth": loss, "expected.madds": 2.0**33}
            board.add({**record, "tree": "0-17 all"} if step % 2 else record)
        board.close()

    steps(Board(tmp_path, 0), 0, 5, 0.5)
    steps(Board(tmp_path, 3), 3, 6, 0.25)  # killed after step 4, and gone on with from a checkpoint at step 3
    found = read(tmp_path)
    assert set(found) == {"loss/depth", "expected/madds", "trees"}
    assert found["loss/depth"] == [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25), (5, 0.25)]
    assert found["expected/madds"] == [(step, 2.0**33) for step in range(6)]
    assert {step for step, _ in found["trees"]} == {1, 3, 5}
