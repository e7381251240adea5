"""The sampled pass: predictions and gradients against each task computed alone, and prefixes that run once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bmtas.networks.supergraph import Supergraph
from bmtas.relaxation import gumbel_softmax
from bmtas.tasks import Task, TaskKind
from tests.networks.small_supergraph import LAYERS, SHORT

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b", "c")),
    Task(name="place", kind=TaskKind.CLASSIFICATION, classes=("x", "y")),
    Task(name="depth", kind=TaskKind.DEPTH),
)
# Tasks 0 and 2 go together for three layers, to the decoder's tap; task 1 leaves after the first and later draws what
# others draw, on inputs of its own.
CHOICES = [[1, 1, 1], [0, 2, 0], [2, 2, 2], [0, 1, 1], [1, 1, 1]]
RUNS = {(0, 1): 1, (1, 0): 1, (1, 2): 1, (2, 2): 2, (3, 0): 1, (3, 1): 2, (4, 1): 3}


@pytest.fixture
def supergraph() -> Supergraph:
    torch.manual_seed(0)
    supergraph = Supergraph(SHORT, TASKS, None).double()
    with torch.no_grad():
        supergraph(image(), 0, torch.full((LAYERS, 3), 1 / 3))  # statistics that are not the first ones
    return supergraph


def image() -> Tensor:
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loss_of(task: int, prediction: Tensor) -> Tensor:
    """A loss in which every number of the prediction has a part."""
    generator = torch.Generator().manual_seed(10 + task)
    target = torch.randn(prediction.shape, dtype=torch.float64, generator=generator)
    return (prediction - target).square().mean()


def drawn(choices: list[list[int]] = CHOICES) -> list[Tensor]:
    """The mixes (L, C) of the tasks, one after the other: 1 where a candidate was drawn, 0 elsewhere."""
    one_hot = F.one_hot(torch.tensor(choices), 3).double()  # (L, T, C)
    return [one_hot[:, t].requires_grad_() for t in range(3)]


def alone(supergraph: Supergraph, task: int, mix: Tensor) -> Tensor:
    """One task by itself, all candidates of every layer computed and mixed."""
    x = supergraph.stem(image())
    tap = x
    for layer in range(LAYERS):
        x = sum(mix[layer, j] * supergraph.layers[layer][j](x) for j in range(3))
        tap = x if layer == supergraph.tap else tap
    prediction: Tensor = supergraph.heads[TASKS[task].name](x, tap)
    if TASKS[task].dense:
        prediction = F.interpolate(prediction, (32, 32), mode="bilinear", align_corners=False)
    return prediction


def gradients_alone(supergraph: Supergraph) -> Tensor:
    """(L, T, C) derivatives of each task's own loss by its own mix, task by task."""
    mixes = drawn()
    found = [torch.autograd.grad(loss_of(t, alone(supergraph, t, mix)), mix)[0] for t, mix in enumerate(mixes)]
    return torch.stack(found, dim=1)


def gradients_together(supergraph: Supergraph) -> Tensor:
    run = supergraph.forward_sampled(image(), torch.tensor(CHOICES))
    return supergraph.mix_gradients(run, [loss_of(t, prediction) for t, prediction in enumerate(run.predictions)])


def test_predictions_are_those_of_each_task_alone(supergraph: Supergraph) -> None:
    supergraph.eval()
    with torch.no_grad():
        run = supergraph.forward_sampled(image(), CHOICES)
        for t, prediction in enumerate(run.predictions):
            torch.testing.assert_close(prediction, alone(supergraph, t, drawn()[t]), rtol=1e-10, atol=1e-12)
    assert [tuple(p.shape) for p in run.predictions] == [(2, 3, 32, 32), (2, 2), (2, 1, 32, 32)]
    assert not any(y.requires_grad for path in run.outputs for y in path)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_frozen_statistics_gradients_of_the_mix_are_those_of_each_task_alone(
    supergraph: Supergraph, checkpointing: bool
) -> None:
    supergraph.eval()
    supergraph.checkpointing = checkpointing
    expected = gradients_alone(supergraph)
    torch.testing.assert_close(gradients_together(supergraph), expected, rtol=1e-9, atol=1e-13)
    assert all(p.grad is None for p in supergraph.parameters())
    assert (expected[:3, 0] - expected[:3, 2]).abs().min() > 1e-6  # shared tensors, yet each task has its own
    assert (expected != 0).all()  # of candidates that nobody drew, too


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_batch_statistics_gradients_of_the_mix_are_those_of_each_task_alone(
    supergraph: Supergraph, checkpointing: bool
) -> None:
    supergraph.checkpointing = checkpointing
    before = {name: value.clone() for name, value in supergraph.named_buffers()}
    with supergraph.batch_statistics():
        torch.testing.assert_close(gradients_together(supergraph), gradients_alone(supergraph), rtol=1e-9, atol=1e-13)
    assert all(torch.equal(value, before[name]) for name, value in supergraph.named_buffers())


def test_others_than_the_drawn_run_once_for_all_tasks_on_the_same_input(supergraph: Supergraph) -> None:
    made: dict[tuple[int, int], int] = {}
    for layer, candidates in enumerate(supergraph.layers):
        for j, candidate in enumerate(candidates):

            def count(*_: object, at: tuple[int, int] = (layer, j)) -> None:
                made[at] = made.get(at, 0) + 1

            candidate.register_forward_hook(count)
    with supergraph.batch_statistics():
        gradients_together(supergraph)
    # Distinct inputs of the layers: all tasks have the stem's, then tasks 0 and 2 have one together for three layers.
    inputs = [1, 1, 2, 2, 3]
    assert made == {(layer, j): count for layer, count in enumerate(inputs) for j in range(3)}


def test_shared_prefixes_run_once(supergraph: Supergraph) -> None:
    made: dict[tuple[int, int], int] = {}
    stems: list[int] = []
    supergraph.stem.register_forward_hook(lambda *_: stems.append(1))
    for layer, candidates in enumerate(supergraph.layers):
        for j, candidate in enumerate(candidates):

            def count(*_: object, at: tuple[int, int] = (layer, j)) -> None:
                made[at] = made.get(at, 0) + 1

            candidate.register_forward_hook(count)
    run = supergraph.forward_sampled(image(), CHOICES)
    assert made == RUNS
    assert len(stems) == 1
    assert [run.outputs[0][layer] is run.outputs[2][layer] for layer in range(LAYERS)] == [True] * 3 + [False] * 2
    assert [run.outputs[0][layer] is run.outputs[1][layer] for layer in range(LAYERS)] == [True] + [False] * 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_backward_pass_of_the_summed_losses_trains_the_weights(supergraph: Supergraph, checkpointing: bool) -> None:
    supergraph.eval()  # in training a shared prefix updates its statistics once, tasks alone several times
    supergraph.checkpointing = checkpointing
    for t in range(3):
        ((t + 1) * loss_of(t, alone(supergraph, t, drawn()[t]))).backward()
    expected = {name: p.grad for name, p in supergraph.named_parameters() if p.grad is not None}
    supergraph.zero_grad(set_to_none=True)
    run = supergraph.forward_sampled(image(), CHOICES)
    torch.stack([(t + 1) * loss_of(t, p) for t, p in enumerate(run.predictions)]).sum().backward()
    found = {name: p.grad for name, p in supergraph.named_parameters() if p.grad is not None}
    assert all(not gradient.any() for name, gradient in expected.items() if name not in found)
    assert set(found) <= set(expected)
    assert not any(name.startswith("layers.0.0.") for name in found)  # nobody has drawn it
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-12)


def test_the_documented_use_gives_the_straight_through_gradient(supergraph: Supergraph) -> None:
    def sampled() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(5)
        logits = torch.randn(LAYERS, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
        return logits, torch.stack([gumbel_softmax(logits[:, t], 0.7, generator) for t in range(3)], dim=1)

    logits, z = sampled()
    with supergraph.batch_statistics():
        run = supergraph.forward_sampled(image(), z.detach().argmax(dim=-1))
        losses = [loss_of(t, prediction) for t, prediction in enumerate(run.predictions)]
        z.backward(supergraph.mix_gradients(run, losses))
    reference, z = sampled()
    hard = F.one_hot(z.detach().argmax(dim=-1), 3) + z - z.detach()
    with supergraph.batch_statistics():
        for t in range(3):
            loss_of(t, alone(supergraph, t, hard[:, t])).backward(retain_graph=True)
    assert logits.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(logits.grad, reference.grad, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (CHOICES[:4], r"one candidate per layer and task, \(5, 3\)"),
        ([row[:2] for row in CHOICES], r"\(5, 3\)"),
        (torch.zeros(5), r"\(5, 3\)"),
        ([[3, 0, 0], *CHOICES[1:]], r"\[3\] are no candidates; they must be whole numbers from 0 to 2"),
        ([[-1, 0, 0], *CHOICES[1:]], r"\[-1\] are no candidates"),
        (torch.tensor(CHOICES).double(), "are no candidates"),
    ],
)
def test_choices_that_do_not_fit_are_refused(
    supergraph: Supergraph, choices: Tensor | list[list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        supergraph.forward_sampled(image(), choices)
