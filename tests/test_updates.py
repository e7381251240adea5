"""The two estimators on real supergraphs: what a weight step changes, and what the architecture learns from it."""

from __future__ import annotations

import pytest
import torch

from bmtas.config import PRESETS, Estimator, Precision, Preset
from bmtas.data.batches import Batch, Loader
from bmtas.data.source import open_with_tasks
from bmtas.losses import task_loss
from bmtas.networks.backbone import get_backbone
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.parallel import Parallel
from bmtas.tasks import Task
from bmtas.updates import Updates, choose_updates

CPU = torch.device("cpu")


@pytest.fixture
def setting() -> tuple[Supergraph, tuple[Task, ...], Batch]:
    dataset, tasks = open_with_tasks("scenes", ["semseg", "depth"])
    torch.manual_seed(0)
    supergraph = Supergraph(get_backbone("mobilenet_v2"), tasks, None).train()
    return supergraph, tasks, next(Loader(dataset, "train", tasks, (32, 32)).in_order(2))


def updates_of(
    estimator: Estimator,
    supergraph: Supergraph,
    tasks: tuple[Task, ...],
    precision: Precision = Precision.FP32,
    accumulate: int = 1,
) -> Updates:
    settings = PRESETS[Preset.QUICK].search
    chosen = {"estimator": estimator, "precision": precision, "accumulate": accumulate}
    return choose_updates(settings.model_copy(update=chosen), supergraph, tasks, Parallel(CPU))


def weights_of(supergraph: Supergraph) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in supergraph.named_parameters()}


@pytest.mark.parametrize("estimator", list(Estimator))
def test_in_the_warm_up_each_task_changes_its_own_candidates(
    setting: tuple[Supergraph, tuple[Task, ...], Batch], estimator: Estimator
) -> None:
    supergraph, tasks, batch = setting
    updates = updates_of(estimator, supergraph, tasks[:1], Precision.FP32)
    before = weights_of(supergraph)
    optimiser = torch.optim.SGD(supergraph.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    mixes = [own_candidates(18, 2, 0), own_candidates(18, 2, 1)]
    if estimator is Estimator.SOFT:
        losses = updates.learn_weights(batch, mixes[:1], optimiser)
        untouched = [n for n, p in supergraph.named_parameters() if torch.equal(p, before[n])]
        assert set(losses) == {"semseg"}
        # All of candidate 1 and the other head, weight decay notwithstanding; all else has learned.
        assert untouched == [
            n
            for n in before
            if n.startswith("heads.depth.") or (n.split(".")[2:3] == ["1"] and n.startswith("layers."))
        ]
    else:
        updates = updates_of(estimator, supergraph, tasks, Precision.FP32)
        assert set(updates.learn_weights(batch, mixes, optimiser)) == {"semseg", "depth"}
        assert not [n for n, p in supergraph.named_parameters() if torch.equal(p, before[n])]


def test_a_sampled_weight_step_follows_the_sum_of_both_losses(
    setting: tuple[Supergraph, tuple[Task, ...], Batch],
) -> None:
    supergraph, tasks, batch = setting
    choices = torch.zeros(18, 2, dtype=torch.int64)
    choices[10:, 1] = 1  # together up to layer 9
    mixes = [torch.nn.functional.one_hot(choices[:, t], 2).float() for t in range(2)]
    # The reference: each task alone through the soft form with certain weights, losses summed.
    supergraph.zero_grad(set_to_none=True)
    with frozen_statistics(supergraph):
        total = torch.zeros(())
        for t, task in enumerate(tasks):
            total = total + task.loss_weight * task_loss(
                task, supergraph(batch.images, t, mixes[t]), batch.labels[task.name]
            )
        total.backward()  # type: ignore[no-untyped-call]
        wanted = {n: p.grad.clone() for n, p in supergraph.named_parameters() if p.grad is not None}
        before = weights_of(supergraph)
        optimiser = torch.optim.SGD(supergraph.parameters(), lr=1.0)
        updates = updates_of(Estimator.SAMPLED, supergraph, tasks, Precision.FP32)
        losses = updates.learn_weights(batch, mixes, optimiser)
    assert sum(t.loss_weight * losses[t.name] for t in tasks) == pytest.approx(total.item(), rel=1e-5)
    for name, parameter in supergraph.named_parameters():
        step = before[name] - parameter.detach()
        expected = wanted.get(name, torch.zeros_like(step))
        assert (step - expected).norm() <= 2e-3 * expected.norm() + 1e-6, name


def test_a_sampled_architecture_step_tells_each_task_what_every_candidate_would_change_in_its_own_loss(
    setting: tuple[Supergraph, tuple[Task, ...], Batch],
) -> None:
    supergraph, tasks, batch = setting
    supergraph.double()
    batch = Batch(batch.images.double(), batch.labels, batch.ids)
    torch.manual_seed(1)
    mixes = [torch.randn(18, 2, dtype=torch.float64).softmax(1).requires_grad_() for _ in tasks]
    before = weights_of(supergraph)
    updates_of(Estimator.SAMPLED, supergraph, tasks, Precision.FP32).add_gradients(batch, mixes)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in supergraph.named_parameters())
    for t, task in enumerate(tasks):
        chosen = mixes[t].argmax(1)
        certain = torch.nn.functional.one_hot(chosen, 2).double()
        grad = mixes[t].grad
        assert grad is not None
        # Central differences: a little more or less of one candidate's output.
        for layer, j in ((0, 0), (0, 1), (9, 0), (9, 1), (17, 0), (17, 1)):
            values = []
            for shift in (1e-8, -1e-8):
                moved = certain.clone()
                moved[layer, j] += shift
                with supergraph.batch_statistics(), torch.no_grad():
                    prediction = supergraph(batch.images, t, moved)
                values.append(task.loss_weight * task_loss(task, prediction, batch.labels[task.name]).item())
            slope = (values[0] - values[1]) / 2e-8
            assert grad[layer, j].item() == pytest.approx(slope, rel=2e-3, abs=1e-4)


def test_bf16_is_close_to_fp32_and_keeps_weights_and_losses_in_float32(
    setting: tuple[Supergraph, tuple[Task, ...], Batch],
) -> None:
    supergraph, tasks, batch = setting
    mixes = [torch.full((18, 2), 0.5, requires_grad=True) for _ in tasks]
    found = {
        precision: updates_of(Estimator.SOFT, supergraph, tasks, precision).add_gradients(batch, mixes)
        for precision in Precision
    }
    for task in tasks:
        exact, half = found[Precision.FP32][task.name], found[Precision.BF16][task.name]
        assert half != exact  # something was computed in half precision
        assert half == pytest.approx(exact, rel=0.3)  # random weights, few pixels a batch
    assert all(p.dtype is torch.float32 for p in supergraph.parameters())


class frozen_statistics:  # noqa: N801 -- used as a function
    """Normalise by running statistics, which both ways of computing see alike."""

    def __init__(self, supergraph: Supergraph) -> None:
        self.supergraph = supergraph

    def __enter__(self) -> None:
        self.supergraph.eval()

    def __exit__(self, *_: object) -> None:
        self.supergraph.train()


@pytest.mark.parametrize("estimator", list(Estimator))
def test_parts_of_a_batch_add_up(setting: tuple[Supergraph, tuple[Task, ...], Batch], estimator: Estimator) -> None:
    """By hand: each half normalised by itself, its losses weighed by its share of the labels of the whole batch."""
    supergraph, tasks, batch = setting
    supergraph.double()
    batch = Batch(
        batch.images.double().repeat(2, 1, 1, 1), {k: v.repeat(2, 1, 1) for k, v in batch.labels.items()}, ("",) * 4
    )
    batch.labels["semseg"][:2, :16] = 255  # the first half has half as many labels of one task
    logits = torch.zeros(18, 2, 2, dtype=torch.float64, requires_grad=True)
    mixes = [torch.softmax(logits[:, t] + torch.tensor([0.3, 0.0]), dim=-1) for t in range(2)]
    found = updates_of(estimator, supergraph, tasks, accumulate=2).add_gradients(batch, mixes)

    # Two halves of the same pictures give the same predictions, so only the labels differ.
    expected = {}
    with torch.no_grad(), supergraph.batch_statistics():
        half = batch.images[:2]
        for t, task in enumerate(tasks):
            if estimator is Estimator.SOFT:
                prediction = supergraph(half, t, mixes[t].detach())
            else:
                prediction = supergraph.forward_sampled(half, [[0, 0]] * 18).predictions[t]
            label = batch.labels[task.name]
            both = [task_loss(task, prediction, label[:2]).item(), task_loss(task, prediction, label[2:]).item()]
            weights = [1 / 3, 2 / 3] if task.name == "semseg" else [1 / 2, 1 / 2]
            expected[task.name] = sum(w * x for w, x in zip(weights, both, strict=True))
    assert found == pytest.approx(expected, rel=1e-9)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).any()


def test_a_whole_batch_in_parts_learns_what_equal_parts_learn(
    setting: tuple[Supergraph, tuple[Task, ...], Batch],
) -> None:
    """A batch of the same pictures twice, in two parts, is the batch of these pictures once."""
    supergraph, tasks, batch = setting
    supergraph.double()  # an untrained network enlarges rounding
    batch = Batch(batch.images.double(), batch.labels, batch.ids)
    twice = Batch(
        batch.images.repeat(2, 1, 1, 1), {k: v.repeat(2, 1, 1) for k, v in batch.labels.items()}, batch.ids * 2
    )
    mixes = [own_candidates(18, 2, t) for t in range(2)]
    before = {name: value.clone() for name, value in supergraph.state_dict().items()}
    learned = []
    for given, parts in ((batch, 1), (twice, 2)):
        supergraph.load_state_dict(before)
        optimiser = torch.optim.SGD(supergraph.parameters(), lr=1e-4)
        updates_of(Estimator.SAMPLED, supergraph, tasks, accumulate=parts).learn_weights(given, mixes, optimiser)
        learned.append(weights_of(supergraph))
    for name, once in learned[0].items():
        torch.testing.assert_close(learned[1][name], once, rtol=1e-6, atol=1e-8)
    assert any(not torch.equal(once, before[name]) for name, once in learned[0].items())
