"""A settled network of all kinds of tasks stays within the limits that the docs state for 16 bits, with every value rounded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bmtas.architecture import Architecture
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task
from export.interface import Interface
from export.onnx_file import master_model
from export.precision.ranges import lowered
from export.precision.simulate import simulated
from export.proof.compare import compare, pairs
from export.proof.limits import limits_for
from export.sessions.onnx import OnnxSession


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.uniform(-1, 1, (1, 3, 32, 48)).astype(np.float32) for _ in range(count)]


def report_of(model: Any, network: GraphNetwork, tasks: tuple[Task, ...], precision: str) -> dict[str, Any]:
    def reference(image: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {task: value.numpy() for task, value in network(torch.from_numpy(image)).items()}

    session = OnnxSession(simulated(model).SerializeToString(), threads=1)
    return compare(pairs(reference, session, images(4)), tasks, limits_for(precision, tasks))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_stay_within_their_limits(
    precision: str, exported: Callable[..., Any], tiny_network: GraphNetwork, every_kind: tuple[Task, ...]
) -> None:
    model, checked = lowered(exported(), precision, [{"image": image} for image in images(2)])
    # Some weights of this network are smaller than FP16's least; nothing is larger than its largest.
    assert all(entry["largest"] < 1e-6 for entry in checked["out_of_range"])
    report = report_of(model, tiny_network, every_kind, precision)
    assert report["passed"], report
    # 11 and 8 bits of significand: what is rounded must differ from FP32, and by less than a tenth of what it holds.
    worst = report["tasks"]["depth"]["max_scaled_difference"]
    assert 2.0**-16 < worst < 0.1


def test_an_output_that_overflows_fp16_is_kept_in_fp32_and_named(
    exported: Callable[..., Any], tiny_network: GraphNetwork, every_kind: tuple[Task, ...]
) -> None:
    loud = copy.deepcopy(tiny_network)
    with torch.no_grad():
        for value in loud.get_submodule("heads.depth.predict").parameters():
            value *= 1e6
    told = {p.key: p.value for p in exported().metadata_props}["bmtas.architecture"]
    model = master_model(
        loud,
        architecture=Architecture.from_json(json.loads(told)),
        tasks=every_kind,
        size=(32, 48),
        costs={},
        interface=Interface(),
    )
    feeds = [{"image": image} for image in images(2)]
    half, checked = lowered(model, "fp16", feeds)
    kept = {entry["node"]: entry["largest"] for entry in checked["out_of_range"] if entry["largest"] > 65504 / 4}
    # The layer itself; the output's Resize takes its result and is in FP32 anyway.
    assert "heads.depth.predict/Conv" in kept
    assert {node.split("/")[0] for node in kept} <= {"heads.depth.predict", "heads.depth", "network"}
    assert max(kept.values()) > 65504
    weights = {i.name: i.data_type for i in half.graph.initializer}
    loud_node = next(node for node in half.graph.node if node.name == "heads.depth.predict/Conv")
    assert weights[loud_node.input[1]] == onnx.TensorProto.FLOAT
    assert report_of(half, loud, every_kind, "fp16")["passed"]
