"""Jobs of a sweep as tasks of Ray, on this machine or on a cluster. Needs no torch."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.extras import own_version, require
from bmtas.files import write_text
from bmtas.sweep.job import Assignment, work
from bmtas.sweep.ledger import JobState, open_sweep

HERE = "local"
"""Instead of an address: start Ray on this machine, for this sweep alone."""
_CONNECT_S = 10.0
_PROBE_S = 120.0
_STOP_S = 130.0
"""A command may take a minute to save its checkpoint, and another until it is killed."""


class RayRunner:
    """Does jobs as tasks that take `threads` CPUs each; Ray decides where, and begins one again whose worker process is lost.

    All machines have to share the sweep's folder and the folder in which it was started, with bmtas of this version installed. Jobs are stopped by a file in
    the sweep's folder, which every one of them looks for.
    """

    def __init__(self, address: str, sweep: Path, *, workers: int | None, threads: int, retries: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # jobs see the GPUs of their machine
        os.environ.setdefault(
            "RAY_DEDUP_LOGS_SKIP_REGEX", ".*"
        )  # what it would print to standard output, which is for results
        self._ray: Any = require("ray", "ray")
        logging.getLogger("ray").setLevel(logging.ERROR)  # it sets its own when it is imported
        self._stop_file = sweep / ".stop"
        self._stop_file.unlink(missing_ok=True)
        self._waiting: list[Assignment] = []
        self._running: dict[Any, Assignment] = {}
        self._connect(address, (workers or 1) * threads)
        self._most = workers
        self._task = self._ray.remote(num_cpus=threads, max_retries=retries)(_do)
        try:
            self.machines = self._probe(sweep, threads)
        except BaseException:
            self._ray.shutdown()
            raise

    def _connect(self, address: str, cpus: int) -> None:
        where: dict[str, Any] = {"address": address}
        if address == HERE:
            where = {"address": HERE, "num_cpus": cpus, "include_dashboard": False}
        else:
            _check_answers(address)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _unreachable(address, error) from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():  # Ray takes SIGTERM for itself; here it stops the jobs
                    signal.signal(number, handler)

    def _probe(self, sweep: Path, threads: int) -> list[str]:
        """Return the names of the cluster's machines.

        Raises EnvironmentProblem if none has room for a job, or one does not share the folders or has another bmtas.
        """
        token = sweep / f".shared-{secrets.token_hex(8)}"
        write_text(token, token.name)
        affinity = require("ray.util.scheduling_strategies", "ray").NodeAffinitySchedulingStrategy
        try:
            alive = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            most = max((int(node["Resources"]["CPU"]) for node in alive), default=0)
            if most < threads:
                raise EnvironmentProblem(
                    f"a job takes {threads} CPUs, and no machine of the Ray cluster offers more than {most}; give fewer --threads"
                )
            ask = self._ray.remote(num_cpus=0, max_retries=1)(_look)
            asked = [
                ask.options(scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(str(token), _folder(sweep))
                for node in alive
            ]
            answers = self._ray.get(asked, timeout=_PROBE_S)
        except self._ray.exceptions.RayError as error:
            raise EnvironmentProblem(
                f"a machine of the Ray cluster cannot do jobs of bmtas ({_first_line(error)}); install bmtas {own_version()} on all of them"
            ) from error
        finally:
            token.unlink(missing_ok=True)
        for host, version, seen, folder in answers:
            if not seen or not folder:
                missing = sweep if not seen else _folder(sweep)
                raise EnvironmentProblem(
                    f"{host} of the Ray cluster cannot see {missing}: jobs on other machines need a folder that all of them share, under the "
                    "same path; choose one with --sweeps and start there, or take --workers on this machine"
                )
            if version != own_version():
                raise EnvironmentProblem(
                    f"{host} of the Ray cluster has bmtas {version}, this machine {own_version()}; install one version"
                )
        return sorted(host for host, *_ in answers)

    def begin(self, assignments: Sequence[Assignment]) -> None:
        """Take on jobs."""
        self._waiting += assignments
        self._submit()

    def _submit(self) -> None:
        while self._waiting and (self._most is None or len(self._running) < self._most):
            assignment = self._waiting.pop(0)
            self._running[self._task.remote(assignment, str(self._stop_file))] = assignment

    def ended(self, timeout_s: float) -> list[str]:
        """Return the names of jobs that have ended since the last call; one whose workers were all lost has failed."""
        if not self._running:
            time.sleep(timeout_s)
            return []
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        names = []
        for reference in done:
            assignment = self._running.pop(reference)
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from error
            except self._ray.exceptions.RayError as error:
                _lost(assignment, _first_line(error))
            names.append(assignment.job.name)
        self._submit()
        return names

    def stop(self) -> None:
        """Have all jobs stop."""
        self._waiting = []
        with suppress(OSError):
            self._stop_file.touch()

    def close(self) -> None:
        """Stop, wait until all have ended, and leave Ray."""
        self.stop()
        try:
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_STOP_S)
        finally:
            self._ray.shutdown()
            self._stop_file.unlink(missing_ok=True)


def _check_answers(address: str) -> None:
    """Raise EnvironmentProblem if nobody listens at an address with a port; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"--ray {address}: Ray cannot be reached ({error}); give the address that `ray start --head` has told, or `local`; a "
        "cluster that asks for a token takes RAY_AUTH_MODE=token here, too"
    )


def _folder(sweep: Path) -> str:
    return open_sweep(sweep).spec.folder


def _do(assignment: Assignment, stop_file: str) -> JobState:
    return work(assignment, Path(stop_file).exists)


def _look(token: str, folder: str) -> tuple[str, str, bool, bool]:
    return socket.gethostname(), own_version(), Path(token).exists(), Path(folder).is_dir()


def _lost(assignment: Assignment, said: str) -> None:
    """Write down that Ray has given a job up."""
    folder = open_sweep(assignment.sweep).folder(assignment.job)
    state = folder.state()
    if state.status not in ("done", "failed"):
        folder.write(
            state.changed(status="failed", pid=None, reason=f"given up by Ray: {said}", last_lines=folder.last_lines())
        )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def check_address(text: str) -> str:
    """Return the address of a cluster, or `local`. Raises UsageError for an empty one."""
    if not text.strip():
        raise UsageError("--ray: give the address of a cluster (HOST:6379, or auto), or local")
    return text.strip()
