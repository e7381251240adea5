"""The supergraph: what a mix of candidates computes, and what is not computed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import Backbone, Parts, channels_last, get_backbone
from bmtas.networks.candidates import FORMS, FUSED, SEQUENTIAL
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


Step = Callable[[Supergraph], Tensor]


def soft_step(supergraph: Supergraph) -> Tensor:
    return supergraph(image(2), 0, random_mix()).square().sum()


def sampled_step(supergraph: Supergraph) -> Tensor:
    run = supergraph.forward_sampled(image(2), [[0, 0], [1, 1], [0, 1], [1, 1], [0, 1]])
    return torch.stack([prediction.square().sum() for prediction in run.predictions]).sum()


def learned(supergraph: Supergraph, step: Step = soft_step) -> dict[str, Tensor]:
    """The loss of one training step of a copy, all its gradients, and its state afterwards."""
    twin = copy.deepcopy(supergraph).train()
    loss = step(twin)
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in twin.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **twin.state_dict()}


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("form", FORMS)
def test_the_same_forms_give_the_same_numbers_bit_for_bit(supergraph: Supergraph, form: str) -> None:
    channels_last(supergraph)
    supergraph.forms = (form,) * LAYERS
    check_equal(learned(supergraph), learned(supergraph))


def test_forms_differ_by_rounding_only(supergraph: Supergraph) -> None:
    channels_last(supergraph.double())

    def step(graph: Supergraph) -> Tensor:
        return graph(image(2).double(), 0, random_mix().double()).square().sum()

    expected = learned(supergraph, step)
    supergraph.forms = (FUSED, SEQUENTIAL, FUSED, FUSED, FUSED)
    found = learned(supergraph, step)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_a_checkpoint_keeps_state_and_forms_and_names_do_not_depend_on_them(supergraph: Supergraph) -> None:
    names = list(supergraph.state_dict())
    assert names[:2] == ["stem.0.weight", "stem.1.weight"]
    assert "layers.4.1.conv.2.weight" in names
    supergraph.forms = (FUSED, SEQUENTIAL, FUSED, FUSED, SEQUENTIAL)
    expected = learned(supergraph)
    assert list(supergraph.state_dict()) == names
    file = io.BytesIO()
    torch.save({"weights": supergraph.state_dict(), "forms": supergraph.forms}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = Supergraph(SHORT, TASKS, None)
    other.load_state_dict(saved["weights"])
    other.forms = saved["forms"]
    assert other.forms == supergraph.forms
    check_equal(learned(other), expected)


def test_forms_survive_moves_between_types_and_layouts(supergraph: Supergraph) -> None:
    supergraph.forms = (FUSED,) * LAYERS
    mix = random_mix()
    with torch.no_grad():
        expected = by_hand(supergraph, image(), 0, mix)
        supergraph(image(), 0, mix)
        supergraph.to(torch.float64)
        found = supergraph(image().double(), 0, mix.double())
        torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-5)
        channels_last(supergraph.to(torch.float32))
        torch.testing.assert_close(supergraph(image(), 0, mix), expected, rtol=1e-4, atol=1e-5)


def test_fused_candidates_keep_parameters_and_gradients_of_their_own(supergraph: Supergraph) -> None:
    supergraph.train().forms = (FUSED,) * LAYERS
    before = [id(p) for p in supergraph.parameters()]
    soft_step(supergraph).backward()
    assert [id(p) for p in supergraph.parameters()] == before
    for candidates in supergraph.layers:
        for p in candidates.parameters():
            assert p.is_leaf
            assert p.grad is not None
            assert p.grad.stride() == p.stride()  # as the fused optimisers need it
    supergraph.zero_grad()
    # The warm-up touches the own candidate alone, whatever the form.
    supergraph(image(2), 0, own_candidates(LAYERS, CANDIDATES, 1)).sum().backward()
    for candidates in supergraph.layers:
        assert all(p.grad is None for p in candidates[0].parameters())
        assert all(p.grad is not None for p in candidates[1].parameters())


def test_forms_that_cannot_be_are_refused_and_change_nothing(supergraph: Supergraph) -> None:
    before = (SEQUENTIAL, FUSED, SEQUENTIAL, SEQUENTIAL, SEQUENTIAL)
    supergraph.forms = before
    with pytest.raises(ValueError, match="4 forms for 5 layers"):
        supergraph.forms = (FUSED,) * 4
    with pytest.raises(ValueError, match="unknown form 'quick' of a layer; the forms are sequential, fused"):
        supergraph.forms = (FUSED, FUSED, "quick", FUSED, FUSED)
    assert supergraph.forms == before
    assert supergraph.not_fusible() == {}


def test_a_layer_needs_a_candidate(supergraph: Supergraph) -> None:
    mix = random_mix()
    mix[3] = 0
    with pytest.raises(ValueError, match="every candidate of a layer has weight 0"):
        supergraph(image(), 0, mix)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [soft_step, sampled_step])
def test_checkpointing_changes_no_number(supergraph: Supergraph, form: str, step: Step) -> None:
    supergraph.forms = (form,) * LAYERS
    expected = learned(supergraph, step)
    supergraph.checkpointing = True
    check_equal(learned(supergraph, step), expected)


@pytest.mark.parametrize("form", FORMS)
def test_checkpointing_changes_no_number_of_the_architecture_step(supergraph: Supergraph, form: str) -> None:
    supergraph.train().forms = (form,) * LAYERS
    before, gradients = statistics(supergraph), list[Tensor]()
    for checkpointing in (False, True):
        supergraph.checkpointing = checkpointing
        mix = random_mix().requires_grad_(True)
        with supergraph.batch_statistics():
            supergraph(image(2), 0, mix).square().sum().backward()
        assert mix.grad is not None
        gradients.append(mix.grad)
    assert torch.equal(*gradients)
    after = statistics(supergraph)
    assert all(torch.equal(before[name], after[name]) for name in before)


def saved_bytes(supergraph: Supergraph, step: Step) -> int:
    """What a forward pass keeps for the backward pass, parameters aside: the storages, each once."""
    own = {p.untyped_storage().data_ptr() for p in supergraph.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        step(supergraph)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize("form", FORMS)
def test_with_checkpointing_only_the_inputs_of_layers_are_kept(supergraph: Supergraph, form: str) -> None:
    supergraph.train().forms = (form,) * LAYERS

    def encoder(graph: Supergraph) -> Tensor:
        graph.heads["place"] = Nothing()
        return graph(image(2), 1, random_mix())

    plain = saved_bytes(supergraph, encoder)
    supergraph.checkpointing = True
    # Inputs of the five layers for two images of 32x32: channels, height and width, 4 bytes a number; and the mix.
    inputs = 2 * 4 * (32 * 16**2 + 16 * 16**2 + 24 * 8**2 + 24 * 8**2 + 32 * 4**2)
    stem = 2 * 4 * (32 * 16**2) + 2 * 4 * (3 * 32**2)  # before its normalisation, and the image
    small = saved_bytes(supergraph, encoder)
    assert inputs + stem <= small <= 1.1 * (inputs + stem)
    assert plain > 5 * small


class Nothing(nn.Module):
    """A head that keeps nothing."""

    def forward(self, features: Tensor, tap: Tensor) -> Tensor:
        return features.sum()


def test_names_that_modules_use_themselves_are_refused_for_tasks() -> None:
    taken = {name for name in dir(torch.nn.Module()) + dir(torch.nn.ModuleDict()) if not name.startswith("_")}
    for name in sorted(taken | {"image", "_parameters"}):
        with pytest.raises(UsageError, match="cannot be called"):
            Task(name=name, kind=TaskKind.DEPTH)
