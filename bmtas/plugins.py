"""Python files of a user's own that bring what the house does not have: backbones and kinds of tasks. Needs no torch itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from bmtas.errors import EnvironmentProblem, UsageError

_PREFIX = "bmtas_plugin_"
_NAMED: list[Path] = []


def name_plugins(paths: Sequence[Path]) -> None:
    """Remember which files the command that follows was given, for what it starts or does later; nothing is read."""
    _NAMED[:] = [_expanded(path).resolve() for path in paths]


def named_plugins() -> tuple[Path, ...]:
    """Return the files that this command was given, loaded or not."""
    return tuple(_NAMED)


def load_named_plugins() -> None:
    """Run the files that this command was given. Raises as `load_plugin` does."""
    for path in _NAMED:
        load_plugin(path)


def _expanded(path: Path) -> Path:
    with contextlib.suppress(RuntimeError):  # of a user who is not there
        return path.expanduser()
    return path


def load_plugin(path: Path) -> None:
    """Run the Python file `path`, once per process; what it registers is known from then on.

    A run folder never names one: code is run only where the user says so. Raises UsageError if there is no such file or it fails, EnvironmentProblem if
    it needs a module that is not installed.
    """
    path = _expanded(path)
    if not path.is_file() or path.suffix != ".py":
        raise UsageError(f"plugin {path}: there is no such Python file; give the path of a file that ends in .py")
    name = _PREFIX + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(
            beside
        )  # it may import what lies beside it, as a script may; at the end, so that nothing is hidden by it
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        del sys.modules[name]
        raise EnvironmentProblem(
            f"plugin {path} needs the module {error.name!r}, which is not installed here; install it (torch and its like: pip install 'bmtas[host]'), "
            "or leave the plugin out"
        ) from error
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(
            f"plugin {path} failed with {type(error).__name__}: {error}; mend it, or leave it out"
        ) from error
