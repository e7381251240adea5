"""What every runtime's session offers, so that proof, stopwatch and runner need not know which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bmtas.errors import UsageError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input: its shape, in which a text stands for a free dimension, and its NumPy type (`float32`, `uint8`)."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    @property
    def static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(n, int) for n in self.shape)

    def noise(self, seed: int = 0) -> Array:
        """Return values as an image could have them: [-1, 1] for float32, 0 to 255 for uint8. Raises UsageError if not static."""
        if not self.static:
            raise UsageError(f"input {self.name!r}: the shape {self.shape} is not static; give a size")
        rng = np.random.default_rng(seed)
        shape = [int(n) for n in self.shape]
        if self.dtype == "uint8":
            return rng.integers(0, 256, shape).astype(np.uint8)
        return rng.uniform(-1, 1, shape).astype(self.dtype)


class Session(Protocol):
    """A loaded artefact on one runtime."""

    runtime: str
    """The runtime with its version: `onnxruntime 1.31.1`."""
    provider: str
    """Where it runs: the runtime's own name for it."""
    inputs: dict[str, TensorSpec]
    outputs: list[str]

    @property
    def image_spec(self) -> TensorSpec:
        """The only input. Raises UsageError where there are several."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name for all inputs by name."""

    def __call__(self, image: Array) -> dict[str, Array]:
        """Return all outputs by name, where the only input is the image."""

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the file or beside it; empty for a file of other origin."""


class OneImage(ABC):
    """Calling a session that has one input."""

    inputs: dict[str, TensorSpec]

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return all outputs by name; what a runtime does itself."""

    def __call__(self, image: Array) -> dict[str, Array]:
        """Return all outputs by name for `image`. Raises UsageError where there are several inputs."""
        return self.run({self.image_spec.name: image})

    @property
    def image_spec(self) -> TensorSpec:
        """The only input. Raises UsageError where there are several."""
        if len(self.inputs) != 1:
            raise UsageError(
                f"this file has {len(self.inputs)} inputs, {', '.join(self.inputs)}: it is one stage of a split network; give the "
                "folder's manifest.json instead"
            )
        return next(iter(self.inputs.values()))
