"""The history of a search for TensorBoard, beside `history.jsonl`: `tensorboard --logdir runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bmtas.extras import require


class Board:
    """Writes records of steps as event files."""

    def __init__(self, folder: Path, done: int) -> None:
        """Go on at step `done`: what an earlier process wrote of later steps is not shown.

        Raises EnvironmentProblem where TensorBoard is not installed.
        """
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(folder), purge_step=done)

    def add(self, record: dict[str, Any]) -> None:
        """Show the numbers of one step (losses, expected costs, multipliers, temperature, entropy) and its tree, if told."""
        step = record["step"]
        for name, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(name.replace(".", "/"), value, step)
        if "tree" in record:
            self._writer.add_text("tree", record["tree"], step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
