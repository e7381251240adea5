"""The master artefact: one ONNX file with a named output per task and all that a device must know in its metadata."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.architecture import Architecture
from bmtas.errors import BuildError
from bmtas.extras import require
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task, TaskKind
from export.interface import INPUT, OFFSET, SCALE, Interface
from export.lint import lint
from export.metadata import describe, set_metadata
from export.predictions import with_predictions

OPSET = 18
"""TensorRT 10.3 to 11.x and every ONNX Runtime of the last years read it; the exporter's own version, so nothing is converted."""
_WRAPPER = "network."
_OUTPUT = "bmtas.output."


def write_onnx(
    network: GraphNetwork,
    path: Path,
    *,
    architecture: Architecture,
    tasks: Sequence[Task],
    size: tuple[int, int],
    costs: Mapping[str, float],
    interface: Interface | None = None,
) -> None:
    """Export `network` to `path`: input `image`, one output per task in task order, static shapes unless asked otherwise.

    Raises BuildError if the exporter fails or the file is not what was asked for.
    """
    onnx = require("onnx", "host")
    model = master_model(
        network, architecture=architecture, tasks=tasks, size=size, costs=costs, interface=interface or Interface()
    )
    onnx.save(model, str(path))


def master_model(
    network: GraphNetwork,
    *,
    architecture: Architecture,
    tasks: Sequence[Task],
    size: tuple[int, int],
    costs: Mapping[str, float],
    interface: Interface,
) -> Any:
    """Return the FP32 ModelProto of `network`, checked and linted, with its metadata; every other artefact is made from it.

    Raises BuildError if a weight is no number, the exporter fails, or the result is not what was asked for.
    """
    onnx = require("onnx", "host")
    require("onnxscript", "host")
    _require_numbers(network)
    names = list(network.graph.tasks)
    by_name = {task.name: task for task in tasks}
    try:
        with _quiet():
            program = torch.onnx.export(
                Exported(network, by_name, replace(interface, outputs="logits")),
                (example_image(interface, size),),
                input_names=[INPUT],
                output_names=[_OUTPUT + name for name in names],
                opset_version=OPSET,
                dynamic_shapes=dynamic_shapes(interface),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        _tidy(model)
        onnx.checker.check_model(model, full_check=True)
    except OSError:
        raise  # a full disk is no fault of the network's
    except Exception as error:  # the exporter and the checker raise errors of many classes
        raise BuildError(f"ONNX export failed: {type(error).__name__}: {error}") from error
    _require_as_asked(model, names, interface)
    if interface.final:
        model = with_predictions(model, [by_name[name] for name in names])
    metadata = describe(architecture, [by_name[name] for name in names], size, costs, interface)
    metadata["opset"] = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    set_metadata(model, metadata)
    return model


class Exported(nn.Module):
    """The network between what the device feeds and what it reads: outputs as a tuple in task order."""

    def __init__(self, network: GraphNetwork, tasks: Mapping[str, Task], interface: Interface) -> None:
        super().__init__()
        self.network, self._interface = network, interface
        self._kinds = {name: tasks[name].kind for name in network.graph.tasks}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map the image of the interface to one tensor per task."""
        if self._interface.input_type == "uint8":
            # TensorRT takes 8-bit inputs only where a cast is the first thing that happens to them.
            image = image.float().permute(0, 3, 1, 2) * SCALE + OFFSET
        raw = self.network(image)
        if not self._interface.final:
            return tuple(raw[task] for task in self._kinds)
        return tuple(_final(kind, raw[task]) for task, kind in self._kinds.items())


def _final(kind: TaskKind, raw: Tensor) -> Tensor:
    """Map raw outputs (N, channels, ...) to final predictions; `export.proof.units.final_prediction` is the same rule in NumPy."""
    if kind in (TaskKind.SEGMENTATION, TaskKind.CLASSIFICATION):
        return raw.argmax(dim=1).to(torch.int32)
    if kind in (TaskKind.BINARY, TaskKind.EDGE):
        return raw.sigmoid()
    return F.normalize(raw, dim=1) if kind is TaskKind.NORMALS else raw


def example_image(interface: Interface, size: tuple[int, int]) -> Tensor:
    """Return an image of zeros to trace with; a free batch is traced with two, for one would be taken for a constant."""
    shape = [2 if n == "batch" else n for n in interface.input_shape(size)]
    numbers = [{"height": size[0], "width": size[1]}.get(str(n), n) for n in shape]
    return torch.zeros(
        [int(n) for n in numbers], dtype=torch.uint8 if interface.input_type == "uint8" else torch.float32
    )


def dynamic_shapes(interface: Interface) -> tuple[dict[int, str]] | None:
    """Return the free dimensions in the exporter's form; None where there are none."""
    free = {i: n for i, n in enumerate(interface.input_shape((1, 1))) if isinstance(n, str)}
    return (free,) if free else None


def _require_numbers(network: nn.Module) -> None:
    """Raise BuildError naming the first parameter or statistic that is NaN or infinite."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            broken = int((~torch.isfinite(value)).sum())
            raise BuildError(
                f"{name} has {broken} of {value.numel()} values that are NaN or infinite: the network is broken; train it again"
            )


def _require_as_asked(model: Any, names: list[str], interface: Interface) -> None:
    outputs = [output.name for output in model.graph.output]
    if outputs != names:
        raise BuildError(f"ONNX export: outputs are {outputs}, expected {names}")
    got = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if got != OPSET:  # the exporter can fail to convert and then only prints so
        raise BuildError(f"ONNX export: opset {OPSET} was asked for, the exporter gave {got}")
    fatal = [f for f in lint(model, dynamic=bool(interface.dynamic)) if f.fatal]
    if fatal:
        raise BuildError(
            "ONNX export: the graph would not run everywhere: " + "; ".join(f"{f.node}: {f.text}" for f in fatal)
        )


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
