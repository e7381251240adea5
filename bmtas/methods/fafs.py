"""Fully-adaptive feature sharing: tasks for which the same samples are difficult share layers.

Lu et al., "Fully-adaptive feature sharing in multi-task networks", CVPR 2017, in the form in which Bruggemann et al. (BMVC
2020, appendix B) compare with it: a network that shares everything is trained first; then, from the last layer to the first,
the branches alive in the layer above are grouped greedily. A sample is easy for a task if its loss is below the task's mean
(the loss stands for every kind of task here, in the paper for edges). The affinity of two tasks is the share of samples
that are easy for both or difficult for both.

A grouping of a layer into d groups costs `(d - 1) c_l + weight * separation`, where c_l is the layer's share of the
encoder's cost and `separation` is the mean over groups of one minus the mean over members of the least affinity within the
group. The publication weighs the two by hand. Here the budget decides: of the architectures that a range of weights leads
to, the costliest one within the budgets is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bmtas.data.batches import Loader
from bmtas.data.counts import has_label
from bmtas.losses import task_loss
from bmtas.methods.finder import Found, named
from bmtas.networks.network import GraphNetwork
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.plots_affinity import draw_affinities
from bmtas.progress import Progress
from bmtas.run_training import open_run_dataset, train_network
from bmtas.runs import SHARED, Run
from bmtas.tasks import Task
from bmtas.training import load_network
from costs.errors import BudgetBelowReach
from costs.partitions import Grouping, grouping_of, partitions_of
from costs.reach import limits_of
from costs.table import CostTable
from costs.units import Budget, Resource

MOST_SAMPLES = 2000
"""Affinities are estimated on at most so many training images."""
_WEIGHTS = np.geomspace(1e-3, 1e3, 241)
"""From hardly any weight on separation, which shares everything, to so much that nothing is worth sharing."""
_MOST_LISTED = 8
"""Up to so many branches all groupings are compared; beyond, those that merge two groups at a time."""
_BATCH = 8

Floats = npt.NDArray[np.float64]
Branches = tuple[tuple[int, ...], ...]


def build(plan: Plan, how: How) -> FafsFinder:
    """Return the finder of `plan`."""
    return FafsFinder(plan, how)


class FafsFinder:
    """Trains the shared network of the run as `bmtas train` would, measures how difficult samples are, and groups."""

    def __init__(self, plan: Plan, how: How) -> None:
        """Take a plan."""
        self._plan, self._how = plan, how
        self._affinities: Floats = np.empty((0, 0))

    def prepare(self, *, begun: bool) -> None:
        """Raise CostError where the costs tell of no share of a layer; training fetches its own weights."""
        layer_shares(self._plan.table, _first_resource(self._plan.table, self._plan.budgets))

    def learn(self, run: Run, progress: Progress) -> None:
        """Train, or go on with it, and compare the tasks."""
        said = train_network(run, SHARED, progress, self._how)
        if said:
            progress.note(said)
        self._affinities = self._how.parallel.decided(lambda: self._affinity(run, progress))

    def derive(self, table: CostTable) -> Found:
        """Group the tasks."""
        tree, weight = budgeted_tree(self._affinities, table, self._plan.budgets)
        return Found(named(self._plan, tree), {"separation_weight": weight, "affinity": self._affinities.tolist()})

    def draw(self, run: Run, found: Found) -> None:
        """Draw the affinities."""
        path = run.search_folder / "affinity.png"
        title = "share of samples that are easy for both or difficult for both"
        draw_affinities({title: np.array(found.details["affinity"])}, found.architecture.tasks, path)

    def _affinity(self, run: Run, progress: Progress) -> Floats:
        config, tasks = self._plan.config, self._plan.config.task_list()
        network = load_network(config, run.architecture(SHARED), run.network(SHARED) / "weights.pt")
        loader = Loader(open_run_dataset(run), "train", tasks, config.train_size)
        losses = sample_losses(network.to(self._how.parallel.device), loader, tasks, progress)
        for one, other in itertools.combinations(range(len(tasks)), 2):
            if not np.isfinite(losses[:, [one, other]]).all(axis=1).any():
                progress.note(
                    f"no image has labels of both {tasks[one].name} and {tasks[other].name}: their affinity is unknown, and taken as that "
                    "of chance, 0.5"
                )
        return affinities(losses)


def sample_losses(network: GraphNetwork, loader: Loader, tasks: Sequence[Task], progress: Progress) -> Floats:
    """Return the loss of each task on each of some training images by itself, (N, T); NaN where it has no label.

    N is at most `MOST_SAMPLES`, spread over the split. The network is put into evaluation mode; images are not augmented.
    """
    device = next(network.parameters()).device
    network.eval()
    rows = []
    progress.start("difficulty of samples", -(-min(loader.count, MOST_SAMPLES) // _BATCH))
    with torch.inference_mode():
        for batch in loader.in_order(_BATCH, MOST_SAMPLES):
            images = batch.to(device)
            predictions = network(images.images)
            for i in range(len(batch.ids)):
                one = {
                    task.name: (predictions[task.name][i : i + 1], images.labels[task.name][i : i + 1])
                    for task in tasks
                }
                rows.append([_loss(task, *one[task.name]) for task in tasks])
            progress.advance()
    return np.array(rows, dtype=np.float64)


def _loss(task: Task, prediction: torch.Tensor, label: torch.Tensor) -> float:
    return float(task_loss(task, prediction, label)) if has_label(task, label) else float("nan")


def affinities(losses: Floats) -> Floats:
    """Return for each two tasks the share of samples that are easy for both or difficult for both, (T, T).

    `losses` is (N, T), NaN where a task has no label. A sample is easy if its loss is at most the task's mean. Two tasks
    that have no labelled sample in common have the affinity 0.5, that of chance. Source: Lu et al., CVPR 2017.
    """
    known = np.isfinite(losses)
    total = np.where(known, losses, 0.0).sum(axis=0)
    easy = np.where(known, losses, np.inf) <= total / np.maximum(known.sum(axis=0), 1)
    both = known[:, :, None] & known[:, None, :]
    equal = (easy[:, :, None] == easy[:, None, :]) & both
    counts = both.sum(axis=0)
    result: Floats = np.where(counts > 0, equal.sum(axis=0) / np.maximum(counts, 1), 0.5)
    np.fill_diagonal(result, 1.0)
    return result


def branch_affinity(affinity: Floats, one: Sequence[int], other: Sequence[int]) -> float:
    """Return the affinity of two branches, that is groups of tasks.

    The mean over the tasks of one of the least affinity to those of the other, both ways, and the mean of both. Source: Lu
    et al., CVPR 2017.
    """
    block = affinity[np.ix_(one, other)]
    return float((block.min(axis=1).mean() + block.min(axis=0).mean()) / 2)


def separation(affinity: Floats, groups: Sequence[Branches]) -> float:
    """Return how much a grouping of branches keeps together that does not belong together, 0 if it joins nothing.

    The mean over groups of one minus the mean over its branches of the least affinity to a branch of the group. Source: Lu
    et al., CVPR 2017.
    """
    costs = []
    for group in groups:
        between = np.array([[1.0 if a == b else branch_affinity(affinity, a, b) for b in group] for a in group])
        costs.append(1.0 - between.min(axis=1).mean())
    return float(np.mean(costs))


def greedy_tree(affinity: Floats, layer_shares: Floats, weight: float) -> tuple[Grouping, ...]:
    """Return the groupings of L layers that greedy grouping from the last layer to the first leads to.

    `layer_shares` (L,) are the costs of one more branch in each layer; `weight` is that of `separation`.
    """
    options = _options_for(affinity.tobytes(), len(affinity))
    branches: Branches = tuple((t,) for t in range(len(affinity)))
    layers = []
    for share in reversed(layer_shares.tolist()):
        best = min(options(branches), key=lambda option: (len(option[1]) - 1) * share + weight * option[0])
        branches = tuple(sorted(tuple(sorted(t for branch in group for t in branch)) for group in best[1]))
        layers.append(branches)
    return tuple(reversed(layers))


def budgeted_tree(affinity: Floats, table: CostTable, budgets: Sequence[Budget]) -> tuple[tuple[Grouping, ...], float]:
    """Return the costliest tree within all budgets that some weight on separation leads to, and the weight.

    "Costliest" is by the first budget, or by the table's first resource without any. Raises BudgetBelowReach if none is
    within them.
    """
    limits = limits_of(table, budgets)
    resource = _first_resource(table, budgets)
    shares = layer_shares(table, resource)
    best: tuple[float, tuple[Grouping, ...], float] | None = None
    for weight in (0.0, *_WEIGHTS.tolist()):
        tree = greedy_tree(affinity, shares, weight)
        if any(table.architecture_cost(tree, r) > limit for r, limit in limits.items()):
            continue
        cost = table.architecture_cost(tree, resource)
        if best is None or cost > best[0]:
            best = cost, tree, weight
    if best is None:
        raise BudgetBelowReach("no architecture of this method is within all budgets together; raise one of them")
    return best[1], best[2]


def layer_shares(table: CostTable, resource: Resource) -> Floats:
    """Return the share of each layer, (L,), in what one branch more costs in all layers together.

    Raises CostError if a cost depends on more than the number of groups.
    """
    costs = table.count_costs(resource)
    # What one group more costs where all costs grow with their number; never negative, or nothing would be shared.
    extra = np.maximum(costs[:, 1] - costs[:, 0], 0.0) if costs.shape[1] > 1 else costs[:, 0]
    shares: Floats = extra / max(extra.sum(), np.finfo(np.float64).tiny)
    return shares


def _first_resource(table: CostTable, budgets: Sequence[Budget]) -> Resource:
    return budgets[0].resource if budgets else table.resources()[0]


@lru_cache(maxsize=4)
def _options_for(affinity_bytes: bytes, tasks: int) -> Any:
    """Return a function that lists the groupings of branches with their separation, remembering them."""
    affinity = np.frombuffer(affinity_bytes).reshape(tasks, tasks)

    @lru_cache(maxsize=10_000)
    def options(branches: Branches) -> tuple[tuple[float, tuple[Branches, ...]], ...]:
        return tuple((separation(affinity, groups), groups) for groups in _groupings(affinity, branches))

    return options


def _groupings(affinity: Floats, branches: Branches) -> Iterator[tuple[Branches, ...]]:
    """Yield the groupings of branches that are compared, the one that joins nothing first."""
    if len(branches) <= _MOST_LISTED:
        # Fewest joins first, so that of equals the finer one is taken.
        for partition in sorted(partitions_of(2 ** len(branches) - 1), key=len, reverse=True):
            yield tuple(tuple(branches[b] for b in block) for block in grouping_of(partition))
        return
    groups: list[Branches] = [(branch,) for branch in branches]
    yield tuple(groups)
    while len(groups) > 1:
        merged = [
            [*(g for k, g in enumerate(groups) if k not in (i, j)), groups[i] + groups[j]]
            for i in range(len(groups))
            for j in range(i)
        ]
        groups = min(merged, key=lambda option: separation(affinity, option))
        yield tuple(groups)
