"""The supergraph: what a mix of candidates computes, and what is not computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import Backbone, Parts, get_backbone
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.networks.weights import Weights
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c")),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
)
LAYERS, CANDIDATES = 5, 2
MOBILENET = get_backbone("mobilenet_v2")


def first_layers() -> Parts:
    parts = MOBILENET.build()
    return Parts(parts.stem, parts.layers[:LAYERS], parts.keys)


# The first five layers of MobileNetV2: the last two have 32 channels at stride 8.
SHORT = replace(MOBILENET, build=first_layers, layers=LAYERS, channels=32, stride=8)


@pytest.fixture
def supergraph() -> Supergraph:
    torch.manual_seed(0)
    return Supergraph(SHORT, TASKS, None).eval()


def image(images: int = 1) -> Tensor:
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_mix(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(LAYERS, CANDIDATES, generator=generator), dim=1)


def one_hot(seed: int = 0) -> Tensor:
    choice = torch.randint(0, CANDIDATES, (LAYERS,), generator=torch.Generator().manual_seed(seed))
    assert 0 < int(choice.sum()) < LAYERS  # both candidates occur
    return F.one_hot(choice, CANDIDATES).float()


def by_hand(supergraph: Supergraph, x: Tensor, task: int, mix: Tensor) -> Tensor:
    """Run one task's path: the sum of all candidates with an entry above 0."""
    x = supergraph.stem(x)
    tap = x
    for index, candidates in enumerate(supergraph.layers):
        total = torch.zeros(())
        for j in range(CANDIDATES):
            if mix[index, j] > 0:
                total = total + mix[index, j] * candidates[j](x)
        x = total
        tap = x if index == 2 else tap
    prediction: Tensor = supergraph.heads[TASKS[task].name](x, tap)
    return F.interpolate(prediction, (32, 32), mode="bilinear") if task == 0 else prediction


def calls(supergraph: Supergraph) -> list[tuple[int, int]]:
    """Return a list that (layer, candidate) is added to whenever a candidate is run."""
    made: list[tuple[int, int]] = []
    for index, candidates in enumerate(supergraph.layers):
        for j, candidate in enumerate(candidates):
            candidate.register_forward_hook(lambda *_, at=(index, j): made.append(at))
    return made


def norms(supergraph: Supergraph) -> list[nn.BatchNorm2d]:
    return [module for module in supergraph.modules() if isinstance(module, nn.BatchNorm2d)]


def statistics(supergraph: Supergraph) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in supergraph.named_buffers()}


def check_last_norms(supergraph: Supergraph, backbone: Backbone) -> None:
    for candidates in supergraph.layers:
        for candidate in candidates:
            inside = [m for m in candidate.modules() if isinstance(m, nn.BatchNorm2d)]
            last = candidate.get_submodule(backbone.last_norm(candidate))
            assert [m for m in inside if not m.affine] == [last]
            assert list(last.parameters()) == []
    outside = [m for part in (supergraph.stem, supergraph.heads) for m in part.modules()]
    assert all(m.affine for m in outside if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v2", 18), ("resnet50", 17)])
def test_a_whole_supergraph_has_its_shape_and_no_candidate_ends_in_scale_and_shift(name: str, layers: int) -> None:
    backbone = get_backbone(name)
    supergraph = Supergraph(backbone, TASKS, None)
    assert supergraph.shape == (layers, 2, 2)
    assert [len(candidates) for candidates in supergraph.layers] == [2] * layers
    assert list(supergraph.heads) == ["semseg", "place"]
    check_last_norms(supergraph, backbone)


@pytest.mark.parametrize("task", [0, 1])
def test_a_one_hot_mix_runs_that_path_and_nothing_else(supergraph: Supergraph, task: int) -> None:
    mix = one_hot()
    with torch.no_grad():
        expected = by_hand(supergraph, image(), task, mix)
        made = calls(supergraph)
        out = supergraph(image(), task, mix)
    assert made == [(layer, int(j)) for layer, j in enumerate(mix.argmax(dim=1))]
    assert torch.equal(out, expected)
    assert tuple(out.shape) == ((1, 3, 32, 32), (1, 2))[task]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("learning", [False, True])
def test_a_soft_mix_is_the_weighted_sum(supergraph: Supergraph, task: int, learning: bool) -> None:
    mix = random_mix()
    with torch.no_grad():
        expected = by_hand(supergraph, image(), task, mix)
    made = calls(supergraph)
    out = supergraph(image(), task, mix.requires_grad_(learning)).detach()
    assert sorted(made) == [(layer, j) for layer in range(LAYERS) for j in range(CANDIDATES)]
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_a_weight_other_than_one_counts_even_if_it_stands_alone(supergraph: Supergraph) -> None:
    mix = one_hot() * 0.5
    with torch.no_grad():
        expected = by_hand(supergraph, image(), 1, mix)
        made = calls(supergraph)
        torch.testing.assert_close(supergraph(image(), 1, mix), expected, rtol=1e-4, atol=1e-5)
    assert len(made) == LAYERS


def test_candidates_of_weight_zero_are_not_run(supergraph: Supergraph) -> None:
    mix = random_mix()
    mix[1] = torch.tensor([0.0, 1.0])
    mix[3] = torch.tensor([0.7, 0.0])
    made = calls(supergraph)
    with torch.no_grad():
        supergraph(image(), 0, mix)
    missing = {(layer, j) for layer in range(LAYERS) for j in range(CANDIDATES)} - set(made)
    assert missing == {(1, 0), (3, 1)}


def test_gradients_of_the_mix_are_slopes(supergraph: Supergraph) -> None:
    supergraph.double()
    mix, x, step = random_mix().double(), image().double(), 1e-6
    learned = mix.clone().requires_grad_(True)
    supergraph(x, 1, learned)[0, 0].backward()
    assert learned.grad is not None
    for layer, j in ((0, 0), (2, 1), (4, 0)):
        ends = []
        for sign in (1, -1):
            moved = mix.clone()
            moved[layer, j] += sign * step
            with torch.no_grad():
                ends.append(float(supergraph(x, 1, moved)[0, 0]))
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(learned.grad[layer, j]) == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_only_the_path_of_a_one_hot_mix_learns(supergraph: Supergraph) -> None:
    supergraph.train()
    mix = own_candidates(LAYERS, CANDIDATES, 1)
    supergraph(image(2), 1, mix).sum().backward()
    for candidates in supergraph.layers:
        assert all(p.grad is None for p in candidates[0].parameters())
        assert all(p.grad is not None for p in candidates[1].parameters())
    assert all(p.grad is None for p in supergraph.heads["semseg"].parameters())


def test_warm_up_runs_each_task_s_own_candidate() -> None:
    assert own_candidates(3, 2, 1).tolist() == [[0, 1]] * 3
    assert own_candidates(2, 4, 0).tolist() == [[1, 0, 0, 0]] * 2


def test_candidates_start_apart_without_weights_and_together_with_them() -> None:
    torch.manual_seed(0)
    state = import_torchvision().models.mobilenet_v2(weights=None).features[3].state_dict()
    supergraph = Supergraph(SHORT, TASKS, Weights("here", {"layers.02": state}))
    pretrained, random = supergraph.layers[2], supergraph.layers[4]
    for candidate in pretrained:
        assert torch.equal(candidate.conv[0][0].weight, state["conv.0.0.weight"])
    assert pretrained[0].conv[0][0].weight is not pretrained[1].conv[0][0].weight
    assert not torch.equal(random[0].conv[0][0].weight, random[1].conv[0][0].weight)


def test_within_batch_statistics_the_batch_normalises_and_nothing_is_remembered(supergraph: Supergraph) -> None:
    supergraph.train()
    for norm in norms(supergraph):
        norm.running_mean.fill_(5.0)  # far from any batch
    before, mix = statistics(supergraph), one_hot()
    first = next(m for m in supergraph.stem.modules() if isinstance(m, nn.BatchNorm2d))
    seen: list[Tensor] = []
    first.register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    with supergraph.batch_statistics():
        supergraph(image(4), 0, mix)
    after = statistics(supergraph)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert seen[0].mean(dim=(0, 2, 3)).abs().max() < 1e-4
    # outside, the same step does change them
    supergraph(image(4), 0, mix)
    assert not torch.equal(statistics(supergraph)["stem.1.running_mean"], before["stem.1.running_mean"])


def test_within_batch_statistics_only_the_architecture_learns(supergraph: Supergraph) -> None:
    supergraph.train()
    fixed = next(iter(supergraph.stem.parameters()))
    fixed.requires_grad_(False)
    mix = random_mix().requires_grad_(True)
    with supergraph.batch_statistics():
        assert not any(p.requires_grad for p in supergraph.parameters())
        supergraph(image(2), 1, mix)[0, 0].backward()
    assert mix.grad is not None
    assert (mix.grad != 0).all()
    assert all(p.grad is None for p in supergraph.parameters())
    assert [p for p in supergraph.parameters() if not p.requires_grad] == [fixed]  # as it was before


def test_batch_statistics_end_even_if_the_step_fails(supergraph: Supergraph) -> None:
    def fail() -> None:
        with supergraph.batch_statistics():
            raise RuntimeError("a step failed")

    with pytest.raises(RuntimeError, match="a step failed"):
        fail()
    assert all(norm.track_running_stats for norm in norms(supergraph))
    assert all(p.requires_grad for p in supergraph.parameters())


def test_reset_statistics_forgets_them_all(supergraph: Supergraph) -> None:
    supergraph.train()
    supergraph(image(2), 0, random_mix())
    assert statistics(supergraph)["stem.1.running_mean"].abs().max() > 0
    supergraph.reset_statistics()
    for norm in norms(supergraph):
        assert torch.equal(norm.running_mean, torch.zeros(norm.num_features))
        assert torch.equal(norm.running_var, torch.ones(norm.num_features))
        assert int(norm.num_batches_tracked) == 0


def test_names_that_modules_use_themselves_are_refused_for_tasks() -> None:
    taken = {name for name in dir(torch.nn.Module()) + dir(torch.nn.ModuleDict()) if not name.startswith("_")}
    for name in sorted(taken | {"image", "_parameters"}):
        with pytest.raises(UsageError, match="cannot be called"):
            Task(name=name, kind=TaskKind.DEPTH)
