"""Branched multi-task networks: tasks whose single-task networks see images alike share layers.

Vandenhende et al., "Branched multi-task networks: deciding what layers to share", BMVC 2020, as Bruggemann et al. (BMVC
2020, appendix B) compare with it. For every task a network of its own is trained. In each layer its features of some images
give a dissimilarity matrix (1 - Pearson's correlation of the features of two images); the affinity of two tasks in a layer is
Spearman's rank correlation of their matrices (representational similarity analysis). A grouping costs in each layer the mean
over its groups of the greatest dissimilarity (1 - affinity) within a group, and of all architectures within the budgets the
one of least total cost is taken: exhaustively, by dynamic programming (`costs.least`), and with every layer as a place at
which tasks may part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bmtas.data.batches import Loader
from bmtas.extras import require
from bmtas.methods.finder import Found, named
from bmtas.networks.network import GraphNetwork
from bmtas.parallel import How
from bmtas.planning import Plan
from bmtas.plots_affinity import draw_affinities
from bmtas.progress import Progress
from bmtas.run_training import open_run_dataset, train_network
from bmtas.runs import SEPARATE, Run
from bmtas.training import load_network
from costs.least import groupings_of, least_architecture
from costs.partitions import Grouping
from costs.table import CostTable

IMAGES = 100
"""Features of so many training images are compared, spread evenly over the split."""
_COLUMNS = 1 << 16
_FEATURE_BYTES = 1 << 30
"""Features kept at a time; layers beyond are computed in further passes."""

Floats = npt.NDArray[np.float64]


def build(plan: Plan, how: How) -> BmnFinder:
    """Return the finder of `plan`. Raises CostError for more tasks than all groupings can be compared of."""
    return BmnFinder(plan, how)


class BmnFinder:
    """Trains the separate networks of the run as `bmtas train` would, compares their features, and takes the best tree."""

    def __init__(self, plan: Plan, how: How) -> None:
        """Take a plan. Raises CostError for more than eight tasks, before anything is trained."""
        self._plan, self._how = plan, how
        self._affinities: Floats = np.empty((0, 0, 0))
        groupings_of(len(plan.config.tasks))

    def prepare(self, *, begun: bool) -> None:
        """Raise EnvironmentProblem where scipy is missing; training fetches its own weights."""
        require("scipy.stats", "host")

    def learn(self, run: Run, progress: Progress) -> None:
        """Train, or go on with it, and compare the features."""
        said = train_network(run, SEPARATE, progress, self._how)
        if said:
            progress.note(said)
        self._affinities = self._how.parallel.decided(lambda: self._affinity(run, progress))

    def derive(self, table: CostTable) -> Found:
        """Take the least dissimilar architecture."""
        least = least_architecture(grouping_penalties(1.0 - self._affinities), table, self._plan.budgets)
        details = {"dissimilarity": least.penalty, "affinity": self._affinities.tolist()}
        return Found(named(self._plan, least.groupings), details)

    def draw(self, run: Run, found: Found) -> None:
        """Draw the affinities in the first, a middle and the last layer."""
        affinity = np.array(found.details["affinity"])
        chosen = sorted({0, len(affinity) // 2, len(affinity) - 1})
        pictures = {f"layer {layer}: correlation of dissimilarities": affinity[layer] for layer in chosen}
        draw_affinities(pictures, found.architecture.tasks, run.search_folder / "affinity.png")

    def _affinity(self, run: Run, progress: Progress) -> Floats:
        config, tasks = self._plan.config, self._plan.config.task_list()
        network = load_network(config, run.architecture(SEPARATE), run.network(SEPARATE) / "weights.pt")
        loader = Loader(open_run_dataset(run), "train", tasks, config.train_size)
        chosen = np.unique(np.linspace(0, loader.count - 1, min(IMAGES, loader.count)).round().astype(int)).tolist()
        matrices = dissimilarities(network.to(self._how.parallel.device), loader, chosen, progress)
        return np.stack([rank_correlations(layer) for layer in matrices])


def dissimilarities(network: GraphNetwork, loader: Loader, images: Sequence[int], progress: Progress) -> list[Floats]:
    """Return for each layer what `dissimilarity` gives for each task's features, (T, K (K - 1) / 2), of K images.

    `network` has a path of its own for every task; it is put into evaluation mode.
    """
    network.eval()
    layers = len({node.operation for node in network.graph.nodes if node.operation.startswith("layers.")})
    result: list[list[Floats]] = []
    for task in network.graph.tasks:
        single = network.subset([task])
        progress.start(f"features of {task}", layers)
        found: list[Floats] = []
        while len(found) < layers:
            for features in _features(single, loader, images, len(found)):
                found.append(dissimilarity(features))
                progress.advance()
        result.append(found)
    return [np.stack([of_task[layer] for of_task in result]) for layer in range(layers)]


def _features(network: GraphNetwork, loader: Loader, images: Sequence[int], first: int) -> list[Floats]:
    """Return the features (K, D) of layer `first` and of as many after it as may be kept at a time."""
    kept: dict[int, list[Tensor]] = {}
    modules = {
        int(n.operation.split(".")[1]): n.module for n in network.graph.nodes if n.operation.startswith("layers.")
    }
    room = _FEATURE_BYTES

    def keep(layer: int, output: Tensor) -> None:
        nonlocal room
        size = output.numel() * 4 * len(images)
        if layer == first or layer in kept or (size <= room and layer - 1 in kept):
            room -= 0 if layer in kept else size
            kept.setdefault(layer, []).append(output.detach().reshape(-1).float().cpu())

    hooks = [
        network.get_submodule(module).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: keep(layer, output)
        )
        for layer, module in modules.items()
        if layer >= first
    ]
    device = next(network.parameters()).device
    try:
        with torch.inference_mode():
            for index in images:
                network(loader.batch([index]).to(device).images)
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.stack(kept.pop(layer)).numpy() for layer in sorted(kept)]


def dissimilarity(features: npt.NDArray[np.floating]) -> Floats:
    """Return 1 - Pearson's correlation of the features (K, D) of each two of K images: the upper triangle, by rows.

    Features that are the same everywhere in an image correlate with nothing. Source: Vandenhende et al., BMVC 2020.
    """
    varies = features.max(axis=1) > features.min(axis=1)
    mean = features.mean(axis=1, keepdims=True, dtype=np.float64)
    products = np.zeros((len(features), len(features)))
    for start in range(0, features.shape[1], _COLUMNS):  # a copy of all features would take as much memory again
        centred = features[:, start : start + _COLUMNS] - mean
        products += centred @ centred.T
    # Where all are equal, what their rounded mean leaves of them is no direction.
    length = np.where(varies, np.sqrt(products.diagonal()), 0.0)
    scale = np.outer(length, length)
    correlation = np.where(scale > 0, products / np.where(scale > 0, scale, 1.0), 0.0)
    return 1.0 - correlation[np.triu_indices(len(features), k=1)]


def rank_correlations(dissimilarities_of_tasks: Floats) -> Floats:
    """Return Spearman's rank correlation of each two rows of (T, P), as (T, T); 0 with a row of equal values."""
    ranks = require("scipy.stats", "host").rankdata(dissimilarities_of_tasks, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    scale = np.outer(length, length)
    result: Floats = np.where(scale > 0, centred @ centred.T / np.where(scale > 0, scale, 1.0), 0.0)
    np.fill_diagonal(result, 1.0)
    return result


def grouping_penalties(dissimilar: Floats) -> Floats:
    """Return what each grouping costs in each layer, (L, K) in the order of `costs.least.groupings_of`.

    `dissimilar` is (L, T, T). The mean over groups of the greatest dissimilarity within a group, 0 for a task alone. Source:
    Vandenhende et al., BMVC 2020.
    """
    bounded = np.maximum(dissimilar, 0.0)
    return np.array([[_penalty(layer, g) for g in groupings_of(len(layer))] for layer in bounded])


def _penalty(layer: Floats, grouping: Grouping) -> float:
    return float(np.mean([layer[np.ix_(block, block)].max() if len(block) > 1 else 0.0 for block in grouping]))
