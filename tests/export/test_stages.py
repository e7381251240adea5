"""A network split at its branches computes what the whole one computes, in each frame no more than was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork
from bmtas.profile import count_network, count_operations
from export.madds import madds
from export.sessions.onnx import OnnxSession
from export.sessions.protocol import Array
from export.stages.cut import prune, split_at_branches
from export.stages.manifest import MANIFEST, read_manifest
from export.stages.runner import StageRunner
from export.stages.schedule import Schedule
from export.stages.write import write_split
from tests.export.stages_tree import (
    NAMES,
    SIZE,
    STAGES,
    SUBSETS,
    TASKS,
    A,
    C,
    D,
    E,
    Feeds,
    by_reference,
    exported,
    image,
    network_of,
    plain,
    same,
    small_model,
    staged,
    tree_model,
    tree_network,
)


@pytest.fixture(scope="module")
def network() -> GraphNetwork:
    return tree_network()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return tree_model(tmp_path_factory.mktemp("whole") / "model.onnx")


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

    @pytest.mark.slow
    def test_the_tap_reaches_the_heads_of_a_mobilenet(self, tmp_path: Path) -> None:
        tasks, deep = TASKS[2:4], (((C,), (D,)),)
        architecture = BranchedArchitecture(
            backbone="mobilenet_v2", tasks=(C, D), groupings=(((C, D),),) * 16 + deep * 2
        )
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
