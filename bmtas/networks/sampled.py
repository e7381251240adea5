"""One candidate per task and layer instead of a mixture: tasks that have drawn the same so far are computed once.

The estimator is that of GDAS (Dong & Yang, CVPR 2019, section 3.2): the forward pass takes the candidate j = argmax of the
softened sample z of `bmtas.relaxation.gumbel_softmax`, and the backward pass differentiates z_j, the only weight that enters. Written
with a gate g[l, t] = 1 + z_j - stop_gradient(z_j) that multiplies the chosen candidate's output (the residual included,
as `mix` does in the soft form), the gradient of the architecture parameters is

    dL/dlogits[l, t] = dL_t/dg[l, t] * dz_j/dlogits[l, t],        dL_t/dg[l, t] = <dL_t/dy, y>

with y the chosen candidate's output, because g * y is all that the rest of the task's path sees. The gate is 1, so the
forward pass does not need it, and tasks share y although each has a gate and a loss of its own. A search takes an architecture step as

    z = torch.stack([gumbel_softmax(logits[:, t], temperature, generator) for t in range(T)], dim=1)    # (L, T, C)
    choices = z.detach().argmax(dim=-1)                                                                 # (L, T)
    with supergraph.batch_statistics():
        run = supergraph.forward_sampled(images, choices)
        gates = torch.stack([run.gate_gradients(loss_t, t) for t ...], dim=1)                           # (L, T)
    z.gather(-1, choices.unsqueeze(-1)).squeeze(-1).backward(gates)

and a weight step by one backward pass of the summed losses of `run.predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampledPass:
    """What one pass over all tasks has computed.

    `predictions` are the raw ones per task, (N, channels, H, W) or (N, channels). `outputs[t][l]` is the output of the
    candidate that task t has drawn in layer l; tasks with equal draws up to there hold the very same tensor.
    """

    predictions: tuple[Tensor, ...]
    outputs: tuple[tuple[Tensor, ...], ...]

    def gate_gradients(self, loss: Tensor, task: int, *, last: bool = False) -> Tensor:
        """Return dL_t/dg[l, t] for all layers, (L,), of the loss of one task, a scalar made of its prediction.

        Gradients of weights are neither computed nor touched. `last` frees the pass's memory: say so for the task after
        which nothing is asked of this pass any more.
        """
        outputs = self.outputs[task]
        gradients = torch.autograd.grad(loss, outputs, retain_graph=not last)
        # Products of half precision summed in it would lose what they are summed for.
        precise = torch.promote_types(loss.dtype, torch.float32)
        return torch.stack([_inner(g, y.detach(), precise) for g, y in zip(gradients, outputs, strict=True)])


def _inner(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    return (a * b).sum(dtype=dtype)


def checked_choices(choices: Tensor | Sequence[Sequence[int]], shape: tuple[int, int, int]) -> list[list[int]]:
    """Return `choices` as numbers, (L, T). Raises ValueError if they do not fit the supergraph's `shape`, (L, T, C)."""
    layers, tasks, candidates = shape
    rows = choices.tolist() if isinstance(choices, Tensor) else [list(row) for row in choices]
    if len(rows) != layers or any(not isinstance(row, list) or len(row) != tasks for row in rows):
        raise ValueError(f"choices must be one candidate per layer and task, ({layers}, {tasks}); found {rows}")
    wrong = sorted({j for row in rows for j in row if not isinstance(j, int) or not 0 <= j < candidates})
    if wrong:
        raise ValueError(f"choices {wrong} are no candidates; they must be whole numbers from 0 to {candidates - 1}")
    return rows


def along_prefixes(
    x: Tensor, choices: Sequence[Sequence[int]], run: Callable[[int, int, Tensor], Tensor]
) -> list[list[Tensor]]:
    """Return the layers' outputs on each task's path, [task][layer], computing every prefix once.

    `x` is the first layer's input; `choices` is (L, T); `run(layer, candidate, input)` runs one candidate.
    """
    current = [x] * len(choices[0])
    paths: list[list[Tensor]] = [[] for _ in current]
    for layer, row in enumerate(choices):
        # Two tasks have the same prefix if they hold the same tensor; all of them are alive here, so ids are distinct.
        computed: dict[tuple[int, int], Tensor] = {}
        for t, j in enumerate(row):
            key = (id(current[t]), j)
            if key not in computed:
                computed[key] = _differentiable(run(layer, j, current[t]))
            paths[t].append(computed[key])
        current = [path[-1] for path in paths]
    return paths


def _differentiable(output: Tensor) -> Tensor:
    """Let gradients reach an output on which nothing that learns has worked: gates ask for them."""
    return output.requires_grad_() if torch.is_grad_enabled() and not output.requires_grad else output
