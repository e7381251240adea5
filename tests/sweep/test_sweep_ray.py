"""Jobs as tasks of Ray: recovered when their worker is killed, and equal to those done one after another."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.sweep.ledger import JobFolder, Sweep, open_sweep
from bmtas.sweep.on_ray import check_address

pytest.importorskip("ray")


@pytest.fixture(autouse=True)
def _own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps strangers out by a token; that of the tests is not written into the user's home."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))


# In a process of its own: what Ray starts and warns of stays out of the tests' process.
ON_RAY = """
import sys
from pathlib import Path
from bmtas.errors import BmtasError
from bmtas.sweep.conduct import run_sweep
from bmtas.sweep.ledger import open_sweep
from bmtas.sweep.on_ray import RayRunner
class Deaf:
    def note(self, text): pass
    standing = front = note
    def ended(self, *_): pass
sweep = open_sweep(Path(sys.argv[1]))
def runner():
    made = RayRunner("local", sweep.path.resolve(), workers=2, threads=1, retries=2)
    print("machines", len(made.machines), flush=True)
    return made
try:
    run_sweep(sweep, runner, Deaf(), sys.argv[2], retries=2)
except BmtasError as error:
    sys.exit(error.exit_code)
"""


def wait_for(reached: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := reached()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def at_work(folder: JobFolder, words: str) -> Callable[[], Any]:
    """Return what says how a job stands once its log has a line that begins with `words`, None before."""

    def state() -> Any:
        found = folder.state()
        return found if found.pid and any(line.startswith(words) for line in folder.last_lines()) else None

    return state


def test_a_job_whose_worker_is_killed_is_recovered(
    make_sweep: Callable[..., Sweep], stand_in: Callable[[str], str]
) -> None:
    sweep = make_sweep(budgets=("4MMAdds", "5MMAdds"))
    folder = sweep.folder(sweep.jobs[0])
    code = stand_in('if begun == 1 and arguments["--budget"] == "4MMAdds":\n    time.sleep(300)')
    started = [sys.executable, "-c", ON_RAY, str(sweep.path), code]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        state = wait_for(at_work(folder, "command search begun 1"), process)
        assert state.worker_pid != process.pid  # a process of Ray
        os.kill(state.worker_pid, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines() == ["machines 1"]
    assert folder.state().status == "done"
    assert folder.state().attempts == 2
    # The command of the killed worker has ended: it would have written its result after five minutes.
    assert not Path(f"/proc/{state.pid}").exists()
    assert (folder.path / "begun.txt").read_text() == "xx"
    assert [(run.path / "architecture.json").read_text() for _, run in sweep.finished_runs()] == [
        "0 4MMAdds",
        "0 5MMAdds",
    ]
    assert not (sweep.path / ".stop").exists()


def test_an_address_that_nobody_answers_is_told(make_sweep: Callable[..., Sweep]) -> None:
    code = ON_RAY.replace('"local"', '"127.0.0.1:1"').replace("sys.exit(error.exit_code)", "sys.exit(repr(error))")
    done = subprocess.run(
        [sys.executable, "-c", code, str(make_sweep().path), ""],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Ray cannot be reached" in done.stderr
    assert EnvironmentProblem.__name__ in done.stderr


def test_an_empty_address() -> None:
    with pytest.raises(UsageError, match="HOST:6379"):
        check_address(" ")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_over_two_workers_of_ray_equals_the_sequential_one(command: list[str], tmp_path: Path) -> None:
    """Six jobs; of two that are running, the worker of one and the command of the other are killed."""
    options = [
        "--data",
        "planted",
        "--backbone",
        "tiny",
        "--warmup-steps",
        "1",
        "--search-steps",
        "3",
        "--train-steps",
        "3",
    ]
    asked = ["--budget", "4MMAdds", "--budget", "4.5MMAdds", "--seed", "0", "--seed", "1", "--threads", "1"]
    whole = [*command, "sweep", *asked, *options, "--sweeps", str(tmp_path), "--quiet", "--json", "-"]
    alone = subprocess.run([*whole, "--name", "alone"], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    on_ray = [*whole, "--name", "ray", "--ray", "local", "--workers", "2"]
    with subprocess.Popen(on_ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        jobs = tmp_path / "ray" / "jobs"
        first, second = JobFolder(jobs / "002-branched-4MMAdds-seed0"), JobFolder(jobs / "006-branched-4.5MMAdds-seed1")
        os.kill(wait_for(at_work(first, "run folder:"), process).worker_pid, signal.SIGKILL)
        os.kill(wait_for(at_work(second, "train found:"), process).pid, signal.SIGKILL)
        out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    told, expected = json.loads(out), json.loads(alone.stdout)
    assert [job["status"] for job in told["jobs"]] == ["done"] * 6
    assert [job["attempts"] for job in told["jobs"]] == [1, 2, 1, 1, 1, 2]
    fronts = [
        json.dumps(answer["front"]).replace(str(tmp_path / name), "SWEEP")  # where the runs are stands in it, too
        for name, answer in (("ray", told), ("alone", expected))
    ]
    assert fronts[0] == fronts[1]
    assert any(row["on_front"] for row in told["front"]["rows"])
    for (_, ours), (_, theirs) in zip(
        *(open_sweep(tmp_path / name).finished_runs() for name in ("ray", "alone")), strict=True
    ):
        for name in ("architecture.json", "networks/found/metrics.json"):
            assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes(), name
        weights = [
            torch.load(run.path / "networks/found/weights.pt", weights_only=True)["network"] for run in (ours, theirs)
        ]
        assert list(weights[0]) == list(weights[1])
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
