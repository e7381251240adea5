"""The small supergraph, made anew for each test."""

from __future__ import annotations

import pytest
import torch

from bmtas.networks.supergraph import Supergraph
from tests.networks.small_supergraph import SHORT, TASKS


@pytest.fixture
def supergraph() -> Supergraph:
    torch.manual_seed(0)
    return Supergraph(SHORT, TASKS, None).eval()
