"""Several processes against one: what they compute, what they write, and that they stop together."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

BMTAS = Path(sys.executable).parent / "bmtas"
Finished = Callable[..., tuple[str, str]]


def test_normalisation_of_two_halves_is_that_of_the_whole(finished: Finished) -> None:
    out, _ = finished(2, "norm_worker.py")
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 2
    for answer in answers:
        assert max(answer["differences"]) < 1e-13
        assert answer["tracked"] == 1
        assert answer["evaluates_alike"]


@pytest.mark.parametrize("estimator", ["soft", pytest.param("sampled", marks=pytest.mark.slow)])
def test_two_processes_search_as_one_with_the_whole_batch(finished: Finished, tmp_path: Path, estimator: str) -> None:
    for processes in (1, 2):
        finished(processes, "search_worker.py", tmp_path / f"{processes}.json", estimator)
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["split"] == two["split"]
    assert not set(one["split"]["architecture"]) & set(one["split"]["weights"])
    ours, theirs = np.array(one["probabilities"]), np.array(two["probabilities"])
    assert np.abs(ours - theirs).max() < 1e-7  # float64, and rounding enlarged by the steps
    assert np.abs(ours - 1 / ours.shape[-1]).max() > 0.02  # it has learned, so there was something to be equal
    weights = [torch.load(tmp_path / f"{n}-run/checkpoint.pt", weights_only=True)["network"] for n in (1, 2)]
    assert list(weights[0]) == list(weights[1])
    assert all(torch.allclose(weights[0][name], weights[1][name], rtol=1e-6, atol=1e-8) for name in weights[0])


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(finished: Finished, tmp_path: Path) -> None:
    for processes in (1, 2):
        finished(processes, "train_worker.py", tmp_path / str(processes), 1)
    finished(2, "train_worker.py", tmp_path / "parts", 2)
    one, two, parts = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True)["network"] for name in ("1", "2", "parts")
    )
    assert all(torch.allclose(one[name], two[name], rtol=1e-7, atol=1e-9) for name in one)
    # Parts are normalised by themselves, so they are not the same, and the comparison can tell.
    assert not all(torch.allclose(one[name], parts[name], rtol=1e-7, atol=1e-9) for name in one)


def small(runs: Path, **changes: Any) -> list[Any]:
    options = {
        "budget": "25MMAdds",
        "size": "32x32",
        "search-size": "32x32",
        "train-size": "32x32",
        "warmup-steps": 1,
        "search-steps": 2,
        "train-steps": 2,
        "batch-size": 4,
        "tasks": "semseg,depth",
        **changes,
    }
    return [BMTAS, "search", *(w for k, v in options.items() for w in (f"--{k}", v)), "--device", "cpu", "--runs", runs]


@pytest.mark.slow
def test_the_commands_run_in_two_processes_and_one_of_them_talks(finished: Finished, tmp_path: Path) -> None:
    out, err = finished(2, *small(tmp_path))
    (run,) = tmp_path.iterdir()
    assert "device: cpu, 2 processes" in err
    assert err.count("run folder:") == 1
    assert out.count("budget 25MMAdds") == 1
    assert (run / "architecture.json").exists()
    out, err = finished(2, BMTAS, "train", "--device", "cpu", "--runs", tmp_path)
    metrics = json.loads((run / "networks/found/metrics.json").read_text())
    assert metrics["schema_version"] == 1
    history = [json.loads(line) for line in (run / "networks/found/history.jsonl").read_text().splitlines()]
    assert [record["step"] for record in history] == [0, 1]


@pytest.mark.slow
def test_what_one_process_has_met_ends_all_of_them(torchrun: Callable[..., Any], tmp_path: Path) -> None:
    process = torchrun(2, *small(tmp_path, **{"batch-size": 6, "accumulate": 2}))
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "a batch of 6 images for 2 process(es) in 2 part(s) each" in err
    assert "give a --batch-size that is a multiple of 4, from 8 up, or start 1 process(es)" in err
    assert not any(tmp_path.iterdir())


def wait_for_steps(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any(line.startswith("search: ") for line in lines)


@pytest.mark.slow
def test_a_scheduler_that_signals_the_whole_job_loses_nothing(
    torchrun: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Every process hears of it twice: from the scheduler and from torchrun."""
    process = torchrun(2, *small(tmp_path, **{"search-steps": 30}))
    wait_for_steps(process)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    (run,) = tmp_path.iterdir()
    assert torch.load(run / "search/checkpoint.pt", weights_only=True)["done"] > 0


def test_what_does_not_share_its_work_refuses_several_processes(
    torchrun: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    _, err = torchrun(2, BMTAS, "show", "--runs", tmp_path).communicate(timeout=120)
    assert "show in 2 processes would do the same 2 times over" in err


@pytest.mark.slow
def test_ctrl_c_saves_and_one_process_goes_on(
    torchrun: Callable[..., subprocess.Popen[str]], finished: Finished, tmp_path: Path
) -> None:
    command = small(tmp_path, **{"search-steps": 12})
    process = torchrun(2, *command)
    wait_for_steps(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    (run,) = tmp_path.iterdir()
    saved = torch.load(run / "search/checkpoint.pt", weights_only=True)
    assert 0 < saved["done"] < 37
    assert not (run / "architecture.json").exists()
    _, err = finished(1, *command)
    assert f"continuing at step {saved['done']}" in err
    assert [path.name for path in tmp_path.iterdir()] == [run.name]
    assert (run / "architecture.json").exists()
