"""PyTorch's exported program (`.pt2`): written, and loaded back to be proved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bmtas.errors import BuildError, UsageError
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task
from export.interface import INPUT, Interface
from export.metadata import PREFIX, PROGRAM_METADATA, read_metadata
from export.onnx_file import Exported, dynamic_shapes, example_image
from export.sessions.protocol import Array, OneImage, TensorSpec


def write_program(
    network: GraphNetwork,
    path: Path,
    *,
    tasks: Sequence[Task],
    size: tuple[int, int],
    interface: Interface,
    metadata: Mapping[str, Any],
) -> None:
    """Trace `network` with its interface and write the program, with `metadata` in it. Raises BuildError if it cannot be traced."""
    wrapped = Exported(network, {task.name: task for task in tasks}, interface).eval()
    free = dynamic_shapes(interface)
    # AUTO lets the tracer find the least size that the strides allow.
    named = None if free is None else {"image": dict.fromkeys(free[0], torch.export.Dim.AUTO)}
    entries = {f"{PREFIX}{key}": json.dumps(value) for key, value in metadata.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(wrapped, (example_image(interface, size),), dynamic_shapes=named)
            torch.export.save(program, path, extra_files={PROGRAM_METADATA: json.dumps(entries)})
    except OSError:
        raise
    except Exception as error:  # tracing raises errors of many classes
        raise BuildError(f"torch.export failed: {type(error).__name__}: {error}") from error


class ProgramSession(OneImage):
    """A program that this product wrote, on the CPU. Programs of unknown origin are not for this: loading one may run code."""

    def __init__(self, path: Path) -> None:
        """Load `path`. Raises UsageError if it is no exported program of ours."""
        extra = {PROGRAM_METADATA: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded = torch.export.load(path, extra_files=extra)
        except Exception as error:  # noqa: BLE001 -- the loader raises errors of many classes
            raise UsageError(f"{path} cannot be loaded by torch.export: {error}") from None
        if not extra[PROGRAM_METADATA]:
            raise UsageError(f"{path} was not written by `bmtas export`: it holds no {PROGRAM_METADATA}")
        self._path = path
        self._entries: dict[str, str] = json.loads(extra[PROGRAM_METADATA])
        self._module = loaded.module()
        told = self.metadata()
        self.runtime, self.provider = f"torch.export {torch.__version__}", "cpu"
        self.inputs = {INPUT: TensorSpec(INPUT, tuple(told["input"]["shape"]), told["input"]["dtype"])}
        self.outputs = [task["name"] for task in told["tasks"]]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for the image."""
        with torch.inference_mode():
            values = self._module(torch.from_numpy(feeds[INPUT]))
        return {name: value.numpy() for name, value in zip(self.outputs, values, strict=True)}

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the program."""
        return read_metadata(self._entries, str(self._path))
