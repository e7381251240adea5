"""Cuts an ONNX graph: into stages at its branches, or down to what some of its tasks need."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bmtas.architecture import Architecture
from bmtas.errors import UsageError
from export.metadata import PREFIX, read_metadata, set_metadata
from export.sessions.protocol import TensorSpec
from export.stages.part import checked, part
from export.stages.quantised import keep_pairs_whole
from export.stages.values import constant_nodes, producers, replace_nodes, require_outputs, specs, tasks_of_nodes, used

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


@dataclass(frozen=True)
class Stage:
    """The nodes that one and the same set of tasks needs, as a model of its own.

    `inputs` are the image or values of earlier stages, `outputs` the predictions made here and the values that later stages read.
    """

    tasks: tuple[str, ...]
    model: ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def split_at_branches(model: ModelProto) -> list[Stage]:
    """Return the stages of `model` in an order in which each comes after those it reads: the trunk, branches, single tasks.

    Constants that several stages use are copied into each. Where 8-bit values cross a cut, the producing stage dequantises them
    and the reading one quantises them again: a float crosses, quantising it again gives the same 8 bits, and both stages keep
    the pairs that a runtime turns into integer kernels. Raises UsageError for free dimensions, control flow, or outputs that do
    not depend on the image, BuildError if a stage is no valid model.
    """
    whole = type(model)()
    whole.CopyFrom(model)
    graph, known = whole.graph, specs(whole)
    _require_static(whole, known)
    pinned = keep_pairs_whole(graph)
    known = specs(whole) if pinned else known
    needs = [pinned.get(n.output[0], t) for n, t in zip(graph.node, tasks_of_nodes(graph), strict=True)]
    constants = constant_nodes(graph)
    _require_dependent(graph, constants)
    order = {output.name: i for i, output in enumerate(graph.output)}
    # A stage reads only stages of strictly more tasks, so the largest sets come first.
    sets = sorted({n for n in needs if n}, key=lambda tasks: (-len(tasks), [order[t] for t in tasks]))
    members = {tasks: [i for i, n in enumerate(needs) if n == tasks and i not in constants] for tasks in sets}
    members = {tasks: indices for tasks, indices in members.items() if indices}
    read = {tasks: set(used(graph.node[i] for i in indices)) for tasks, indices in members.items()}
    stages = []
    for tasks, indices in members.items():
        elsewhere = set().union(*(values for other, values in read.items() if other != tasks))
        given = [v for i in indices for v in graph.node[i].output if v in elsewhere or v in order]
        given.sort(key=lambda v: order.get(v, len(order)))
        made = part(whole, indices, given, known, "+".join(tasks))
        stages.append(Stage(tasks, made.model, made.inputs, made.outputs))
    return stages


def prune(model: ModelProto, tasks: Iterable[str]) -> ModelProto:
    """Return the smaller model that predicts only `tasks`, in that order: what their outputs reach, without unused constants.

    The metadata are those of the smaller network: its tasks, its architecture, no costs. `model` stays as it is. Raises
    UsageError for tasks that are no outputs of the graph or stand there twice.
    """
    wanted = require_outputs(model.graph, tasks)
    needs = tasks_of_nodes(model.graph, wanted)
    smaller = type(model)()
    smaller.CopyFrom(model)
    graph = smaller.graph
    kept = [node for node, names in zip(model.graph.node, needs, strict=True) if names]
    replace_nodes(graph, kept)
    outputs = {output.name: output for output in model.graph.output}
    _replace(graph.output, [outputs[name] for name in wanted])
    reads = set(used(kept))
    _replace(graph.initializer, [i for i in model.graph.initializer if i.name in reads])
    values = {value for node in kept for value in node.output}
    # What was an output of the whole may be an inner value of the part.
    inner = [v for v in (*model.graph.value_info, *model.graph.output) if v.name in values - set(wanted)]
    _replace(graph.value_info, inner)
    _prune_metadata(smaller, wanted)
    return checked(smaller, f"the network of {', '.join(wanted)}")


def _prune_metadata(model: ModelProto, tasks: Sequence[str]) -> None:
    metadata = read_metadata({entry.key: entry.value for entry in model.metadata_props}, "the ONNX model")
    changed: dict[str, Any] = {}
    if "tasks" in metadata:
        changed["tasks"] = [task for name in tasks for task in metadata["tasks"] if task["name"] == name]
    if "architecture" in metadata:
        whole = Architecture.from_json(metadata["architecture"], "the ONNX model's metadata")
        changed["architecture"] = whole.subset(tasks).to_json()
    set_metadata(model, changed)
    _replace(model.metadata_props, [entry for entry in model.metadata_props if entry.key != f"{PREFIX}costs"])


def _replace(field: Any, entries: Sequence[Any]) -> None:
    """Put `entries` in the place of all entries of a repeated field."""
    copies = [copy.deepcopy(entry) for entry in entries]  # removing an entry takes its content away
    del field[:]
    field.extend(copies)


def _require_static(model: ModelProto, known: Mapping[str, TensorSpec]) -> None:
    for value in (*model.graph.input, *model.graph.output):
        if not known[value.name].static:
            raise UsageError(
                f"{value.name!r} has the shape {known[value.name].shape}: a split needs static shapes; export without --dynamic"
            )


def _require_dependent(graph: GraphProto, constants: set[int]) -> None:
    made = producers(graph)
    for output in graph.output:
        if output.name not in made or made[output.name] in constants:
            raise UsageError(f"the output {output.name!r} does not depend on the image; no stage can give it")
