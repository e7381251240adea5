"""Networks that share by a fixed rule, exported: ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from bmtas.config import Method
from bmtas.methods.sharing.space import NETWORKS, open_space
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.operations import Kit
from bmtas.tasks import Task, TaskKind
from export.interface import Interface
from export.onnx_file import master_model

TASKS = (
    Task(name="semseg", kind=TaskKind.SEGMENTATION, classes=("a", "b")),
    Task(name="depth", kind=TaskKind.DEPTH),
)


def image(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 80, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def settled(network: GraphNetwork) -> GraphNetwork:
    """Let normalisations take the statistics of images, so that folding them is no matter of ones and zeros."""
    with torch.no_grad():
        for seed in range(10):
            network.train()(image(seed))
    return network.eval()


# MTAN on a backbone that strides between stages, and whose attention is separable.
@pytest.mark.parametrize(
    ("method", "backbone"), [(m, "mobilenet_v2" if m is Method.MTAN else "tiny") for m in NETWORKS]
)
def test_exports_compute_the_same(method: Method, backbone: str) -> None:
    kit = Kit(get_backbone(backbone), {task.name: task for task in TASKS})
    architecture, start = open_space(method, kit, {}).architecture, NETWORKS[method].start
    torch.manual_seed(0)
    network = build_network(architecture, TASKS)
    if start is not None:
        start(network, None)
    settled(network)
    model = master_model(
        network, architecture=architecture, tasks=TASKS, size=(64, 80), costs={"madds": 1.0}, interface=Interface()
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = image(50, 1)
    found = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = network(x)
    for raw, task in zip(found, TASKS, strict=True):
        scale = float(expected[task.name].abs().max())
        np.testing.assert_allclose(raw, expected[task.name].numpy(), atol=1e-4 * scale)
