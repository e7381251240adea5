"""The code blocks of the documentation, and the generators of its reference, which lie where mkdocs finds them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from _reference.blocks import Block, Command, blocks, commands, pages  # noqa: E402 -- after the path is known

from cli.main import run  # noqa: E402

SETTINGS = """
[search]
data = "small.yaml"
weights = "none"
backbone = "tiny"
search-size = "32x32"
train-size = "32x32"
warmup-steps = 1
search-steps = 1
train-steps = 2
batch-size = 2

[train]
network = "found"

[export]
images = 2
calibration = "2"
score-images = 2
samples = 5

[bench]
samples = 5
warmup = "0"

[profile.prepare]
backbone = "tiny"
held-out = 2
"""


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str


def invoke_command(arguments: list[str]) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    return Answer(code, out.getvalue(), err.getvalue())


def write_photos(folder: Path) -> None:
    """Twelve images of a box on a floor, with three labels each, as the manifests below describe them."""
    rng = np.random.default_rng(0)
    rows = np.mgrid[:64, :64][0]
    for name in ("images", "semseg", "depth", "edge", "disparity"):
        (folder / name).mkdir(parents=True)
    for i in range(12):
        ids = np.zeros((64, 64), np.int64)
        y, x = rng.integers(4, 36, 2)
        ids[y : y + 24, x : x + 24] = 1
        edge = np.zeros((64, 64), np.int64)
        edge[1:] |= ids[1:] != ids[:-1]
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        depth = 1000 + 10 * rows + 400 * ids
        image = np.stack([80 + 100 * ids, 160 - 60 * ids, rows * 3], axis=-1) + rng.integers(0, 20, (64, 64, 3))
        pictures = {"images": image, "semseg": ids, "edge": 255 * edge, "disparity": 160000 // depth}
        for name, picture in pictures.items():
            Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
        Image.fromarray(depth.astype(np.uint16)).save(folder / "depth" / f"{i:02d}.png")
    (folder / "classes.txt").write_text("floor\nbox\n", encoding="utf-8")


MANIFEST = """
root: photos
images: {folder: images}
tasks:
  semseg: {kind: segmentation, folder: semseg, classes: [floor, box]}
  depth: {kind: depth, folder: depth, scale: 0.001}
  edge: {kind: edge, folder: edge, ignore: null}
splits: {val: 0.25}
"""
STEREO = """
root: photos
images: {folder: images}
tasks:
  semseg: {kind: segmentation, folder: semseg, classes: [floor, box]}
  disparity: {kind: disparity, folder: disparity}
splits: {val: 0.25}
"""


@pytest.fixture(scope="session")
def documented() -> dict[str, list[Command]]:
    """All commands by page."""
    return {path.relative_to(ROOT).as_posix(): list(commands(path)) for path in pages()}


@pytest.fixture(scope="session")
def code_blocks() -> dict[str, list[Block]]:
    """All code blocks by page."""
    return {path.relative_to(ROOT).as_posix(): list(blocks(path)) for path in pages()}


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def invoke() -> Callable[[list[str]], Answer]:
    """The command line, run in this process."""
    return invoke_command


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A folder as a reader may have it: settings, images, manifests, and the repository's examples."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "bmtas.toml").write_text(SETTINGS, encoding="utf-8")
    write_photos(folder / "photos")
    shutil.copytree(folder / "photos" / "images", folder / "frames")
    for name in ("small.yaml", "my.yaml"):
        (folder / name).write_text(MANIFEST, encoding="utf-8")
    (folder / "stereo.yaml").write_text(STEREO, encoding="utf-8")
    (folder / "examples").symlink_to(root / "examples")
    return folder


@pytest.fixture(scope="session")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder with a trained and exported run, three copies of it, and files and measurements of it by the names that pages use."""
    folder = tmp_path_factory.mktemp("finished") / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    with _chdir(folder):
        for command in ("search", "train", "export --split-at-branches", "bench --json before.json"):
            answer = invoke_command(command.split())
            assert answer.code == 0, answer.err
        (found,) = Path("runs").iterdir()
        for name in ("model.onnx", "model.stages"):
            source = found / "networks" / "found" / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, name)
        shutil.copyfile("model.onnx", "model.int8.onnx")
        shutil.copyfile("before.json", "after.json")
        for number in ("003", "005"):
            shutil.copytree(found, Path("runs") / f"{number}{found.name[3:]}")
    return folder


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)
