"""AutoMTL from the data to a network within its budget: the same after an interruption, drawn and trained."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bmtas.training
from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.errors import BudgetError, UsageError
from bmtas.files import read_json
from bmtas.interrupt import Interrupted
from bmtas.methods.automtl.pictures import draw_policies
from bmtas.methods.automtl.prices import SHARED
from bmtas.methods.automtl.space import ConvolutionSpace
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.networks.operations import Kit
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.profile import count_network
from bmtas.progress import Progress, Silent
from bmtas.run_training import train_network
from bmtas.runs import FOUND, INHERITED
from bmtas.training import load_network
from bmtas.workflow import run_search


def plan_of(*budgets: str, own: dict[str, Any] | None = None) -> Plan:
    return plan_search(
        Request(
            data="planted",
            tasks=["a1", "b1"],
            backbone="tiny",
            method=Method.AUTOMTL,
            budgets=budgets,
            size=(64, 64),
            search_size=(32, 32),
            train_size=(32, 32),
            own={key: str(value) for key, value in (own or {}).items()},
            search_overrides={"warmup_steps": 2, "weight_steps": 6, "batch_size": 4},
            train_overrides={"steps": 3, "batch_size": 4},
        )
    )


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmtas.training, "_CONSTANT_IMAGES", 1)


def test_a_search_ends_within_its_budgets(tmp_path: Path) -> None:
    plan = plan_of("8MMAdds", "35kParams")
    run = run_search(plan, tmp_path, Silent(), How.alone("cpu"))
    architecture = run.architecture(FOUND)
    assert isinstance(architecture, WiredArchitecture)
    counted = count_network(build_network(architecture, plan.config.task_list()), (64, 64))
    assert counted.madds <= 8e6
    assert counted.params <= 35e3
    said = read_json(run.architecture_path, 2)
    choices = np.array(said["choices"])
    space = ConvolutionSpace(Kit(get_backbone("tiny"), {t.name: t for t in plan.config.task_list()}))
    assert space.architecture(choices) == architecture
    assert len(said["policies"]) == 8
    assert np.array(said["probabilities"]).shape == (2, 13, 3)
    assert said["convolutions"][:2] == ["convs.000", "convs.002"]
    for picture in ("policies.png", "correlation.png"):
        assert (run.search_folder / picture).stat().st_size > 1000


def test_the_network_is_trained_from_scratch_or_goes_on(tmp_path: Path) -> None:
    run = run_search(plan_of("9MMAdds"), tmp_path, Silent(), How.alone("cpu"))
    how = How.alone("cpu")
    for name in (FOUND, INHERITED):
        assert train_network(run, name, Silent(), how) is None
    searched = torch.load(run.search_folder / "checkpoint.pt", weights_only=True)["network"]
    networks = [
        load_network(run.config(), run.architecture(FOUND), run.network(name) / "weights.pt").state_dict()
        for name in (FOUND, INHERITED)
    ]
    key = "heads.a1.refine.0.0.weight"
    near = [
        float(torch.nn.functional.cosine_similarity(n[key].flatten(), searched[key].flatten(), dim=0)) for n in networks
    ]
    assert near[0] < 0.5 < 0.9 < near[1]


def test_an_interrupted_search_ends_with_the_same_network(
    tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    plan = plan_of("9MMAdds")
    straight = run_search(plan, tmp_path / "straight", Silent(), How.alone("cpu"))
    with pytest.raises(Interrupted):
        run_search(plan, tmp_path / "stopped", signal_after(5, signal.SIGTERM), How.alone("cpu"))
    run = run_search(plan, tmp_path / "stopped", Silent(), How.alone("cpu"))
    assert run.architecture(FOUND) == straight.architecture(FOUND)
    one, other = (read_json(r.architecture_path, 2) for r in (straight, run))
    assert one["probabilities"] == other["probabilities"]
    assert one["policies"] == other["policies"]


def test_settings_by_name(tmp_path: Path) -> None:
    plan = plan_of("9MMAdds", own={"shared": 4, "policies": 3})
    run = run_search(plan, tmp_path, Silent(), How.alone("cpu"))
    said = read_json(run.architecture_path, 2)
    assert len(said["policies"]) == 3
    assert (np.array(said["choices"])[:, :4] == SHARED).all()
    with pytest.raises(UsageError, match="did you mean 'policies'"):
        plan_of(own={"policy": 3})
    with pytest.raises(UsageError, match="13 convolutions"):
        plan_of(own={"shared": 14})


def test_budgets_below_reach_are_refused() -> None:
    with pytest.raises(BudgetError, match="automtl reaches from"):
        plan_of("1MMAdds")


def test_pictures_of_many_convolutions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"convs.{i:03d}" for i in range(60)]
    draw_policies(
        ["a", "b"], names, rng.dirichlet(np.ones(3), (2, 60)), rng.integers(0, 3, (2, 60)), tmp_path / "p.png"
    )
    with Image.open(tmp_path / "p.png") as picture:
        width, height = picture.size
    assert width > 3 * height  # 60 columns; two rows of three
