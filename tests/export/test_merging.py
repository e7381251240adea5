"""Merged branches compute what the separate ones compute, and are used only where measuring says that they win."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from bmtas.architecture import BranchedArchitecture
from bmtas.errors import BuildError, UsageError
from bmtas.networks.network import build_network
from bmtas.tasks import Task, TaskKind
from export.madds import madds
from export.merging.choose import MergeResult, choose, in_turn, require_equal, site_part
from export.merging.merge import merge
from export.merging.sites import Site, sites
from export.onnx_file import write_onnx
from export.sessions.onnx import OnnxSession
from export.stopwatch import Timed
from tests.export.drawing import (
    BRANCHES,
    Drawing,
    group_of,
    image,
    kinds,
    require_same,
    two_layers,
    weight_of,
)


class TestMerge:
    def test_a_common_input_gives_a_wider_convolution_and_depthwise_stays_depthwise(self) -> None:
        model = two_layers()
        wide = next(s for s in sites(model) if s.kind == "wide")
        assert (wide.layer, wide.branches, len(wide.operations)) == ("layers.01", ("a", "b"), 3)
        merged = merge(model, [wide])
        require_same(model, merged)
        first, depthwise = "layers.01.a|b.0/Conv", "layers.01.a|b.2/Conv"
        assert (weight_of(merged, first), group_of(merged, first)) == ([12, 4, 1, 1], 1)
        assert (weight_of(merged, depthwise), group_of(merged, depthwise)) == ([12, 1, 3, 3], 12)
        assert kinds(merged) == Counter(Conv=5, Clip=1, HardSwish=2, Add=2, Identity=2, Split=1)
        assert madds(merged) == madds(model) == 36 * (4 * 4 * 9 + 2 * (6 * 4 + 6 * 9 + 6 * 6 * 9))

    def test_different_inputs_give_a_grouped_convolution(self) -> None:
        model = two_layers()
        grouped = next(s for s in sites(model) if s.layer == "layers.02")
        assert grouped.kind == "grouped"
        merged = merge(model, [grouped])
        require_same(model, merged)
        conv = "layers.02.a|b.0/Conv"
        assert (weight_of(merged, conv), group_of(merged, conv)) == ([12, 6, 3, 3], 2)
        # One Concat for both readers of the two values, the convolution and the sum.
        assert kinds(merged) == Counter(Conv=6, Clip=2, HardSwish=1, Add=1, Identity=2, Concat=1, Split=1)
        assert madds(merged) == madds(model)

    def test_between_merged_layers_nothing_is_split(self) -> None:
        model = two_layers()
        merged = merge(model, sites(model))  # the wide one of the first layer, the grouped one of the second
        require_same(model, merged)
        assert kinds(merged) == Counter(Conv=4, Clip=1, HardSwish=1, Add=1, Identity=2, Split=1)
        assert madds(merged) == madds(model)

    def test_grouped_convolutions_stay_apart(self) -> None:
        drawing = Drawing(channels=4)
        stem = drawing.node("Relu", "stem/Relu", "image")
        model = drawing.model({b: drawing.conv(f"layers.00.{b}/Conv", stem, 6, 2, group=2) for b in BRANCHES})
        (site,) = sites(model)
        assert site.kind == "grouped"  # on one input, but groups read parts of it: it stands there twice
        merged = merge(model, [site])
        require_same(model, merged)
        assert group_of(merged, "layers.00.a|b/Conv") == 4
        assert madds(merged) == madds(model) == 2 * 36 * 6 * 2 * 9

    def test_a_channel_concatenation_stays_and_what_is_around_it_is_merged(self) -> None:
        drawing = Drawing()
        axes, shape = drawing.numbers("axes", [-1, 2]), drawing.numbers("shape", [1, 5, 6, 6])
        sizes = drawing.numbers("sizes", [1, 3, 12, 12])
        half = drawing.numbers("half", [0.5], np.float32)
        outputs = {}
        for b in BRANCHES:
            x = drawing.conv(f"layers.00.{b}/Conv", "image", 8, 4, kernel=1)
            local = drawing.node("Relu", f"layers.01.{b}.l/Relu", drawing.conv(f"layers.01.{b}.l/Conv", x, 5, 8))
            mean = drawing.node("ReduceMean", f"layers.01.{b}.p/ReduceMean", x, axes, keepdims=1)
            pooled = drawing.node(
                "Sigmoid", f"layers.01.{b}.p/Sigmoid", drawing.conv(f"layers.01.{b}.p/Conv", mean, 5, 8, 1)
            )
            spread = drawing.node("Expand", f"layers.01.{b}/Expand", pooled, shape)
            both = drawing.node("Concat", f"layers.01.{b}/Concat", local, spread, axis=1)
            y = drawing.conv(f"layers.01.{b}.j/Conv", both, 3, 10, 1)
            y = drawing.node("Mul", f"layers.01.{b}/Mul", y, half)
            y = drawing.node("Resize", f"layers.01.{b}/Resize", y, "", "", sizes, mode="linear")
            outputs[b] = drawing.node("MaxPool", f"layers.01.{b}/MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
        model = drawing.model(outputs)
        site = next(s for s in sites(model) if s.layer == "layers.01")
        assert len(site.operations) == 10
        assert not any("Concat" in name for name in site.nodes)
        merged = merge(model, [site])
        require_same(model, merged)
        # Side by side before and after the two concatenations that stay; split before them, twice, and at the end.
        assert (kinds(merged)["Concat"], kinds(merged)["Split"]) == (2 + 2, 3)
        assert madds(merged) == madds(model)

    def test_the_model_is_not_modified_and_metadata_stay(self) -> None:
        model = two_layers()
        model.metadata_props.add(key="bmtas.costs", value="{}")
        before = model.SerializeToString(deterministic=True)
        merged = merge(model, sites(model)[:1])
        assert model.SerializeToString(deterministic=True) == before
        assert list(merged.metadata_props) == list(model.metadata_props)
        assert len({n.name for n in merged.graph.node}) == len(merged.graph.node)

    def test_constants_keep_their_type(self) -> None:
        model = two_layers()
        for constant in model.graph.initializer:
            array = numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        for output in model.graph.output:
            output.type.tensor_type.elem_type = TensorProto.FLOAT16
        del model.graph.value_info[:]
        merged = merge(model, [s for s in sites(model) if s.kind == "wide"])
        assert {i.data_type for i in merged.graph.initializer} == {TensorProto.FLOAT16, TensorProto.INT64}

    def test_sites_that_overlap_or_belong_elsewhere_are_refused(self) -> None:
        model = two_layers()
        site = sites(model)[0]
        with pytest.raises(UsageError, match=r"two sites merge the node 'layers\.01\.a\.0/Conv'"):
            merge(model, [site, site])
        with pytest.raises(UsageError, match=r"no node 'layers\.09"):
            merge(model, [Site("layers.09", BRANCHES, "wide", (("layers.09.a/Conv", "layers.09.b/Conv"),))])
        with pytest.raises(UsageError, match="cannot be merged"):
            merge(model, [Site("layers.01", BRANCHES, "wide", (("layers.01.a.0/Conv", "layers.01.b.1/Clip"),))])
        chained = (("layers.01.a.2/Conv", "layers.01.b.2/Conv"), ("layers.01.a.0/Conv", "layers.02.b.0/Conv"))
        with pytest.raises(UsageError, match="cannot be merged"):
            merge(model, [Site("layers.01", BRANCHES, "grouped", chained)])


class TestSites:
    def test_what_is_not_equal_is_no_site(self) -> None:
        def drawn(change: Callable[[Drawing, str], str]) -> list[Site]:
            drawing = Drawing()
            outputs = {b: drawing.node("Relu", f"layers.00.{b}/Relu", change(drawing, b)) for b in BRANCHES}
            return sites(drawing.model(outputs))

        def conv(drawing: Drawing, b: str, **changed: Any) -> str:
            arguments = {"out": 4, "per_group": 4, "kernel": 3} | changed
            return drawing.conv(f"layers.00.{b}/Conv", "image", **arguments)

        assert len(drawn(conv)) == 1
        assert drawn(lambda d, b: conv(d, b, out=4 if b == "a" else 8)) == []
        assert drawn(lambda d, b: conv(d, b, kernel=3 if b == "a" else 1)) == []
        assert drawn(lambda d, b: conv(d, b, dilations=[1, 1] if b == "a" else [2, 2])) == []
        assert drawn(lambda d, b: d.node("Relu", f"layers.00.{b}.x/Relu", conv(d, b)) if b == "a" else conv(d, b)) == []

    def test_activations_with_other_bounds_and_weights_that_are_no_constants_stay(self) -> None:
        drawing = Drawing()
        low = drawing.numbers("low", 0, np.float32)
        outputs = {}
        for b, top in zip(BRANCHES, (6, 7), strict=True):
            x = drawing.conv(f"layers.00.{b}/Conv", "image", 4, 4)
            x = drawing.node("Clip", f"layers.00.{b}/Clip", x, low, drawing.numbers(f"high.{b}", top, np.float32))
            weight = drawing.node("Identity", f"layers.01.{b}/Identity", drawing.constant(f"w.{b}", 4, 4, 3, 3))
            outputs[b] = drawing.node("Conv", f"layers.01.{b}/Conv", x, weight)
        model = drawing.model(outputs)
        (site,) = sites(model)
        assert site.operations == (("layers.00.a/Conv", "layers.00.b/Conv"),)
        require_same(model, merge(model, [site]))

    def test_branches_that_need_each_other_are_no_site(self) -> None:
        drawing = Drawing()
        first = drawing.conv("layers.00.a/Conv", "image", 4, 4)
        second = drawing.conv("layers.00.b/Conv", first, 4, 4)
        model = drawing.model({"a": first, "b": second})
        assert sites(model) == []
        with pytest.raises(UsageError, match="needs the result of another"):
            merge(model, [Site("layers.00", BRANCHES, "grouped", (("layers.00.a/Conv", "layers.00.b/Conv"),))])

    def test_nodes_without_names_are_refused(self) -> None:
        model = two_layers()
        model.graph.node[0].name = ""
        with pytest.raises(UsageError, match="name of their own"):
            sites(model)


A, B, C, D = NAMES = ("semseg", "depth", "normals", "edge")
TASKS = (
    Task(name=A, kind=TaskKind.SEGMENTATION, classes=("wall", "floor", "chair")),
    Task(name=B, kind=TaskKind.DEPTH),
    Task(name=C, kind=TaskKind.NORMALS),
    Task(name=D, kind=TaskKind.EDGE),
)


def exported(backbone: str, names: tuple[str, ...], groupings: Any, path: Path) -> ModelProto:
    architecture = BranchedArchitecture(backbone=backbone, tasks=names, groupings=groupings)
    tasks = [task for task in TASKS if task.name in names]
    torch.manual_seed(0)
    network = build_network(architecture, tasks).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # without biases values vanish with depth, and all would seem equal
            nn.init.uniform_(module.bias, -0.5, 0.5)
    write_onnx(network, path, architecture=architecture, tasks=tasks, size=(64, 64), costs={})
    return onnx.load(str(path))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    two, four = ((A, B), (C, D)), ((A,), (B,), (C,), (D,))
    return exported("tiny", NAMES, ((NAMES,), (NAMES,), two, two, four, four), path)


class TestNetworks:
    def test_the_sites_of_a_tree(self, tiny: ModelProto) -> None:
        found = [(s.layer, "|".join(s.branches), s.kind, len(s.operations)) for s in sites(tiny)]
        pairs, all_four = f"{A}+{B}|{C}+{D}", "|".join(NAMES)
        assert found == [
            ("layers.02", pairs, "wide", 2),  # Conv, Clip on the trunk's output
            ("layers.02", pairs, "grouped", 4),  # Conv, Clip, Conv, Add
            ("layers.02-03", pairs, "grouped", 7),
            ("layers.03", pairs, "grouped", 3),  # no residual where the channels change
            ("layers.04", f"{A}|{B}", "wide", 2),
            ("layers.04", f"{C}|{D}", "wide", 2),
            ("layers.04", all_four, "grouped", 4),
            ("layers.04-05", all_four, "grouped", 8),
            ("layers.05", all_four, "grouped", 4),
            (
                "heads",
                all_four,
                "grouped",
                7,
            ),  # all but the concatenation and the last convolution, whose channels differ
        ]

    def test_each_site_and_all_of_them_keep_the_outputs_and_the_madds(self, tiny: ModelProto) -> None:
        found = sites(tiny)
        together = [s for s in found if s.kind == "grouped" and "-" not in s.layer]
        separate, feeds = OnnxSession(tiny.SerializeToString(), threads=1), [image(tiny)]
        assert min(float(np.abs(value).max()) for value in separate.run(feeds[0]).values()) > 0.1
        for chosen in (*([site] for site in found), together):
            merged = merge(tiny, chosen)
            assert madds(merged) == madds(tiny)
            assert require_equal(separate, OnnxSession(merged.SerializeToString(), threads=1), feeds) <= 1e-5
        require_same(tiny, merged)

    @pytest.mark.slow
    def test_a_mobilenet_with_its_aspp(self, tmp_path: Path) -> None:
        names = (B, C)
        model = exported("mobilenet_v2", names, ((names,),) * 15 + (((B,), (C,)),) * 3, tmp_path / "model.onnx")
        chain, heads = (next(s for s in sites(model) if s.layer == layer) for layer in ("layers.15-17", "heads"))
        # Two inverted residual blocks (5 nodes and perhaps a sum) and R-ASPP: all but its concatenation.
        assert len(chain.operations) == 6 + 5 + 8
        assert heads.kind == "wide"  # both heads read the tap
        merged = merge(model, [chain, heads])
        require_same(model, merged)
        assert madds(merged) == madds(model)
        assert group_of(merged, f"layers.15.{B}|{C}.conv.1.1/Conv") == 2 * 960

    def test_a_site_is_measured_on_its_own_nodes(self, tiny: ModelProto) -> None:
        wide = next(s for s in sites(tiny) if s.layer == "layers.04" and s.branches == (A, B))
        own = site_part(tiny, wide)
        assert kinds(own.model) == Counter(Conv=2, Clip=2)
        assert [value.shape for value in own.inputs] == [(1, 4, 16, 16)]
        assert [value.shape for value in own.outputs] == [(1, 42, 16, 16)] * 2
        heads = next(s for s in sites(tiny) if s.layer == "heads")
        assert kinds(site_part(tiny, heads).model)["Concat"] == 4  # those in between are measured along


class Scripted:
    """A stopwatch that says in turn what the test wants: the ratio of separate over merged, twice each a little around."""

    def __init__(self, ratios: Sequence[tuple[float, ...]], unit_ms: float = 10.0) -> None:
        self._ratios = iter(ratios)
        self._unit = unit_ms
        self.asked: list[list[str]] = []

    def __call__(self, candidates: Mapping[str, Timed]) -> dict[str, list[float]]:
        self.asked.append(list(candidates))
        assert all(run() > 0 for run in candidates.values())
        ratios = next(self._ratios)
        return {"separate": [r * self._unit for r in ratios], "merged": [self._unit] * len(ratios)}


WIN, DRAW, LOSS = (1.2, 1.3, 1.4, 1.5), (0.8, 1.1, 1.2, 1.3), (0.5, 0.6, 0.7, 0.8)


def chosen_of(model: ModelProto, ratios: Sequence[tuple[float, ...]]) -> MergeResult:
    measure = Scripted(ratios)
    result = choose(model, [image(model)], measure)
    assert len(measure.asked) == len(ratios)  # whole networks are measured only where a site has won
    return result


class TestChoose:
    def test_only_sites_whose_lower_quartile_wins_are_taken(self) -> None:
        model = two_layers()
        assert [s.layer for s in sites(model)] == ["layers.01", "layers.02"]
        result = chosen_of(model, [LOSS, WIN, WIN])
        assert [s.layer for s in result.chosen] == ["layers.02"]
        assert result.merged
        assert kinds(result.model)["Concat"] == 1
        assert [v.ratio["median"] for v in result.verdicts] == pytest.approx([0.65, 1.35])
        require_same(model, result.model)
        # The median wins, the lower quartile does not: that is no win.
        assert [s.layer for s in chosen_of(model, [DRAW, WIN, WIN]).chosen] == ["layers.02"]

    def test_off_where_nothing_wins(self) -> None:
        model = two_layers()
        result = chosen_of(model, [LOSS, DRAW])
        assert result.model is model
        assert (result.merged, result.whole, result.chosen) == (False, None, ())
        assert result.to_json()["separate_over_merged"] is None

    @pytest.mark.parametrize("whole", [LOSS, DRAW])
    def test_off_where_the_whole_does_not_win(self, whole: tuple[float, ...]) -> None:
        model = two_layers()
        result = chosen_of(model, [WIN, WIN, whole])
        assert result.model is model
        assert not result.merged
        assert len(result.chosen) == 2
        report = result.to_json()
        assert report["separate_over_merged"]["median"] == pytest.approx(np.median(whole))
        assert [site["chosen"] for site in report["sites"]] == [True, True]

    def test_of_sites_that_overlap_the_one_that_saves_most_is_taken(self, tiny: ModelProto) -> None:
        found = sites(tiny)
        best = next(i for i, s in enumerate(found) if s.layer == "layers.02-03")
        ratios = [(3.0,) * 4 if i == best else (2.0,) * 4 for i in range(len(found))]
        result = chosen_of(tiny, [*ratios, WIN])
        assert found[best] in result.chosen
        assert {s.layer for s in result.chosen}.isdisjoint({"layers.02", "layers.03"})
        for first, second in itertools.combinations(result.chosen, 2):
            assert first.nodes.isdisjoint(second.nodes)

    def test_the_house_s_stopwatch(self) -> None:
        model = two_layers()
        result = choose(model, [image(model)], in_turn(samples=3, warmup=1))
        assert [v.site for v in result.verdicts] == sites(model)
        assert result.merged == (result.model is not model)
        with pytest.raises(UsageError, match="at least 2 samples"):
            in_turn(samples=1, warmup=0)

    def test_other_outputs_are_refused(self) -> None:
        model, other = two_layers(), two_layers()
        bias = next(i for i in other.graph.initializer if i.name == "layers.02.b.0/Conv.bias")
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        sides = [OnnxSession(m.SerializeToString()) for m in (model, other)]
        with pytest.raises(BuildError, match=r"output 'b' differs from the original by 0\.0.*is allowed"):
            require_equal(*sides, [image(model)])
        assert require_equal(sides[0], sides[0], [image(model)]) == 0

    def test_no_image_is_refused(self) -> None:
        with pytest.raises(UsageError, match="give at least one"):
            choose(two_layers(), [], in_turn(2, 0))
