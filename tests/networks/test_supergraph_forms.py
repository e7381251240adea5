"""The forms of a supergraph's layers and checkpointing: the same numbers in all of them, and what they keep."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bmtas.networks.backbone import channels_last
from bmtas.networks.candidates import FORMS, FUSED, SEQUENTIAL
from bmtas.networks.supergraph import Supergraph, own_candidates
from tests.networks.small_supergraph import CANDIDATES, LAYERS, SHORT, TASKS, by_hand, image, random_mix, statistics

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


class Nothing(nn.Module):
    """A head that keeps nothing."""

    def forward(self, features: Tensor, tap: Tensor) -> Tensor:
        return features.sum()


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
