"""A network that inherits computes what the supergraph computes with the candidates that its groups have chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.networks.backbone import get_backbone
from bmtas.networks.inherited import chosen_candidate, inherit
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.supergraph import Supergraph
from bmtas.tasks import Task, TaskKind

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c")),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
    Task(name="depth", kind=TaskKind.DEPTH),
)
NAMES = tuple(task.name for task in TASKS)
Draw = Callable[[int, str, tuple[str, ...], int], Architecture]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Untrained networks enlarge rounding: where two ways of computing are compared, in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def learned(backbone: str, tasks: tuple[Task, ...] = TASKS) -> Supergraph:
    """A supergraph of which no two numbers are alike, running statistics and affine parameters included."""
    torch.manual_seed(0)
    supergraph = Supergraph(get_backbone(backbone), tasks, None).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in supergraph.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                # Of normalisations: scales and variances about 1, shifts and means about 0.
                middle = 1.0 if name.endswith(("weight", "running_var")) else 0.0
                value.copy_(middle + torch.empty_like(value).uniform_(-0.3, 0.3, generator=generator))
    return supergraph


def drawn(architecture: Architecture, seed: int) -> np.ndarray:
    """A candidate (L, T) for each task, the same within groups."""
    rng = np.random.default_rng(seed)
    choices = np.zeros((len(architecture.groupings), len(architecture.tasks)), dtype=int)
    for layer, grouping in enumerate(architecture.task_indices):
        for block in grouping:
            choices[layer, list(block)] = rng.integers(len(architecture.tasks))
    return choices


def image() -> Tensor:
    return torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(2))


def inherited(architecture: Architecture, state: dict[str, Any], probabilities: np.ndarray) -> GraphNetwork:
    torch.manual_seed(3)
    network = build_network(architecture, TASKS).eval()
    inherit(network, state, probabilities)
    return network


@pytest.mark.parametrize(("backbone", "layers"), [("tiny", 6), ("mobilenet_v2", 18)])
@pytest.mark.parametrize("seed", [1, 3])
def test_one_hot_probabilities_give_the_supergraphs_own_predictions(
    backbone: str, layers: int, seed: int, random_architecture: Draw
) -> None:
    architecture = random_architecture(seed, backbone, NAMES, layers)
    assert len(set(architecture.groupings)) > 1  # tasks part somewhere
    supergraph, choices = learned(backbone), drawn(architecture, seed)
    assert set(choices.ravel()) == {0, 1, 2}
    one_hot = F.one_hot(torch.from_numpy(choices), 3).double()  # (L, T, C)
    network = inherited(architecture, supergraph.state_dict(), one_hot.numpy())
    with torch.no_grad():
        predictions = network(image())
        for t, task in enumerate(TASKS):
            expected = supergraph(image(), t, one_hot[:, t])
            torch.testing.assert_close(predictions[task.name], expected, rtol=1e-9, atol=1e-11)
            other = one_hot.roll(1, dims=2)[:, t]
            assert (supergraph(image(), t, other) - expected).abs().max() > 1e-6  # choices matter
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        assert supergraph.stem[0].weight.abs().min() > 0  # copies, not the supergraph's own


def test_a_group_takes_the_candidate_that_is_most_probable_for_all_its_tasks() -> None:
    probabilities = np.array([[[0.6, 0.4, 0.0], [0.1, 0.5, 0.4], [0.0, 0.3, 0.7]]])
    # Products: {0, 1} 0.06, 0.2, 0; {0, 2} 0, 0.12, 0; {1, 2} 0, 0.15, 0.28; all 0, 0.06, 0.
    expected = {(0,): 0, (1,): 1, (2,): 2, (0, 1): 1, (0, 2): 1, (1, 2): 2, (0, 1, 2): 1}
    assert {tasks: chosen_candidate(probabilities, 0, tasks) for tasks in expected} == expected


def test_weights_come_from_the_chosen_candidate_and_the_last_normalisation_begins_neutral() -> None:
    architecture = BranchedArchitecture(
        backbone="tiny", tasks=NAMES, groupings=((NAMES,),) * 3 + ((("semseg", "depth"), ("place",)),) * 3
    )
    probabilities = np.full((6, 3, 3), 0.2)
    probabilities[:, :, 2] = 0.6
    probabilities[3:, 1] = [0.5, 0.3, 0.2]
    state = learned("tiny").state_dict()
    found = inherited(architecture, state, probabilities).state_dict()
    assert torch.equal(found["stem.semseg+place+depth.0.weight"], state["stem.0.weight"])
    assert torch.equal(found["layers.02.semseg+place+depth.conv.0.0.weight"], state["layers.2.2.conv.0.0.weight"])
    assert torch.equal(found["layers.04.semseg+depth.conv.0.1.running_var"], state["layers.4.2.conv.0.1.running_var"])
    assert torch.equal(found["layers.04.place.conv.0.1.bias"], state["layers.4.0.conv.0.1.bias"])
    assert torch.equal(found["heads.depth.predict.weight"], state["heads.depth.predict.weight"])
    assert torch.equal(found["layers.05.place.conv.2.running_mean"], state["layers.5.0.conv.2.running_mean"])
    assert found["layers.05.place.conv.2.weight"].tolist() == [1.0] * 4
    assert found["layers.05.place.conv.2.bias"].tolist() == [0.0] * 4


def without(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    "part", ["stem.", "layers.4.1.", "heads.place.", "layers.4.1.conv.1.", "layers.4.1.conv.0.1.bias", "stem.1.bias"]
)
def test_a_state_that_lacks_a_part_is_refused(part: str) -> None:
    architecture = BranchedArchitecture.shared("tiny", NAMES, 6)
    probabilities = np.eye(3)[None, [1, 1, 1]].repeat(6, axis=0)
    state = learned("tiny").state_dict()
    owner = next(name for name in ("stem", "layers.4.1", "heads.place") if part.startswith(name))
    lacking = next(name for name in state if name.startswith(part)).removeprefix(f"{owner}.")
    with pytest.raises(ValueError, match=rf"^{re.escape(owner)} lacks .*'{re.escape(lacking)}'"):
        inherited(architecture, without(state, part), probabilities)
    inherited(architecture, without(state, "layers.4.2."), probabilities)  # nobody has chosen it


def test_a_state_of_another_backbone_or_other_classes_is_refused() -> None:
    architecture, probabilities = (
        BranchedArchitecture.shared("tiny", NAMES, 6),
        np.eye(3)[None, [0, 0, 0]].repeat(6, axis=0),
    )
    with pytest.raises((ValueError, RuntimeError)):
        inherited(architecture, learned("mobilenet_v2").state_dict(), probabilities)
    more = (Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c", "d")), *TASKS[1:])
    with pytest.raises(RuntimeError, match="size mismatch for predict"):
        inherited(architecture, learned("tiny", more).state_dict(), probabilities)
