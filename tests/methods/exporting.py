"""The export of a method's network as it stands, at opset 18, and what ONNX Runtime computes by it."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from bmtas.networks.network import GraphNetwork


def computed_by_export(network: GraphNetwork, image: Tensor) -> dict[str, npt.NDArray[np.float32]]:
    """Return the predictions of the exported network by task; skip the test where there is no ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(network, (image,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return dict(zip(network.graph.tasks, found, strict=True))
