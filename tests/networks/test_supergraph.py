"""The supergraph: what a mix of candidates computes, and what is not computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import Backbone, get_backbone
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.networks.weights import Weights
from bmtas.tasks import Task, TaskKind
from bmtas.torchvision_remedy import import_torchvision
from tests.networks.small_supergraph import (
    CANDIDATES,
    LAYERS,
    SHORT,
    TASKS,
    by_hand,
    calls,
    image,
    norms,
    one_hot,
    random_mix,
    statistics,
)


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


def test_within_batch_statistics_the_architecture_s_gradients_are_those_of_each_task_alone(
    supergraph: Supergraph,
) -> None:
    supergraph.train().double()
    x, mixes = image(2).double(), [random_mix(seed).double().requires_grad_(True) for seed in (0, 1)]
    found, expected = [], []
    with supergraph.batch_statistics():
        for task, mix in enumerate(mixes):
            found.append(torch.autograd.grad(supergraph(x, task, mix).square().sum(), mix)[0])
        for task, mix in enumerate(mixes):
            expected.append(torch.autograd.grad(by_hand(supergraph, x, task, mix).square().sum(), mix)[0])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_within_batch_statistics_what_no_architecture_changes_is_run_once_per_batch(supergraph: Supergraph) -> None:
    made, stems = calls(supergraph), list[int]()
    supergraph.stem.register_forward_hook(lambda *_: stems.append(1))
    first = [(0, 0), (0, 1)]
    others = [(layer, j) for layer in range(1, LAYERS) for j in range(CANDIDATES)]

    def run(x: Tensor) -> tuple[list[tuple[int, int]], int]:
        made.clear()
        stems.clear()
        for task in (0, 1):
            supergraph(x, task, random_mix().requires_grad_(True))
        return made, len(stems)

    x = image()
    with supergraph.batch_statistics():
        assert run(x) == (first + others + others, 1)
        assert run(x) == (others + others, 0)
        assert run(image()) == (first + others + others, 1)  # another batch, though of equal values
        run(x)
        x.mul_(2)
        assert run(x) == (first + others + others, 1)
        inputs = image().requires_grad_(True)  # nothing is kept where gradients of the image are wanted
        assert run(inputs) == (2 * (first + others), 2)
    assert run(x) == (2 * (first + others), 2)


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


def test_a_layer_needs_a_candidate(supergraph: Supergraph) -> None:
    mix = random_mix()
    mix[3] = 0
    with pytest.raises(ValueError, match="every candidate of a layer has weight 0"):
        supergraph(image(), 0, mix)


def test_names_that_modules_use_themselves_are_refused_for_tasks() -> None:
    taken = {name for name in dir(torch.nn.Module()) + dir(torch.nn.ModuleDict()) if not name.startswith("_")}
    for name in sorted(taken | {"image", "_parameters"}):
        with pytest.raises(UsageError, match="cannot be called"):
            Task(name=name, kind=TaskKind.DEPTH)
