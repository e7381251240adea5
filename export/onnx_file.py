"""The master artefact: one ONNX file with a named output per task and all that a device must know in its metadata."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmtas.architecture import Architecture
from bmtas.errors import BuildError
from bmtas.extras import require
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task

METADATA_VERSION = 1
INPUT = "image"
_WRAPPER = "network."
_OUTPUT = "bmtas.output."
# What turns camera pixels into the network's input; `bmtas.data.batches.image_tensor` is the same rule.
PREPROCESSING = {"layout": "NCHW", "colour": "RGB", "range": "0..255", "scale": 1 / 127.5, "offset": -1.0}
_POSTPROCESSING = {
    "segmentation": "argmax over channels",
    "classification": "argmax over channels",
    "binary": "sigmoid",
    "edge": "sigmoid",
    "normals": "divide by the length over channels",
    "depth": "none, metres",
    "regression": "none",
}


def write_onnx(
    network: GraphNetwork,
    path: Path,
    *,
    architecture: Architecture,
    tasks: Sequence[Task],
    size: tuple[int, int],
    costs: dict[str, float],
) -> None:
    """Export `network` to `path` with static shapes: input `image` (1, 3, height, width), one raw output per task.

    Raises BuildError if the exporter fails or the file is not what was asked for.
    """
    onnx = require("onnx", "host")
    require("onnxscript", "host")
    names = list(network.graph.tasks)
    image = torch.zeros(1, 3, *size)
    try:
        with _quiet():
            torch.onnx.export(
                _Outputs(network),
                (image,),
                str(path),
                input_names=[INPUT],
                output_names=[_OUTPUT + name for name in names],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        model = onnx.load(str(path))
        _tidy(model)
        onnx.checker.check_model(model, full_check=True)
    except OSError:
        raise  # a full disk is no fault of the network's
    except Exception as error:  # the exporter and the checker raise errors of many classes
        raise BuildError(f"ONNX export failed: {type(error).__name__}: {error}") from error
    outputs = [output.name for output in model.graph.output]
    if outputs != names:
        raise BuildError(f"ONNX export: outputs are {outputs}, expected {names}")
    metadata = describe(architecture, tasks, size, costs)
    metadata["opset"] = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"bmtas.{key}", json.dumps(value)
    onnx.save(model, str(path))


def describe(
    architecture: Architecture, tasks: Sequence[Task], size: tuple[int, int], costs: dict[str, float]
) -> dict[str, Any]:
    """Return the metadata: what the file computes, from what, and how its outputs are read."""
    return {
        "schema_version": METADATA_VERSION,
        "architecture": architecture.to_json(),
        "tasks": [
            {
                "name": t.name,
                "kind": t.kind.value,
                "classes": list(t.classes),
                "to_prediction": _POSTPROCESSING[t.kind.value],
            }
            for t in tasks
        ],
        "input": {"name": INPUT, "size": list(size), **PREPROCESSING},
        "costs": costs,
    }


def _tidy(model: Any) -> None:
    """Name nodes after the modules that they come from, and leave out what tells of the exporting machine.

    The exporter keeps stack traces with file paths in every node, and calls its wrapper `network` in every name.
    """
    outputs = {output.name: output.name.removeprefix(_OUTPUT) for output in model.graph.output}
    parameters = {i.name: i.name.removeprefix(_WRAPPER) for i in model.graph.initializer}
    # The exporter calls values `cat` or `mean`, which may be the name of a task, so none keeps its name.
    values = {v: f"value.{v}" for node in model.graph.node for v in node.output if v and v not in outputs}
    renamed = {**values, **parameters, **outputs}
    used: dict[str, int] = {}
    for initializer in model.graph.initializer:
        initializer.name = renamed[initializer.name]
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = [scope for scope in ast.literal_eval(scopes) if scope.startswith(_WRAPPER)]
        name = f"{modules[-1].removeprefix(_WRAPPER) if modules else 'network'}/{node.op_type}"
        used[name] = used.get(name, 0) + 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.name = renamed.get(value.name, value.name)
        del value.metadata_props[:]


class _Outputs(nn.Module):
    """The network with its predictions as a tuple in task order, which the exporter can name."""

    def __init__(self, network: GraphNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        predictions = self.network(image)
        return tuple(predictions[task] for task in self.network.graph.tasks)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's progress text and deprecation notes to itself; errors still come through as errors."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
