"""The C parallel copies of one layer, and the forms in which their mixture is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from bmtas.networks.fused import FusedLayer, NotUnderstoodError

SEQUENTIAL, FUSED = "sequential", "fused"
FORMS = (SEQUENTIAL, FUSED)
"""One candidate after the other, or all of them in one pass (`bmtas.networks.fused`); equal but for rounding."""


class Candidates(nn.ModuleList):
    """The candidates of one layer; all have the same structure and parameters of their own."""

    def __init__(self, candidates: Iterable[nn.Module]) -> None:
        super().__init__(candidates)
        self._form = SEQUENTIAL
        self._fused: FusedLayer | None = None

    @property
    def form(self) -> str:
        """How mixtures are computed, one of `FORMS`; setting raises ValueError where the form cannot be taken."""
        return self._form

    @form.setter
    def form(self, form: str) -> None:
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r} of a layer; the forms are {', '.join(FORMS)}")
        reason = self.why_not_fused() if form == FUSED else None
        if reason is not None:
            raise ValueError(f"this layer can only be {SEQUENTIAL}: {reason}")
        self._form = form

    def why_not_fused(self) -> str | None:
        """Return why the candidates cannot run in one pass; None if they can."""
        try:
            self._fused = self._fused or FusedLayer(list(self))
        except NotUnderstoodError as error:
            return str(error)
        return None

    def forward(self, x: Tensor, weights: Tensor, values: Sequence[float] | None = None) -> Tensor:
        """Return sum_j weights[j] * candidate j of `x`, in the shape of one candidate's output.

        `x` is (N, channels, H, W), `weights` (C,) on its device. `values` are the same weights as numbers, given where no
        gradient of them is wanted; then candidates of weight 0 are not run. Raises ValueError if all are 0.
        """
        alive = [j for j in range(len(self)) if values is None or values[j] != 0]
        if not alive:
            raise ValueError("every candidate of a layer has weight 0; at least one must have another")
        if len(alive) > 1 and self._form == FUSED and self.why_not_fused() is None:
            assert self._fused is not None
            return self._fused(alive, weights if len(alive) == len(self) else weights[alive], x)
        return weighted_sum((self[j](x) for j in alive), weights, values and [values[j] for j in alive])


def weighted_sum(outputs: Iterable[Tensor], weights: Tensor, values: Sequence[float] | None) -> Tensor:
    """Return the sum of outputs * weights, each output taken from the iterable when it is its turn.

    Either `weights` (C,) for all outputs, through which gradients flow, or the numbers `values`, which save no tensor. A single output of
    weight 1 is returned as it is.
    """
    total: Tensor | None = None
    for j, output in enumerate(outputs):
        if total is None:
            if values is None:
                total = output * weights[j]
            else:
                total = output if len(values) == 1 and values[j] == 1.0 else output * values[j]
        elif values is None:
            total = total.addcmul_(output, weights[j].to(total.dtype))
        else:
            total = total.add_(output, alpha=values[j])
    assert total is not None
    return total


class StatisticsKept:
    """Within `with` blocks of this, batch normalisations inside `module` compute what they would and remember nothing.

    They still read the same tensors, so that a pass that is run again for its activations saves what the first one saved.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        self._before: list[tuple[float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        """Begin to remember nothing."""
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None  # running = (1 - 0) * running + 0 * batch

    def __exit__(self, *_: object) -> None:
        """Be as before."""
        for norm, (momentum, counter) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


def checkpointed(module: nn.Module, *args: object) -> Tensor:
    """Run `module`, forget its inner activations, and compute them again when gradients ask for them (Chen et al. 2016).

    Running statistics are updated once, by the first pass.
    """
    from torch.utils.checkpoint import checkpoint

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), StatisticsKept(module)

    result: Tensor = checkpoint(module, *args, use_reentrant=False, context_fn=contexts)
    return result
