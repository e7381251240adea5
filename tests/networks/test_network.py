"""The network of a merged graph: names, sharing, and predictions computed a second way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import BmtasError
from bmtas.graph import Expression, Node, merge
from bmtas.memory import peak_activations
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.tasks import Task, TaskKind

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c", "d")),
    Task(name="parts", kind=TaskKind.SEGMENTATION, classes=("a", "b")),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y", "z")),
)
NAMES = tuple(task.name for task in TASKS)
Draw = Callable[[int, str, tuple[str, ...], int], Architecture]


def tree() -> BranchedArchitecture:
    """All tasks share layers 0 to 6, semseg and parts go on together up to layer 12."""
    together, parted = (NAMES,), (("semseg", "parts"), ("place",))
    apart = tuple((name,) for name in NAMES)
    return BranchedArchitecture(
        backbone="mobilenet_v2", tasks=NAMES, groupings=(together,) * 7 + (parted,) * 6 + (apart,) * 5
    )


def build(architecture: Architecture, tasks: tuple[Task, ...] = TASKS, seed: int = 0) -> GraphNetwork:
    torch.manual_seed(seed)
    return build_network(architecture, tasks).eval()


def image(images: int = 1) -> Tensor:
    return torch.randn(images, 3, 32, 64, generator=torch.Generator().manual_seed(1))


def depth_tasks(*names: str) -> tuple[Task, ...]:
    return tuple(Task(name=name, kind=TaskKind.DEPTH) for name in names)


def test_parameters_are_named_after_the_graph() -> None:
    keys = build(tree()).state_dict()
    assert "stem.semseg+parts+place.0.weight" in keys
    assert "layers.07.semseg+parts.conv.0.0.weight" in keys
    assert "layers.07.place.conv.0.0.weight" in keys
    assert "layers.17.parts.project.0.weight" in keys
    assert "heads.semseg.predict.weight" in keys
    owners = {".".join(key.split(".")[: 3 if key.startswith("layers") else 2]) for key in keys}
    assert owners == set(tree().graph(2).modules())


def test_shapes_of_predictions() -> None:
    with torch.no_grad():
        out = build(tree())(image(2))
    assert {name: tuple(x.shape) for name, x in out.items()} == {
        "semseg": (2, 4, 32, 64),
        "parts": (2, 2, 32, 64),
        "place": (2, 3),
    }
    assert list(out) == list(NAMES)


def test_predictions_are_those_of_the_path_run_by_hand() -> None:
    network, x = build(tree()), image()
    with torch.no_grad():
        out = network(x)
        for task in NAMES:
            y = tap = network.get_submodule("stem.semseg+parts+place")(x)
            for layer, grouping in enumerate(tree().groupings):
                block = next(block for block in grouping if task in block)
                y = network.get_submodule(f"layers.{layer:02d}.{'+'.join(block)}")(y)
                tap = y if layer == 2 else tap
            expected = network.get_submodule(f"heads.{task}")(y, tap)
            if task != "place":
                assert expected.shape[-2:] == (8, 16)
                expected = F.interpolate(expected, scale_factor=4, mode="bilinear")
            assert torch.equal(out[task], expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_subset_predicts_exactly_what_the_whole_network_predicts(random_architecture: Draw, seed: int) -> None:
    network, x = build(random_architecture(seed, "mobilenet_v2", NAMES, 18)), image()
    with torch.no_grad():
        whole = network(x)
        for kept in (["semseg"], ["place"], ["parts", "place"], ["place", "semseg"], list(NAMES)):
            part = network.subset(kept).eval()(x)
            assert list(part) == kept
            assert all(torch.equal(part[name], whole[name]) for name in kept)


def test_a_subset_shares_its_parameters_and_keeps_their_names() -> None:
    network = build(tree())
    part = network.subset(["place"])
    whole = dict(network.named_parameters(remove_duplicate=False))
    assert all(parameter is whole[name] for name, parameter in part.named_parameters())
    assert sum(1 for _ in part.parameters()) < sum(1 for _ in network.parameters())


def test_weights_that_are_applied_twice_are_held_once() -> None:
    x = Expression("layers.00", "w", (Expression("layers.00", "w"),))
    graph = merge({"a": x, "b": Expression("layers.01", "b")})
    conv, other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
    network = GraphNetwork(graph, {"layers.00.w": conv, "layers.01.b": other}, dense=["a", "b"])
    assert sum(p.numel() for p in network.parameters()) == 12 + 8
    given = image()
    out = network(given)
    assert torch.equal(out["a"], conv(conv(given)))
    assert torch.equal(out["b"], other(given))


def test_a_value_that_several_read_is_kept_until_the_last_of_them() -> None:
    # b's head comes after c's layer, and reads the stem that a's layer has read before both; c's value is two predictions.
    stem = Expression("stem", "w")
    deep = Expression("layers.00", "c", (stem,))
    graph = merge({"a": deep, "b": Expression("heads.b", "b", (deep, stem)), "c": deep, "d": stem})
    modules = {"stem.w": nn.Conv2d(3, 2, 1), "layers.00.c": nn.Conv2d(2, 2, 1), "heads.b": nn.Bilinear(64, 64, 5)}
    network = GraphNetwork(graph, modules, dense=["a", "c"])
    given = image()
    for _ in range(2):  # nothing is used up
        out = network(given)
        first = modules["stem.w"](given)
        second = modules["layers.00.c"](first)
        assert list(out) == ["a", "b", "c", "d"]
        assert torch.equal(out["a"], second)
        assert torch.equal(out["c"], second)
        assert torch.equal(out["b"], modules["heads.b"](second, first))
        assert torch.equal(out["d"], first)


def test_only_what_the_asked_tasks_need_is_run() -> None:
    network, x = build(tree()), image()
    run: list[str] = []

    def apply(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        run.append(node.name)
        return network.compute(node, inputs)

    with torch.no_grad():
        whole, part, swapped = network(x), network.run(x, apply, ["place"]), network.run(x, tasks=["place", "semseg"])
    assert list(part) == ["place"]
    assert list(swapped) == ["place", "semseg"]
    assert torch.equal(part["place"], whole["place"])
    assert all(torch.equal(swapped[name], whole[name]) for name in swapped)
    common = ["stem.semseg+parts+place", *(f"layers.{i:02d}.semseg+parts+place" for i in range(7))]
    assert run == [*common, *(f"layers.{i:02d}.place" for i in range(7, 18)), "heads.place"]


def test_a_node_can_be_computed_otherwise() -> None:
    # y = sum w_i x_i of the stem's value and a layer's: the node has no module, its scalars are the caller's.
    stem = Expression("stem", "w")
    graph = merge({"a": Expression("sums.2", "a", (stem, Expression("layers.00", "b", (stem,))))})
    modules = {"stem.w": nn.Conv2d(3, 2, 1), "layers.00.b": nn.Conv2d(2, 2, 1)}
    network = GraphNetwork(graph, modules, dense=["a"])

    def apply(node: Node, inputs: Sequence[Tensor]) -> Tensor:
        return 2.0 * inputs[0] - inputs[1] if node.operation == "sums.2" else network.compute(node, inputs)

    first = modules["stem.w"](image())
    assert torch.equal(network.run(image(), apply)["a"], 2.0 * first - modules["layers.00.b"](first))


def test_no_more_values_are_alive_than_are_needed() -> None:
    # Three tasks with layers of their own after a common one: 5 channels in, then 7 each, heads give 3. The image has four
    # times the pixels of all that.
    def path(task: str) -> Expression:
        return Expression("heads." + task, task, (Expression("layers.00", task, (Expression("stem", "w"),)),))

    graph = merge({task: path(task) for task in "abc"})
    modules: dict[str, nn.Module] = {"stem.w": nn.Conv2d(3, 5, 2, stride=2)}
    modules |= {f"layers.00.{task}": nn.Conv2d(5, 7, 1) for task in "abc"}
    modules |= {f"heads.{task}": nn.Conv2d(7, 3, 1) for task in "abc"}
    given = torch.zeros(1, 3, 16, 32)
    small = 4 * 16 * 32 // 4

    def peak(tasks: str, dense: str) -> float:
        chosen = {name: module for name, module in modules.items() if name[-1] in "w" + tasks}
        return (peak_activations(GraphNetwork(graph.subset(tasks), chosen, dense), [given]) - given.nbytes) / small

    # Layer by layer: the common value goes when the last layer has read it. The heads need less, for each drops what it
    # has read: 3 x 7 + 3.
    assert peak("abc", dense="") == 5 + 3 * 7
    assert peak("ab", dense="") == 5 + 2 * 7
    # Last, raw predictions become full ones of 4 x 3 small channels: at the third the first two raw ones are gone.
    assert peak("abc", dense="abc") == 2 * 12 + 3 + 12
    assert peak("abc", dense="ac") == 2 * 12 + 3 + 3


def test_the_seed_decides_the_values_and_copies_start_apart() -> None:
    first, again, other = build(tree()).state_dict(), build(tree()).state_dict(), build(tree(), seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    key = "layers.13.{}.conv.0.0.weight"
    assert not torch.equal(first[key.format("parts")], other[key.format("parts")])
    assert not torch.equal(first[key.format("parts")], first[key.format("semseg")])


def test_a_trained_state_fits_a_network_built_anew() -> None:
    network, anew = build(tree()), build(tree(), seed=9)
    anew.load_state_dict(network.state_dict(), strict=True)
    with torch.no_grad():
        for name, x in network(image()).items():
            assert torch.equal(anew(image())[name], x)


@pytest.mark.parametrize("kind", ["shared", "separate"])
@pytest.mark.parametrize(
    "names",
    [("stem", "b"), ("07", "b"), ("b", "07"), ("heads", "layers"), ("training_", "b")],
)
def test_every_task_name_that_is_allowed_can_be_built(names: tuple[str, ...], kind: str) -> None:
    network = build(getattr(BranchedArchitecture, kind)("mobilenet_v2", names, 18), depth_tasks(*names))
    plain = build(getattr(BranchedArchitecture, kind)("mobilenet_v2", ("x", "y"), 18), depth_tasks("x", "y"))
    with torch.no_grad():
        out, expected = network(image()), plain(image())
    assert all(torch.equal(out[a], expected[b]) for a, b in zip(names, "xy", strict=True))
    for a, b in zip(names, "xy", strict=True):
        sizes = [
            sum(p.numel() for p in whole.subset([name]).parameters()) for whole, name in ((network, a), (plain, b))
        ]
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize("layers", [0, 2, 10, 19])
def test_an_architecture_with_another_number_of_layers_is_refused(layers: int) -> None:
    with pytest.raises(BmtasError, match="18"):
        build(BranchedArchitecture.shared("mobilenet_v2", NAMES, layers))


def test_an_architecture_of_unknown_tasks_is_refused() -> None:
    with pytest.raises(BmtasError, match="flow"):
        build(BranchedArchitecture.shared("mobilenet_v2", ("semseg", "flow"), 18))


def test_an_architecture_of_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(BmtasError, match="known: mobilenet_v2, resnet50"):
        build(BranchedArchitecture.shared("mobilenet_v9", NAMES, 18))
