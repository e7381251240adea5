"""One candidate per task and layer instead of a mixture: tasks that have drawn the same so far are computed once.

The forward pass takes the candidate j = argmax of the softened sample z of `bmtas.relaxation.gumbel_softmax`, as if the mix
were its one-hot vector; the backward pass hands the gradient by the mix on to z (straight-through Gumbel-softmax, Jang et al., ICLR
2017, section 2.2). By the mix of layer l on the path of task t the gradient is

    dL_t/dmix[l, t, j] = <dL_t/dy, y_j>

with y the layer's output on that path and y_j what candidate j makes of the layer's input there. So an architecture step
needs the candidates' outputs, but no backward pass through those that were not drawn.

GDAS (Dong & Yang, CVPR 2019) keeps only the entry of the drawn candidate, and needs no others' outputs. Here that entry says next
to nothing: what follows a layer is normalised, so the loss hardly changes with the size of an output, and
<dL_t/dy, y> is about 0 whatever was drawn. `benchmarks/planted_search.py` tells the difference: with it, no tree was found.

A search takes an architecture step as

    z = torch.stack([gumbel_softmax(logits[:, t], temperature, generator) for t in range(T)], dim=1)    # (L, T, C)
    with supergraph.batch_statistics():
        run = supergraph.forward_sampled(images, z.detach().argmax(dim=-1))
        gradients = supergraph.mix_gradients(run, [loss_t ...])                                         # (L, T, C)
    z.backward(gradients)

and a weight step by one backward pass of the summed losses of `run.predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampledPass:
    """What one pass over all tasks has computed.

    `predictions` are the raw ones per task, (N, channels, H, W) or (N, channels). `choices[l][t]` is the candidate that
    task t has drawn in layer l, `outputs[t][l]` its output, `stem` the first layer's input; tasks with equal draws up to
    a layer hold the very same tensor.
    """

    predictions: tuple[Tensor, ...]
    choices: tuple[tuple[int, ...], ...]
    stem: Tensor
    outputs: tuple[tuple[Tensor, ...], ...]


def mix_gradients(run: SampledPass, losses: Sequence[Tensor], candidates: Sequence[Iterable[Candidate]]) -> Tensor:
    """Return dL_t/dmix[l, t, j], (L, T, C), of each task's own loss, a scalar made of its prediction.

    `candidates[l][j]` runs a candidate. Gradients of weights are neither computed nor touched; the pass's memory is freed.
    """
    last = len(losses) - 1
    of_outputs = [torch.autograd.grad(loss, run.outputs[t], retain_graph=t < last) for t, loss in enumerate(losses)]
    # Products of half precision summed in it would lose what they are summed for.
    precise = torch.promote_types(losses[0].dtype, torch.float32)
    result = torch.zeros(len(candidates), len(losses), len(list(candidates[0])), dtype=precise, device=losses[0].device)
    with torch.no_grad():
        for layer, row in enumerate(run.choices):
            inputs = [run.stem if layer == 0 else path[layer - 1] for path in run.outputs]
            for x, tasks in _by_input(inputs):
                known = {row[t]: run.outputs[t][layer].detach() for t in tasks}
                for j, candidate in enumerate(candidates[layer]):
                    y = known[j] if j in known else candidate(x.detach())
                    for t in tasks:
                        result[layer, t, j] = (of_outputs[t][layer] * y).sum(dtype=precise)
    return result


Candidate = Callable[[Tensor], Tensor]
"""Maps (N, channels, H, W) to its output."""


def _by_input(inputs: Sequence[Tensor]) -> list[tuple[Tensor, list[int]]]:
    """Return each distinct tensor with the tasks whose input it is."""
    tasks: dict[int, list[int]] = {}
    for t, x in enumerate(inputs):
        tasks.setdefault(id(x), []).append(t)
    return [(inputs[group[0]], group) for group in tasks.values()]


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
