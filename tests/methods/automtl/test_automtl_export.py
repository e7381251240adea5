"""Networks of AutoMTL exported: ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bmtas.methods.automtl.prices import OWN, SKIP
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.tasks import Task, TaskKind
from tests.methods.exporting import computed_by_export


@pytest.mark.parametrize("backbone", ["tiny", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_networks_export_at_opset_18(backbone: str) -> None:
    tasks = (Task(name="normals", kind=TaskKind.NORMALS), Task(name="depth", kind=TaskKind.DEPTH))
    space = ConvolutionSpace(Kit(get_backbone(backbone), {task.name: task for task in tasks}))
    choices = np.random.default_rng(5).integers(0, 3, (2, len(space.trace.convs)))
    choices[0, 0], choices[1, 0] = SKIP, OWN  # the skip of the stem of tiny cuts borders
    torch.manual_seed(0)
    network = build_network(space.architecture(choices), tasks).eval()
    image = torch.randn(1, 3, 64, 64)
    found = computed_by_export(network, image)
    with torch.no_grad():
        expected = network(image)
    for task, theirs in expected.items():
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(found[task], theirs.numpy(), rtol=1e-3, atol=1e-4 * scale)
