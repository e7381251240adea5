"""The backbone `tiny`: costs by hand, what passes where, and that it has no ImageNet weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bmtas.architecture import BranchedArchitecture
from bmtas.errors import UsageError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.networks.tiny import TinyBlock
from bmtas.networks.weights import load_weights
from bmtas.profile import build_table, count_network
from bmtas.tasks import Task, TaskKind
from costs.units import Resource

TINY = get_backbone("tiny")
TASKS = tuple(Task(name=name, kind=TaskKind.NORMALS) for name in ("p", "q"))
PLACES = 64  # of a feature map at 32 x 32 pixels: the stem's stride is 4


def test_layers_strides_and_channels() -> None:
    operations = TINY.operations()
    assert list(operations) == ["stem", *(f"layers.0{i}" for i in range(6))]
    x, shapes = torch.zeros(2, 3, 32, 48), []
    with torch.no_grad():
        for operation in operations.values():
            x = operation.eval()(x)
            shapes.append(tuple(x.shape))
    assert shapes == [(2, 12, 8, 12)] * 4 + [(2, 4, 8, 12)] * 3
    assert (TINY.layers, TINY.stride, TINY.channels, TINY.tap_channels) == (6, 4, 4, 4)


def test_heads_read_the_last_layer_alone() -> None:
    # Otherwise a head could go round the narrow layers, and the planted tree would not be right any more.
    assert TINY.tap == TINY.layers - 1
    graph = build_network(BranchedArchitecture.separate("tiny", ("p", "q"), 6), TASKS).graph
    heads = [node for node in graph.nodes if node.operation.startswith("heads.")]
    assert [node.inputs for node in heads] == [("layers.05.p", "layers.05.p"), ("layers.05.q", "layers.05.q")]


def test_costs_by_hand() -> None:
    table = build_table(TINY, TASKS, (32, 32))
    # A layer from i to o channels over h hidden ones takes h (9 i + o) multiply-adds per place: with (i, h, o) =
    # (12, 14, 12), (12, 15, 4), (4, 42, 4) 14 * 120 = 15 * 112 = 42 * 40 = 1680.
    assert [layer.per_group[Resource.MADDS] for layer in table.layers] == [1680 * PLACES] * 6
    # The convolutions' weights, and scale and shift of both normalisations: 1680 + 2 h + 2 o.
    wide, narrowing, narrow = 1680 + 28 + 24, 1680 + 30 + 8, 1680 + 84 + 8
    params = [layer.per_group[Resource.PARAMS] for layer in table.layers]
    assert params == [wide, wide, wide, narrowing, narrow, narrow]
    stem, *heads = (fixed.cost for fixed in table.fixed)
    assert stem[Resource.MADDS] == 4 * 4 * 3 * 12 * PLACES
    assert stem[Resource.PARAMS] == 4 * 4 * 3 * 12 + 2 * 12
    # 1x1 from 4 to 48, 3x3 from 4 + 48 to 16, 3x3 from 16 to 16, each normalised; 1x1 to 3 with a bias.
    weights = 4 * 48 + 9 * 52 * 16 + 9 * 16 * 16 + 16 * 3
    for head in heads:
        assert head[Resource.MADDS] == weights * PLACES
        assert head[Resource.PARAMS] == weights + 2 * (48 + 16 + 16) + 3


def test_a_network_costs_what_its_table_says() -> None:
    table = build_table(TINY, TASKS, (32, 32))
    together, apart = (("p", "q"),), (("p",), ("q",))
    tree = BranchedArchitecture(backbone="tiny", tasks=("p", "q"), groupings=(together,) * 3 + (apart,) * 3)
    count = count_network(build_network(tree, TASKS), (32, 32))
    groupings = [[list(block) for block in grouping] for grouping in tree.task_indices]
    assert count.madds == table.architecture_cost(groupings, Resource.MADDS) == (576 + 9 * 1680 + 2 * 10032) * PLACES
    assert count.params == table.architecture_cost(groupings, Resource.PARAMS)


def test_a_block_by_its_formula() -> None:
    torch.manual_seed(0)
    for inputs, outputs in ((12, 12), (12, 4), (4, 4)):
        block = TinyBlock(inputs, outputs).eval()
        x = 3 * torch.randn(2, inputs, 5, 6)
        first, norm, second, last = (block.conv.get_submodule(name) for name in ("0.0", "0.1", "1", "2"))
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(last, nn.BatchNorm2d)
        with torch.no_grad():
            out = block(x)
            hidden = F.conv2d(x, first.weight, padding=1) / (1 + norm.eps) ** 0.5
            expected = F.conv2d(hidden.clamp(0, 6), second.weight) / (1 + last.eps) ** 0.5
        torch.testing.assert_close(out, expected + x if inputs == outputs else expected)
        assert out.min() < 0  # a channel carries numbers of both signs


def test_a_supergraph_of_it() -> None:
    torch.manual_seed(0)
    supergraph = Supergraph(TINY, TASKS, None)
    assert supergraph.shape == (6, 2, 2)
    assert supergraph.not_fusible() == {}
    for candidates in supergraph.layers:
        assert isinstance(candidates, nn.ModuleList)
        for candidate in candidates:
            norm = candidate.get_submodule(TINY.last_norm(candidate))
            assert isinstance(norm, nn.BatchNorm2d)
            assert not norm.affine
    assert supergraph(torch.zeros(2, 3, 32, 32), 1, own_candidates(6, 2, 1)).shape == (2, 3, 32, 32)


def test_imagenet_weights_are_refused_and_a_file_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ImageNet weights of tiny.*--weights none"):
        load_weights("imagenet", TINY)
    operations = TINY.operations()
    state = {f"{name}.{key}": value for name, part in operations.items() for key, value in part.state_dict().items()}
    torch.save(state, tmp_path / "tiny.pth")
    weights = load_weights(str(tmp_path / "tiny.pth"), TINY)
    assert weights is not None
    fresh = TINY.operations()
    weights.load_into(fresh)
    for name, part in operations.items():
        for key, value in part.state_dict().items():
            assert torch.equal(fresh[name].state_dict()[key], value), f"{name}.{key}"
