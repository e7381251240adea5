"""What is measured in turn: each file with each number of threads, in its runtime, and PyTorch eager beside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.errors import UsageError
from export.artefacts import artefact_at, digest, require_unchanged
from export.bench.options import BenchOptions
from export.bench.phases import Cycle, Phases, Tasks
from export.bench.workers import Worker, eager_worker, program_worker
from export.predict import open_artefact
from export.sessions.protocol import Array, Session
from export.stages.runner import StageRunner
from export.stopwatch import Timed

Loaded = Session | StageRunner


@dataclass
class Candidate:
    """One network, ready to run. `timed` runs it once (a whole cycle of frames where tasks have rates of their own).

    `frame` runs one frame. `about` is what a result tells of it; `end_to_end_ms` grows by one entry with each call; `loaded` is None for
    what runs in a worker; `reference` is the key of the candidate that it is compared with.
    """

    key: str
    timed: Timed
    frame: Timed
    about: dict[str, Any]
    end_to_end_ms: list[float]
    unavailable: str | None
    threads: int
    loaded: Loaded | None = None
    path: Path | None = None
    cycle: Cycle | None = None
    frames_per_call: int = field(default=1)
    reference: str | None = None


def open_candidates(
    files: Mapping[str, Path], eager: Mapping[str, tuple[Path, str]], options: BenchOptions, stack: ExitStack
) -> list[Candidate]:
    """Load all files, and start workers that `stack` ends.

    `files` maps a network's name to its exported file or folder, `eager` the names that PyTorch runs too to (run folder, network). Raises
    what loading raises, UsageError for rates of a file that is no folder of stages.
    """
    found: list[Candidate] = []
    for threads in options.threads:
        for name, path in files.items():
            found.append(_of_file(name, path, threads, options, stack))
            if name in eager:
                found.append(_of_eager(name, *eager[name], threads, options, stack, found[-1].key))
    for candidate in found[1:]:
        candidate.reference = candidate.reference or found[0].key
    return found


def feeder(loaded: Loaded, tasks: Tasks = None) -> Any:
    """Return a function of (image, tasks) that runs what is loaded; `tasks` are those of every call where none are given."""
    if isinstance(loaded, StageRunner):
        return partial(_stages, loaded, tasks)
    return partial(_whole, loaded)


def _stages(runner: StageRunner, always: Tasks, image: Array, tasks: Tasks) -> dict[str, Array]:
    return runner.run(image, always if tasks is None else tasks)


def _whole(session: Session, image: Array, tasks: Tasks) -> dict[str, Array]:
    return session(image)


def _of_file(name: str, path: Path, threads: int, options: BenchOptions, stack: ExitStack) -> Candidate:
    path = artefact_at(path)
    if path.suffix == ".pt2":
        return _of_program(name, path, threads, options, stack)
    loaded = open_artefact(path, options.provider, threads)
    metadata = loaded.metadata()
    phases = Phases(feeder(loaded), loaded.image_spec, metadata, options.batch)
    cycle = None
    if options.rates is not None:
        if not isinstance(loaded, StageRunner):
            raise UsageError(
                f"--rates: {path} runs as a whole; `bmtas export --split-at-branches` writes a folder of stages, whose tasks can have "
                "rates of their own: give that"
            )
        loaded.manifest.needed(options.rates.tasks)
        cycle = Cycle(phases, options.rates)
    about = {
        "network": name,
        **_file_facts(path),
        "runtime": loaded.runtime,
        "provider": loaded.provider,
        "input_shape": list(phases.shape),
        "precision": metadata.get("precision", "fp32"),
        "tasks": list(loaded.outputs),
        "costs": metadata.get("costs"),
        "preprocessing": phases.preprocessing,
        "postprocessing": phases.postprocessing,
    }
    return Candidate(
        key=_key(name, loaded.runtime, threads, options),
        timed=phases if cycle is None else cycle,
        frame=phases if cycle is None else cycle.frame,
        about=about,
        end_to_end_ms=phases.end_to_end_ms if cycle is None else cycle.end_to_end_ms,
        unavailable=phases.unavailable,
        threads=threads,
        loaded=loaded,
        path=path,
        cycle=cycle,
        frames_per_call=1 if cycle is None else len(cycle.busy),
    )


def _of_program(name: str, path: Path, threads: int, options: BenchOptions, stack: ExitStack) -> Candidate:
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `bmtas export --format pt2` writes programs")
    _no_stages(path, options)
    require_unchanged(path)  # before anything of it is loaded
    worker = stack.enter_context(program_worker(path, threads, options.batch))
    return _of_worker(name, worker, threads, options, _file_facts(path), path)


def _of_eager(
    name: str, run: Path, network: str, threads: int, options: BenchOptions, stack: ExitStack, beside: str
) -> Candidate:
    worker = stack.enter_context(eager_worker(run, network, options.provider, threads))
    candidate = _of_worker(name, worker, threads, options, {"precision": "fp32"}, None)
    candidate.reference = beside
    return candidate


def _of_worker(
    name: str, worker: Worker, threads: int, options: BenchOptions, facts: dict[str, Any], path: Path | None
) -> Candidate:
    about = {"network": name, **facts, **worker.about}
    unavailable = about.pop("unavailable")
    key = _key(name, worker.about["runtime"], threads, options)
    return Candidate(key, worker, worker, about, worker.end_to_end_ms, unavailable, threads, path=path)


def _no_stages(path: Path, options: BenchOptions) -> None:
    if options.rates is not None:
        raise UsageError(f"--rates: {path} runs as a whole; give a folder of stages instead")


def _key(name: str, runtime: str, threads: int, options: BenchOptions) -> str:
    several = f"/{threads or 'free'} threads" if len(options.threads) > 1 else ""
    return f"{name}/{runtime.split()[0]}{several}"


def _file_facts(path: Path) -> dict[str, Any]:
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
    return {"file": path.name, "sha256": digest(path), "bytes": size}
