"""A network split at its branches computes what the whole one computes, in each frame no more than was asked for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from bmtas.architecture import Architecture
from bmtas.errors import BuildError, EnvironmentProblem, UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.profile import count_network, count_operations
from bmtas.tasks import Task, TaskKind
from export.madds import madds
from export.onnx_file import write_onnx
from export.sessions.onnx import OnnxSession
from export.sessions.protocol import Array
from export.stages.cut import Stage, prune, split_at_branches
from export.stages.manifest import MANIFEST, read_manifest
from export.stages.runner import StageRunner
from export.stages.schedule import Schedule
from export.stages.write import write_split

A, B, C, D, E = NAMES = ("semseg", "parts", "depth", "normals", "scene")
TASKS = (
    Task(name=A, kind=TaskKind.SEGMENTATION, classes=("wall", "floor", "chair")),
    Task(name=B, kind=TaskKind.SEGMENTATION, classes=("head", "arm")),
    Task(name=C, kind=TaskKind.DEPTH),
    Task(name=D, kind=TaskKind.NORMALS),
    Task(name=E, kind=TaskKind.CLASSIFICATION, classes=("office", "kitchen")),
)
# Six layers: shared by all, then {A B} and {C D E}, then C alone, then everybody.
TREE = (
    *[(NAMES,)] * 2,
    *[((A, B), (C, D, E))] * 2,
    ((A, B), (C,), (D, E)),
    ((A,), (B,), (C,), (D,), (E,)),
)
SIZE = (64, 64)
STAGES = [NAMES, (C, D, E), (A, B), (D, E), (A,), (B,), (C,), (D,), (E,)]
SUBSETS = [s for k in range(1, 6) for s in itertools.combinations(NAMES, k)]

Feeds = dict[str, Array]


def network_of(architecture: Architecture, tasks: Sequence[Task]) -> GraphNetwork:
    """A network whose normalisations are not those of a fresh one: their biases reach the file."""
    torch.manual_seed(0)
    network = build_network(architecture, tasks).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def exported(network: GraphNetwork, architecture: Architecture, tasks: Sequence[Task], path: Path) -> ModelProto:
    write_onnx(network, path, architecture=architecture, tasks=tasks, size=SIZE, costs={"madds": 1.0})
    return onnx.load(str(path))


@pytest.fixture(scope="module")
def network() -> GraphNetwork:
    return network_of(Architecture(backbone="tiny", tasks=NAMES, groupings=TREE), TASKS)


@pytest.fixture(scope="module")
def model(network: GraphNetwork, tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    architecture = Architecture(backbone="tiny", tasks=NAMES, groupings=TREE)
    return exported(network, architecture, TASKS, tmp_path_factory.mktemp("whole") / "model.onnx")


@pytest.fixture(scope="module")
def split(model: ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "network.split"
    write_split(model, folder)
    return folder


@pytest.fixture
def copy(split: Path, tmp_path: Path) -> Path:
    """A split that a test may break."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in split.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def image(seed: int) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, *SIZE)).astype(np.float32)


def plain(model: ModelProto, feeds: Feeds) -> Feeds:
    """ONNX Runtime without its optimisations of memory layout, which round differently from graph to graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def by_reference(model: ModelProto, feeds: Feeds) -> Feeds:
    """onnx's own evaluator, a second opinion on what a graph means."""
    evaluator = ReferenceEvaluator(model)
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def staged(stages: Sequence[Stage], feeds: Feeds, run: Callable[[ModelProto, Feeds], Feeds]) -> Feeds:
    values = dict(feeds)
    for stage in stages:
        values |= run(stage.model, {value.name: values[value.name] for value in stage.inputs})
    return values


def same(first: Feeds, second: Feeds, tasks: Sequence[str]) -> list[bool]:
    return [bool(np.array_equal(first[task], second[task])) for task in tasks]


class TestCut:
    def test_there_is_one_stage_for_each_set_of_tasks_that_shares_nodes(self, model: ModelProto) -> None:
        stages = split_at_branches(model)
        assert [stage.tasks for stage in stages] == STAGES
        assert sum(len(stage.model.graph.node) for stage in stages) == len(model.graph.node)
        assert [value.name for value in stages[0].inputs] == ["image"]

    def test_stages_are_bit_equal_to_the_whole(self, model: ModelProto) -> None:
        feeds = {"image": image(0)}
        assert all(same(plain(model, feeds), staged(split_at_branches(model), feeds, plain), NAMES))

    def test_stages_agree_with_onnx_s_own_evaluator(self, model: ModelProto) -> None:
        feeds = {"image": image(1)}
        expected, actual = by_reference(model, feeds), staged(split_at_branches(model), feeds, plain)
        for task in NAMES:
            np.testing.assert_allclose(actual[task], expected[task], rtol=0, atol=1e-5 * np.abs(expected[task]).max())

    def test_the_tap_reaches_the_heads_of_a_mobilenet(self, tmp_path: Path) -> None:
        tasks, deep = TASKS[2:4], (((C,), (D,)),)
        architecture = Architecture(backbone="mobilenet_v2", tasks=(C, D), groupings=(((C, D),),) * 16 + deep * 2)
        model = exported(network_of(architecture, tasks), architecture, tasks, tmp_path / "model.onnx")
        stages = split_at_branches(model)
        assert [stage.tasks for stage in stages] == [(C, D), (C,), (D,)]
        # The output of layer 2, 24 channels at a quarter of the resolution, and that of layer 15, 160 at a sixteenth.
        assert sorted(v.shape for v in stages[0].outputs) == [(1, 24, 16, 16), (1, 160, 4, 4)]
        assert [sorted(v.shape for v in stage.inputs) for stage in stages[1:]] == [
            [(1, 24, 16, 16), (1, 160, 4, 4)]
        ] * 2
        feeds = {"image": image(0)}
        assert all(same(plain(model, feeds), staged(stages, feeds, plain), (C, D)))
        assert sum(madds(stage.model) for stage in stages) == madds(model)

    def test_the_model_is_not_modified(self, model: ModelProto) -> None:
        before = model.SerializeToString(deterministic=True)
        split_at_branches(model)
        prune(model, [C])
        assert model.SerializeToString(deterministic=True) == before

    def test_free_dimensions_and_outputs_without_the_image_are_refused(self, model: ModelProto) -> None:
        free = type(model)()
        free.CopyFrom(model)
        free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        del free.graph.value_info[:]
        for output in free.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = "batch"
        with pytest.raises(UsageError, match=r"'image' has the shape \('batch', 3, 64, 64\).*without --dynamic"):
            split_at_branches(free)
        fixed = small_model([helper.make_node("Identity", ["w"], ["a"]), helper.make_node("Relu", ["image"], ["b"])])
        with pytest.raises(UsageError, match="'a' does not depend on the image"):
            split_at_branches(fixed)


def small_model(nodes: list[Any], scale: Array | None = None, **constants: Array) -> ModelProto:
    """A model of (1, 2, 3, 3) with the outputs a and b."""
    values = {"w": np.ones((1, 2, 3, 3), np.float32), **constants}
    if scale is not None:
        values |= {"scale": scale, "zero": np.array(3, np.uint8)}
    float_type = TensorProto.FLOAT if scale is None else helper.np_dtype_to_tensor_dtype(scale.dtype)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", float_type, [1, 2, 3, 3])],
        [helper.make_tensor_value_info(name, float_type, [1, 2, 3, 3]) for name in ("a", "b")],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def quantised(dedicated: bool, scale: Array) -> ModelProto:
    """The rectified image, quantised once or once for each of two readers, and one more reader in the trunk."""
    q = ("scale", "zero")
    nodes = [helper.make_node("Relu", ["image"], ["x"], "stem/Relu")]
    nodes += [
        helper.make_node("QuantizeLinear", ["x", *q], [f"q{i}"], f"q{i}") for i in (range(3) if dedicated else [0])
    ]
    sources = [f"q{i}" if dedicated else "q0" for i in range(3)]
    nodes += [helper.make_node("DequantizeLinear", [s, *q], [f"d{i}"], f"d{i}") for i, s in enumerate(sources)]
    nodes += [
        helper.make_node("Sigmoid", ["d0"], ["both"], "trunk/Sigmoid"),
        helper.make_node("Exp", ["d1"], ["of_a"], "a/Exp"),
        helper.make_node("Neg", ["d2"], ["of_b"], "b/Neg"),
        helper.make_node("Mul", ["of_a", "both"], ["a"], "a/Mul"),
        helper.make_node("Mul", ["of_b", "both"], ["b"], "b/Mul"),
    ]
    return small_model(nodes, scale)


class TestQuantised:
    @pytest.mark.parametrize("dedicated", [False, True])
    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    def test_floats_cross_and_each_stage_has_whole_pairs(self, dedicated: bool, dtype: type[np.generic]) -> None:
        model = quantised(dedicated, np.array(0.013, dtype))
        stages = split_at_branches(model)
        assert [stage.tasks for stage in stages] == [("a", "b"), ("a",), ("b",)]
        for stage in stages:
            kinds = [node.op_type for node in stage.model.graph.node]
            assert kinds.count("QuantizeLinear") == 1
            assert "DequantizeLinear" in kinds
            assert {v.dtype for v in (*stage.inputs, *stage.outputs)} == {np.dtype(dtype).name}
        # Every 8-bit value from far below the range to far above it must come back as itself.
        values = np.linspace(-1, 4, 18 * 40, dtype=np.float32).astype(dtype).reshape(40, 1, 2, 3, 3)
        for value in values:
            feeds: Feeds = {"image": value}
            expected = by_reference(model, feeds)
            assert all(same(expected, staged(stages, feeds, by_reference), ("a", "b")))

    def test_scales_that_do_not_give_the_same_again_are_refused(self) -> None:
        model = quantised(False, np.array(0.013, np.float32))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
        scale = next(i for i in model.graph.initializer if i.name == "scale")
        scale.CopyFrom(helper.make_tensor("scale", TensorProto.BFLOAT16, [], [0.013]))
        with pytest.raises(BuildError, match="its scale is BFLOAT16"):
            split_at_branches(model)

    def test_a_network_quantised_by_onnx_runtime_is_bit_equal_and_keeps_its_integer_kernels(
        self, model: ModelProto, tmp_path: Path
    ) -> None:
        quantization = pytest.importorskip("onnxruntime.quantization")

        class Images:
            def __init__(self) -> None:
                self._rest = iter([{"image": image(0)}, {"image": image(1)}])

            def get_next(self) -> Feeds | None:
                return next(self._rest, None)

        own = onnx.load_from_string(
            model.SerializeToString()
        )  # the quantiser moves the weights out of the model given to it
        quantization.quantize_static(
            own, str(tmp_path / "int8.onnx"), Images(), activation_type=quantization.QuantType.QUInt8
        )
        whole = onnx.load(str(tmp_path / "int8.onnx"))
        stages = split_at_branches(whole)
        feeds = {"image": image(2)}
        assert all(same(plain(whole, feeds), staged(stages, feeds, plain), NAMES))
        assert {value.dtype for stage in stages for value in stage.inputs} == {"float32"}
        convolutions = sum(node.op_type == "Conv" for node in whole.graph.node)
        assert (
            sum(integer_convolutions(stage.model, tmp_path) for stage in stages) == convolutions == 1 + 2 * 14 + 4 * 4
        )


def integer_convolutions(model: ModelProto, folder: Path) -> int:
    """How many convolutions ONNX Runtime made integer ones, read from the graph that it runs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node].count("QLinearConv")


@pytest.fixture(scope="module")
def whole_outputs(model: ModelProto) -> Feeds:
    return plain(model, {"image": image(3)})


@pytest.fixture(scope="module")
def by_operation() -> dict[str, int]:
    counts = count_operations(get_backbone("tiny"), TASKS, SIZE)
    return {name: count.madds for name, count in counts.items()}


class TestPrune:
    @pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
    def test_every_subset_predicts_the_same_at_the_cost_of_its_merged_graph(
        self,
        tasks: tuple[str, ...],
        model: ModelProto,
        network: GraphNetwork,
        whole_outputs: Feeds,
        by_operation: dict[str, int],
    ) -> None:
        smaller = prune(model, tasks)
        outputs = plain(smaller, {"image": image(3)})
        assert tuple(outputs) == tasks
        assert all(same(whole_outputs, outputs, tasks))
        assert madds(smaller) == network.graph.subset(tasks).madds(by_operation.__getitem__)
        assert madds(smaller) <= madds(model)

    @pytest.mark.parametrize("tasks", [(C,), (D, A), NAMES], ids="+".join)
    def test_fvcore_counts_the_same_in_the_whole_network(
        self, tasks: tuple[str, ...], model: ModelProto, network: GraphNetwork
    ) -> None:
        assert madds(prune(model, tasks)) == count_network(network.subset(tasks), SIZE).madds

    def test_order_constants_and_metadata_are_those_of_the_smaller_network(self, model: ModelProto) -> None:
        smaller = prune(model, [D, A])
        assert [output.name for output in smaller.graph.output] == [D, A]
        read = {value for node in smaller.graph.node for value in node.input}
        assert {i.name for i in smaller.graph.initializer} <= read
        metadata = OnnxSession(smaller.SerializeToString()).metadata()
        assert [task["name"] for task in metadata["tasks"]] == [D, A]
        assert Architecture.from_json(metadata["architecture"]).groupings[4] == ((D,), (A,))
        assert "costs" not in metadata

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [(["dept"], "did you mean 'depth'"), ([], "no task is asked for"), ([A, A], "'semseg' is asked for twice")],
    )
    def test_other_tasks_are_refused(self, tasks: list[str], message: str, model: ModelProto) -> None:
        with pytest.raises(UsageError, match=message):
            prune(model, tasks)


class TestMadds:
    def test_by_hand(self) -> None:
        rng = np.random.default_rng(0)
        constants = {
            "w0": rng.normal(size=(6, 2, 3, 3)),  # 2 groups of 4 -> 6 channels, 5x5 -> 3x3
            "w1": rng.normal(size=(6, 4, 2, 2)),  # transposed, 6 -> 4 channels, from 3x3 places
            "w2": rng.normal(size=(10, 144)),
            "w3": rng.normal(size=(10, 7)),
        }
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["image", "w0"], ["x0"], "conv", group=2),
                helper.make_node("ConvTranspose", ["x0", "w1"], ["x1"], "transposed", strides=[2, 2]),
                helper.make_node("Flatten", ["x1"], ["x2"], "flatten"),
                helper.make_node("Gemm", ["x2", "w2"], ["x3"], "gemm", transB=1),
                helper.make_node("MatMul", ["x3", "w3"], ["out"], "product"),
            ],
            "hand",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4, 5, 5])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 7])],
            [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        assert madds(model) == 6 * 9 * 2 * 9 + 6 * 9 * 4 * 4 + 144 * 10 + 10 * 7

    def test_free_dimensions_are_refused(self) -> None:
        graph = helper.make_graph(
            [helper.make_node("Conv", ["image", "w"], ["out"], "conv")],
            "free",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 5, 5])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 1, 3, 3])],
            [numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")],
        )
        with pytest.raises(UsageError, match=r"'conv'.*static"):
            madds(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


class Counted:
    """Loads stages and notes which of them ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, source: Path, provider: str, threads: int) -> OnnxSession:
        ran = self.ran

        class Session(OnnxSession):
            def run(self, feeds: Any) -> dict[str, Array]:
                ran.append(source.name)
                return super().run(feeds)

        return Session(source, provider, threads)


class TestRunner:
    def test_all_tasks_agree_with_the_whole_network(self, model: ModelProto, split: Path) -> None:
        whole = OnnxSession(model.SerializeToString(), threads=1)
        outputs, expected = StageRunner(split, threads=1).run(image(0)), whole(image(0))
        assert list(outputs) == list(NAMES)
        for task in NAMES:  # ONNX Runtime chooses memory layouts per graph, and they round differently
            np.testing.assert_allclose(outputs[task], expected[task], rtol=0, atol=4e-6 * np.abs(expected[task]).max())

    @pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
    def test_only_the_stages_that_the_tasks_need_run(self, tasks: tuple[str, ...], split: Path) -> None:
        counted = Counted()
        runner = StageRunner(split, threads=1, sessions=counted)
        assert tuple(runner.run(image(0), tasks)) == tasks
        assert counted.ran == [f"stage_{i:02d}.onnx" for i, s in enumerate(STAGES) if set(s) & set(tasks)]

    def test_metadata_are_those_of_the_file_that_was_split(self, model: ModelProto, split: Path) -> None:
        metadata = StageRunner(split).metadata()
        assert metadata == OnnxSession(model.SerializeToString()).metadata()
        assert [task["name"] for task in metadata["tasks"]] == list(NAMES)

    def test_unknown_tasks_and_other_images_are_refused(self, split: Path) -> None:
        runner = StageRunner(split)
        with pytest.raises(UsageError, match="did you mean 'depth'"):
            runner.run(image(0), ["dept"])
        with pytest.raises(UsageError, match=r"the image is float32 \[1, 3, 32, 64\]"):
            runner.run(image(0)[:, :, :32])
        with pytest.raises(UsageError, match="the image is float64"):
            runner.run(image(0).astype(np.float64))
        with pytest.raises(UsageError, match="'edges'"):
            list(runner.frames([image(0)], Schedule.parse({"edges": "1"})))

    def test_frames_hold_what_is_fresh_and_how_old_the_rest_is(self, split: Path) -> None:
        counted = Counted()
        runner = StageRunner(split, threads=1, sessions=counted)
        images = [image(i) for i in range(4)]
        per_frame, results = [], []
        for result in runner.frames(iter(images), Schedule.parse({A: "1/2", C: "1/2"})):
            results.append(result)
            per_frame.append(counted.ran[sum(map(len, per_frame)) :])
        of_a, of_c = ([f"stage_{i:02d}.onnx" for i, stage in enumerate(STAGES) if task in stage] for task in (A, C))
        assert per_frame == [of_a, of_c, of_a, of_c]
        assert [list(r.fresh) for r in results] == [[A], [C], [A], [C]]
        assert [r.age for r in results] == [{A: 0}, {A: 1, C: 0}, {A: 0, C: 1}, {A: 1, C: 0}]
        for frame, task in enumerate([A, C, A, C]):
            np.testing.assert_array_equal(results[frame].fresh[task], runner.run(images[frame], [task])[task])
        np.testing.assert_array_equal(results[3].latest[A], results[2].fresh[A])

    def test_a_stage_runs_once_per_frame_and_never_for_nothing(self, split: Path) -> None:
        counted = Counted()
        runner = StageRunner(split, threads=1, sessions=counted)
        results = list(runner.frames([image(0)] * 3, Schedule.parse({D: "1/3", E: "1/3"})))
        assert [list(r.fresh) for r in results] == [[D], [E], []]
        assert len(counted.ran) == 2 * 4
        counted.ran.clear()
        list(runner.frames([image(0)], Schedule.parse(dict.fromkeys(NAMES, "1"))))
        assert counted.ran == [f"stage_{i:02d}.onnx" for i in range(len(STAGES))]


class TestSchedule:
    @pytest.mark.parametrize(
        ("rates", "frames"),
        [
            ({"a": "1"}, {"a": range(12)}),
            ({"a": "1/5"}, {"a": [0, 5, 10]}),
            ({"a": "0.2", "b": "1/5"}, {"a": [0, 5, 10], "b": [1, 6, 11]}),
            ({"a": "1", "b": "1/2", "c": "1/2", "d": "1/2"}, {"b": [0, 2, 4, 6, 8, 10], "c": [1, 3, 5, 7, 9, 11]}),
            ({"a": "2/5"}, {"a": [0, 3, 5, 8, 10]}),  # floor(2 i / 5): 0 0 0 1 1 2 2 2 3 3 4 4
            ({"a": "1/2", "b": "2/3"}, {"a": [0, 2, 4, 6, 8, 10], "b": [0, 1, 3, 4, 6, 7, 9, 10]}),  # phase 2
            ({"a": " 3/3 "}, {"a": range(12)}),
        ],
    )
    def test_by_hand(self, rates: dict[str, str], frames: dict[str, list[int]]) -> None:
        schedule = Schedule.parse(rates)
        for task, expected in frames.items():
            assert [i for i in range(12) if task in schedule.due(i)] == list(expected)

    def test_rates_are_kept_over_any_period(self) -> None:
        schedule = Schedule.parse({"a": "1", "b": "3/7", "c": "2/7", "d": "1/30"})
        for task, rate in schedule.rates.items():
            due = [task in schedule.due(i) for i in range(420)]
            period = rate.denominator
            assert {sum(due[i : i + period]) for i in range(420 - period)} == {rate.numerator}
        assert schedule.rates["d"] == Fraction(1, 30)

    @pytest.mark.parametrize("rate", ["0", "-1/2", "2", "1/0", "often", "", "nan", "inf"])
    def test_other_rates_are_refused(self, rate: str) -> None:
        with pytest.raises(UsageError, match=r"'depth'.*above 0 and up to 1"):
            Schedule.parse({"depth": rate})

    def test_no_rate_is_no_schedule(self) -> None:
        with pytest.raises(UsageError, match="names no task"):
            Schedule.parse({})


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return folder


def swap(stages: list[Any], i: int, j: int) -> None:
    stages[i], stages[j] = stages[j], stages[i]


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer schema": (lambda m: m.update(schema_version=2), "follows schema 2.*upgrade bmtas"),
    "unknown field": (lambda m: m["stages"][0].update(colour="red"), r"stages\.0\.colour: Extra inputs"),
    "no stage": (lambda m: m.update(stages=[]), "stages: List should have at least 1 item"),
    "file elsewhere": (lambda m: m["stages"][0].update(file="../stage_00.onnx"), r"stages\.0\.file"),
    "hash that is none": (lambda m: m["stages"][1].update(sha256="0"), r"stages\.1\.sha256"),
    "unknown input": (
        lambda m: m["stages"][4]["inputs"][0].update(name="x"),
        "stage_04.onnx reads 'x' from 'stage_02.onnx'",
    ),
    "cycle": (
        lambda m: m["stages"][0]["inputs"].append({**m["stages"][1]["outputs"][0], "from": "stage_01.onnx"}),
        "stage_00.onnx reads .* from 'stage_01.onnx', which does not make it before",
    ),
    "wrong order": (lambda m: swap(m["stages"], 0, 1), "stage_01.onnx reads .* from 'stage_00.onnx', which does not"),
    "other shape": (lambda m: m["stages"][1]["inputs"][0].update(shape=[1, 1, 1, 1]), r"makes it as float32 \[1, 12"),
    "made twice": (lambda m: m["stages"][5]["outputs"][0].update(name=A), "'semseg' is made twice"),
    "task without output": (lambda m: m["tasks"].append("edge"), "no stage makes the output of the task 'edge'"),
    "tasks that lie": (
        lambda m: m["stages"][1].update(tasks=[A]),
        "names the tasks semseg, but .* by depth, normals, scene",
    ),
    "one file twice": (lambda m: m["stages"][4].update(file="stage_05.onnx"), "two stages name the same file"),
    "another stage's hash": (
        lambda m: m["stages"][0].update(sha256=m["stages"][1]["sha256"]),
        "stage_00.onnx is not the file that manifest.json means",
    ),
}


class TestManifest:
    def test_what_was_written_is_what_is_read(self, model: ModelProto, tmp_path: Path) -> None:
        written = write_split(model, tmp_path / "split")
        assert read_manifest(tmp_path / "split") == written
        assert written.image.spec().shape == (1, 3, *SIZE)
        assert [tuple(stage.tasks) for stage in written.stages] == STAGES
        assert sorted(p.name for p in (tmp_path / "split").iterdir()) == [
            MANIFEST,
            *(f"stage_{i:02d}.onnx" for i in range(len(STAGES))),
        ]

    @pytest.mark.parametrize("name", BROKEN)
    def test_a_manifest_that_does_not_fit_is_refused(self, name: str, copy: Path) -> None:
        change, message = BROKEN[name]
        with pytest.raises(UsageError, match=message):
            StageRunner(changed(copy, change))

    def test_changed_and_missing_files_are_refused(self, copy: Path) -> None:
        path = copy / "stage_03.onnx"
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(UsageError, match=r"stage_03\.onnx is not the file"):
            StageRunner(copy)
        path.unlink()
        with pytest.raises(UsageError, match=r"stage_03\.onnx is missing"):
            StageRunner(copy)
        (copy / MANIFEST).unlink()
        with pytest.raises(UsageError, match=r"manifest\.json does not exist"):
            StageRunner(copy)

    def test_a_file_with_other_ports_than_the_manifest_says_is_refused(self, copy: Path) -> None:
        def rename(data: dict[str, Any]) -> None:
            value = data["stages"][0]["outputs"][0]["name"]
            for stage in data["stages"]:
                for port in (*stage["inputs"], *stage["outputs"]):
                    port["name"] = "other" if port["name"] == value else port["name"]

        with pytest.raises(UsageError, match=r"but the manifest says .* other"):
            StageRunner(changed(copy, rename))

    def test_half_precision_boundaries_are_said(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Cast", ["image"], ["x"], "stem/Cast", to=TensorProto.FLOAT16),
            helper.make_node("Relu", ["x"], ["y"], "trunk/Relu"),
            helper.make_node("Cast", ["y"], ["a"], "a/Cast", to=TensorProto.FLOAT),
            helper.make_node("Neg", ["y"], ["z"], "b/Neg"),
            helper.make_node("Cast", ["z"], ["b"], "b/Cast", to=TensorProto.FLOAT),
        ]
        model = small_model(nodes)
        manifest = write_split(model, tmp_path / "half")
        assert [(v.name, v.dtype) for v in manifest.stages[1].inputs] == [("y", "float16")]
        value = np.arange(18, dtype=np.float32).reshape(1, 2, 3, 3) - 9
        outputs = StageRunner(tmp_path / "half").run(value)
        np.testing.assert_array_equal(outputs["b"], -np.maximum(value, 0))
        for node in model.graph.node:
            for attribute in node.attribute:
                attribute.i = TensorProto.BFLOAT16 if attribute.i == TensorProto.FLOAT16 else attribute.i
        manifest = write_split(model, tmp_path / "bf16")
        assert [(v.name, v.dtype) for v in manifest.stages[1].inputs] == [("y", "bfloat16")]
        with pytest.raises(UsageError, match="'y' crosses between stages as bfloat16"):
            StageRunner(tmp_path / "bf16")

    def test_an_old_split_is_replaced_and_nothing_else_is(self, model: ModelProto, copy: Path, tmp_path: Path) -> None:
        assert len(write_split(prune(model, [C, D]), copy).stages) == 3
        assert len(list(copy.iterdir())) == 4
        other = tmp_path / "photos"
        other.mkdir()
        (other / "one.jpg").write_bytes(b"")
        with pytest.raises(UsageError, match="is no split network"):
            write_split(model, other)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "photos"]

    def test_what_fails_leaves_the_old_split(self, model: ModelProto, copy: Path, tmp_path: Path) -> None:
        before = {path.name: path.read_bytes() for path in copy.iterdir()}
        broken = type(model)()
        broken.CopyFrom(model)
        broken.metadata_props.add(key="bmtas.schema_version", value="99")
        with pytest.raises(UsageError, match="schema 99"):
            write_split(broken, copy)
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
        assert [p.name for p in tmp_path.iterdir()] == ["copy"]

    def test_a_folder_that_cannot_be_written_is_explained(self, model: ModelProto, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(EnvironmentProblem, match="cannot write"):
            write_split(model, tmp_path / "file" / "split")
