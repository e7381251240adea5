"""Training in bfloat16: convolutions alone are in half precision, and training in float32 is what it was."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import bmtas.training
from bmtas.architecture import BranchedArchitecture
from bmtas.checkpoint import load_checkpoint
from bmtas.config import Precision, RunConfig
from bmtas.data.planted import TASKS, Planted
from bmtas.half import autocast, widened
from bmtas.losses import task_loss
from bmtas.networks.network import build_network
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Silent

TREE = BranchedArchitecture.shared("tiny", [task.name for task in TASKS], 6)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _few_images_for_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a constant prediction would come to is of no interest here."""
    monkeypatch.setattr(bmtas.training, "_CONSTANT_IMAGES", 1)


def config(precision: str, steps: int) -> RunConfig:
    overrides = {"batch_size": 4, "steps": steps, "precision": precision, "optimiser": "sgd", "learning_rate": 0.05}
    return plan_search(Request(data="planted", backbone="tiny", train_overrides=overrides)).config


def trained(settings: RunConfig, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    bmtas.training.Training(settings, TREE, Planted(), folder, How.alone("cpu")).run(Silent())
    weights: dict[str, Any] = load_checkpoint(folder / "weights.pt")["network"]
    return weights


def losses(folder: Path) -> list[float]:
    """The sum of all tasks' losses, step by step."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return [sum(value for name, value in record.items() if name.startswith("loss.")) for record in records]


def one_step(settings: RunConfig, folder: Path, block: contextlib.AbstractContextManager[Any]) -> dict[str, Any]:
    """The first step of a training, written out; the forward pass runs in `block`."""
    batch = bmtas.training.Training(settings, TREE, Planted(), folder, How.alone("cpu")).batches[0]
    torch.manual_seed(settings.seed)
    network = build_network(TREE, TASKS).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    with block:
        predictions = network(batch.images)
    torch.stack(
        [task_loss(task, predictions[task.name].float(), batch.labels[task.name]) for task in TASKS]
    ).sum().backward()
    optimiser.step()
    return network.state_dict()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_is_that_of_pytorch_itself(precision: str, tmp_path: Path) -> None:
    settings = config(precision, 1)
    assert settings.train.precision is Precision(precision)
    found = trained(settings, tmp_path / "run")
    half = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    expected = one_step(settings, tmp_path / "run", half)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_loss_falls_in_half_precision_and_weights_stay_float32(tmp_path: Path) -> None:
    settings = config("bf16", 60)
    weights = trained(settings, tmp_path / "half")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    state = load_checkpoint(tmp_path / "half" / "checkpoint.pt")
    momenta = [entry["momentum_buffer"] for entry in state["optimiser"]["state"].values()]
    assert {value.dtype for value in momenta} == {torch.float32}
    found = losses(tmp_path / "half")
    assert sum(found[-10:]) < 0.95 * sum(found[:10])


def test_precisions_differ_but_not_by_much(tmp_path: Path) -> None:
    one, other = (trained(config(precision, 3), tmp_path / precision) for precision in ("fp32", "bf16"))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    # A bfloat16 has eight bits: losses differ by about a hundredth at most.
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=2e-2)
    assert losses(tmp_path / "bf16") != losses(tmp_path / "fp32")


def test_autocast_is_for_convolutions_and_only_where_asked_for() -> None:
    convolution, image = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    with autocast(Precision.FP32, CPU):
        assert convolution(image).dtype is torch.float32
    with autocast(Precision.BF16, CPU):
        half = convolution(image)
    assert half.dtype is torch.bfloat16
    assert widened(half).dtype is torch.float32
    assert torch.equal(widened(half), half.float())
    double = torch.zeros(2, dtype=torch.float64)
    assert widened(double) is double
