"""Checkpoints: written beside and renamed, read without executing anything that they contain.

A run keeps its last two. If the last one cannot be read, it goes on from the one before.
"""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bmtas.errors import DivergedError, UsageError
from bmtas.files import atomic_path

if TYPE_CHECKING:
    from typing_extensions import Buffer

SCHEMA_VERSION = 1
_REASON_CHARACTERS = 160


def save_checkpoint(path: Path, state: dict[str, Any], *, rotate: bool = False) -> None:
    """Write `state` (tensors and plain values) to `path`; what was there stays if anything goes wrong.

    With `rotate`, what was there is kept beside it as `previous(path)`. Raises EnvironmentProblem if the disk is full.
    """
    keep = previous(path) if rotate else None
    with atomic_path(path, keep) as temporary, _Watched(io.FileIO(temporary, "wb")) as file:
        try:
            torch.save({"schema_version": SCHEMA_VERSION, **state}, file)
        except RuntimeError:
            # PyTorch tells of a write that failed in words of its own; what the system said is the reason.
            if file.failure is not None:
                raise file.failure from None
            raise


def previous(path: Path) -> Path:
    """Return where the checkpoint before the one in `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def has_checkpoint(path: Path) -> bool:
    """Say whether a run that keeps its last two checkpoints in `path` has one."""
    return path.exists() or previous(path).exists()


def load_latest(path: Path, note: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
    """Read the last checkpoint of a run, or the one before if there is none or it is damaged; return it and where it stood,
    or None if the run has none yet.

    A damaged one is kept under the name `broken(path)`; `note` is told what was taken instead. Raises UsageError if
    neither can be read, or if the last one is of a newer schema, OSError if the disk does not give it.
    """
    if not has_checkpoint(path):
        return None
    before = previous(path)
    if path.exists():
        try:
            return load_checkpoint(path), path
        except UnreadableError as error:
            if not before.exists():
                raise
            state = load_checkpoint(before)
            path.replace(broken(path))  # it must not become the one before when the next is written
            note(
                f"{error.what}; it is kept as {broken(path).name}. Going on from the checkpoint before it, {before.name}"
            )
    else:
        state = load_checkpoint(before)
        note(f"{path} does not exist; going on from the checkpoint before it, {before.name}")
    _sweep(path)
    return state, before


def broken(path: Path) -> Path:
    """Return where a damaged checkpoint is kept."""
    return path.with_name(f"{path.stem}.broken{path.suffix}")


def _advice(path: Path) -> str:
    """Say what to delete to begin anew: all that the run would go on from."""
    last = path.with_name(path.name.replace(".previous.", "."))
    files = [p for p in (last, previous(last)) if p.exists()]
    return f"Delete {' and '.join(map(str, files or [path]))} to begin this phase anew with the same command"


def _sweep(path: Path) -> None:
    """Remove what a process that was killed while it wrote has left behind."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


class UnreadableError(UsageError):
    """A checkpoint is damaged; `what` says so without the advice."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(f"{what}. {_advice(path)}")
        self.what = what


class _Watched(io.BufferedWriter):
    """A file that remembers why a write failed."""

    failure: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises UsageError if it is missing, cut short, or of a newer schema, OSError if the disk does not give it.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist; restore it, or start the command again that wrote it")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise  # says nothing of the file's content; EINVAL is a seek to where a file cut short has no bytes
        # torch raises whatever the broken bytes lead to
        raise UnreadableError(
            f"{path} cannot be read ({type(error).__name__}); it was cut short or changed after it was written", path
        ) from None
    _sweep(path)
    version = state.get("schema_version") if isinstance(state, dict) else None
    if not isinstance(version, int):
        raise UsageError(f"{path} is not a checkpoint of bmtas; restore it, or start the command again that wrote it")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{path} follows schema {version}, but this version of bmtas knows schemas up to {SCHEMA_VERSION}; upgrade bmtas"
        )
    return state


def require_finite(parameters: Mapping[str, Tensor], where: str, path: Path) -> None:
    """Raise DivergedError if a parameter is not finite: such a state must not replace the last good one in `path`."""
    for name, value in parameters.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DivergedError(
                f"{where}: the weights {name} are no longer finite; the last good checkpoint, if there was one, stands in "
                f"{path}. Begin a new run with a lower --search-learning-rate or --train-learning-rate"
            )


@contextlib.contextmanager
def belongs(path: Path, what: str) -> Iterator[None]:
    """Turn what loading a state into the wrong place raises into a UsageError that names the file."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:_REASON_CHARACTERS]  # PyTorch lists every parameter
        raise UsageError(
            f"{path} does not belong to {what} ({type(error).__name__}: {reason}); it was changed, or written by another "
            f"version of bmtas. {_advice(path)}"
        ) from None
