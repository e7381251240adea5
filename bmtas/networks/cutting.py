"""Any convolutional classification network as a backbone: its trace is cut into layers.

The trace (`bmtas.networks.tracing`) is cut where a single tensor is alive and one block of the model ends and another begins. What comes before the
global pooling are the features; to them comes the house's own module of image context, as in the adapters that are written by hand.
The stem is the first block, and strides stay the model's own.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import fx, nn

from bmtas.errors import UsageError
from bmtas.networks.backbone import Backbone, Parts
from bmtas.networks.mobilenet_v2 import RASPP
from bmtas.networks.resnet50 import ASPP
from bmtas.networks.tracing import Part, Tracer, is_tensor, part_of, values_of

_SIZE = (256, 384)
"""Of the image that places are found with: oblong, so that tensors of another order than (N, C, H, W) are seen."""
_TAP_STRIDE = 4
_LEAST_PLACES = 3
_POOLING = ("mean", "flatten", "adaptive_avg_pool2d")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LIGHT, _HEAVY = 128, 256
"""Channels after the context module, and of the decoder, as of MobileNetV2 and of ResNet-50."""


@dataclass(frozen=True)
class _Cuts:
    """The blocks of a model: for each its nodes and its output, with the shape (C, H, W) of that for an image of `_SIZE`."""

    blocks: tuple[tuple[fx.Node, ...], ...]
    outputs: tuple[fx.Node, ...]
    shapes: tuple[tuple[int, int, int], ...]


def cut_backbone(name: str, make: Callable[[], nn.Module], weights_name: str | None = None) -> Backbone:
    """Return the backbone made of the classifier that `make` gives, images (N, 3, H, W) to (N, classes).

    `weights_name` is the member of torchvision's weights enums that `--weights imagenet` loads, None where there is none. Raises UsageError where
    the model cannot be cut into layers.
    """
    model = _model_of(name, make)
    _, values, cuts = _cut(name, model)
    strides = [_SIZE[0] // shape[1] if _SIZE[0] % shape[1] == 0 else 0 for shape in cuts.shapes]
    layers = list(zip(strides[1:], cuts.shapes[1:], strict=True))
    at_tap = [i for i, (stride, _) in enumerate(layers) if stride == _TAP_STRIDE]
    if strides[0] > _TAP_STRIDE or not strides[0] or not at_tap:
        raise _refusal(name, f"none of its layers has an output at stride {_TAP_STRIDE}, which decoders read")
    without = [i for i, part in enumerate(_operations(model, values, cuts)) if not _last_norm(part)]
    if without:
        raise _refusal(name, f"{len(without)} of its {len(cuts.blocks)} blocks have no batch normalisation")
    _build(name, make, light=False)  # finds what cannot be cut before anything depends on it
    light = any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())
    width = _LIGHT if light else _HEAVY
    return Backbone(
        name=name,
        build=partial(_build, name, make, light),
        layers=len(layers) + 1,
        tap=at_tap[-1],
        tap_channels=layers[at_tap[-1]][1][0],
        channels=width,
        stride=strides[-1],
        decoder_channels=width,
        separable=light,
        weights_name=weights_name,
        last_norm=_last_norm,
        stages=tuple(len(list(group)) for _, group in itertools.groupby(cuts.shapes)),
    )


def _model_of(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes. Raises UsageError where that is no module."""
    if isinstance(make, nn.Module) or not callable(make):
        raise UsageError(
            f"the backbone {name!r} needs what makes its model, a class or a function, not {type(make).__name__}; write lambda: ..."
        )
    model = make()
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the backbone {name!r}: what should make its model gave {type(model).__name__}, not a torch module"
        )
    return model.eval()


def _refusal(name: str, reason: str) -> UsageError:
    return UsageError(
        f"{name} cannot be a backbone: {reason}. Take a convolutional network such as resnet18, or one of those "
        "that are written for bmtas"
    )


def _cut(name: str, model: nn.Module) -> tuple[fx.Graph, dict[fx.Node, Any], _Cuts]:
    """Trace a model and cut its features into blocks. Raises UsageError where there are too few places to cut at."""
    try:
        graph = Tracer().trace(model)
        values = values_of(model, graph, _SIZE)
    except Exception as error:
        reason = " ".join(str(error).split())[:80]
        raise _refusal(name, f"it cannot be traced ({type(error).__name__}: {reason})") from error
    before, ends = _features(model, graph, values)
    units = _units(model, before)
    places = [node for node in ends if node is ends[-1] or _ends_block(model, units, node, before)]
    if len(places) < _LEAST_PLACES:
        raise _refusal(
            name,
            f"a single feature map (N, C, H, W) is alive between two blocks in {len(places)} places, and 3 are needed at least",
        )
    blocks, position = [], {node: i for i, node in enumerate(before)}
    for start, end in itertools.pairwise([-1, *(position[node] for node in places)]):
        blocks.append(tuple(before[start + 1 : end + 1]))
    shapes = tuple((int(c), int(h), int(w)) for _, c, h, w in (values[node].shape for node in places))
    return graph, values, _Cuts(tuple(blocks), tuple(places), shapes)


def _features(model: nn.Module, graph: fx.Graph, values: dict[fx.Node, Any]) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return the nodes before the global pooling, and those of them after which their value alone is alive and a feature map."""
    nodes = [n for n in graph.nodes if n.op not in ("placeholder", "output")]
    order = {node: i for i, node in enumerate(graph.nodes)}
    alive: set[fx.Node] = {n for n in graph.nodes if n.op == "placeholder"}
    before: list[fx.Node] = []
    ends: list[fx.Node] = []
    for node in nodes:
        if ends and node.all_input_nodes == [ends[-1]] and len(ends[-1].users) == 1 and _pools(model, node):
            break
        before.append(node)
        alive = {n for n in (*alive, node) if any(order[user] > order[node] for user in n.users)}
        if [n for n in alive if n.op != "get_attr"] == [node] and _is_map(node, values):
            ends.append(node)
    return before[: before.index(ends[-1]) + 1] if ends else [], ends


def _is_map(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Say whether a value is (N, C, H, W), as its sides tell that are as oblong as the image."""
    if not is_tensor(node, values) or values[node].dim() != 4:
        return False
    height, width = values[node].shape[2:]
    return height > 1 and abs(width / height - _SIZE[1] / _SIZE[0]) < 0.5 / height


def _pools(model: nn.Module, node: fx.Node) -> bool:
    """Say whether a node takes a mean over all places, or a feature map apart."""
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), (nn.AdaptiveAvgPool2d, nn.Flatten))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name in _POOLING


def _units(model: nn.Module, nodes: Sequence[fx.Node]) -> dict[fx.Node, str | None]:
    """Return the block in which each node stands, by its module's name; None for what stands loose between blocks."""
    return {node: next(_blocks_around(model, node), None) for node in nodes}


def _blocks_around(model: nn.Module, node: fx.Node) -> Iterator[str]:
    """Yield the modules around a node that are blocks, the outermost first."""
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        part = model.get_submodule(path)
        children = list(part.children())
        if not path or not children:
            continue
        small = all(not list(child.children()) for child in children)
        if type(part) in _CONTAINERS or (isinstance(part, _CONTAINERS) and not small):
            continue
        yield path


def _ends_block(model: nn.Module, units: dict[fx.Node, str | None], node: fx.Node, nodes: Sequence[fx.Node]) -> bool:
    """Say whether one block ends with `node` and another begins: a module, or a loose convolution with what follows it."""
    after = next((n for n in nodes[nodes.index(node) + 1 :] if n.op != "get_attr"), None)
    if after is None:
        return True
    unit, following = units[node], units[after]
    if following is None:
        return after.op == "call_module" and isinstance(model.get_submodule(str(after.target)), nn.Conv2d)
    return unit != following


def _operations(model: nn.Module, values: dict[fx.Node, Any], cuts: _Cuts) -> list[nn.Module]:
    """Return the module of each block: the model's own where it is one, else a piece of its graph. Parameters keep their paths in the model."""
    image = next(node for node in values if node.op == "placeholder")
    parts: list[nn.Module] = []
    for nodes, begin, end in zip(cuts.blocks, (image, *cuts.outputs), cuts.outputs, strict=False):
        parts.append(part_of(model, [n for n in nodes if n.op != "get_attr"], [begin], end, values))
    return parts


def _build(name: str, make: Callable[[], nn.Module], light: bool) -> Parts:
    model = make().eval()
    _, values, cuts = _cut(name, model)
    stem, *layers = (copy.deepcopy(part) for part in _operations(model, values, cuts))
    keys: dict[str, str] = {}
    for place, part in [("stem", stem), *((f"layers.{i:02d}", layer) for i, layer in enumerate(layers))]:
        owners = {key.rpartition(".")[0] for key in part.state_dict()}
        if "" in owners:
            raise _refusal(name, "it has parameters of its own outside of its modules; put them into a module")
        twice = sorted(owners & set(keys))
        if twice:  # pretrained weights could go to one of the copies alone
            raise _refusal(name, f"{twice[0]} is used in two layers; give each layer modules of its own")
        keys.update({owner: f"{place}.{owner}" for owner in sorted(owners)})
    channels = cuts.shapes[-1][0]
    context = RASPP(channels, _LIGHT) if light else ASPP(channels, _HEAVY)
    return Parts(stem, (*layers, context), keys)


def _last_norm(layer: nn.Module) -> str:
    """Return the path of the last batch normalisation on the longest way through a layer, empty if there is none."""
    if isinstance(layer, (RASPP, ASPP)):
        return "project.1"
    assert isinstance(layer, Part)
    node: fx.Node | None = next(n for n in layer.graph.nodes if n.op == "output")
    depth: dict[fx.Node, int] = {}
    for each in layer.graph.nodes:
        depth[each] = max((depth[n] for n in each.all_input_nodes), default=0) + _is(layer, each, nn.Conv2d)
    while node is not None and not _is(layer, node, nn.BatchNorm2d):
        node = max(node.all_input_nodes, key=lambda n: depth[n], default=None)
    return "" if node is None else str(node.target)


def _is(layer: nn.Module, node: fx.Node, kind: type[nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(layer.get_submodule(str(node.target)), kind)
