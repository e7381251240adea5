"""Files that are never half written, and JSON that says which schema it follows. Needs no torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmtas.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from pydantic import ValidationError

PLACES = "--runs, --out"
"""Options by which most commands choose where they write."""


def cache_folder() -> Path:
    """Return where results that can always be had again are kept: $BMTAS_CACHE, or bmtas/ in the user's cache folder."""
    own = os.environ.get("BMTAS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bmtas"


@contextlib.contextmanager
def atomic_path(path: Path, keep: Path | None = None, option: str = PLACES) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` only if the block ends well.

    With `keep`, what was in `path` before is then found there. Raises EnvironmentProblem if the disk is full or the folder cannot be
    written; `path` is then untouched, and the message names `option` as what chooses another place.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is as readable as any other
        if keep is not None and path.exists():
            path.replace(keep)  # killed right after this, whoever reads finds what was there before under its new name
        temporary.replace(path)
    except OSError as error:
        raise _explained(error, path, option) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, option: str = PLACES) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; it takes the place of `path`, and of all in it, only if the block ends well.

    Raises EnvironmentProblem if the disk is full or the folder cannot be written, with `option` as in `atomic_path`; `path` is then
    untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        temporary.chmod(0o755)  # mkdtemp makes folders private; a result is as readable as any other
        _take_place(temporary, path)
    except OSError as error:
        raise _explained(error, path, option) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`. Whatever ends this in between, Ctrl-C too, what was in `path` before is put back."""
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    moved = old / path.name
    try:
        if path.exists():
            path.replace(moved)
        new.replace(path)
    except BaseException as cause:
        if moved.exists() and not path.exists():
            try:
                moved.replace(path)
            except OSError as error:
                raise EnvironmentProblem(
                    f"{path} could not be replaced ({cause}), and what was there before could not be put back ({error}); it is in "
                    f"{moved}: move it back yourself"
                ) from cause
        raise
    finally:
        if path.exists() or not moved.exists():  # never the only version that is left
            shutil.rmtree(old, ignore_errors=True)


def _explained(error: OSError, path: Path, option: str = PLACES) -> Exception:
    """Turn a full disk or a forbidden folder into a message; other errors stay what they are."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem(
            f"no space left for {path}; what was there before is untouched. Free some space, or choose another folder "
            f"with {'--runs' if option == PLACES else option}, and start the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return EnvironmentProblem(f"cannot write {path}: {error}; choose a folder of your own ({option})")
    return error


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; exported networks may be large, so it is read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def write_text(path: Path, text: str, option: str = PLACES) -> None:
    """Write `text` to `path` atomically; raises as `atomic_path` does."""
    with atomic_path(path, option=option) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write `data` to `path` atomically; it must carry its `schema_version`."""
    if "schema_version" not in data:
        raise ValueError(f"{path}: data for a JSON file must carry a schema_version")
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path, schema_version: int) -> dict[str, Any]:
    """Read a JSON file of our own whose schema is at most `schema_version`.

    Raises UsageError if it is missing, not JSON, or from a newer schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; check the path, or make the file anew") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not valid JSON ({error}); it was changed or cut short, restore it or make it anew"
        ) from None
    found = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise UsageError(f"{path} carries no schema_version; it was not written by bmtas")
    if found > schema_version:
        raise UsageError(
            f"{path} follows schema {found}, but this version of bmtas knows schemas up to {schema_version}; "
            "upgrade bmtas to read it"
        )
    return data


def first_problem(error: ValidationError) -> str:
    """Return where data break the rules of a pydantic model first, and how: `stages.0.file: field required`."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a file of JSON lines. Raises EnvironmentProblem if the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            cut_short = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            # A line that a kill has cut short must not swallow the next one.
            file.write((("\n" if cut_short else "") + json.dumps(record) + "\n").encode())
    except OSError as error:
        raise _explained(error, path) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
