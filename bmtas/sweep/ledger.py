"""The folder of a sweep and how its jobs stand: the sweep is gone on with from these files alone. Needs no torch.

sweeps/001-scenes/
    sweep.json                  the specification as resolved, written once
    settings.toml               the settings of all its commands: plugins alone, for all else stands in their options
    jobs/007-fafs-9GMAdds-seed1/
        job.json                how the job stands
        log.txt                 what its commands have said
        runs/001-.../           its run folder
    front.json, front.md, front.png
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.files import first_problem, read_json, write_json, write_text
from bmtas.holding import alone
from bmtas.runs import Run, all_runs
from bmtas.settings import Settings
from bmtas.sweep.plan import Job, SweepSpec, job_list

SCHEMA_VERSION = 1
MARK = "# "
"""What lines of a job's log begin with that are the sweep's own."""
_TAIL_BYTES = 8192
_TAIL_LINES = 20


class JobState(Settings):
    """How a job stands. `pid` is the command's process on `host`, `worker_pid` the one that started it and waits for it.

    `run` is the run folder's path within the sweep's folder. A job that failed has the exit code of its last command (negative: the
    signal that ended it), the reason in words and the log's last lines. `bench_exit_code` is that of measuring, done after all jobs.
    """

    schema_version: Literal[1] = 1
    job: str
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    attempts: int = 0
    step: str | None = None
    pid: int | None = None
    worker_pid: int | None = None
    host: str | None = None
    started: str | None = None
    ended: str | None = None
    run: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    last_lines: list[str] = Field(default_factory=list)
    bench_exit_code: int | None = None

    def changed(self, **values: object) -> JobState:
        """Return the state with some values replaced."""
        return self.model_validate({**self.model_dump(), **values})


@dataclass(frozen=True)
class JobFolder:
    """The folder of one job."""

    path: Path

    @property
    def runs(self) -> Path:
        """Where its run folders are."""
        return self.path / "runs"

    @property
    def log(self) -> Path:
        """What its commands have said, one after another."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """Held by the command that works in this folder, so that there is never a second one."""
        return self.path / ".lock"

    def run(self) -> Run | None:
        """Return its newest run, None if there is none yet."""
        runs = all_runs(self.runs)
        return runs[0] if runs else None

    def state(self) -> JobState:
        """Return how the job stands; waiting if nothing was written yet. Raises UsageError for a file that is not ours."""
        path = self.path / "job.json"
        if not path.exists():
            return JobState(job=self.path.name)
        data = read_json(path, SCHEMA_VERSION)
        try:
            return JobState.model_validate(data)
        except ValidationError as error:
            raise UsageError(
                f"{path} is not the state of a job: {first_problem(error)}; delete it, and the same command finds out how the job stands"
            ) from None

    def write(self, state: JobState) -> JobState:
        """Write how the job stands, and return it."""
        write_json(self.path / "job.json", state.model_dump(mode="json"))
        return state

    def last_lines(self, count: int = _TAIL_LINES) -> list[str]:
        """Return the last lines of the log that are not empty, the newest last."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()][-count:]


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder with its specification."""

    path: Path
    spec: SweepSpec

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in their order."""
        return job_list(self.spec)

    @property
    def settings(self) -> Path:
        """The file of settings that its commands read instead of the user's."""
        return (self.path / "settings.toml").resolve()

    def folder(self, job: Job) -> JobFolder:
        """Return the folder of a job."""
        return JobFolder(self.path / "jobs" / job.name)

    def states(self) -> dict[str, JobState]:
        """Return how every job stands, by its name. Raises UsageError as `JobFolder.state` does."""
        return {job.name: self.folder(job).state() for job in self.jobs}

    def finished_runs(self) -> list[tuple[Job, Run]]:
        """Return the runs of all jobs that are done."""
        states = self.states()
        return [(job, Run(self.path / run)) for job in self.jobs if (run := _run_of_done(states[job.name])) is not None]

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Hold the sweep's lock. Raises UsageError, when it is entered, if another process does."""
        return alone(
            self.path / ".lock",
            f"another process is at work on {self.path}; wait for it or stop it. A sweep beside it takes --new or another --name",
        )


def _run_of_done(state: JobState) -> str | None:
    return state.run if state.status == "done" else None


def open_sweep(path: Path) -> Sweep:
    """Return the sweep in a folder. Raises UsageError if there is none or its specification cannot be read."""
    data = read_json(path / "sweep.json", SCHEMA_VERSION)
    try:
        return Sweep(path, SweepSpec.model_validate(data))
    except ValidationError as error:
        raise UsageError(
            f"{path / 'sweep.json'} is not a sweep's specification: {first_problem(error)}; "
            "restore it, or start the sweep in another folder"
        ) from None


def all_sweeps(root: Path) -> list[Path]:
    """Return the folders of all sweeps under `root`, the newest first; one with a name of its own has no number and comes last."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if (p / "sweep.json").exists()), key=_number, reverse=True)


def find_sweep(root: Path, spec: SweepSpec, name: str | None, *, threads: bool) -> Sweep | None:
    """Return the sweep that is gone on with: that of `name`, else the newest of the same specification; None if there is none.

    `threads` says whether their number was asked for. Raises UsageError if the sweep of that name is another one.
    """
    if name is not None:
        if not (root / name / "sweep.json").exists():
            return None
        sweep = open_sweep(root / name)
        if not sweep.spec.asks_the_same(spec, threads=threads):
            raise UsageError(
                f"{sweep.path} was asked for something else: {_differences(sweep.spec, spec)}; go on with it by its own command, or take "
                "another --name"
            )
        return sweep
    for path in all_sweeps(root):
        with contextlib.suppress(UsageError):  # of a newer version, say: not ours to go on with
            sweep = open_sweep(path)
            if sweep.spec.asks_the_same(spec, threads=threads):
                return sweep
    return None


def _differences(one: SweepSpec, other: SweepSpec) -> str:
    there, now = one.model_dump(mode="json"), other.model_dump(mode="json")
    told = [
        f"{key} ({there[key]} there, {now[key]} now)" for key in there if there[key] != now[key] and key != "written_by"
    ]
    return ", ".join(told)


def create_sweep(root: Path, spec: SweepSpec, label: str, name: str | None) -> Sweep:
    """Create a sweep's folder, called `name` or by the next number and `label`, whole or not at all.

    Raises UsageError as `check_name` does, EnvironmentProblem if the folder cannot be made.
    """
    check_name(root, name)
    building: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=root, prefix=".new-"))
        building.chmod(0o755)  # mkdtemp makes folders private
        write_json(building / "sweep.json", spec.model_dump(mode="json"))
        write_text(building / "settings.toml", settings_text(spec.plugins))
        return Sweep(_placed(building, root, re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-"), name), spec)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot create a folder for the sweep under {root.resolve()}: {error.strerror or error}; choose another place with --sweeps, or "
            "make room and permission there"
        ) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def settings_text(plugins: Sequence[str]) -> str:
    """Return the file of settings of a sweep's commands, in TOML, whose strings are those of JSON but for escapes in pairs and DEL."""
    return f"plugins = {json.dumps(list(plugins), ensure_ascii=False)}\n".replace("\x7f", "\\u007f")


def check_name(root: Path, name: str | None) -> None:
    """Raise UsageError if `name` cannot be that of a sweep's folder under `root`, or something else is there."""
    if name is None:
        return
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(
            f"--name {name!r}: it becomes a folder under {root}, so write one or more characters, without slashes and leading dots"
        )
    path = root / name
    if path.exists() and not (path / "sweep.json").exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--name {name}: {path} is there already and is no sweep; give another --name")


def _placed(building: Path, root: Path, label: str, name: str | None) -> Path:
    while True:
        number = max((_number(path) for path in root.iterdir()), default=0) + 1
        path = root / (name or f"{number:03d}-{label}")
        try:
            return building.rename(path)
        except OSError as error:
            if name is not None or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _number(path: Path) -> int:
    match = re.match(r"^(\d+)-", path.name)
    return int(match.group(1)) if match else 0
