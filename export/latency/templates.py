"""One exported network cut into its operations, from which other networks are put together without exporting them.

Tracing a network takes seconds and a kit has more than a hundred; what is put together here has node for node the
graph that tracing would have given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bmtas.architecture import Architecture
from bmtas.errors import BuildError
from bmtas.extras import require
from bmtas.graph import IMAGE, MergedGraph, head_name

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto


_SMALL_BYTES: Final = 256
_WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Template:
    """The nodes of one operation. `reads` maps the operation that an input comes from to the value's name."""

    module: str
    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]
    reads: Mapping[str, str]
    gives: str


class Templates:
    """The operations of networks, by name (`stem`, `layers.07`, `heads.depth`)."""

    def __init__(self, models: Sequence[ModelProto], architectures: Sequence[Architecture], tap: int) -> None:
        """Cut `models`, exports of the single-task `architectures` with raw outputs: of one task each, all of one backbone.

        Raises BuildError if a node cannot be told to belong to one operation.
        """
        self.tap = tap
        self.source = models[0]
        self.image: str = self.source.graph.input[0].name
        self._values: dict[str, ValueInfoProto] = {}
        self.by_operation: dict[str, Template] = {}
        for model, architecture in zip(models, architectures, strict=True):
            graph = architecture.graph(tap)
            known = {v.name: v for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
            for name, template in _cut(model, graph, _owners(model, graph)).items():
                if name not in self.by_operation:  # the encoder is every time the same
                    self.by_operation[name] = template
                    self._values |= {v: known[v] for v in (template.gives, *template.reads.values()) if v in known}

    def whole(self, architecture: Architecture) -> ModelProto:
        """Return the network of `architecture`, which has the same backbone and tasks: input `image`, an output per task."""
        graph = architecture.graph(self.tap)
        making = _Making(self)
        values = {IMAGE: self.image}
        making.takes(self.image, self.image)
        for node in graph.nodes:
            template = self.by_operation[node.operation]
            inputs = {
                template.reads[self._operation(source, graph)]: values[source] for source in node.inputs or (IMAGE,)
            }
            task = next((t for t, name in graph.outputs.items() if name == node.name), None)
            values[node.name] = making.add(template, node.module, inputs, task)
        for task in graph.tasks:
            making.gives(values[graph.outputs[task]], self.by_operation[head_name(task)].gives)
        return making.model()

    def part(self, operation: str, copies: int = 1) -> ModelProto:
        """Return a network of `copies` copies of one operation side by side, each with weights and inputs of its own."""
        template = self.by_operation[operation]
        making = _Making(self)
        outputs = []
        for copy in range(copies):
            inputs = {value: f"{value}.{copy}" for value in template.reads.values()}
            for value, name in inputs.items():
                making.takes(name, value)
            outputs.append(making.add(template, f"{operation}.copy{copy}", inputs, None))
        for name in outputs:
            making.gives(name, template.gives)
        return making.model()

    def elements(self, operation: str) -> tuple[int, int]:
        """Return how many numbers one copy of an operation reads and gives."""
        template = self.by_operation[operation]
        reads = sum(self._elements(value) for value in template.reads.values())
        return reads, self._elements(template.gives)

    def value(self, name: str) -> ValueInfoProto:
        """Return type and shape of a value of the network that was cut. Raises BuildError if they are not known."""
        if name not in self._values:
            raise BuildError(f"the exported network does not tell the shape of {name!r}; it cannot be cut there")
        return self._values[name]

    def _elements(self, value: str) -> int:
        product = 1
        for dimension in self.value(value).type.tensor_type.shape.dim:
            product *= dimension.dim_value
        return product

    @staticmethod
    def _operation(source: str, graph: MergedGraph) -> str:
        return next((node.operation for node in graph.nodes if node.name == source), IMAGE)


class _Making:
    """A model in the making: copies of templates, wired."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def add(self, template: Template, module: str, inputs: Mapping[str, str], output: str | None) -> str:
        """Add a copy of `template` called `module` that reads `inputs` (names in the template to names here); return its output."""
        renamed = {name: f"{module}/{name}" for name in template.constants}
        for node in template.nodes:
            renamed.update({name: f"{module}/{name}" for name in node.output if name})
        renamed.update(inputs)
        renamed[template.gives] = output or f"{module}/{template.gives}"
        for node in template.nodes:
            copy = type(node)()
            copy.CopyFrom(node)
            copy.name = _renamed(node.name, template.module, module)
            copy.input[:] = [renamed[name] if name else "" for name in node.input]
            copy.output[:] = [renamed[name] if name else "" for name in node.output]
            self._nodes.append(copy)
        for name, constant in template.constants.items():
            weight = type(constant)()
            weight.CopyFrom(constant)
            weight.name = renamed[name]
            self._constants.append(weight)
        return renamed[template.gives]

    def takes(self, name: str, like: str) -> None:
        self._inputs.append(self._named(name, like))

    def gives(self, name: str, like: str) -> None:
        self._outputs.append(self._named(name, like))

    def _named(self, name: str, like: str) -> ValueInfoProto:
        value = self._templates.value(like)
        copy = type(value)()
        copy.CopyFrom(value)
        copy.name = name
        return copy

    def model(self) -> ModelProto:
        """Return the model, checked, with the shapes of all values."""
        onnx = require("onnx", "host")
        source = self._templates.source
        nodes, constants = _without_repetition(self._nodes, self._constants)
        graph = onnx.helper.make_graph(nodes, "bmtas", self._inputs, self._outputs, constants)
        model = onnx.helper.make_model(graph, opset_imports=list(source.opset_import), ir_version=source.ir_version)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _without_repetition(
    nodes: Sequence[NodeProto], constants: Sequence[TensorProto]
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants without those that compute or hold the same as an earlier one, as the exporter has them.

    Weights and biases are never taken for the same, though those of copies are equal: only other constants of a few numbers are compared.
    """
    same: dict[str, str] = {}
    kept_constants: dict[Any, TensorProto] = {}
    weights = {name for node in nodes if node.op_type in _WEIGHTED for name in node.input[1:]}
    for constant in constants:
        small = constant.ByteSize() < _SMALL_BYTES and constant.name not in weights
        key = (constant.data_type, *constant.dims, _content(constant)) if small else constant.name
        same[constant.name] = kept_constants.setdefault(key, constant).name
    kept_nodes: dict[Any, NodeProto] = {}
    for node in nodes:
        node.input[:] = [same.get(name, name) for name in node.input]
        attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        first = kept_nodes.setdefault((node.op_type, tuple(node.input), *attributes), node)
        same.update(zip(node.output, first.output, strict=True))
    return list(kept_nodes.values()), list(kept_constants.values())


def _content(constant: TensorProto) -> bytes:
    from onnx.numpy_helper import to_array

    content: bytes = to_array(constant).tobytes()
    return content


def _renamed(name: str, module: str, new: str) -> str:
    return new + name[len(module) :] if name.startswith(module) else f"{new}/{name}"


def _owners(model: ModelProto, graph: MergedGraph) -> list[str]:
    """Return for each node of the model the name of the graph's node that it belongs to.

    What carries no module's name (the last resizing, say) belongs to the one task that alone needs it.
    """
    modules = sorted(((node.module, node.name) for node in graph.nodes), key=lambda pair: -len(pair[0]))
    needed = _needed_by(model)
    owners = []
    for node in model.graph.node:
        scope = node.name.split("/")[0]
        owner = next((name for module, name in modules if scope == module or scope.startswith(f"{module}.")), None)
        if owner is None:
            tasks = needed[node.output[0]]
            if len(tasks) != 1:
                raise BuildError(
                    f"node {node.name!r} belongs to no operation; the network cannot be cut into operations"
                )
            owner = graph.outputs[next(iter(tasks))]
        owners.append(owner)
    return owners


def _needed_by(model: ModelProto) -> dict[str, set[str]]:
    """Return the outputs that each value is needed for."""
    needed: dict[str, set[str]] = {output.name: {output.name} for output in model.graph.output}
    for node in reversed(model.graph.node):
        tasks = set().union(*(needed.get(name, set()) for name in node.output))
        for name in node.input:
            needed.setdefault(name, set()).update(tasks)
    return needed


def _cut(model: ModelProto, graph: MergedGraph, owners: Sequence[str]) -> dict[str, Template]:
    constants = {i.name: i for i in model.graph.initializer}
    image = model.graph.input[0].name
    maker = {name: owner for node, owner in zip(model.graph.node, owners, strict=True) for name in node.output}
    maker[image] = IMAGE
    operations = {node.name: node.operation for node in graph.nodes} | {IMAGE: IMAGE}
    read = {(owner, name) for node, owner in zip(model.graph.node, owners, strict=True) for name in node.input}
    final = {output.name for output in model.graph.output}
    templates = {}
    for entry in graph.nodes:
        nodes = tuple(n for n, owner in zip(model.graph.node, owners, strict=True) if owner == entry.name)
        used = {name for node in nodes for name in node.input if name}
        own = {name for node in nodes for name in node.output if name}
        outside = sorted(name for name in used - own if name not in constants)
        gives = sorted(own & (final | {name for owner, name in read if owner != entry.name}))
        reads = {operations[maker[name]]: name for name in outside}
        if len(gives) != 1 or len(reads) != len(outside):
            raise BuildError(
                f"{entry.name} reads {outside} and gives {gives}; an operation gives one value and reads one of each other operation"
            )
        templates[entry.operation] = Template(
            entry.module, nodes, {n: constants[n] for n in sorted(used & constants.keys())}, reads, gives[0]
        )
    return templates
