"""All candidates of a layer in one pass: they read the same input and have the same structure.

A candidate is traced once by torch.fx; each of its operations then runs for all candidates together. A value is either
`shared`, (N, channels, H, W) and the same for all candidates, or `wide`, (N, k * channels, H, W): the channels of the k
candidates one after the other. A convolution of a shared value is one convolution with k times the outputs, a convolution
of a wide value has k times the groups, normalisation and activation go channel by channel anyway.

Parameters and statistics stay those of the candidates; they are joined anew for each pass. The copy is small beside the
work (`benchmarks/search_step.py --parts`), and no optimiser, no device and no checkpoint has to know of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bmtas.networks.blocks import joined, mixture, total, widened
from bmtas.networks.norms import JointBatchNorm2d, joint_batch_norm
from bmtas.networks.subgrids import convolve

# What treats every channel by itself and has no parameters: its wide form is itself.
_CHANNELWISE_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)
_CHANNELWISE_FUNCTIONS = (F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, torch.relu, torch.sigmoid)
_ELEMENTWISE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    operator.add: torch.add,
    operator.iadd: torch.add,
    torch.add: torch.add,
    operator.mul: torch.mul,
    torch.mul: torch.mul,
}
_SPATIAL = (2, 3, -1, -2)  # dimensions of (N, channels, H, W) whose sizes are those of one candidate


class NotUnderstoodError(Exception):
    """A layer does something for which there is no wide form here."""


@dataclass(frozen=True)
class _Step:
    """One operation: the value `name` from those named in `args`. `wide` says for each tensor argument which form it has."""

    name: str
    run: Callable[..., Any]
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wide: tuple[bool, ...]


class FusedLayer:
    """How the candidates of one layer run together. Raises NotUnderstoodError if the layer's form is not understood."""

    def __init__(self, candidates: Sequence[nn.Module]) -> None:
        """Understand the form of `candidates`, which all have the same one. They are kept, not copied."""
        first = candidates[0]
        graph = _traced(first)
        names = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        self._modules = {name: [candidate.get_submodule(name) for candidate in candidates] for name in names}
        self._input, self._steps, wide = _compile(graph, {name: parts[0] for name, parts in self._modules.items()})
        result = next(node.args[0] for node in graph.nodes if node.op == "output")
        self._residual, self._result = _split_residual(result, wide)
        # A shared term that is added last leaves the steps: it is added once, after the mix.
        self._steps = [step for step in self._steps if self._residual is None or step.name != _name(result)]
        alone = not any(self._result in _names(step.args) for step in self._steps)
        last = next(step for step in self._steps if step.name == self._result)
        # After a last normalisation without scale and shift, the mix takes the scale's place and costs nothing.
        self._folded = alone and last.run is _norm and not self._modules[last.target][0].affine

    def __call__(self, alive: Sequence[int], weights: Tensor, x: Tensor) -> Tensor:
        """Return the sum over the candidates `alive` of weight * output, in the candidates' output shape.

        `x` is (N, channels, H, W), `weights` (len(alive),) on its device; gradients flow into both and into the parameters.
        """
        values: dict[str, Any] = {self._input: x}
        for step in self._steps:
            chosen = self._modules.get(step.target, ()) if isinstance(step.target, str) else ()
            parts = [chosen[j] for j in alive] if chosen else []
            arguments = [_resolved(argument, values) for argument in step.args]
            if self._folded and step.name == self._result:
                arguments.append(weights)
            values[step.name] = step.run(_Context(step, parts, len(alive)), *arguments, **step.kwargs)
        result = values[self._result]
        mixed = total(result, len(alive)) if self._folded else mixture(result, weights, len(alive))
        if self._residual:
            mixed = torch.addcmul(mixed, values[self._residual], weights.sum().to(mixed.dtype))
        return mixed


@dataclass(frozen=True)
class _Context:
    """What a step runs with: the modules of the k candidates that take part."""

    step: _Step
    parts: Sequence[nn.Module]
    k: int


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """What has a form here stays whole, whoever has written it."""
        return isinstance(m, (nn.Conv2d, JointBatchNorm2d, *_CHANNELWISE_MODULES)) or super().is_leaf_module(
            m, module_qualified_name
        )


def _traced(candidate: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(candidate)
    except Exception as error:  # tracing runs the candidate's own code, which may raise anything
        raise NotUnderstoodError(f"torch.fx cannot trace it ({error})") from error


def _compile(graph: fx.Graph, modules: dict[str, nn.Module]) -> tuple[str, list[_Step], dict[str, bool]]:
    """Return the input's name, the steps, and which values are wide."""
    wide: dict[str, bool] = {}
    steps: list[_Step] = []
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise NotUnderstoodError(f"it has {len(inputs)} inputs instead of one")
    wide[inputs[0]] = False
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        run, plain = _form(node, modules)
        read = [n for n in _nodes(node.args) if n.name in wide]
        forms = tuple(wide[n.name] for n in read)
        if run is _elementwise and len(forms) != len(node.args):
            raise NotUnderstoodError(f"{node.name} joins a tensor with a shape")
        steps.append(_Step(node.name, run, node.target, _named(node.args), dict(node.kwargs), forms))
        if not plain:
            wide[node.name] = any(forms) or run in (_convolution, _norm)
    return inputs[0], steps, wide


def _form(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[Callable[..., Any], bool]:
    """Return what runs a node for all candidates, and whether its value is a plain one (a shape) rather than a tensor."""
    target = node.target
    if node.op == "call_module":
        return _module_form(str(target), modules[str(target)]), False
    if node.op == "call_function" and target in _CHANNELWISE_FUNCTIONS and not _nodes(node.kwargs):
        return _channelwise_function, False
    if node.op == "call_function" and set(node.kwargs) <= {"dim"}:
        if target in _ELEMENTWISE and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args):
            return _elementwise, False
        if target is torch.cat and node.kwargs.get("dim", node.args[-1]) == 1:
            return _cat, False
        if target is getattr and node.args[1] == "shape":
            return _plain, True
        if target is operator.getitem and node.args[1] in _SPATIAL:
            return _plain, True
    if node.op == "call_method" and target == "mean" and dict(node.kwargs) == {"dim": (2, 3), "keepdim": True}:
        return _method, False
    if node.op == "call_method" and target == "expand" and node.args[1:3] == (-1, -1):
        return _method, False
    name = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
    raise NotUnderstoodError(f"{node.op} {name}{node.args[1:]} has no form for several candidates at once")


def _module_form(name: str, module: nn.Module) -> Callable[..., Any]:
    if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
        return _convolution
    if type(module) in (nn.BatchNorm2d, JointBatchNorm2d) and module.momentum is not None:
        return _norm
    if isinstance(module, _CHANNELWISE_MODULES):
        return _channelwise_module
    raise NotUnderstoodError(f"{name} = {module} has no form for several candidates at once")


def _split_residual(result: Any, wide: dict[str, bool]) -> tuple[str | None, str]:
    """Return the names (shared term or None, wide value) of a candidate's output.

    A shared term x that is added last leaves the mix: sum_c w_c (x + y_c) = x sum_c w_c + sum_c w_c y_c.
    """
    if not isinstance(result, fx.Node) or not wide.get(result.name, False):
        raise NotUnderstoodError("its output is not one tensor that depends on parameters")
    adds = (operator.add, operator.iadd, torch.add)
    if result.op == "call_function" and result.target in adds:
        one, other = (node.name for node in _nodes(result.args))
        if wide[one] != wide[other]:
            return (one, other) if wide[other] else (other, one)
    return None, result.name


def _name(node: Any) -> str:
    assert isinstance(node, fx.Node)
    return node.name


def _nodes(args: Any) -> list[fx.Node]:
    """Return the nodes among arguments, in order."""
    found: list[fx.Node] = []
    fx.node.map_arg(args, found.append)
    return found


@dataclass(frozen=True)
class _Named:
    """An argument that is another step's value."""

    name: str


def _named(args: Any) -> tuple[Any, ...]:
    named: tuple[Any, ...] = fx.node.map_arg(args, lambda node: _Named(node.name))  # type: ignore[arg-type, return-value]
    return named


def _names(args: Any) -> set[str]:
    if isinstance(args, _Named):
        return {args.name}
    return set().union(*(_names(a) for a in args)) if isinstance(args, (tuple, list)) else set()


def _resolved(argument: Any, values: dict[str, Any]) -> Any:
    if isinstance(argument, _Named):
        return values[argument.name]
    if isinstance(argument, (tuple, list)):
        return [_resolved(a, values) for a in argument]
    return argument


def _plain(context: _Context, *args: Any) -> Any:
    return context.step.target(*args)


def _method(context: _Context, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = getattr(x, context.step.target)(*args, **kwargs)
    return result


def _channelwise_module(context: _Context, x: Tensor) -> Tensor:
    result: Tensor = context.parts[0](x)
    return result


def _channelwise_function(context: _Context, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    result: Tensor = context.step.target(x, *args, **kwargs)
    return result


def _elementwise(context: _Context, a: Tensor, b: Tensor) -> Tensor:
    if any(context.step.wide):
        a, b = (v if is_wide else widened(v, context.k) for v, is_wide in zip((a, b), context.step.wide, strict=True))
    return _ELEMENTWISE[context.step.target](a, b)


def _cat(context: _Context, values: list[Tensor], dim: int = 1) -> Tensor:
    k = context.k
    if not any(context.step.wide):
        return torch.cat(values, dim=dim)
    wide = [v if is_wide else widened(v, k) for v, is_wide in zip(values, context.step.wide, strict=True)]
    # Candidate by candidate; the pieces keep the memory layout, which a concatenation in five dimensions would not.
    pieces = [v.chunk(k, dim=1) for v in wide]
    return torch.cat([piece[j] for j in range(k) for piece in pieces], dim=1)


def _convolution(context: _Context, x: Tensor) -> Tensor:
    conv = context.parts[0]
    assert isinstance(conv, nn.Conv2d)
    groups = conv.groups * context.k
    if not context.step.wide[0]:
        if conv.groups == 1:
            groups = 1
        else:
            x = widened(x, context.k)
    weight = joined([part.weight for part in context.parts])  # type: ignore[misc] # all are convolutions
    bias = None if conv.bias is None else joined([part.bias for part in context.parts])  # type: ignore[misc]
    return convolve(conv, x, weight, bias, groups)


def _norm(context: _Context, x: Tensor, scale: Tensor | None = None) -> Tensor:
    """Normalise each channel of each candidate as nn.BatchNorm2d does; `scale` (k,) multiplies what has no scale."""
    norms: list[nn.BatchNorm2d] = context.parts  # type: ignore[assignment]
    first = norms[0]
    x = x if context.step.wide[0] else widened(x, context.k)
    weight = bias = mean = var = None
    if scale is not None:
        # Parameters of a normalisation are not of lower precision than its sums.
        precise = torch.promote_types(x.dtype, torch.float32)
        weight = scale.to(precise).repeat_interleave(x.shape[1] // context.k, output_size=x.shape[1])
    elif first.affine:
        weight, bias = joined([n.weight for n in norms]), joined([n.bias for n in norms])
    running = first.running_mean is not None
    use_running = running and (not first.training or first.track_running_stats)
    if use_running:
        means = [n.running_mean for n in norms if n.running_mean is not None]
        variances = [n.running_var for n in norms if n.running_var is not None]
        mean, var = joined(means), joined(variances)
    assert first.momentum is not None
    batch = first.training or not running
    if batch and isinstance(first, JointBatchNorm2d):
        y = joint_batch_norm(x, mean, var, weight, bias, first.momentum, first.eps)
    else:
        y = F.batch_norm(x, mean, var, weight, bias, batch, first.momentum, first.eps)
    if batch and mean is not None and var is not None and context.k > 1:
        torch._foreach_copy_([*means, *variances], [*mean.chunk(context.k), *var.chunk(context.k)])
    if batch and use_running:
        counters = [n.num_batches_tracked for n in norms if n.num_batches_tracked is not None]
        if counters:
            torch._foreach_add_(counters, 1)
    return y
