"""From learned policies to a network of AutoMTL within the budgets, and the weights that it may inherit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bmtas.checkpoint import belongs, load_checkpoint
from bmtas.data.batches import Batch
from bmtas.graph import HEADS, MergedGraph, Node
from bmtas.losses import batch_loss
from bmtas.methods.automtl.prices import Choices, Floats
from bmtas.methods.automtl.relaxation import Supermodel, key_of
from bmtas.methods.automtl.repair import Limits, repaired
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.networks.backbone import get_backbone
from bmtas.networks.candidates import StatisticsKept
from bmtas.networks.network import GraphNetwork
from bmtas.networks.tracing import Kind, Trace, trace_of
from bmtas.runs import Run
from bmtas.tasks import Task
from costs.table import CostTable
from costs.units import Budget


@dataclass(frozen=True, eq=False)
class Policy:
    """What each task takes, (T, L), how probable that is, and what it costs by resource; `loss` is None where it was not compared."""

    choices: Choices
    log_probability: float
    costs: dict[str, float]
    within: bool
    loss: float | None = None


@dataclass(frozen=True, eq=False)
class Derived:
    """The policy that was taken, those that were sampled, and whether it is none of them but the most probable one, changed to fit."""

    taken: Policy
    sampled: tuple[Policy, ...]
    repaired: bool


def derive_policy(
    space: ConvolutionSpace,
    probabilities: Floats,
    table: CostTable,
    budgets: Sequence[Budget],
    drawn: Sequence[Choices],
    losses: Sequence[float],
) -> Derived:
    """Take the policy of least loss among those of `drawn`, (T, L) each with its loss, that are within the budgets.

    The published recipe trains several samples of `probabilities` (T, L, 3) to the end and reports the best. Here they are compared
    before that, by `losses`. Where none is within the budgets, the most probable policy is changed until it is
    (`repaired`). Raises BudgetError where no network can be within all budgets.
    """
    limits = Limits.of(space, table, budgets)
    sampled = tuple(_policy(limits, probabilities, c, loss) for c, loss in zip(drawn, losses, strict=True))
    fitting = [policy for policy in sampled if policy.within]
    if not fitting:
        taken = _policy(limits, probabilities, repaired(limits, probabilities), None)
        return Derived(taken, sampled, repaired=True)
    return Derived(min(fitting, key=lambda policy: policy.loss or 0.0), sampled, repaired=False)


def _policy(limits: Limits, probabilities: Floats, choices: Choices, loss: float | None) -> Policy:
    costs = {r.value: float(cost[0]) for r, cost in limits.costs(choices[None]).items()}
    within = bool(limits.excess(choices[None])[0] == 0)
    return Policy(choices, log_probability(probabilities, choices), costs, within, loss)


def sample_policies(probabilities: Floats, count: int, seed: int) -> list[Choices]:
    """Return `count` draws of all choices, (T, L) each, by `seed`."""
    drawn = np.random.default_rng(seed).random((count, *probabilities.shape[:2], 1))
    choices = (drawn >= probabilities.cumsum(axis=-1)[..., :-1]).sum(axis=-1)
    return list(choices)


def log_probability(probabilities: Floats, choices: Choices) -> float:
    """Return the logarithm of the probability of choices (T, L) under (T, L, 3)."""
    with np.errstate(divide="ignore"):
        return float(np.log(np.take_along_axis(probabilities, choices[..., None], axis=-1)).sum())


def task_correlation(probabilities: Floats) -> Floats:
    """Return the cosine of the angle between each two tasks' policies, (T, L, 3) to (T, T), all of a task's probabilities in one vector."""
    flat = probabilities.reshape(len(probabilities), -1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = unit @ unit.T
    return result


def validation_losses(
    network: Supermodel, tasks: Sequence[Task], batches: Sequence[Batch], policies: Sequence[Choices]
) -> list[float]:
    """Return the sum of the tasks' weighted losses for each policy, the mean over `batches`; no weight or statistic changes.

    Normalisations use the statistics of each batch: running ones are those of mixtures, which no policy has.
    """
    was_training = network.training
    network.eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train()
    found = []
    with torch.no_grad(), StatisticsKept(network):
        for choices in policies:
            each = [_loss(tasks, network.chosen(batch.images, choices.tolist()), batch) for batch in batches]
            found.append(float(np.mean(each)))
    network.train(was_training)
    return found


def _loss(tasks: Sequence[Task], predictions: dict[str, Tensor], batch: Batch) -> float:
    return sum(task.loss_weight * float(batch_loss(task, predictions[task.name], batch)) for task in tasks)


def inherit(run: Run, network: GraphNetwork) -> None:
    """Copy what the search has learned into the network that was derived from it: the paper's fine-tuning, supplement, table 9.

    Each operation takes over the branch that stands for it. A normalisation behind no convolution that several tasks share takes the
    mean of theirs. With a single task, the shared branch and its own are the same thing in the network, and the shared one is taken.
    Raises UsageError if the checkpoint is of another search.
    """
    path = run.search_folder / "checkpoint.pt"
    state, trace = load_checkpoint(path)["network"], trace_of(get_backbone(run.config().backbone))
    taken = {node.module: node for node in reversed(network.graph.nodes)}
    with belongs(path, "this search"):
        for module, node in taken.items():
            states = [_under(state, prefix) for prefix in _sources(network.graph, node, trace)]
            network.get_submodule(module).load_state_dict({k: _mean([s[k] for s in states]) for k in states[0]})


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 or not values[0].is_floating_point() else torch.stack(list(values)).mean(dim=0)


def _sources(graph: MergedGraph, node: Node, trace: Trace) -> list[str]:
    """Return where in the supermodel's state the parameters of a node stand."""
    key, everyone, owner = key_of(node.operation), "+".join(graph.tasks), node.weights
    if node.operation.startswith(HEADS):
        return [f"heads.{owner}."]
    traced = trace.by_name.get(node.operation)
    if traced is not None and traced.kind is Kind.NORM:
        if traced.behind is None:
            return [f"own.{task}.{key}." for task in owner.split("+")]
        owner = next(before.weights for before in graph.nodes if before.name == node.inputs[0])
    if owner == everyone or (traced is not None and traced.kind is Kind.GLUE):
        return [f"shared.{key}."]
    return [f"own.{owner}.{key}."]
