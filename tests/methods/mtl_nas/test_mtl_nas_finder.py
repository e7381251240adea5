"""MTL-NAS from the data to a trained network: within its budget, the same after an interruption, and exported."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

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
from bmtas.methods.mtl_nas.pictures import draw_fusions, draw_probabilities
from bmtas.methods.mtl_nas.space import FusionSpace
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import build_network
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.profile import count_network
from bmtas.progress import Progress, Silent
from bmtas.runs import FOUND, SEPARATE, Run
from bmtas.tasks import Task, TaskKind
from bmtas.training import load_network
from bmtas.workflow import run_search
from tests.methods.exporting import computed_by_export

ENDS = "11.2MMAdds"
"""Between the cheapest network of two tasks of `planted` on `tiny`, 10.90 MMAdds, and the dearest, 11.61."""
TRAINING = 4


def plan_of(budget: str = ENDS, init: str = "separate", tasks: list[str] | None = None, backbone: str = "tiny") -> Plan:
    return plan_search(
        Request(
            data="planted",
            tasks=tasks or ["a1", "b1"],
            backbone=backbone,
            method=Method.MTL_NAS,
            budgets=(budget,),
            size=(64, 64),
            search_size=(32, 32),
            train_size=(32, 32),
            own={"init": init},
            search_overrides={"warmup_steps": 2, "weight_steps": 6, "batch_size": 4},
            train_overrides={"steps": TRAINING, "batch_size": 4},
        )
    )


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmtas.training, "_CONSTANT_IMAGES", 1)


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    network = load_network(run.config(), run.architecture(name), run.network(name) / "weights.pt")
    return network.state_dict()


def test_a_search_ends_with_a_trained_network_within_its_budget(tmp_path: Path) -> None:
    plan = plan_of()
    run = run_search(plan, tmp_path, Silent(), How.alone("cpu"))
    architecture = run.architecture(FOUND)
    assert isinstance(architecture, WiredArchitecture)
    network = load_network(run.config(), architecture, run.network(FOUND) / "weights.pt")
    assert count_network(network, (64, 64)).madds <= 11.2e6
    said = read_json(run.architecture_path, 2)
    assert len(said["edges"]) == 30
    kept = {
        (e["task"], e["node"]): 1
        + sum(o["kept"] for o in said["edges"] if (o["task"], o["node"]) == (e["task"], e["node"]))
        for e in said["edges"]
    }
    fusions = {name for name in architecture.merged.modules() if name.startswith("fusions.")}
    assert fusions == {f"fusions.{node}.{inputs}.{task}" for (task, node), inputs in kept.items()}
    for picture in ("probabilities.png", "fusions.png"):
        assert (run.search_folder / picture).stat().st_size > 1000
    # It began from the separate networks, and went on from there.
    separate, found = weights(run, SEPARATE), weights(run, FOUND)
    key = "layers.02.a1.conv.0.0.weight"
    assert not torch.equal(separate[key], found[key])
    start = torch.nn.functional.cosine_similarity(separate[key].flatten(), found[key].flatten(), dim=0)
    assert float(start) > 0.9


def test_without_separate_networks(tmp_path: Path) -> None:
    run = run_search(plan_of(init="backbone"), tmp_path, Silent(), How.alone("cpu"))
    assert not (run.network(SEPARATE) / "weights.pt").exists()
    assert (run.network(FOUND) / "weights.pt").exists()


@pytest.mark.parametrize("steps", [2, TRAINING + 5], ids=["in the training", "in the search"])
def test_an_interrupted_run_ends_with_the_same_network(
    steps: int, tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    plan = plan_of()
    straight = run_search(plan, tmp_path / "straight", Silent(), How.alone("cpu"))
    with pytest.raises(Interrupted):
        run_search(plan, tmp_path / "stopped", signal_after(steps, signal.SIGTERM), How.alone("cpu"))
    run = run_search(plan, tmp_path / "stopped", Silent(), How.alone("cpu"))
    assert run.architecture(FOUND) == straight.architecture(FOUND)
    one, other = weights(straight, FOUND), weights(run, FOUND)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_budgets_below_reach_and_a_single_task_are_refused() -> None:
    with pytest.raises(BudgetError, match="mtl-nas"):
        plan_of(budget="10MMAdds")
    with pytest.raises(UsageError, match="name two tasks or more"):
        plan_of(tasks=["a1"])


def test_unknown_and_wrong_settings_are_refused() -> None:
    request = Request(data="planted", backbone="tiny", method=Method.MTL_NAS, own={"own_wait": "1"})
    with pytest.raises(UsageError, match="did you mean 'own_weight'"):
        plan_search(request)
    with pytest.raises(UsageError, match=r"own_weight=1\.5"):
        plan_search(Request(data="planted", backbone="tiny", method=Method.MTL_NAS, own={"own_weight": "1.5"}))


def test_networks_export_at_opset_18() -> None:
    tasks = (Task(name="normals", kind=TaskKind.NORMALS), Task(name="depth", kind=TaskKind.DEPTH))
    space = FusionSpace(get_backbone("tiny"), ("normals", "depth"))
    torch.manual_seed(0)
    network = build_network(space.random(np.random.default_rng(5)), tasks).eval()
    image = torch.randn(1, 3, 64, 64)
    found = computed_by_export(network, image)
    with torch.no_grad():
        expected = network(image)
    for task, theirs in expected.items():
        np.testing.assert_allclose(found[task], theirs.numpy(), rtol=1e-3, atol=1e-4)


def test_pictures_of_three_tasks(tmp_path: Path) -> None:
    space = FusionSpace(get_backbone("mobilenet_v2"), ("a", "b", "c"))
    draw_probabilities(np.linspace(0, 1, len(space.edges)).tolist(), tmp_path / "p.png")
    draw_fusions(space, [i % 3 == 0 for i in range(len(space.edges))], tmp_path / "f.png")
    with Image.open(tmp_path / "f.png") as picture:
        width, height = picture.size
    assert width > 2 * height  # 18 columns, 3 rows
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (600, 384)
