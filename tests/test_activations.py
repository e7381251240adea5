"""The table's peak memory: against a plain simulation of all small trees, and against networks that are built and traced."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch

from bmtas.activations import Activations, _Part, measure_activations
from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.memory import BYTES_PER_MIB, peak_activations
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.profile import build_table, tables_by_count
from bmtas.tasks import TASK_SETS, Task, TaskKind
from costs.table import CostTable
from costs.units import Resource

Draw = Callable[[int, str, tuple[str, ...], int], Architecture]
SIZE = (64, 96)
MIB = Resource.PEAK_MEMORY_MIB
PLACE = Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y"))
TASKS = {
    "five": TASK_SETS["pascal-context"],
    "places": (
        PLACE,
        TASK_SETS["pascal-context"][0],
        Task(name="time", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
    ),
    "many classes": (
        Task(name="objects", kind=TaskKind.SEGMENTATION, classes=tuple(f"c{i}" for i in range(150))),
        *TASK_SETS["pascal-context"][3:],
    ),
}
NETWORKS = [("mobilenet_v2", tasks) for tasks in TASKS] + [("resnet50", "five"), ("resnet50", "places")]


# --- all trees of three tasks, with made-up sizes

TAP = 1
LAYERS = 4
NAMES = ("a", "b", "c")
GROUPINGS = (
    (("a", "b", "c"),),
    (("a", "b"), ("c",)),
    (("a", "c"), ("b",)),
    (("a",), ("b", "c")),
    (("a",), ("b",), ("c",)),
)


def made_up(seed: int) -> Activations:
    rng = random.Random(seed)
    sizes = [rng.randrange(1, 50) for _ in range(LAYERS + 2)]  # the image, the stem's output, the layers'
    inner = [rng.randrange(60) for _ in range(LAYERS + 4)]
    parts = [_Part(a + b + more, a, b) for a, b, more in zip(sizes, sizes[1:], inner, strict=False)]
    heads = []
    for more in inner[-3:]:
        raw = rng.randrange(1, 9)
        read = sizes[-1] + sizes[TAP + 2]
        heads.append(_Part(read + raw + more, sizes[-1], raw, rng.choice([0, 4 * raw])))
    return Activations(sizes[0], parts[0], tuple(parts[1:]), tuple(heads), TAP)


def simulated(activations: Activations, architecture: Architecture) -> int:
    """Run the tree of an architecture node by node, with a set of the values that are alive, and return the peak."""
    graph = architecture.graph(TAP)
    parts = {"stem": activations.stem}
    parts |= {f"layers.{i:02d}": part for i, part in enumerate(activations.layers)}
    parts |= {f"heads.{name}": part for name, part in zip(NAMES, activations.heads, strict=True)}
    order = sorted(graph.nodes, key=lambda node: list(parts).index(node.operation))  # stem, layers, heads in task order
    alive = {"image": activations.image}
    peak = 0
    for i, node in enumerate(order):
        others = sum(size for name, size in alive.items() if name not in node.inputs)
        inside = parts[node.operation].peak
        peak = max(peak, others + inside)
        alive[node.name] = parts[node.operation].after
        later = {name for other in order[i + 1 :] for name in other.inputs} | set(graph.outputs.values()) | {"image"}
        alive = {name: size for name, size in alive.items() if name in later}
    for name, part in zip(NAMES, activations.heads, strict=True):
        if part.full:
            peak = max(peak, sum(alive.values()) + part.full)
            alive[f"heads.{name}"] = part.full
    return peak


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_for_every_tree_and_is_exact_where_the_numbers_of_groups_are_equal(seed: int) -> None:
    activations = made_up(seed)
    layers = [activations.layer_mib(i, 3) for i in range(LAYERS)]
    fixed = [activations.stem_mib(), *(activations.head_mib(k) for k in range(3))]
    assert all(costs == sorted(costs) for costs in layers)
    trees = 0
    for groupings in itertools.product(GROUPINGS, repeat=LAYERS):
        blocks = [[set(b) for b in grouping] for grouping in groupings]
        if not all(all(any(b <= p for p in coarse) for b in fine) for coarse, fine in itertools.pairwise(blocks)):
            continue
        trees += 1
        tree = BranchedArchitecture(backbone="toy", tasks=NAMES, groupings=groupings)
        bound = max([*fixed, *(layers[i][n - 1] for i, n in enumerate(tree.group_counts))]) * BYTES_PER_MIB
        actual = simulated(activations, tree)
        assert bound >= actual
        if set(tree.group_counts) == {1}:
            assert bound == actual
        if set(tree.group_counts) == {3} and activations.layers[0].before <= activations.layers[0].after:
            assert bound == actual
    # Of four layers the first a are shared, b have one of the three groupings into two, the others are apart: 5 choices
    # of a without b; 10 of a and b > 0.
    assert trees == 5 + 3 * 10


# --- networks


def traced(architecture: Architecture, tasks: tuple[Task, ...], size: tuple[int, int] = SIZE) -> float:
    """Build the network of `architecture` and return its own peak in MiB."""
    with torch.device("meta"):  # no weights are needed
        network = build_network(architecture, tasks)
        return peak_activations(network, [torch.empty(1, 3, *size)]) / BYTES_PER_MIB


def only_the_stem_shared(backbone: str, names: tuple[str, ...], layers: int) -> Architecture:
    apart = tuple((name,) for name in names)
    return BranchedArchitecture(backbone=backbone, tasks=names, groupings=(apart,) * layers)


@pytest.fixture(scope="module")
def table_of() -> Callable[[str, str], CostTable]:
    tables: dict[tuple[str, str], CostTable] = {}

    def get(backbone: str, tasks: str) -> CostTable:
        if (backbone, tasks) not in tables:
            tables[backbone, tasks] = build_table(get_backbone(backbone), TASKS[tasks], SIZE)
        return tables[backbone, tasks]

    return get


@pytest.mark.parametrize(("backbone", "tasks"), NETWORKS)
def test_shared_split_and_separate_networks_take_exactly_what_the_table_says(
    table_of: Callable[[str, str], CostTable], backbone: str, tasks: str
) -> None:
    table, chosen = table_of(backbone, tasks), TASKS[tasks]
    names, layers = tuple(task.name for task in chosen), get_backbone(backbone).layers
    shared, separate = (getattr(BranchedArchitecture, kind)(backbone, names, layers) for kind in ("shared", "separate"))
    assert table.shared_total(MIB) == traced(shared, chosen)
    assert table.split_total(MIB) == traced(only_the_stem_shared(backbone, names, layers), chosen)
    assert table.separate_total(MIB) == traced(separate, chosen)


@pytest.mark.parametrize(("backbone", "tasks"), NETWORKS)
@pytest.mark.parametrize("count", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_network_takes_more_than_the_table_says(
    table_of: Callable[[str, str], CostTable], random_architecture: Draw, backbone: str, tasks: str, count: int
) -> None:
    table, chosen = table_of(backbone, tasks), TASKS[tasks]
    names, layers = tuple(task.name for task in chosen), get_backbone(backbone).layers
    drawn = [random_architecture(seed, backbone, names, layers) for seed in range(count)]
    together, apart = (names,), tuple((name,) for name in names)
    late = [(together,) * n + (apart,) * (layers - n) for n in (3, layers - 1)]
    drawn += [BranchedArchitecture(backbone=backbone, tasks=names, groupings=groupings) for groupings in late]
    for architecture in drawn:
        stated, actual = table.architecture_cost(architecture.task_indices, MIB), traced(architecture, chosen)
        assert actual <= stated
        # Tasks that part late, with their tapped values counted apart: the worst case for ResNet-50, whose tap is wide.
        assert stated <= actual * {"mobilenet_v2": 1.09, "resnet50": 1.59}[backbone]


@pytest.mark.slow
def test_with_nine_tasks_the_first_layer_of_mobilenet_decides_for_separate_networks() -> None:
    tasks = tuple(Task(name=f"t{i}", kind=TaskKind.REGRESSION) for i in range(9))
    names = tuple(task.name for task in tasks)
    table = build_table(get_backbone("mobilenet_v2"), tasks, SIZE)
    assert table.separate_total(MIB) == traced(BranchedArchitecture.separate("mobilenet_v2", names, 18), tasks)
    assert table.split_total(MIB) > traced(only_the_stem_shared("mobilenet_v2", names, 18), tasks)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50"])
def test_costs_do_not_fall_with_the_number_of_groups(table_of: Callable[[str, str], CostTable], backbone: str) -> None:
    costs = table_of(backbone, "five").count_costs(MIB)
    assert costs.shape == (get_backbone(backbone).layers, 5)
    assert (costs[:, 1:] >= costs[:, :-1]).all()
    assert table_of(backbone, "five").dependence(MIB) == "group_count"


def test_parts_by_hand(table_of: Callable[[str, str], CostTable]) -> None:
    table = table_of("mobilenet_v2", "five")
    pixels = SIZE[0] * SIZE[1]
    image, quarter, sixteenth = 4 * 3 * pixels, 4 * pixels // 4, 4 * pixels // 16
    fixed = {part.name: part.cost[MIB] * BYTES_PER_MIB for part in table.fixed}
    # The stem's 32 channels at half the size, before and after the normalisation, which has 2 numbers per channel.
    assert fixed["stem"] == image + 2 * 32 * quarter + 4 * 2 * 32
    # R-ASPP's 128 channels and the tap's 24 come in. The decoder holds its 48 reduced and 128 enlarged ones, and both
    # joined, 176, while it refines them; most in the second refinement: its input, the depthwise result, and the 1x1
    # convolution's output before and after the normalisation, 128 each.
    read = 128 * 4 * pixels // 256 + 24 * sixteenth
    assert fixed["heads.parts"] == image + read + (2 * (48 + 128) + 4 * 128) * sixteenth + 4 * 2 * 128


def test_a_table_for_fewer_tasks_is_that_of_their_own_network() -> None:
    tasks = TASKS["many classes"]
    backbone = get_backbone("mobilenet_v2")
    tables = tables_by_count(backbone, tasks, SIZE, [1, 2, 3])
    assert tables == [build_table(backbone, tasks[:n], SIZE) for n in (1, 2, 3)]
    # The others' predictions are not kept: for the wide one alone it is less than for all three.
    assert tables[0].shared_total(MIB) < tables[2].shared_total(MIB)


def test_memory_grows_with_the_image_and_nothing_is_computed() -> None:
    small, large = (measure_activations(get_backbone("mobilenet_v2"), TASKS["five"], (s, s)) for s in (512, 8192))
    # 256 times the pixels; beside them only two numbers per channel of a normalisation.
    ratio = large.layer_mib(1, 5)[1] / small.layer_mib(1, 5)[1]
    assert ratio == pytest.approx(256, rel=1e-4)
