"""Times of operations by module and task: names as exported files and runtimes have them, and real profiles."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import EnvironmentProblem, UsageError
from export.bench.candidates import open_candidates
from export.bench.graph_names import nodes_of_values
from export.bench.layers import layer_times, onnx_runtime_events, owner, tells_layers
from export.bench.measure import bench
from export.bench.options import BenchOptions
from export.openvino_file import write_openvino
from export.sessions.onnx import OnnxSession
from tests.export.stages_tree import NAMES, TREE


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("layers.07.semseg+parts/Conv_2", ("layers.07.semseg+parts", ["semseg", "parts"])),
        ("stem.a+b.0.1/Conv/WithoutBiases", ("stem.a+b", ["a", "b"])),
        ("heads.human-parts.predict/Conv", ("heads.human-parts", ["human-parts"])),
        ("image_abcd_acdb_stem.a+b.1/Conv", None),  # `_stem` is part of another word
        ("layers.07.a/Conv + layers.07.a/Relu", ("layers.07.a", ["a"])),
        ("layers.07.a/Conv || layers.07.b/Conv", None),  # joined across modules
        ("{ForeignNode[layers.01.a.conv/Conv...layers.05.a/Add]}", None),
        ("sums.4.layers.03.semseg/Mul_1", ("sums.4.layers.03.semseg", ["semseg"])),
        ("fusions.stem.2.a.norm/Conv", ("fusions.stem.2.a", ["a"])),
        ("norms.012.a+b/BatchNormalization", ("norms.012.a+b", ["a", "b"])),
        ("links.00.03.shared.0/Conv", ("links.00.03.shared", ["shared"])),
        ("ReorderOutput_token_12", None),
        ("mylayers.07.a/Conv", None),
    ],
)
def test_the_owner_of_an_operation(name: str, found: tuple[str, list[str]] | None) -> None:
    assert owner(name) == found


def test_events_of_onnx_runtime_s_profile() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "dur": 900},
        {"cat": "Node", "name": "a/Conv_fence_before", "dur": 1},
        {"cat": "Node", "name": "a/Conv_kernel_time", "dur": 250},
        {"cat": "Node", "name": "value.relu_nchwc_kernel_time", "dur": 40},
    ]
    assert list(onnx_runtime_events(events)) == [("a/Conv", 0.25), ("value.relu", 0.04)]


def test_nodes_are_read_without_onnx_as_onnx_reads_them(tree_files: Path) -> None:
    graph = onnx.load(tree_files / "model.onnx").graph
    assert nodes_of_values(tree_files / "model.onnx") == {v: node.name for node in graph.node for v in node.output}


def modules(architecture: Architecture) -> set[str]:
    layers = {f"layers.{i:02d}.{'+'.join(b)}" for i, grouping in enumerate(architecture.groupings) for b in grouping}
    return layers | {f"heads.{task}" for task in architecture.tasks} | {f"stem.{'+'.join(architecture.tasks)}"}


def test_real_profiles_name_every_module_of_the_tree(tree_files: Path, quick: BenchOptions, tmp_path: Path) -> None:
    write_openvino(onnx.load(tree_files / "model.onnx"), tmp_path / "model.openvino")
    files = {"ort": tree_files / "model.onnx", "ov": tmp_path / "model.openvino", "stages": tree_files / "model.stages"}
    report = bench(files, options=replace(quick, layers=True))
    expected = modules(BranchedArchitecture(backbone="tiny", tasks=NAMES, groupings=TREE))
    assert [each.key for each in report.layers] == ["ort/onnxruntime", "ov/openvino"]
    for each in report.layers:
        names = [module.module for module in each.modules]
        assert_same(names, expected)
        assert names[0].startswith("stem.")
        assert names[-1].startswith("heads.")
        assert all(module.tasks == module.module.split(".")[-1].split("+") for module in each.modules)
        assert each.sum_ms == pytest.approx(each.unattributed_ms + sum(module.ms for module in each.modules))
        assert "the sum is not the total" in each.note
    assert report.layers[0].unattributed_ms > 0  # conversions of layout, which ONNX Runtime adds
    assert "times of layers cannot be told of stages/onnxruntime" in report.notes


def assert_same(found: Iterable[str], expected: set[str]) -> None:
    names = list(found)
    assert len(names) == len(set(names))
    assert set(names) == expected


def test_what_tells_no_layers_is_refused_before_anything_is_measured(tree_files: Path, quick: BenchOptions) -> None:
    with pytest.raises(UsageError, match="--layers: stages/onnxruntime: it tells no times of operations"):
        bench({"stages": tree_files / "model.stages"}, options=replace(quick, layers=True))


def test_on_a_gpu_onnx_runtime_s_profiler_is_not_asked(tree_files: Path, quick: BenchOptions) -> None:
    with ExitStack() as stack:
        (candidate,) = open_candidates({"tree": tree_files / "model.onnx"}, {}, quick, stack)
        assert tells_layers(candidate) is None
        assert isinstance(candidate.loaded, OnnxSession)
        for provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
            candidate.loaded.provider = provider  # as a session says on a machine that has it
            assert f"on {provider} ONNX Runtime's profiler tells how long the host took" in str(tells_layers(candidate))


def test_a_profile_of_another_provider_than_asked_for_is_refused(tree_files: Path, quick: BenchOptions) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has what it must lack")
    with ExitStack() as stack:
        (candidate,) = open_candidates({"tree": tree_files / "model.onnx"}, {}, quick, stack)
        with (
            pytest.warns(UserWarning, match="CUDAExecutionProvider"),
            pytest.raises(EnvironmentProblem, match="took CPUExecutionProvider"),
        ):
            layer_times(candidate, "cuda", None)
