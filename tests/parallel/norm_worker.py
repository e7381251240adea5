"""One of two processes: batch normalisation of its half of a batch, held against PyTorch's of the whole batch.

Prints the greatest difference in output, gradients and running statistics as one line of JSON.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.networks.norms import use_joint_norms
from bmtas.parallel import join_processes

EPS, MOMENTUM = 1e-5, 0.3


def main() -> None:
    parallel = join_processes("cpu")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 5, 3, 3, generator=draw, dtype=torch.float64) * 3 + 1
    x[2:] += 2  # the halves have other means and variances than the whole
    dy = torch.randn(4, 5, 3, 3, generator=draw, dtype=torch.float64)
    weight, bias = torch.rand(2, 5, generator=draw, dtype=torch.float64).unbind()
    half = slice(2 * parallel.rank, 2 * parallel.rank + 2)

    def run(norm: nn.Module | None, x: Tensor, dy: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
        if norm is None:
            w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
            y = F.batch_norm(x, mean, var, w, b, True, MOMENTUM, EPS)
        else:
            w, b = norm.weight, norm.bias
            y = norm(x)
            mean, var = norm.running_mean, norm.running_var
        y.backward(dy)
        return [y.detach(), x.grad, w.grad, b.grad, mean, var]

    norm = nn.BatchNorm2d(5, eps=EPS, momentum=MOMENTUM, dtype=torch.float64)
    norm.weight.data, norm.bias.data = weight.clone(), bias.clone()
    use_joint_norms(norm)
    whole, ours = run(None, x, dy), run(norm, x[half], dy[half])
    whole[:2] = [t[half] for t in whole[:2]]
    ours[2:4] = [parallel.total(t) for t in ours[2:4]]
    differences = [float((a - b).abs().max()) for a, b in zip(whole, ours, strict=True)]
    counted = int(norm.num_batches_tracked)
    norm.eval()
    alone = nn.BatchNorm2d(5, eps=EPS, dtype=torch.float64).eval()
    alone.load_state_dict(norm.state_dict())
    same = bool(torch.equal(norm(x), alone(x)))
    sys.stdout.write(json.dumps({"differences": differences, "tracked": counted, "evaluates_alike": same}) + "\n")


if __name__ == "__main__":
    main()
