"""The supergraph: C parallel candidates in every layer, a shared stem, a head per task (paper, section 3.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.graph import layer_name
from bmtas.networks.backbone import Backbone, fresh_copy, initialise
from bmtas.networks.candidates import Candidates, checkpointed, weighted_sum
from bmtas.networks.forms import chosen_forms
from bmtas.networks.heads import build_head
from bmtas.networks.relu6 import use_lean_relu6
from bmtas.networks.sampled import SampledPass, along_prefixes, checked_choices, mix_gradients
from bmtas.networks.subgrids import use_subgrids
from bmtas.networks.weights import Weights
from bmtas.tasks import Task


class Supergraph(nn.Module):
    """Every layer exists C = T times; a task's path mixes the candidates of each layer by its weights.

    The last normalisation of each candidate has no affine parameters, so that no candidate can make itself heard by
    scaling its output (paper, appendix A).

    `checkpointing` trades time for memory: with it, only the inputs of layers are kept for the backward pass, and what
    lies inside is computed a second time. The backward pass must then be taken in the same `batch_statistics()` block as
    the forward pass, or both outside of one.
    """

    checkpointing: bool = False

    def __init__(self, backbone: Backbone, tasks: Sequence[Task], weights: Weights | None) -> None:
        """Start all candidates of a layer from the backbone's `weights`, or each from random values of its own (None)."""
        super().__init__()
        self.tasks = tuple(tasks)
        self.backbone_name, self.tap = backbone.name, backbone.tap
        self._memory: _Memory | None = None
        operations = backbone.operations()
        if weights is not None:
            weights.load_into(operations)

        def copy_of(name: str) -> nn.Module:
            return fresh_copy(operations[name], pretrained=weights is not None and weights.covers(name))

        self.stem = copy_of("stem")
        self.layers = nn.ModuleList()
        for index in range(backbone.layers):
            candidates = Candidates(copy_of(layer_name(index)) for _ in tasks)
            for candidate in candidates:
                _remove_affine(candidate, backbone.last_norm(candidate))
                use_subgrids(candidate)
            self.layers.append(candidates)
        self.heads = nn.ModuleDict({task.name: build_head(task, backbone) for task in tasks})
        initialise(self.heads)
        use_lean_relu6(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(L, T, C): layers, tasks, candidates per layer; the shape of the architecture parameters."""
        return len(self.layers), len(self.tasks), len(self.tasks)

    @property
    def forms(self) -> tuple[str, ...]:
        """How the mixture of each layer is computed, `sequential` or `fused`; equal but for rounding.

        For the same forms results are the same bit for bit, so a checkpoint keeps them. Setting raises ValueError for forms
        that are unknown or cannot be taken (`not_fusible`), and then changes nothing.
        """
        return tuple(candidates.form for candidates in self._candidates())

    @forms.setter
    def forms(self, forms: Sequence[str]) -> None:
        layers, before = self._candidates(), self.forms
        if len(forms) != len(layers):
            raise ValueError(f"{len(forms)} forms for {len(layers)} layers; one is needed per layer")
        try:
            for candidates, form in zip(layers, forms, strict=True):
                candidates.form = form
        except ValueError:
            for candidates, form in zip(layers, before, strict=True):
                candidates.form = form
            raise

    def not_fusible(self) -> dict[str, str]:
        """Return the layers that stay sequential because their form is not understood, each with the reason."""
        reasons = {layer_name(i): candidates.why_not_fused() for i, candidates in enumerate(self._candidates())}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def choose_forms(self, images: Tensor, repetitions: int = 3) -> tuple[str, ...]:
        """Give each layer the form that is faster on this device for batches like `images`, (N, 3, H, W); return them.

        Measures each layer forward and backward, both forms in turn, and takes the smaller median of `repetitions`; remembered
        in the cache folder, so that it is decided once per machine. Parameters, gradients and statistics stay as they are.
        """
        self.forms = chosen_forms(self.backbone_name, self.stem, self._candidates(), images, repetitions)
        return self.forms

    def compile_layers(self) -> None:
        """Run stem, candidates and heads through torch.compile from now on; state and results stay what they are.

        Layers in the fused form stay as they are: their operations differ with the candidates that are alive.
        """
        parts: list[nn.Module] = [self.stem, *self.heads.values()]
        parts += [candidate for candidates in self._candidates() for candidate in candidates]
        # Parts of equal code and different shapes are compiled one by one; the default would give up after eight.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, len(parts) * 4)
        for part in parts:
            part.compile(dynamic=False)

    def forward(self, image: Tensor, task: int, mix: Tensor) -> Tensor:
        """Return the raw prediction of one task, (N, channels, H, W) or (N, channels).

        `image` is (N, 3, H, W). `mix` is (L, C): how much of each candidate enters the task's path; candidates whose
        entry is a constant 0 are not run.
        """
        # As numbers in one go: each would be waited for on a GPU.
        values = None if mix.requires_grad else mix.tolist()
        layers, outputs = self._candidates(), list[Tensor]()
        if self._memory is not None and not image.requires_grad:
            known = self._memory.of(image)
            outputs.append(known.mixture(self.stem, layers[0], mix[0], None if values is None else values[0]))
        x = outputs[0] if outputs else self.stem(image)
        for index in range(len(outputs), len(layers)):
            arguments = (x, mix[index], None if values is None else values[index])
            x = checkpointed(layers[index], *arguments) if self._recomputes() else layers[index](*arguments)
            outputs.append(x)
        return self._predict(task, outputs, image)

    def forward_sampled(self, image: Tensor, choices: Tensor | Sequence[Sequence[int]]) -> SampledPass:
        """Return the predictions of all tasks when each takes one candidate per layer, and what `mix_gradients` needs.

        `image` is (N, 3, H, W), `choices` (L, T) whole numbers below C. Tasks that have drawn the same up to a layer are
        computed once up to there; see `bmtas.networks.sampled`. Raises ValueError if the choices do not fit.
        """
        layers = self._candidates()

        def run(layer: int, j: int, x: Tensor) -> Tensor:
            candidate = layers[layer][j]
            return checkpointed(candidate, x) if self._recomputes() else candidate(x)

        rows, stem = checked_choices(choices, self.shape), self.stem(image)
        paths = along_prefixes(stem, rows, run)
        predictions = tuple(self._predict(task, path, image) for task, path in enumerate(paths))
        return SampledPass(predictions, tuple(map(tuple, rows)), stem, tuple(map(tuple, paths)))

    def mix_gradients(self, run: SampledPass, losses: Sequence[Tensor]) -> Tensor:
        """Return the gradient of each task's loss by the mix on its path, (L, T, C): see `bmtas.networks.sampled`.

        To be called in the same `batch_statistics()` block as `forward_sampled`.
        """
        return mix_gradients(run, losses, self._candidates())

    @contextlib.contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Within this block normalise by the batch and leave the running statistics alone (paper, appendix A).

        Weights do not learn here and must not be changed: what does not depend on the architecture, the stem and the
        first layer's candidates, is computed once for each batch and kept for all tasks.
        """
        norms = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats = False
        frozen = [p for p in self.parameters() if p.requires_grad]
        for parameter in frozen:  # only architecture parameters learn here; no gradient is computed for weights
            parameter.requires_grad_(False)
        self._memory = _Memory()
        try:
            yield
        finally:
            self._memory = None
            for norm in norms:
                norm.track_running_stats = True
            for parameter in frozen:
                parameter.requires_grad_(True)

    def reset_statistics(self) -> None:
        """Forget all running statistics: after the architecture has changed they describe another network."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()

    def _candidates(self) -> list[Candidates]:
        return [candidates for candidates in self.layers if isinstance(candidates, Candidates)]

    def _recomputes(self) -> bool:
        return self.checkpointing and torch.is_grad_enabled()

    def _predict(self, task: int, outputs: Sequence[Tensor], image: Tensor) -> Tensor:
        """Return one task's prediction from the outputs of the layers on its path."""
        prediction: Tensor = self.heads[self.tasks[task].name](outputs[-1], outputs[self.tap])
        if self.tasks[task].dense:
            prediction = F.interpolate(prediction, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return prediction


class _Memory:
    """What has been computed of one batch and does not depend on the architecture parameters."""

    def __init__(self) -> None:
        self._image: Tensor | None = None
        self._version = -1
        self._stem: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def of(self, image: Tensor) -> _Memory:
        """Turn to `image`: what is known of others, or of this one before it was changed, is forgotten."""
        if image is not self._image or image._version != self._version:
            self._image, self._version = image, image._version
            self._stem, self._outputs = None, {}
        return self

    def mixture(self, stem: nn.Module, candidates: Candidates, weights: Tensor, values: list[float] | None) -> Tensor:
        """Return the first layer's mixture, as `Candidates.forward` does."""
        assert self._image is not None
        if self._stem is None:
            self._stem = stem(self._image)
        alive = [j for j in range(len(candidates)) if values is None or values[j] != 0]
        for j in alive:
            if j not in self._outputs:
                self._outputs[j] = candidates[j](self._stem)
        return weighted_sum((self._outputs[j] for j in alive), weights, values and [values[j] for j in alive])


def own_candidates(layers: int, candidates: int, task: int) -> Tensor:
    """Return the (L, C) mix of the warm-up: task t runs candidate t of every layer and nothing else."""
    mix = torch.zeros(layers, candidates)
    mix[:, task] = 1.0
    return mix


def _remove_affine(layer: nn.Module, name: str) -> None:
    """Replace a batch normalisation by one without scale and shift."""
    norm = layer.get_submodule(name)
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"{name} is a {type(norm).__name__}, not a batch normalisation")
    parent, _, child = name.rpartition(".")
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=False)
    setattr(layer.get_submodule(parent), child, plain)
