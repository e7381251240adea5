"""`bmtas predict`: an exported network on a folder of images, each task as often as it is wanted. Needs no torch."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np

from bmtas.errors import UsageError, nearest
from bmtas.extras import require
from bmtas.files import atomic_path
from bmtas.progress import Progress
from export.artefacts import artefact_at, require_unchanged
from export.interface import InputType, Interface, OutputType
from export.request import PICTURES
from export.sessions.files import open_onnx
from export.sessions.openvino import OpenVinoSession
from export.sessions.protocol import Array, Session
from export.stages.manifest import MANIFEST
from export.stages.runner import StageRunner
from export.stages.schedule import Schedule
from export.tensorrt.engine import EngineSession

_ARRAYS = (".npy",)


def open_artefact(path: Path, provider: str = "cpu", threads: int = 0) -> Session | StageRunner:
    """Load an exported file or folder in its runtime; where `parity.json` beside it knows it, only if it is what was proved.

    Raises UsageError for what is no artefact or has changed, EnvironmentProblem without its runtime.
    """
    path = artefact_at(path)
    if path.exists():
        require_unchanged(path)  # before anything of it is loaded
    if path.is_dir() and (path / MANIFEST).exists():
        return StageRunner(path, provider=provider, threads=threads)
    if path.is_dir() or path.suffix == ".xml":
        if provider != "cpu":
            raise UsageError(f"--provider {provider} is for ONNX Runtime; {path.name} runs in OpenVINO on the CPU")
        return OpenVinoSession(path, threads=threads)
    if path.suffix == ".engine":
        return EngineSession(path)
    if path.suffix == ".onnx" or not path.exists():
        return open_onnx(path, provider, threads)
    raise UsageError(
        f"{path}: only .onnx and .engine files, OpenVINO folders and folders of stages can be run without PyTorch"
    )


def predict(
    runner: Session | StageRunner, folder: Path, out: Path, rates: dict[str, str] | None, progress: Progress
) -> dict[str, Any]:
    """Run every image of `folder`, sorted by name, and write `<name>.npz` with one array per task to `out`.

    With `rates` (a folder of stages only) a task is computed on a share of the images; in between, its last output stands in the
    file again, and `age.<task>` says how many images ago it was computed. Returns how often each task was computed.
    Raises UsageError if there is no image, two of them have one name, or the artefact takes another form of input.
    """
    metadata = runner.metadata()
    paths = images_in(folder)
    _require_own_names(paths)
    interface, size = _interface(metadata)
    if size is not None and any(path.suffix.lower() not in _ARRAYS for path in paths):
        progress.note(
            f"pictures of another size are resized to {size[0]}x{size[1]} (height x width), the network's own"
        )
    feeds = ((path, interface.feed(read_image(path, size))) for path in paths)
    progress.start("predict", len(paths))
    computed: dict[str, int] = {}
    for path, outputs, ages in _results(runner, feeds, rates):
        for task, age in ages.items():
            computed[task] = computed.get(task, 0) + (age == 0)
        arrays = {**outputs, **({f"age.{t}": np.array(a) for t, a in ages.items()} if rates else {})}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # a task cannot be called allow_pickle
        with atomic_path(out / f"{path.stem}.npz") as temporary:
            temporary.write_bytes(content.getvalue())
        progress.advance()
    return {"schema_version": 1, "images": len(paths), "computed": computed, "out": str(out)}


def _results(
    runner: Session | StageRunner, feeds: Iterator[tuple[Path, Array]], rates: dict[str, str] | None
) -> Iterator[tuple[Path, dict[str, Array], dict[str, int]]]:
    if rates is None:
        for path, feed in feeds:
            outputs = runner.run(feed) if isinstance(runner, StageRunner) else runner(feed)
            yield path, outputs, dict.fromkeys(outputs, 0)
        return
    if not isinstance(runner, StageRunner):
        raise UsageError(
            "--rates needs a network in stages: bmtas export --split-at-branches writes one, then give that folder"
        )
    paths: list[Path] = []

    def images() -> Iterator[Array]:
        for path, feed in feeds:
            paths.append(path)
            yield feed

    for result in runner.frames(images(), Schedule.parse(rates)):
        yield paths[result.index], dict(result.latest), dict(result.age)


def _interface(metadata: dict[str, Any]) -> tuple[Interface, tuple[int, int] | None]:
    """Return what a file takes and gives, and the size of its images; None where it takes every size."""
    try:
        told = metadata["input"]
        height, width = (int(n) for n in told["size"])
        input_type, outputs = told["dtype"], metadata["outputs"]
    except (KeyError, TypeError, ValueError):
        raise UsageError(
            "the file does not say what it takes and gives: it was not written by `bmtas export`, or was changed"
        ) from None
    for word, known in ((input_type, get_args(InputType)), (outputs, get_args(OutputType))):
        if word not in known:
            raise UsageError(f"the file's metadata tell of {word!r}; {nearest(str(word), known)}; export it again")
    if min(height, width) < 1:
        raise UsageError(f"the file's metadata tell of images of {height}x{width}; export it again")
    free = "height" in told.get("shape", ())
    return Interface(input_type, outputs), None if free else (height, width)


def _require_own_names(paths: list[Path]) -> None:
    """Raise UsageError if two images would be written to one file."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[path.stem].append(path.name)
    for stem, names in by_name.items():
        if len(names) > 1:
            raise UsageError(
                f"{' and '.join(names)} in {paths[0].parent} would both become {stem}.npz; rename one of them"
            )


def parse_rates(text: str) -> dict[str, str]:
    """Read `--rates semseg=1,depth=1/5`. Raises UsageError for anything else."""
    rates = {}
    for part in text.split(","):
        task, equals, rate = part.partition("=")
        if not equals:
            raise UsageError(f"--rates {part!r}: expected TASK=RATE, for example depth=1/5")
        rates[task.strip()] = rate.strip()
    return rates


def images_in(folder: Path) -> list[Path]:
    """Return the pictures and .npy arrays of a folder, sorted by name. Raises UsageError if there are none."""
    suffixes = (*PICTURES, *_ARRAYS)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give a folder of images")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes)
    if not found:
        raise UsageError(f"{folder} holds no image; expected files ending in {', '.join(suffixes)}")
    return found


def read_image(path: Path, size: tuple[int, int] | None) -> Array:
    """Return an image as (H, W, 3) uint8 RGB at `size` (height, width; None: its own); .npy arrays must have that size already.

    Raises UsageError if it cannot be read, EnvironmentProblem if pictures are given where Pillow is not installed.
    """
    if path.suffix.lower() in _ARRAYS:
        try:
            array: Array = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as an array: {error}") from None
        wanted = array.shape if size is None else (*size, 3)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3 or array.shape != wanted:
            raise UsageError(
                f"{path} is {array.dtype} of shape {array.shape}; uint8 of shape {wanted if size else '(H, W, 3)'} is needed: scale it, or "
                "give a picture, which is resized"
            )
        return array
    module = require("PIL.Image", "host")
    try:
        with module.open(path) as picture:
            colours = picture.convert("RGB")
            return np.asarray(
                colours if size is None else colours.resize((size[1], size[0]), module.Resampling.BILINEAR)
            )
    except OSError as error:
        raise UsageError(f"{path} cannot be read as a picture: {error}") from None
