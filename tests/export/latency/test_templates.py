"""A network put together from templates is the one that tracing gives: node for node, and in what it computes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, NodeProto, numpy_helper

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import BuildError
from bmtas.graph import head_name, layer_name
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task
from costs.table import CostTable
from costs.units import Resource
from export.latency.prepare import trace
from export.latency.templates import Templates
from export.madds import madds
from tests.export.latency.conftest import SIZE, TASKS
from tests.export.latency.made_up import toy_table
from tests.export.stages_tree import plain

S, D, C = NAMES = tuple(task.name for task in TASKS)
WEIGHTED = ("Conv", "Gemm", "MatMul")
Traced = Callable[[Architecture, Sequence[Task]], tuple[GraphNetwork, ModelProto]]

SPLIT = BranchedArchitecture(backbone="tiny", tasks=NAMES, groupings=(((S,), (D,), (C,)),) * 6)
STEPS = BranchedArchitecture(
    backbone="tiny",
    tasks=NAMES,
    groupings=((NAMES,),) * 2 + (((S, C), (D,)),) * 2 + (((S,), (C,), (D,)),) * 2,
)

SEPARATE = BranchedArchitecture.separate("tiny", NAMES, 6)
TREES = {"split": SPLIT, "steps": STEPS, "separate": SEPARATE}


def weights_of(model: ModelProto) -> set[str]:
    """Names of what convolutions and matrix products read beside their input."""
    return {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input[1:] if name}


def module_s(name: str) -> str:
    """Name of a weight after the module that it belongs to, as tracing calls it: `layers.03.depth/layers.03.semseg.0.weight`."""
    module, _, inner = name.partition("/")
    return re.sub(r"^(stem|layers\.\d\d|heads)\.[^.]+", module, inner, count=1) if inner else name


def nodes_by_meaning(model: ModelProto, rename: Callable[[str], str]) -> tuple[Counter[str], list[str]]:
    """Return how often each node occurs, described by all that it is computed from, and the same of the outputs in order."""
    weights = weights_of(model)
    meaning = {value.name: f"input {value.name}" for value in model.graph.input}
    meaning[""] = ""
    for constant in model.graph.initializer:
        value = numpy_helper.to_array(constant)
        said = rename(constant.name) if constant.name in weights else value.tobytes().hex()
        meaning[constant.name] = f"{value.dtype}{list(value.shape)} {said}"
    found: list[str] = []
    for node in model.graph.node:
        said = described(node, meaning)
        found.append(said)
        for number, output in enumerate(node.output):
            meaning[output] = f"{hash(said)}.{number}"
    return Counter(found), [f"{o.name} {meaning[o.name]}" for o in model.graph.output]


def described(node: NodeProto, meaning: dict[str, str]) -> str:
    attributes = sorted(str(attribute) for attribute in node.attribute)
    return f"{node.op_type} {attributes} {[meaning[name] for name in node.input]}"


def with_weights_of(whole: ModelProto, model: ModelProto) -> ModelProto:
    """Return `whole` with the weights of the traced model."""
    values = {constant.name: constant for constant in model.graph.initializer}
    copy = type(whole)()
    copy.CopyFrom(whole)
    weights = weights_of(whole)
    assert {module_s(name) for name in weights} == weights_of(model)
    for constant in copy.graph.initializer:
        if constant.name in weights:
            constant.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(values[module_s(constant.name)]), constant.name)
            )
    return copy


def check_same(network: GraphNetwork, model: ModelProto, whole: ModelProto, names: Sequence[str]) -> None:
    assert nodes_by_meaning(whole, module_s) == nodes_by_meaning(model, str)
    image = np.random.default_rng(3).uniform(-1, 1, (1, 3, *SIZE)).astype(np.float32)
    found = plain(with_weights_of(whole, model), {"image": image})
    assert list(found) == list(names)
    expected = plain(model, {"image": image})
    with torch.no_grad():
        by_torch = network(torch.from_numpy(image))
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])
        scale = float(by_torch[name].abs().max())
        np.testing.assert_allclose(found[name], by_torch[name].numpy(), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", ["split", *(pytest.param(n, marks=pytest.mark.slow) for n in TREES if n != "split")])
def test_a_network_put_together_is_the_one_that_is_traced(
    name: str, templates: Templates, traced: Traced, tiny_table: CostTable
) -> None:
    tree = TREES[name]
    network, model = traced(tree, TASKS)
    whole = templates.whole(tree)
    check_same(network, model, whole, NAMES)
    if tree.shared_stem:
        counted = tiny_table.architecture_cost(tree.task_indices, Resource.MADDS)
    else:
        counted = tiny_table.separate_total(Resource.MADDS)
    assert madds(whole) == madds(model) == counted


def test_a_tree_of_some_of_the_tasks_is_put_together_from_the_same_templates(
    templates: Templates, traced: Traced
) -> None:
    """Two tasks, of which the second is the first to be named by no template of the encoder."""
    names = (D, C)
    tree = BranchedArchitecture(backbone="tiny", tasks=names, groupings=((names,),) * 3 + (((D,), (C,)),) * 3)
    network, model = traced(tree, TASKS[1:])
    check_same(network, model, templates.whole(tree), names)


@pytest.mark.slow
def test_the_tap_of_a_mobilenet_reaches_all_heads(traced: Traced) -> None:
    pair = TASKS[:2]
    table = toy_table().model_copy(
        update={"backbone": "mobilenet_v2", "input_size": SIZE}
    )  # tracing asks no more of it
    tree = BranchedArchitecture(backbone="mobilenet_v2", tasks=(S, D), groupings=(((S, D),),) * 9 + (((S,), (D,)),) * 9)
    network, model = traced(tree, pair)
    whole = trace(table, pair).whole(tree)
    check_same(network, model, whole, (S, D))
    assert madds(whole) == madds(model)


@pytest.mark.parametrize("operation", ["stem", "layers.00", "layers.02", "layers.05", "heads.semseg", "heads.scene"])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_copies_stand_side_by_side(operation: str, copies: int, templates: Templates, tiny_table: CostTable) -> None:
    one, several = templates.part(operation), templates.part(operation, copies)
    inputs, outputs = ([value.name for value in values] for values in (several.graph.input, several.graph.output))
    each = len(one.graph.input)
    assert len(set(inputs)) == len(inputs) == copies * each
    assert len(set(outputs)) == len(outputs) == copies
    assert madds(several) == copies * tiny_table.operation_cost(operation, Resource.MADDS)
    assert len(weights_of(several)) == copies * len(weights_of(one))
    rng = np.random.default_rng(0)

    def noise() -> list[Any]:
        shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in one.graph.input]
        return [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]

    fed = [noise() for _ in range(copies)]
    found = plain(several, dict(zip(inputs, [value for values in fed for value in values], strict=True)))
    for values, output in zip(fed, outputs, strict=True):
        alone = plain(one, dict(zip([v.name for v in one.graph.input], values, strict=True)))
        np.testing.assert_array_equal(found[output], next(iter(alone.values())))


def test_weights_of_copies_stay_apart_though_they_are_equal(templates: Templates) -> None:
    """A runtime that computed equal copies once would be measured too fast."""
    one = templates.whole(BranchedArchitecture.shared("tiny", (S,), 6))
    separate = templates.whole(BranchedArchitecture.separate("tiny", (S, D), 6))
    counted = [Counter(node.op_type for node in model.graph.node)["Conv"] for model in (one, separate)]
    assert counted[1] == 2 * counted[0]
    assert len(weights_of(separate)) == 2 * len(weights_of(one))
    small = [i for i in separate.graph.initializer if i.name in weights_of(separate) and i.ByteSize() < 256]
    assert len(small) > 2  # biases of few channels


def test_elements_are_what_one_copy_reads_and_gives(templates: Templates) -> None:
    # The stem makes 16x16 places of 64x64 pixels, with 12 channels; narrow layers have 4. Maps have the image's size.
    assert templates.elements("stem") == (3 * 64 * 64, 12 * 16 * 16)
    assert templates.elements("layers.00") == (12 * 16 * 16, 12 * 16 * 16)
    assert templates.elements("layers.05") == (4 * 16 * 16, 4 * 16 * 16)
    assert templates.elements("heads.semseg") == (4 * 16 * 16, 3 * 64 * 64)
    assert templates.elements("heads.depth") == (4 * 16 * 16, 64 * 64)
    assert templates.elements("heads.scene") == (4 * 16 * 16, 2)


def test_all_operations_have_a_template(templates: Templates) -> None:
    assert set(templates.by_operation) == {
        "stem",
        *(layer_name(i) for i in range(6)),
        *(head_name(name) for name in NAMES),
    }


class TestWhatCannotBeCut:
    @pytest.fixture
    def model(self, traced: Traced) -> ModelProto:
        copy = ModelProto()
        copy.CopyFrom(traced(STEPS, TASKS)[1])
        return copy

    def renamed(self, model: ModelProto, start: str, name: str) -> None:
        next(node for node in model.graph.node if node.name.startswith(start)).name = name

    def test_a_node_that_belongs_to_no_operation(self, model: ModelProto) -> None:
        self.renamed(model, "layers.01", "network/Add")
        with pytest.raises(BuildError, match="'network/Add' belongs to no operation"):
            Templates([model], [STEPS], get_backbone("tiny").tap)

    def test_an_operation_that_gives_two_values(self, model: ModelProto) -> None:
        self.renamed(model, "layers.01", "stem.semseg+depth+scene/Add")
        with pytest.raises(BuildError, match="an operation gives one value"):
            Templates([model], [STEPS], get_backbone("tiny").tap)

    def test_a_value_of_unknown_shape(self, model: ModelProto) -> None:
        del model.graph.value_info[:]
        cut = Templates([model], [STEPS], get_backbone("tiny").tap)
        with pytest.raises(BuildError, match="does not tell the shape"):
            cut.part("layers.03", 2)
