"""Networks that share by a fixed rule: values by hand and by the separate networks, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bmtas.architecture import Architecture, BranchedArchitecture, WiredArchitecture
from bmtas.config import Method
from bmtas.methods.sharing.paths import take_over
from bmtas.methods.sharing.space import NETWORKS, open_space
from bmtas.networks.backbone import get_backbone
from bmtas.networks.fusions import Fusion, WeightedSum
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.subspaces import SubspaceMixture
from bmtas.tasks import Task
from tests.methods.sharing.few_tasks import SIZE, TASKS, image, kit_of, settled


def wired(method: Method, backbone: str, tasks: tuple[Task, ...]) -> WiredArchitecture:
    return open_space(method, kit_of(backbone, tasks), {}).architecture


def separate(backbone: str, tasks: tuple[Task, ...]) -> GraphNetwork:
    torch.manual_seed(1)
    names = [task.name for task in tasks]
    tree = BranchedArchitecture.separate(backbone, names, get_backbone(backbone).layers)
    return settled(build_network(tree, tasks))


def started(method: Method, backbone: str, tasks: tuple[Task, ...], single: GraphNetwork | None = None) -> GraphNetwork:
    torch.manual_seed(2)
    network, start = build_network(wired(method, backbone, tasks), tasks), NETWORKS[method].start
    if single is not None:
        take_over(network, single)
    if start is not None:
        start(network)
    return network


@pytest.mark.parametrize("method", NETWORKS)
def test_architectures_survive_their_json(method: Method) -> None:
    made = wired(method, "tiny", TASKS)
    read = Architecture.from_json(made.to_json())
    assert (read, read.method) == (made, method.value)


@pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2"])
@pytest.mark.parametrize("method", [Method.CROSS_STITCH, Method.SLUICE])
def test_identity_units_compute_what_separate_networks_compute(method: Method, backbone: str) -> None:
    tasks = TASKS[:3] if backbone == "tiny" else TASKS[:2]
    single = separate(backbone, tasks)
    network = started(method, backbone, tasks, single).eval()
    with torch.no_grad():
        alone, mixed = single(image()), network(image())
        assert all(float((alone[t] - mixed[t]).abs().max()) > 1e-3 for t in alone)  # as the units begin
        for unit in network.modules():
            if isinstance(unit, WeightedSum):
                unit.weights.copy_(torch.eye(len(tasks))[0])
            if isinstance(unit, SubspaceMixture):
                unit.begin(1.0, 0.0)
        mixed = network(image())
    for task in alone:
        assert torch.equal(alone[task], mixed[task])


def test_fusions_of_own_features_alone_only_rectify() -> None:
    tasks = TASKS[:3]
    single = separate("tiny", tasks)
    network = started(Method.NDDR_CNN, "tiny", tasks, single).eval()
    for unit in network.modules():
        if isinstance(unit, Fusion):
            unit.begin(1.0, 0.0)
            unit.norm.eps = 0.0  # the means are 0 and the variances 1: nothing is changed
    with torch.no_grad():
        found = network(image())
        for task in ("semseg", "depth"):
            x = image()
            for i, name in enumerate(["stem", *get_backbone("tiny").layer_names()]):
                x = single.get_submodule(f"{name}.{task}")(x)
                x = x.relu() if i in (3, 6) else x  # the ends of the two stages of `tiny`
            expected = single.get_submodule(f"heads.{task}")(x, x)
            expected = torch.nn.functional.interpolate(expected, SIZE, mode="bilinear", align_corners=False)
            torch.testing.assert_close(found[task], expected, atol=1e-6, rtol=1e-5)


def test_cross_stitch_of_two_tasks_by_hand() -> None:
    network = started(Method.CROSS_STITCH, "tiny", TASKS[:2])
    nodes = {node.module: node for node in network.graph.nodes if node.operation == "sums.2"}
    assert {module: node.inputs for module, node in nodes.items()} == {
        "sums.2.layers.02.semseg": ("layers.02.semseg", "layers.02.depth"),
        "sums.2.layers.02.depth": ("layers.02.depth", "layers.02.semseg"),
        "sums.2.layers.05.semseg": ("layers.05.semseg", "layers.05.depth"),
        "sums.2.layers.05.depth": ("layers.05.depth", "layers.05.semseg"),
    }
    # Two tasks: 0.8 for the own features and 0.2 for the others', [[1, 2], [3, 4]] and [[10, 0], [-10, 5]].
    a, b = torch.tensor([[1.0, 2], [3, 4]])[None, None], torch.tensor([[10.0, 0], [-10, 5]])[None, None]
    found = (
        network.get_submodule("sums.2.layers.02.semseg")(a, b),
        network.get_submodule("sums.2.layers.02.depth")(b, a),
    )
    torch.testing.assert_close(found[0][0, 0], torch.tensor([[2.8, 1.6], [0.4, 4.2]]))
    torch.testing.assert_close(found[1][0, 0], torch.tensor([[8.2, 0.4], [-7.4, 4.8]]))
    heads = {n.name: n.inputs for n in network.graph.nodes if n.name.startswith("heads")}
    assert heads["heads.depth"] == ("sums.2.layers.05.depth",) * 2


def test_first_weights_by_hand() -> None:
    single = separate("tiny", TASKS)
    sums = started(Method.CROSS_STITCH, "tiny", TASKS, single)
    weights = sums.get_parameter("sums.4.layers.02.depth.weights")
    np.testing.assert_allclose(weights.detach().numpy(), [0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3], rtol=1e-6)
    alphas = started(Method.SLUICE, "tiny", TASKS, single).get_parameter("subspaces.layers.05.4.normals.alphas")
    expected = np.full((2, 8), 0.1 / 7)
    expected[0, 0] = expected[1, 1] = 0.9
    np.testing.assert_allclose(alphas.detach().numpy(), expected, rtol=1e-6)
    fusions = started(Method.NDDR_CNN, "tiny", TASKS, single)
    kernel = fusions.get_parameter("fusions.layers.05.4.scene.conv.weight").detach().numpy()[:, :, 0, 0]
    np.testing.assert_allclose(kernel, np.kron([[0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3]], np.eye(4)), rtol=1e-6)
    own = single.state_dict()
    for network in (sums, fusions):
        state = network.state_dict()
        assert all(torch.equal(state[key], own[key]) for key in own)


@pytest.mark.parametrize("method", NETWORKS)
def test_gradients_reach_everything(method: Method) -> None:
    network = started(method, "tiny", TASKS[:3]).train()
    predictions = network(image())
    torch.stack([(p - 1).square().mean() for p in predictions.values()]).sum().backward()  # type: ignore[no-untyped-call]
    unreached = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    # Of a classification task's head the tap is not used; all else is.
    assert unreached == []


def test_mtan_shares_all_but_masks_and_what_follows_the_last_stage() -> None:
    made = wired(Method.MTAN, "mobilenet_v2", TASKS[:2])
    modules = list(made.merged.modules())
    both = [f"{name}.semseg+depth" for name in ("stem", *get_backbone("mobilenet_v2").layer_names()[:-1])]
    ends = ["02", "05", "09", "12", "15", "16"]
    refines = [f"refines.layers.{end}.semseg+depth" for end in ends]
    own = [
        f"{name}.{task}" for task in ("semseg", "depth") for name in [*(f"masks.layers.{e}" for e in ends), "layers.17"]
    ]
    assert sorted(modules) == sorted([*both, *refines, *own, "heads.semseg", "heads.depth"])
    nodes = {node.name: node for node in made.merged.nodes}
    assert nodes["heads.depth"].inputs == ("layers.17.depth", "masks.layers.02.depth")
    read = nodes["masks.layers.05.depth"].inputs
    assert read[:2] == ("layers.04.semseg+depth", "layers.05.semseg+depth")
    assert (nodes[read[2]].module, nodes[read[2]].inputs) == (refines[0], ("masks.layers.02.depth",))


def test_mtan_with_masks_of_one_half_is_by_hand() -> None:
    network = started(Method.MTAN, "tiny", TASKS[:2])
    for name, parameter in network.named_parameters():
        if "spread.1" in name:  # the last normalisation of the masks: sigmoid(0) whatever comes in
            torch.nn.init.zeros_(parameter)
    settled(network)

    def module(name: str) -> torch.nn.Module:
        return network.get_submodule(name)

    with torch.no_grad():
        x, found = image(), network(image())["depth"]
        for name in ("stem", "layers.00", "layers.01", "layers.02", "layers.03", "layers.04", "layers.05"):
            x = module(f"{name}.semseg+depth")(x)
        refined = module("refines.layers.05.semseg+depth")(x / 2)
        raw = module("heads.depth")(refined, x / 2)
        expected = torch.nn.functional.interpolate(raw, SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)


def test_odd_sizes_pass_through_all_places() -> None:
    network = started(Method.MTAN, "mobilenet_v2", TASKS[:2]).eval()
    with torch.no_grad():  # 35x45, 18x23, 9x12, 5x6
        assert network(image(0, (70, 90)))["semseg"].shape == (2, 2, 70, 90)
