"""One job of a sweep: its commands one after another, each in a process of its own, until it is done or has failed. Needs no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from bmtas.errors import BudgetError, UsageError
from bmtas.runs import FOUND
from bmtas.sweep.ledger import MARK, JobFolder, JobState, Sweep, open_sweep
from bmtas.sweep.plan import Job, job_environment, search_arguments, train_arguments

FINAL = (UsageError.exit_code, BudgetError.exit_code)
"""Exit codes after which another attempt would come to the same."""
_POLL_S = 0.1
_GRACE_S = 60.0
_TOLD = 3
"""So many lines of the log stand in the reason of a failure."""
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Assignment:
    """A job as it is handed to whoever does it, perhaps on another machine.

    `code` is Python code that runs a command of bmtas: its arguments are the path of the lock to hold, and what stands after `bmtas`.
    """

    sweep: Path
    job: Job
    code: str
    retries: int


def work(assignment: Assignment, stop: Stop) -> JobState:
    """Do a job, and return how it stands then: done, failed, or waiting if `stop` has said so.

    Goes on from what is there already. A command that fails is started again up to `retries` times, unless its exit code says that
    it would fail again; so is one that was begun by a process that is gone. Raises OSError or EnvironmentProblem where the state cannot be written.
    """
    sweep, job = open_sweep(assignment.sweep), assignment.job
    folder = sweep.folder(job)
    folder.path.mkdir(parents=True, exist_ok=True)
    state = folder.state()
    while True:
        if stop():
            return folder.write(state.changed(status="waiting", pid=None))
        if state.attempts > assignment.retries:
            reason = f"begun {state.attempts} times, and the process that did it was lost each time"
            return folder.write(state.changed(status="failed", pid=None, ended=_now(), reason=state.reason or reason))
        state = state.changed(attempts=state.attempts + 1, exit_code=None, reason=None, last_lines=[])
        state = _attempt(sweep, job, assignment.code, state, stop)
        if state.exit_code == 0:
            return folder.write(state.changed(status="done", ended=_now(), exit_code=None))
        if stop():
            return folder.write(state.changed(status="waiting"))
        code = state.exit_code
        lines = folder.last_lines()
        state = state.changed(reason=state.reason or _reason(state.step, code, lines), last_lines=lines)
        if code in FINAL or state.attempts > assignment.retries:
            return folder.write(state.changed(status="failed", ended=_now()))
        _say(folder, f"{state.reason}; attempt {state.attempts + 1} of {assignment.retries + 1} begins")


def _attempt(sweep: Sweep, job: Job, code: str, state: JobState, stop: Stop) -> JobState:
    """Run the commands that are still to be run; the state returned has the exit code of the last one, 0 if all are done."""
    folder = sweep.folder(job)
    before: Sequence[str] = ()
    while (arguments := next_command(sweep, job)) is not None:
        if stop():
            return state.changed(exit_code=None)
        if arguments == before:
            return state.changed(
                exit_code=1,
                reason=f"`bmtas {arguments[0]}` has ended well, but what it should have written is not there",
            )
        state = state.changed(
            status="running", step=arguments[0], host=socket.gethostname(), worker_pid=os.getpid(), started=_now()
        )
        with _started(sweep, folder, code, arguments) as process:
            state = folder.write(state.changed(pid=process.pid))
            exit_code = _waited(process, stop)
        state = state.changed(exit_code=exit_code, pid=None)
        if exit_code != 0:
            return state
        before = arguments
    run = folder.run()
    assert run is not None
    return state.changed(exit_code=0, run=str(run.path.relative_to(sweep.path)))


def next_command(sweep: Sweep, job: Job) -> list[str] | None:
    """Return what stands after `bmtas` to go on with a job, by what is in its folder; None if it is done."""
    folder, spec = sweep.folder(job), sweep.spec
    runs, run = str(folder.runs.resolve()), folder.run()
    if run is None or not run.architecture_path.exists():
        return search_arguments(spec, job, runs)
    network = run.network(FOUND)
    if spec.train and not ((network / "weights.pt").exists() and (network / "metrics.json").exists()):
        return train_arguments(spec, runs)
    if spec.bench and not (network / "model.onnx").exists():
        return ["export", "--runs", runs]
    return None


def bench(sweep: Sweep, job: Job, code: str, stop: Stop) -> JobState:
    """Measure the network of a job that is done, with all threads of this machine, and return how it stands."""
    folder = sweep.folder(job)
    arguments = ["bench", "--runs", str(folder.runs.resolve())]
    with _started(sweep, folder, code, arguments, threads=False) as process:
        exit_code = _waited(process, stop)
    state = folder.state()
    return state if stop() else folder.write(state.changed(bench_exit_code=exit_code))


def is_benched(sweep: Sweep, job: Job) -> bool:
    """Say whether the network of a job was measured."""
    run = sweep.folder(job).run()
    return run is not None and (run.path / "bench.json").exists()


@contextlib.contextmanager
def _started(
    sweep: Sweep, folder: JobFolder, code: str, arguments: Sequence[str], *, threads: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own; whatever ends this block, nothing of the group is left."""
    _say(folder, f"bmtas {' '.join(arguments)}")
    environment = job_environment(os.environ, sweep.settings, sweep.spec.threads if threads else None)
    with folder.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 -- our own command line
            [sys.executable, "-c", code, str(folder.lock), *arguments],
            stdin=subprocess.PIPE,  # never written to: its end tells the command that we are gone
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=sweep.spec.folder,
            env=environment,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            _end(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have started itself
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def _waited(process: subprocess.Popen[bytes], stop: Stop) -> int:
    while (code := process.poll()) is None:
        if stop():
            return _end(process)
        time.sleep(_POLL_S)
    return code


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ask a command to stop, which saves its checkpoint; after a while it is killed. Return its exit code."""
    process.terminate()
    try:
        return process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _reason(step: str | None, code: int | None, lines: Sequence[str]) -> str:
    """Return in words why an attempt failed."""
    said = " ".join(line for line in lines[-_TOLD:] if not line.startswith(MARK))
    begins = said.rfind("error: ")
    said = said[begins + len("error: ") :] if begins >= 0 else said
    if code is not None and code < 0:
        return f"{step} was killed by {signal.Signals(-code).name}"
    return f"{step} ended with exit code {code}: {said}"


def _say(folder: JobFolder, text: str) -> None:
    with folder.log.open("a", encoding="utf-8") as log:
        log.write(f"\n{MARK}{_now()} {text}\n")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
