"""Packages that only some installs have: imported when needed, or the message says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from bmtas.errors import EnvironmentProblem


def require(module: str, extra: str) -> ModuleType:
    """Return the module called `module` (dotted), which the extra `extra` of bmtas brings.

    Raises EnvironmentProblem with the command that installs it where it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentProblem(
            f"this needs the module {module!r}, which cannot be imported here ({error}); "
            f"install it with: pip install 'bmtas[{extra}]'"
        ) from error
