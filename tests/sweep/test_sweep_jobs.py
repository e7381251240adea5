"""Jobs that fail, are killed, are stopped and are gone on with; their commands are stand-ins in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmtas.errors import UsageError
from bmtas.sweep.conduct import failed_jobs, run_sweep
from bmtas.sweep.job import Assignment, work
from bmtas.sweep.ledger import JobState, Sweep
from bmtas.sweep.local import LocalRunner

MakeSweep = Callable[..., Sweep]
StandIn = Callable[[str], str]


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ends: list[tuple[str, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def standing(self, standing: Any) -> None:
        assert standing.done + standing.failed + standing.left >= len(standing.running)

    def ended(self, job: Any, state: Any, standing: Any) -> None:
        self.ends.append((job.name, state.status))

    def front(self, front: Any) -> None:
        raise AssertionError("nothing is trained")


def conduct(sweep: Sweep, code: str, *, retries: int = 2, workers: int = 2) -> Notes:
    notes = Notes()
    assert run_sweep(sweep, lambda: LocalRunner(workers), notes, code, retries=retries) is None
    return notes


def wait_for(reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := reached()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def begun(sweep: Sweep) -> list[int]:
    """How often the command of each job was begun."""
    counts = (sweep.folder(job).path / "begun.txt" for job in sweep.jobs)
    return [len(path.read_text()) if path.exists() else 0 for path in counts]


def test_all_jobs_are_done_and_not_repeated(make_sweep: MakeSweep, stand_in: StandIn) -> None:
    sweep = make_sweep(budgets=("4MMAdds", "5MMAdds"), seeds=(0, 1), threads=3)
    notes = conduct(sweep, stand_in(""))
    assert sorted(notes.ends) == [(job.name, "done") for job in sweep.jobs]
    written = [(run.path / "architecture.json").read_text() for _, run in sweep.finished_runs()]
    assert written == ["0 4MMAdds", "0 5MMAdds", "1 4MMAdds", "1 5MMAdds"]
    assert "command search begun 1 threads 3" in sweep.folder(sweep.jobs[0]).log.read_text()
    again = conduct(sweep, stand_in(""))
    assert again.ends == []
    assert again.notes == ["4 of 4 jobs are done already and are not repeated"]
    assert begun(sweep) == [1, 1, 1, 1]


@pytest.mark.parametrize("code", [2, 6])
def test_what_would_fail_again_is_not_tried_again(code: int, make_sweep: MakeSweep, stand_in: StandIn) -> None:
    sweep = make_sweep(budgets=("1MMAdds", "5MMAdds"))
    behaviour = f"""
if arguments["--budget"] == "1MMAdds":
    print("a note")
    print("error: no network is within it")
    sys.exit({code})
"""
    conduct(sweep, stand_in(behaviour))
    assert begun(sweep) == [1, 1]
    ((job, state),) = failed_jobs(sweep)
    assert (job.name, state.exit_code, state.attempts) == ("001-branched-1MMAdds-seed0", code, 1)
    assert state.reason == f"search ended with exit code {code}: no network is within it"
    assert state.last_lines[-2:] == ["a note", "error: no network is within it"]
    assert [job.name for job, _ in sweep.finished_runs()] == ["002-branched-5MMAdds-seed0"]
    # The same command begins the failed one again, and that one alone.
    notes = conduct(sweep, stand_in(""))
    assert begun(sweep) == [2, 1]
    assert notes.ends == [("001-branched-1MMAdds-seed0", "done")]
    assert failed_jobs(sweep) == []


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3)])
def test_other_failures_are_tried_again_so_often(
    retries: int, attempts: int, make_sweep: MakeSweep, stand_in: StandIn
) -> None:
    sweep = make_sweep()
    conduct(sweep, stand_in("sys.exit(3)"), retries=retries)
    ((_, state),) = failed_jobs(sweep)
    assert (state.attempts, state.exit_code) == (attempts, 3)
    assert begun(sweep) == [attempts]


def test_a_command_that_ends_well_without_its_result_has_failed(make_sweep: MakeSweep, stand_in: StandIn) -> None:
    sweep = make_sweep()
    conduct(sweep, stand_in("sys.exit(0)"), retries=0)
    ((_, state),) = failed_jobs(sweep)
    assert state.exit_code == 1
    assert state.reason == "`bmtas search` has ended well, but what it should have written is not there"


@pytest.mark.parametrize("gone", ["", "001-stand-in", "001-stand-in/architecture.json"])
def test_a_job_whose_files_are_gone_is_done_anew(gone: str, make_sweep: MakeSweep, stand_in: StandIn) -> None:
    code = stand_in("").replace("mkdir(parents=True)", "mkdir(parents=True, exist_ok=True)")
    sweep = make_sweep(budgets=("4MMAdds", "5MMAdds"))
    conduct(sweep, code)
    path = sweep.folder(sweep.jobs[1]).runs / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    notes = conduct(sweep, code)
    assert notes.ends == [("002-branched-5MMAdds-seed0", "done")]
    assert "002-branched-5MMAdds-seed0 (was done, but what it had written is no longer there)" in notes.notes[1]
    assert begun(sweep) == [1, 2]


def test_a_killed_command_is_begun_again(make_sweep: MakeSweep, stand_in: StandIn) -> None:
    sweep = make_sweep(budgets=("4MMAdds", "5MMAdds"))
    folder = sweep.folder(sweep.jobs[0])

    def kill() -> None:
        state = wait_for(
            lambda: (s := folder.state()).pid and "command search begun" in "".join(folder.last_lines()) and s
        )
        os.kill(state.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    conduct(sweep, stand_in('if begun == 1 and arguments["--budget"] == "4MMAdds":\n    time.sleep(60)'))
    killer.join()
    assert begun(sweep) == [2, 1]
    state = folder.state()
    assert (state.status, state.attempts) == ("done", 2)
    assert "search was killed by SIGKILL" in folder.log.read_text()


def test_a_job_whose_workers_were_lost_too_often_has_failed(make_sweep: MakeSweep, stand_in: StandIn) -> None:
    """As a job finds it that is begun again because its worker, not its command, was killed."""
    sweep = make_sweep()
    (job,) = sweep.jobs
    sweep.folder(job).write(JobState(job=job.name, status="running", attempts=2))
    state = work(Assignment(sweep.path, job, stand_in(""), retries=1), lambda: False)
    assert state.status == "failed"
    assert begun(sweep) == [0]
    assert work(Assignment(sweep.path, job, stand_in(""), retries=2), lambda: False).status == "done"


CONDUCT = """
import sys
from pathlib import Path
from bmtas.errors import BmtasError
from bmtas.sweep.conduct import run_sweep
from bmtas.sweep.ledger import open_sweep
from bmtas.sweep.local import LocalRunner
class Deaf:
    def note(self, text): pass
    standing = front = note
    def ended(self, *_): pass
try:
    run_sweep(open_sweep(Path(sys.argv[1])), lambda: LocalRunner(2), Deaf(), sys.argv[2], retries=2)
except BmtasError as error:
    sys.exit(error.exit_code)
"""
SLOW_AT_FIRST = """
def save(*_):
    (job / "saved.txt").write_text("saved")
    sys.exit(143)
import signal
signal.signal(signal.SIGTERM, save)
if begun == 1:
    print("asleep", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_or_killed_leaves_no_process_and_goes_on(
    number: signal.Signals, make_sweep: MakeSweep, stand_in: StandIn
) -> None:
    sweep = make_sweep(budgets=("4MMAdds", "5MMAdds", "6MMAdds"))
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + CONDUCT
    with subprocess.Popen([sys.executable, "-c", code, str(sweep.path), stand_in(SLOW_AT_FIRST)]) as process:
        folders = [sweep.folder(job) for job in sweep.jobs[:2]]
        wait_for(lambda: all("asleep" in "".join(folder.last_lines()) for folder in folders))
        pids = [folder.state().pid for folder in folders]
        process.send_signal(number)
        returned = process.wait(timeout=60)
    assert returned == (-number if number is signal.SIGKILL else 128 + number)
    # Also those of a sweep that could not ask them: they notice that it is gone.
    wait_for(lambda: all((folder.path / "saved.txt").exists() for folder in folders))
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids))
    statuses = [sweep.folder(job).state().status for job in sweep.jobs]
    assert statuses == (["running"] * 2 + ["waiting"] if number is signal.SIGKILL else ["waiting"] * 3)
    notes = conduct(sweep, stand_in(SLOW_AT_FIRST.replace("begun == 1", "False")))
    assert [status for _, status in notes.ends] == ["done"] * 3
    assert begun(sweep) == [2, 2, 1]


def test_two_processes_do_not_work_on_one_sweep(make_sweep: MakeSweep, stand_in: StandIn) -> None:
    sweep = make_sweep()
    with sweep.held(), pytest.raises(UsageError, match="another process is at work"):
        conduct(sweep, stand_in(""))
    assert begun(sweep) == [0]


def test_a_state_that_is_not_ours_is_told(make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    folder = sweep.folder(sweep.jobs[0])
    folder.path.mkdir(parents=True)
    (folder.path / "job.json").write_text(json.dumps({"schema_version": 1, "job": "x", "status": "lost"}))
    with pytest.raises(UsageError, match="status"):
        folder.state()
