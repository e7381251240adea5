"""The commands that take a kit to another machine, build there, and bring the report back. Nothing here connects anywhere. Needs no torch."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from bmtas.errors import UsageError

_USER = r"[A-Za-z_][A-Za-z0-9_.-]*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?"
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Commands:
    """What the user types: `copy` the kit, `build` there, `fetch` the report. Each is one line for a shell."""

    copy: str
    build: str
    fetch: str


def parse_remote(text: str) -> str:
    """Return `text` if it is `user@host` or a host's name or address. Raises UsageError for anything else.

    A text that begins with a hyphen would be an option to ssh, and one with a colon or a space another argument.
    """
    if not re.fullmatch(rf"(?:{_USER}@)?{_HOST}", text):
        raise UsageError(
            f"--remote {text!r}: expected USER@HOST, for example nvidia@192.168.1.20, or a host of your ssh configuration"
        )
    return text


def commands(remote: str, folder: Path, program: str = "bmtas") -> Commands:
    """Return the commands for the kit in `folder`; `program` is how bmtas is called on the other machine.

    The kit goes into the home folder there, under its own name. Raises UsageError for a remote or a name that a shell would take apart.
    """
    remote = parse_remote(remote)
    folder = folder.resolve()
    if not _FOLDER.fullmatch(folder.name):
        raise UsageError(
            f"the kit's folder is called {folder.name!r}; use letters, digits, '.', '_', '+' and '-', because it is named on another machine"
        )
    if not program or program.startswith("-") or any(c in program for c in "\0\n"):
        raise UsageError(f"{program!r} is no program's name or path")
    there = shlex.join([program, "build", folder.name])
    return Commands(
        # An absolute path: scp would take a colon before the first slash for a host.
        copy=shlex.join(["scp", "-r", str(folder), f"{remote}:"]),
        build=shlex.join(["ssh", remote, there]),
        fetch=shlex.join(["scp", f"{remote}:{folder.name}/report.json", str(folder)]),
    )
