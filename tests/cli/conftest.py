"""A tiny folder of images, and one run over it through the whole pipeline, made once for all tests of the command line."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.main import run

SIDE = 64
COUNT = 12
BUDGET = "130MMAdds"  # all shared is 71.4, separate networks 148.3 MMAdds (counted by PyTorch in test_pipeline)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more threads, and lose much to them on a machine that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for processes that tests start
        yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Result:
    """What one command answered."""

    code: int
    out: str
    err: str


def invoke(*arguments: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(a) for a in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def write_data(root: Path) -> Path:
    """Boxes and balls on a floor: ids, edges between them, and a depth that depends on both."""
    for name in ("images", "semseg", "edge", "depth"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(7)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    for i in range(COUNT):
        ids = np.zeros((SIDE, SIDE), dtype=np.int64)
        y, x, centre = rng.integers(4, 36), rng.integers(4, 36), rng.integers(16, 48)
        ids[y : y + 20, x : x + 24] = 1
        ids[(ys - 32) ** 2 + (xs - centre) ** 2 < 80] = 2
        edge = np.zeros_like(ids)
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        edge[1:] |= ids[1:] != ids[:-1]
        noise = rng.integers(0, 30, (SIDE, SIDE, 3))
        image = (np.stack([ids * 90, 255 - ids * 60, ys * 3], axis=-1) + noise).clip(0, 255)
        pictures = {
            "images": image.astype(np.uint8),
            "semseg": ids.astype(np.uint8),
            "edge": edge.astype(np.uint8),
            "depth": (1000 + 10 * ys + 300 * ids).astype(np.uint16),
        }
        for folder, picture in pictures.items():
            Image.fromarray(picture).save(root / folder / f"{i:02d}.png")
    names = [f"{i:02d}" for i in range(COUNT)]
    manifest = root / "tiny.yaml"
    manifest.write_text(
        "images: {folder: images}\n"
        "tasks:\n"
        "  semseg: {kind: segmentation, folder: semseg, classes: [floor, box, ball]}\n"
        "  edge: {kind: edge, folder: edge}\n"
        "  depth: {kind: depth, folder: depth, scale: 0.001}\n"
        f"splits: {{train: [{', '.join(names[:10])}], val: [{', '.join(names[10:])}]}}\n",
        encoding="utf-8",
    )
    return manifest


def search_arguments(manifest: Path, *, search_steps: int = 1) -> list[str]:
    return [
        *("search", "--data", str(manifest), "--budget", BUDGET, "--warmup-steps", "1"),
        *("--search-steps", str(search_steps), "--train-steps", "2", "--batch-size", "2"),
        *("--size", "64x64", "--search-size", "32x32", "--train-size", "64x64"),
    ]


@dataclass(frozen=True)
class TinyRun:
    """A finished run, and what each command that made it answered."""

    root: Path
    path: Path
    results: dict[str, Result]


@pytest.fixture(scope="session")
def bmtas() -> Callable[..., Result]:
    """The command line, run in this process."""
    return invoke


@pytest.fixture(scope="session")
def new_data() -> Callable[[Path], Path]:
    """Write the tiny data set into a folder of the test's own."""
    return write_data


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny-data"))


@pytest.fixture(scope="session")
def search_tiny(tiny_data: Path) -> Callable[..., list[str]]:
    """The arguments of the search that made the tiny run."""

    def arguments(runs: Path, *, search_steps: int = 1) -> list[str]:
        return [*search_arguments(tiny_data, search_steps=search_steps), "--runs", str(runs)]

    return arguments


def answer_all(root: Path, results: dict[str, Result], commands: dict[str, list[object]]) -> TinyRun:
    for name, arguments in commands.items():
        results[name] = invoke(*arguments, "--runs", root)
        assert results[name].code == 0, f"{name}: {results[name].err}"
    return TinyRun(root, next(root.iterdir()), results)


@pytest.fixture(scope="session")
def searched_run(tmp_path_factory: pytest.TempPathFactory, search_tiny: Callable[..., list[str]]) -> Iterator[TinyRun]:
    """The tiny run after its search."""
    root = tmp_path_factory.mktemp("tiny-runs")
    yield answer_all(root, {}, {"search": [*search_tiny(root), "--json", "-"]})
    shutil.rmtree(root)  # pytest keeps its folders; this one holds hundreds of MiB


@pytest.fixture(scope="session")
def trained_run(searched_run: TinyRun) -> TinyRun:
    """The tiny run with all networks trained and evaluated."""
    commands: dict[str, list[object]] = {
        "train": ["train", "--network", "all"],
        "evaluate": ["evaluate", "--json", "-", "--quiet"],
    }
    return answer_all(searched_run.root, searched_run.results, commands)


@pytest.fixture(scope="session")
def tiny_run(trained_run: TinyRun) -> TinyRun:
    """The tiny run with everything done."""
    commands: dict[str, list[object]] = {
        "export": ["export", "--network", "all"],
        "bench": ["bench", "--network", "all", "--samples", "4", "--warmup", "0", "--no-eager"],
        "show": ["show"],
    }
    return answer_all(trained_run.root, trained_run.results, commands)


@pytest.fixture
def copied_run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Copy what a test names of the tiny run into a folder of runs of its own, and return the run's path.

    The tiny run is made as far as the named files ask for.
    """

    def copy(*names: str) -> Path:
        made = "searched_run"
        if any("networks/" in name for name in names):
            made = "trained_run"
        if any(name.endswith(("model.onnx", "parity.json", "bench.json")) for name in names):
            made = "tiny_run"
        run: TinyRun = request.getfixturevalue(made)
        target = tmp_path / "runs" / run.path.name
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.path / name, target / name)
        return target

    return copy


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in a process of its own; `setup` is Python code that runs there before it."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, setup: str = "") -> subprocess.Popen[str]:
        # Where the tests run in the background, SIGINT is ignored and children inherit that; a terminal does not.
        terminal = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{terminal}\n{setup}\nfrom cli.main import main\nmain()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        with process:  # closes its pipes and waits
            process.kill()
