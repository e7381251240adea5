"""The supergraph: C parallel candidates in every layer, a shared stem, a head per task (paper, section 3.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.graph import layer_name
from bmtas.networks.backbone import Backbone, fresh_copy, initialise
from bmtas.networks.heads import build_head
from bmtas.networks.weights import Weights
from bmtas.tasks import Task


class Supergraph(nn.Module):
    """Every layer exists C = T times; a task's path mixes the candidates of each layer by its weights.

    The last normalisation of each candidate has no affine parameters, so that no candidate can make itself heard by
    scaling its output (paper, appendix A).
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], weights: Weights | None) -> None:
        """Start all candidates of a layer from the backbone's `weights`, or each from random values of its own (None)."""
        super().__init__()
        self.tasks = tuple(tasks)
        self.tap = backbone.tap
        operations = backbone.operations()
        if weights is not None:
            weights.load_into(operations)

        def copy_of(name: str) -> nn.Module:
            return fresh_copy(operations[name], pretrained=weights is not None and weights.covers(name))

        self.stem = copy_of("stem")
        self.layers = nn.ModuleList()
        for index in range(backbone.layers):
            candidates = nn.ModuleList(copy_of(layer_name(index)) for _ in tasks)
            for candidate in candidates:
                _remove_affine(candidate, backbone.last_norm(candidate))
            self.layers.append(candidates)
        self.heads = nn.ModuleDict({task.name: build_head(task, backbone) for task in tasks})
        initialise(self.heads)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, T, C): layers, tasks, candidates per layer; the shape of the architecture parameters."""
        return len(self.layers), len(self.tasks), len(self.tasks)

    def forward(self, image: Tensor, task: int, mix: Tensor) -> Tensor:
        """Return the raw prediction of one task, (N, channels, H, W) or (N, channels).

        `image` is (N, 3, H, W). `mix` is (L, C): how much of each candidate enters the task's path; candidates whose
        entry is a constant 0 are not run.
        """
        x = self.stem(image)
        tap = x
        for index, candidates in enumerate(self.layers):
            assert isinstance(candidates, nn.ModuleList)
            x = _mixture(candidates, mix[index], x)
            if index == self.tap:
                tap = x
        name = self.tasks[task].name
        prediction: Tensor = self.heads[name](x, tap)
        if self.tasks[task].dense:
            prediction = F.interpolate(prediction, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return prediction

    @contextlib.contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Within this block normalise by the batch and leave the running statistics alone (paper, appendix A)."""
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats = False
        frozen = [p for p in self.parameters() if p.requires_grad]
        for parameter in frozen:  # only architecture parameters learn here; no gradient is computed for weights
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True
            for parameter in frozen:
                parameter.requires_grad_(True)

    def reset_statistics(self) -> None:
        """Forget all running statistics: after the architecture has changed they describe another network."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()


def own_candidates(layers: int, candidates: int, task: int) -> Tensor:
    """Return the (L, C) mix of the warm-up: task t runs candidate t of every layer and nothing else."""
    mix = torch.zeros(layers, candidates)
    mix[:, task] = 1.0
    return mix


def _mixture(candidates: nn.ModuleList, weights: Tensor, x: Tensor) -> Tensor:
    if not weights.requires_grad:
        alive = [(j, float(w)) for j, w in enumerate(weights) if w != 0]
        if len(alive) == 1 and alive[0][1] == 1.0:
            result: Tensor = candidates[alive[0][0]](x)
            return result
        return torch.stack([w * candidates[j](x) for j, w in alive]).sum(dim=0)
    return torch.stack([weights[j] * candidate(x) for j, candidate in enumerate(candidates)]).sum(dim=0)


def _remove_affine(layer: nn.Module, name: str) -> None:
    """Replace a batch normalisation by one without scale and shift."""
    norm = layer.get_submodule(name)
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"{name} is a {type(norm).__name__}, not a batch normalisation")
    parent, _, child = name.rpartition(".")
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=False)
    setattr(layer.get_submodule(parent), child, plain)
