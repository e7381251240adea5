"""The choice of forms: the faster one is taken, once per machine, and measuring leaves no trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bmtas.files import cache_folder
from bmtas.networks import forms
from bmtas.networks.backbone import Parts, get_backbone
from bmtas.networks.candidates import FUSED, SEQUENTIAL, Candidates
from bmtas.networks.supergraph import Supergraph
from bmtas.tasks import Task, TaskKind

TASKS = tuple(Task(name=name, kind=TaskKind.CLASSIFICATION, classes=("x", "y")) for name in ("one", "two"))
MOBILENET = get_backbone("mobilenet_v2")
LAYERS = 4


class Unusual(nn.Module):
    """A layer that cannot be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.norm = nn.Conv2d(24, 24, 1), nn.Dropout2d(), nn.BatchNorm2d(24)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.drop(self.conv(x)))
        return out


def first_layers() -> Parts:
    parts = MOBILENET.build()
    return Parts(parts.stem, (*parts.layers[: LAYERS - 1], Unusual()), parts.keys)


def last_norm(layer: nn.Module) -> str:
    return "norm" if isinstance(layer, Unusual) else MOBILENET.last_norm(layer)


SHORT = replace(MOBILENET, build=first_layers, layers=LAYERS, channels=24, stride=4, last_norm=last_norm)


@pytest.fixture
def supergraph() -> Supergraph:
    torch.manual_seed(0)
    return Supergraph(SHORT, TASKS, None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMTAS_CACHE", str(tmp_path))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Passes take what is written here: fused is faster in the layers of 16 and of 24 channels but the first."""
    passes: list[tuple[str, int]] = []
    outliers = iter([50.0])  # the first measurement of all is disturbed, and counts as the warm-up

    def one_pass(layer: Candidates, x: Tensor) -> float:
        passes.append((layer.form, x.shape[1]))
        seconds = {(SEQUENTIAL, 32): 1.0, (FUSED, 32): 2.0}.get((layer.form, x.shape[1]))
        return next(outliers, 0.0) + (seconds or {SEQUENTIAL: 2.0, FUSED: 1.5}[layer.form])

    monkeypatch.setattr(forms, "_one_pass", one_pass)
    return passes


CHOSEN = (SEQUENTIAL, FUSED, FUSED, SEQUENTIAL)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_faster_form_is_taken_and_what_cannot_be_fused_is_not(
    supergraph: Supergraph, clock: list[tuple[str, int]]
) -> None:
    assert supergraph.forms == (SEQUENTIAL,) * LAYERS
    assert supergraph.choose_forms(images()) == CHOSEN
    assert supergraph.forms == CHOSEN
    # in turn, a warm-up and three repetitions each, on the layers' real inputs; the last layer has no choice
    turns = [(form, channels) for channels in (32, 16, 24) for _ in range(4) for form in (SEQUENTIAL, FUSED)]
    assert clock == turns
    assert supergraph.not_fusible() == {
        "layers.03": "drop = Dropout2d(p=0.5, inplace=False) has no form for several candidates at once"
    }


def test_it_is_measured_once_per_machine(supergraph: Supergraph, clock: list[tuple[str, int]]) -> None:
    supergraph.choose_forms(images())
    clock.clear()
    other = Supergraph(SHORT, TASKS, None)
    assert other.choose_forms(torch.zeros(2, 3, 32, 32)) == CHOSEN
    assert clock == []
    (path,) = (cache_folder() / "forms").iterdir()
    kept = json.loads(path.read_text())
    assert (kept["schema_version"], kept["forms"], kept["seconds"][1]) == (
        1,
        list(CHOSEN),
        {SEQUENTIAL: 2.0, FUSED: 1.5},
    )


def test_other_batches_networks_and_threads_are_measured_anew(
    supergraph: Supergraph, clock: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(graph: Supergraph, batch: Tensor) -> bool:
        clock.clear()
        graph.choose_forms(batch)
        return bool(clock)

    assert measured(supergraph, images())
    assert measured(supergraph, images(3))
    assert measured(supergraph, images().to(memory_format=torch.channels_last))
    assert measured(Supergraph(SHORT, (*TASKS, replace(TASKS[0], name="three")), None), images())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert measured(supergraph, images())
    monkeypatch.setattr(forms, "device_name", lambda device: "another")
    assert measured(supergraph, images())
    assert not measured(supergraph, images())


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"schema_version": 1}', '{"schema_version": 1, "forms": ["fused"]}', '{"schema_version": 9}']
    + [json.dumps({"schema_version": 1, "forms": [form] * LAYERS}) for form in ("quick", FUSED)],
)
def test_a_broken_cache_costs_time_and_nothing_else(
    supergraph: Supergraph, clock: list[tuple[str, int]], content: str
) -> None:
    supergraph.choose_forms(images())
    (path,) = (cache_folder() / "forms").iterdir()
    path.write_text(content)
    clock.clear()
    assert supergraph.choose_forms(images()) == CHOSEN
    assert clock


def test_measuring_leaves_no_trace(supergraph: Supergraph) -> None:
    before = {name: value.clone() for name, value in supergraph.state_dict().items()}
    x = images()
    chosen = supergraph.choose_forms(x, repetitions=1)
    assert set(chosen) <= {SEQUENTIAL, FUSED}
    assert chosen[-1] == SEQUENTIAL
    assert all(torch.equal(value, before[name]) for name, value in supergraph.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in supergraph.parameters())
    assert x.grad is None


def test_devices_have_names() -> None:
    name = forms.device_name(torch.device("cpu"))
    assert name
    assert name == name.strip()
