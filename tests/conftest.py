"""Fixtures for all tests: a count cache of their own, and trees to build networks from."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.config import PRESETS, Preset, RunConfig
from bmtas.progress import Silent
from bmtas.tasks import Task

# Before torch is imported: small tensors on several threads wait for each other, on a busy machine many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


_DEAR = {
    "tiny run": re.compile(r"\b(searched|trained|tiny|copied)_run\b"),
    "reported runs": re.compile(r"\breported_runs\b|\bmade: Callable"),
}
"""What takes long to make, and how a file says that it needs it."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Let files that need what takes long to make run in one process, and each other file in any (`--dist loadfile`)."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByNeed(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return _need(config.rootpath / file) or file

    return ByNeed(config, log)


@cache
def _need(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8")
    return next((name for name, word in _DEAR.items() if word.search(text)), None)


@pytest.fixture(scope="session", autouse=True)
def _own_count_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Counts are remembered within one run of the tests, by all its processes, and never read from or left in the user's cache."""
    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BMTAS_CACHE", str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"))
        patch.delenv("COLUMNS", raising=False)  # tests in several processes get the terminal's, and tables its width
        yield


@pytest.fixture(scope="session")
def random_architecture() -> Callable[[int, str, tuple[str, ...], int], Architecture]:
    """Return a function (seed, backbone, tasks, layers) that draws a tree in which tasks part here and there."""

    def draw(seed: int, backbone: str, tasks: tuple[str, ...], layers: int) -> Architecture:
        rng = random.Random(f"tree {seed}")
        groupings, blocks = [], [list(tasks)]
        for _ in range(layers):
            parted = []
            for block in blocks:
                if len(block) > 1 and rng.random() < 0.15:
                    cut = rng.randrange(1, len(block))
                    rng.shuffle(block)
                    parted += [block[:cut], block[cut:]]
                else:
                    parted.append(block)
            blocks = parted
            groupings.append(tuple(tuple(block) for block in blocks))
        return BranchedArchitecture(backbone=backbone, tasks=tasks, groupings=tuple(groupings))

    return draw


@pytest.fixture
def run_config() -> Callable[[Sequence[Task], str], RunConfig]:
    """Return a function (tasks, budget) that gives the configuration of a small run of the quick preset."""

    def configure(tasks: Sequence[Task], budget: str) -> RunConfig:
        preset = PRESETS[Preset.QUICK]
        return RunConfig(
            data="scenes",
            data_fingerprint="0",
            tasks=[task.to_json() for task in tasks],
            backbone="mobilenet_v2",
            weights="none",
            budgets=[budget],
            preset=Preset.QUICK,
            seed=0,
            deploy_size=(64, 64),
            search_size=(32, 32),
            train_size=(32, 32),
            search=preset.search,
            train=preset.train,
        )

    return configure


class SignalAfter(Silent):
    """Sends this process a signal once `steps` steps of this process are done."""

    def __init__(self, steps: int, signum: int = signal.SIGINT) -> None:
        self.left, self.signum = steps, signum

    def advance(self, **values: float) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.signum)


@pytest.fixture
def signal_after() -> type[SignalAfter]:
    """A progress that interrupts what it is given to."""
    return SignalAfter
