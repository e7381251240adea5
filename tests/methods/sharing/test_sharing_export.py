"""Networks that share by a fixed rule, exported: ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from bmtas.config import Method
from bmtas.methods.sharing.space import NETWORKS, open_space
from bmtas.networks.network import build_network
from export.interface import Interface
from export.onnx_file import master_model
from tests.methods.sharing.few_tasks import TASKS, image, kit_of, settled

TWO = TASKS[:2]
SIZE = (64, 80)


# MTAN on a backbone that strides between stages, and whose attention is separable.
@pytest.mark.parametrize(
    ("method", "backbone"),
    [
        *(pytest.param(m, "tiny", marks=[] if m is Method.MTAN else pytest.mark.slow) for m in NETWORKS),
        pytest.param(Method.MTAN, "mobilenet_v2", marks=pytest.mark.slow),
    ],
)
def test_exports_compute_the_same(method: Method, backbone: str) -> None:
    architecture, start = open_space(method, kit_of(backbone, TWO), {}).architecture, NETWORKS[method].start
    torch.manual_seed(0)
    network = build_network(architecture, TWO)
    if start is not None:
        start(network)
    settled(network, SIZE)
    model = master_model(
        network, architecture=architecture, tasks=TWO, size=SIZE, costs={"madds": 1.0}, interface=Interface()
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = image(50, SIZE, count=1)
    found = session.run(None, {"image": x.numpy()})
    with torch.no_grad():
        expected = network(x)
    for raw, task in zip(found, TWO, strict=True):
        scale = float(expected[task.name].abs().max())
        np.testing.assert_allclose(raw, expected[task.name].numpy(), atol=1e-4 * scale)
