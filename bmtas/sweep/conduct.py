"""A sweep from its first job to its front: jobs that are done stay done, failures stay alone, and it can be stopped. Needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bmtas.errors import BmtasError
from bmtas.interrupt import Interrupted, Stop, stop_between_steps
from bmtas.sweep.front import SweepFront, write_front
from bmtas.sweep.job import Assignment, bench, is_benched, next_command
from bmtas.sweep.ledger import MARK, JobState, Sweep
from bmtas.sweep.plan import Job
from bmtas.sweep.runner import Runner

_TICK_S = 0.5
_WHY = {
    "done": "was done, but what it had written is no longer there",
    "failed": "failed",
    "running": "its process is gone",
}
"""Why a job that was begun is begun again, by the status that its folder tells."""


class SweepFailed(BmtasError):
    """Some jobs have failed; all others are done."""


@dataclass(frozen=True)
class RunningJob:
    """A job at work, with the last line that its command has said."""

    job: Job
    state: JobState
    line: str


@dataclass(frozen=True)
class Standing:
    """How a sweep stands: the jobs at work, and how many are done, have failed, and are left (those at work among them)."""

    running: tuple[RunningJob, ...]
    done: int
    failed: int
    left: int


class Watcher(Protocol):
    """Is told how a sweep goes on."""

    def note(self, text: str) -> None:
        """Say something once."""

    def standing(self, standing: Standing) -> None:
        """Tell how all jobs stand, about twice a second."""

    def ended(self, job: Job, state: JobState, standing: Standing) -> None:
        """Tell that a job is done or has failed."""

    def front(self, front: SweepFront) -> None:
        """Tell the front over all jobs that are done so far."""


def run_sweep(
    sweep: Sweep, make_runner: Callable[[], Runner], watcher: Watcher, code: str, *, retries: int
) -> SweepFront | None:
    """Do all jobs of a sweep that are not done, and return its front (None without training, or if nothing was trained).

    `code` is as for `Assignment`. Ctrl-C and SIGTERM have all jobs save their checkpoints, then raise Interrupted. Raises UsageError if another process is at
    work on this sweep. Jobs that failed are told by `failed_jobs`.
    """
    with sweep.held(), stop_between_steps() as stop:
        left = _left(sweep, watcher)
        if left:
            runner = make_runner()
            with contextlib.closing(runner):
                runner.begin([Assignment(sweep.path, job, code, retries) for job in left])
                _watch(sweep, left, runner, watcher, stop)
        if sweep.spec.bench and not stop.requested:
            _measure(sweep, code, watcher, stop)
        if stop.requested:
            raise Interrupted(stop.signal)
        return write_front(sweep)


def failed_jobs(sweep: Sweep) -> list[tuple[Job, JobState]]:
    """Return the jobs that have failed, or whose measurement has."""
    states = sweep.states()
    return [
        (job, states[job.name])
        for job in sweep.jobs
        if states[job.name].status == "failed" or states[job.name].bench_exit_code
    ]


def jobs_left(sweep: Sweep) -> dict[str, JobState]:
    """Return how the jobs stand that are not done, or of which files are gone, by name. Raises UsageError as `JobFolder.state` does."""
    states = {job: sweep.folder(job).state() for job in sweep.jobs}
    return {job.name: s for job, s in states.items() if s.status != "done" or next_command(sweep, job) is not None}


def _left(sweep: Sweep, watcher: Watcher) -> list[Job]:
    """Return the jobs that are left, all set to waiting with no attempts made; say what is begun again."""
    states = jobs_left(sweep)
    left = [job for job in sweep.jobs if job.name in states]
    again = [f"{name} ({_WHY[state.status]})" for name, state in states.items() if state.status != "waiting"]
    for job in left:
        if states[job.name] != JobState(job=job.name):
            sweep.folder(job).write(JobState(job=job.name))
    done = len(sweep.jobs) - len(left)
    if done:
        watcher.note(f"{done} of {len(sweep.jobs)} jobs are done already and are not repeated")
    if again:
        watcher.note(f"begun again, each from its own last checkpoint: {', '.join(again)}")
    return left


def _watch(sweep: Sweep, jobs: Sequence[Job], runner: Runner, watcher: Watcher, stop: Stop) -> None:
    """Wait until all jobs have ended, or until they were asked to stop and did."""
    by_name, open_jobs = {job.name: job for job in jobs}, {job.name for job in jobs}
    while open_jobs:
        ended = runner.ended(_TICK_S)
        if stop.requested:
            return  # the runner is closed, which stops its jobs
        open_jobs -= set(ended)
        standing = _standing(sweep)
        done = False
        for name in ended:
            state = sweep.folder(by_name[name]).state()
            watcher.ended(by_name[name], state, standing)
            done |= state.status == "done"
        if done:
            _tell_front(sweep, watcher)
        watcher.standing(standing)


def _tell_front(sweep: Sweep, watcher: Watcher) -> None:
    try:
        front = write_front(sweep)
    except BmtasError as error:
        # Other jobs go on; if it is still so at the end, it is told there.
        watcher.note(f"no front yet: {error}")
        return
    if front is not None:
        watcher.front(front)


def _standing(sweep: Sweep) -> Standing:
    states = sweep.states()
    running = tuple(
        RunningJob(job, states[job.name], _last_said(sweep.folder(job).last_lines()))
        for job in sweep.jobs
        if states[job.name].status == "running"
    )
    done, failed = (sum(state.status == status for state in states.values()) for status in ("done", "failed"))
    return Standing(running, done, failed, len(states) - done - failed)


def _last_said(lines: Sequence[str]) -> str:
    """Return the last line of the command at work; nothing of the one before, whose lines stand above a line with a mark."""
    return "" if not lines or lines[-1].startswith(MARK) else lines[-1]


def _measure(sweep: Sweep, code: str, watcher: Watcher, stop: Stop) -> None:
    """Measure the networks one after another, now that no job disturbs that."""
    states = sweep.states()
    done = [job for job in sweep.jobs if states[job.name].status == "done"]
    due = [job for job in done if states[job.name].bench_exit_code or not is_benched(sweep, job)]
    for number, job in enumerate(due, start=1):
        if stop.requested:
            return
        watcher.note(f"bench {number}/{len(due)}: {job.name}")
        state = bench(sweep, job, code, lambda: stop.requested)
        if state.bench_exit_code:
            watcher.note(
                f"{job.name}: bmtas bench ended with exit code {state.bench_exit_code}; see {sweep.folder(job).log}"
            )
