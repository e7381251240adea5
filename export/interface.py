"""What an exported network takes and gives: a choice of the user's, as data and as the modules around the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bmtas.errors import UsageError, nearest
from bmtas.tasks import Task, TaskKind
from export.sessions.protocol import Array

INPUT = "image"
InputType = Literal["float32", "uint8"]
OutputType = Literal["logits", "predictions"]
DYNAMIC = ("batch", "size")

# What turns camera pixels into the network's input; `bmtas.data.batches.image_tensor` is the same rule.
SCALE, OFFSET = 1 / 127.5, -1.0
_TO_PREDICTION = {
    TaskKind.SEGMENTATION: "argmax over channels",
    TaskKind.CLASSIFICATION: "argmax over channels",
    TaskKind.BINARY: "sigmoid",
    TaskKind.EDGE: "sigmoid",
    TaskKind.NORMALS: "divide by the length over channels",
    TaskKind.DEPTH: "none, metres",
    TaskKind.REGRESSION: "none",
}


@dataclass(frozen=True)
class Interface:
    """Input type, output type and free dimensions of an exported network.

    `float32` is (N, 3, H, W) in [-1, 1], `uint8` is (N, H, W, 3) RGB as a camera gives it, normalised inside the graph.
    `logits` are raw outputs; `predictions` are class ids (int32), probabilities, unit normals. `dynamic` holds `batch`,
    `size` or both.
    """

    input_type: InputType = "float32"
    outputs: OutputType = "logits"
    dynamic: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Whether outputs are final predictions."""
        return self.outputs == "predictions"

    def input_shape(self, size: tuple[int, int]) -> tuple[int | str, ...]:
        """Return the input's shape for images of `size` (height, width), free dimensions by name."""
        batch: int | str = "batch" if "batch" in self.dynamic else 1
        height, width = ("height", "width") if "size" in self.dynamic else size
        return (batch, height, width, 3) if self.input_type == "uint8" else (batch, 3, height, width)

    def feed(self, image: Array) -> Array:
        """Map an image (H, W, 3) uint8 RGB to what the exported network takes, N = 1."""
        if self.input_type == "uint8":
            return np.ascontiguousarray(image[None])
        planes = image.transpose(2, 0, 1)[None].astype(np.float32)
        return np.ascontiguousarray(planes * np.float32(SCALE) + np.float32(OFFSET))

    def label(self) -> list[str]:
        """Return what a file's name tells of the interface: nothing for the default one."""
        changed = [self.outputs] if self.final else []
        return [*changed, *(["uint8"] if self.input_type == "uint8" else []), *(f"dynamic-{d}" for d in self.dynamic)]

    def to_json(self, size: tuple[int, int], tasks: Sequence[Task]) -> dict[str, Any]:
        """Return how the input is made and the outputs are read, as plain JSON values."""
        uint8 = self.input_type == "uint8"
        made = {"scale": 1.0, "offset": 0.0} if uint8 else {"scale": SCALE, "offset": OFFSET}
        return {
            "input": {
                "name": INPUT,
                "size": list(size),
                "shape": list(self.input_shape(size)),
                "dtype": self.input_type,
                "layout": "NHWC" if uint8 else "NCHW",
                "colour": "RGB",
                "range": "0..255",
                **made,
            },
            "outputs": self.outputs,
            "tasks": [
                {
                    "name": task.name,
                    "kind": task.kind.value,
                    "classes": list(task.classes),
                    "to_prediction": "none" if self.final else _TO_PREDICTION[task.kind],
                }
                for task in tasks
            ],
        }


def parse_dynamic(text: str | None) -> tuple[str, ...]:
    """Read `--dynamic batch`, `size` or `batch,size`. Raises UsageError for anything else."""
    asked = [] if text is None else [part.strip() for part in text.split(",")]
    for part in asked:
        if part not in DYNAMIC:
            raise UsageError(f"--dynamic {part!r}; {nearest(part, DYNAMIC)}, or both with a comma")
    return tuple(d for d in DYNAMIC if d in asked)


def tasks_of(metadata: Mapping[str, Any]) -> tuple[Task, ...]:
    """Return the tasks that a file's metadata describe, in output order. Raises UsageError if they tell none."""
    try:
        return tuple(
            Task(name=t["name"], kind=TaskKind.parse(t["kind"]), classes=tuple(t["classes"])) for t in metadata["tasks"]
        )
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"the file's metadata name no tasks ({error!r}): it was not written by `bmtas export`, or by a newer version"
        ) from None
