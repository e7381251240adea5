"""Counts and tables: by hand, against PyTorch's own counter, against the paper, and from the cache by content alone."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.counting import Count, count_module
from bmtas.errors import UsageError
from bmtas.graph import Expression, merge
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.profile import build_table, count_network, count_operations
from bmtas.tasks import TASK_SETS, Task, TaskKind
from costs.decode import architecture_from_draws
from costs.table import CostTable
from costs.units import Resource

SIZE = (64, 64)
TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c", "d")),
    Task(name="normals", kind=TaskKind.NORMALS),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y", "z")),
)
NAMES = tuple(task.name for task in TASKS)
Draw = Callable[[int, str, tuple[str, ...], int], Architecture]


def image(*shape: int) -> list[torch.Tensor]:
    return [torch.zeros(1, *shape)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(cache: Path) -> Path:
    """Return the one file of the cache."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) == 1
    return files[0]


# --- counting


def test_the_count_of_a_convolution() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    # 16 x 16 positions, 8 channels, 27 multiply-adds each; the bias is no multiply-add
    assert count_module(conv, image(3, 32, 32)) == Count(16 * 16 * 8 * 27, 8 * 27 + 8)


def test_the_count_of_a_depthwise_convolution_with_dilation() -> None:
    conv = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False)
    assert count_module(conv, image(6, 10, 12)) == Count(10 * 12 * 6 * 9, 6 * 9)


def test_the_count_of_a_linear_layer() -> None:
    assert count_module(nn.Linear(5, 7), [torch.zeros(1, 5)]) == Count(35, 42)


def test_normalisation_activation_and_pooling_are_no_multiply_adds() -> None:
    module = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU6(), nn.AvgPool2d(2), nn.Upsample(scale_factor=2.0)).eval()
    assert count_module(module, image(4, 8, 8)) == Count(0, 8)


@pytest.mark.parametrize(("backbone", "tasks"), [("mobilenet_v2", TASKS), ("resnet50", TASKS[2:])])
def test_a_whole_network_counts_as_pytorch_counts_it(
    random_architecture: Draw, backbone: str, tasks: tuple[Task, ...]
) -> None:
    names = tuple(task.name for task in tasks)
    network = build_network(random_architecture(1, backbone, names, get_backbone(backbone).layers), tasks).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, *SIZE))
    assert 2 * count_network(network, SIZE).madds == counter.get_total_flops()


def network_of(module: nn.Module, expression: Expression) -> GraphNetwork:
    return GraphNetwork(merge({"a": expression}), {expression.module: module}, dense=["a"])


def test_counting_leaves_the_mode_and_the_values_of_a_network(cache: Path) -> None:
    network = network_of(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), Expression("layers.00", "a"))
    values = {name: value.clone() for name, value in network.state_dict().items()}
    for training in (True, False):
        network.train(training)
        count_network(network, (8 + training, 8))  # another size, so that it is counted and not remembered
        assert network.training is training
        assert network.get_submodule("layers.00.a.1").training is training
    assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())


# --- tables


@pytest.mark.parametrize(
    ("backbone", "tasks", "size", "shared", "separate"),
    [
        ("mobilenet_v2", "pascal-context", (512, 512), 6.0e9, 15.7e9),  # table 1
        ("resnet50", "pascal-context", (512, 512), 154.6e9, 345.7e9),  # table D-1
        ("resnet50", "nyud-v2", (425, 560), 122.2e9, 254.4e9),  # table 2
    ],
)
def test_the_paper_s_networks_cost_what_the_paper_says(
    backbone: str, tasks: str, size: tuple[int, int], shared: float, separate: float
) -> None:
    table = build_table(get_backbone(backbone), TASK_SETS[tasks], size)
    assert table.shared_total(Resource.MADDS) == pytest.approx(shared, rel=0.01)
    assert table.separate_total(Resource.MADDS) == pytest.approx(separate, rel=0.01)


@pytest.mark.parametrize(
    ("backbone", "shared", "separate"), [("mobilenet_v2", 6.03e9, 15.85e9), ("resnet50", 154.6e9, 345.8e9)]
)
def test_the_paper_s_networks_cost_what_exact_counting_gave(backbone: str, shared: float, separate: float) -> None:
    table = build_table(get_backbone(backbone), TASK_SETS["pascal-context"], (512, 512))
    assert table.shared_total(Resource.MADDS) == pytest.approx(shared, rel=0.002)
    assert table.separate_total(Resource.MADDS) == pytest.approx(separate, rel=0.002)


@pytest.fixture(scope="module")
def table() -> CostTable:
    return build_table(get_backbone("mobilenet_v2"), TASKS, SIZE)


def cost_of(table: CostTable, resource: Resource) -> dict[str, float]:
    costs = {layer.name: layer.per_group[resource] for layer in table.layers}
    return costs | {part.name: part.cost[resource] for part in table.fixed}


def test_a_table_says_what_it_is_of(table: CostTable) -> None:
    assert (table.backbone, table.input_size, table.batch) == ("mobilenet_v2", SIZE, 1)
    assert table.tasks == list(NAMES)
    assert [layer.name for layer in table.layers] == [f"layers.{i:02d}" for i in range(18)]
    assert [(part.name, part.shared) for part in table.fixed] == [
        ("stem", True),
        *((f"heads.{name}", False) for name in NAMES),
    ]


def test_costs_of_single_operations(table: CostTable) -> None:
    madds, params = cost_of(table, Resource.MADDS), cost_of(table, Resource.PARAMS)
    # stem: 3x3, 3 to 32 channels, stride 2; two numbers per channel for the normalisation
    assert madds["stem"] == 32 * 32 * 32 * 27
    assert params["stem"] == 32 * 27 + 2 * 32
    # block 1: depthwise 3x3 at 32 channels, then 1x1 to 16
    assert madds["layers.00"] == 32 * 32 * (32 * 9 + 32 * 16)
    # R-ASPP on 4x4: two 1x1 branches from 320 to 128, one of them on one pixel, then 256 to 128
    assert madds["layers.17"] == 16 * 320 * 128 + 320 * 128 + 16 * 256 * 128
    # head on 16x16: 24 to 48; 176 depthwise, to 128; 128 depthwise, to 128; to 3 channels
    head = 16 * 16 * (24 * 48 + 176 * 9 + 176 * 128 + 128 * 9 + 128 * 128 + 128 * 3)
    assert madds["heads.normals"] == head
    assert madds["heads.place"] == 128 * 3
    assert params["heads.place"] == 128 * 3 + 3


@pytest.mark.parametrize("kind", ["shared", "separate", 1, 2])
def test_the_graph_the_table_and_the_network_that_is_built_agree_exactly(
    table: CostTable, random_architecture: Draw, kind: str | int
) -> None:
    if isinstance(kind, int):
        architecture = random_architecture(kind, "mobilenet_v2", NAMES, 18)
        assert max(architecture.group_counts) > 1
    else:
        architecture = getattr(BranchedArchitecture, kind)("mobilenet_v2", NAMES, 18)
    graph = architecture.graph(get_backbone("mobilenet_v2").tap)
    count = count_network(build_network(architecture, TASKS), SIZE)
    assert graph.madds(cost_of(table, Resource.MADDS).__getitem__) == count.madds
    assert graph.params(cost_of(table, Resource.PARAMS).__getitem__) == count.params
    for resource, value in ((Resource.MADDS, count.madds), (Resource.PARAMS, count.params)):
        if kind == "separate":
            assert table.separate_total(resource) == value
        else:
            assert table.architecture_cost(architecture.group_counts, resource) == value


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_the_table_agrees_with_networks_built_from_sampled_draws(table: CostTable, count: int) -> None:
    rng = np.random.default_rng(count)
    seen = set()
    for _ in range(count):
        # Draws that mostly agree, so that tasks part somewhere in the middle and not at once.
        draws = np.where(rng.random((18, len(NAMES))) < 0.97, 0, rng.integers(0, len(NAMES), (18, len(NAMES))))
        groupings = architecture_from_draws(draws)
        named = tuple(tuple(tuple(NAMES[t] for t in block) for block in grouping) for grouping in groupings)
        architecture = BranchedArchitecture(backbone="mobilenet_v2", tasks=NAMES, groupings=named)
        built = count_network(build_network(architecture, TASKS), SIZE)
        assert table.architecture_cost(groupings, Resource.MADDS) == built.madds
        assert table.architecture_cost(groupings, Resource.PARAMS) == built.params
        seen.add(groupings)
    assert len(seen) > count // 2


def test_a_subset_of_the_tasks_costs_what_the_smaller_network_costs(
    table: CostTable, random_architecture: Draw
) -> None:
    network = build_network(random_architecture(1, "mobilenet_v2", NAMES, 18), TASKS).subset(["place", "semseg"])
    count = count_network(network, SIZE)
    assert network.graph.madds(cost_of(table, Resource.MADDS).__getitem__) == count.madds
    assert network.graph.params(cost_of(table, Resource.PARAMS).__getitem__) == count.params


@pytest.mark.parametrize("size", [(16, 512), (512, 31)])
def test_an_image_that_is_too_small_is_refused_with_the_smallest_one(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"output stride 16 and needs at least 32x32"):
        count_operations(get_backbone("mobilenet_v2"), TASKS, size)


# --- the cache


class Block(nn.Module):
    """A convolution whose width and kernel are its content."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, width, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def test_a_count_is_remembered(cache: Path) -> None:
    assert count_module(Block(4, 3), image(2, 8, 8)) == Count(64 * 4 * 18, 72)
    path = cached(cache)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"madds": 7}), encoding="utf-8")
    assert count_module(Block(4, 3), image(2, 8, 8)).madds == 7  # it came from the file


def test_a_count_is_not_remembered_by_the_name_of_the_class(cache: Path) -> None:
    assert count_module(Block(4, 3), image(2, 8, 8)) == Count(64 * 4 * 18, 72)
    assert count_module(Block(5, 3), image(2, 8, 8)) == Count(64 * 5 * 18, 90)
    assert count_module(Block(4, 1), image(2, 8, 8)) == Count(64 * 4 * 2, 8)
    assert count_module(Block(4, 3), image(2, 8, 16)) == Count(128 * 4 * 18, 72)


def test_a_changed_stride_or_dilation_is_another_content(cache: Path) -> None:
    block = Block(4, 3)
    assert count_module(block, image(2, 8, 8)).madds == 64 * 4 * 18
    block.conv.stride = (2, 2)
    assert count_module(block, image(2, 8, 8)).madds == 16 * 4 * 18
    block.conv.stride, block.conv.dilation = (1, 1), (2, 2)  # without padding for it: 6 x 6
    assert count_module(block, image(2, 8, 8)).madds == 36 * 4 * 18


def load_source(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(
        "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n\n" + source, encoding="utf-8"
    )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


OWN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1, bias=False)

    def forward(self, x):
        return self.conv({x})
"""
INHERITED = OWN.replace("class Net", "class Base") + "\n\nclass Net(Base):\n    pass\n"


@pytest.mark.parametrize("source", [OWN, INHERITED], ids=["own", "inherited"])
def test_changed_code_is_another_content(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    before = load_source(tmp_path, "net_before", source.replace("{x}", "x"), monkeypatch)
    after = load_source(tmp_path, "net_after", source.replace("{x}", "F.avg_pool2d(x, 2)"), monkeypatch)
    assert count_module(before.Net(), image(2, 8, 8)).madds == 64 * 8
    assert count_module(after.Net(), image(2, 8, 8)).madds == 16 * 8


class Pooled(nn.Module):
    """A convolution on an image made smaller by a number that is printed nowhere."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by
        self.conv = nn.Conv2d(2, 4, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.avg_pool2d(x, self.by))


def test_a_changed_number_that_is_not_printed_is_another_content(cache: Path) -> None:
    assert count_module(Pooled(1), image(2, 8, 8)).madds == 64 * 8
    assert count_module(Pooled(2), image(2, 8, 8)).madds == 16 * 8


def test_networks_with_the_same_parts_wired_otherwise_are_other_contents(cache: Path) -> None:
    # One set of parameters, applied once or twice: the modules are the same, the graph is not.
    once = Expression("layers.00", "w")
    twice = Expression("layers.00", "w", (once,))
    counts = [count_network(network_of(nn.Conv2d(3, 3, 1, bias=False), x), (8, 8)) for x in (once, twice)]
    assert counts == [Count(64 * 9, 9), Count(2 * 64 * 9, 9)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xff",
        b"[]",
        b'{"schema_version": 1}',
        b'{"schema_version": 2, "madds": 1, "params": 1}',
        b'{"schema_version": 1, "madds": "x", "params": 1}',
        b'{"schema_version": 1, "madds": NaN, "params": 1}',
        b'{"schema_version": 1, "madds": null, "params": 1}',
        b'{"schema_version": 1, "madds": [1], "params": 1}',
        b'{"schema_version": 1, "madds": Infinity, "params": 1}',
        b'{"schema_version": 1, "madds": -5, "params": 1}',
    ],
)
def test_what_cannot_be_read_from_the_cache_is_counted_again(cache: Path, content: bytes) -> None:
    expected = Count(64 * 4 * 18, 72)
    assert count_module(Block(4, 3), image(2, 8, 8)) == expected
    path = cached(cache)
    good = path.read_bytes()
    path.write_bytes(content)
    assert count_module(Block(4, 3), image(2, 8, 8)) == expected
    assert path.read_bytes() == good  # and mended


def test_a_folder_in_the_place_of_a_remembered_count_does_not_stop_the_counting(cache: Path) -> None:
    count_module(Block(4, 3), image(2, 8, 8))
    path = cached(cache)
    path.unlink()
    path.mkdir()
    assert count_module(Block(4, 3), image(2, 8, 8)).params == 72


def test_a_cache_that_cannot_be_written_does_not_stop_the_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path / "file" / "cache"))
    assert count_module(Block(4, 3), image(2, 8, 8)).params == 72
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
