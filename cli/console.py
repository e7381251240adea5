"""What the commands share: messages, progress, JSON output. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from bmtas.errors import UsageError
from bmtas.files import write_text
from bmtas.ranks import torchrun_rank

_LINE_EVERY_S = 10.0  # in a log, between two lines about the same phase
_VERBOSE_LINE_EVERY_S = 1.0


class _Verbosity:
    on = False


def set_verbose(*, on: bool) -> None:
    """Say whether logs have a line each second and errors say where they come from."""
    _Verbosity.on = on


def verbose() -> bool:
    """Return whether the user wants to be told more."""
    return _Verbosity.on


def report_error(message: str) -> None:
    """Say what went wrong on standard error, and where it comes from if more is wanted; in the `except` that has caught it."""
    rank = torchrun_rank()
    whose = f"process {rank}: " if rank else ""  # the first one speaks for all; what others met is told apart from it
    if verbose():
        err().print(traceback.format_exc(), markup=False, highlight=False)
    err().print(f"[bold red]{whose}error:[/] {escape(message)}")


def out() -> Console:
    """Return the console for results; wide enough for tables where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140, highlight=False)


def err() -> Console:
    """Return the console for messages and progress."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit_json(data: dict[str, Any], target: str) -> None:
    """Write `data` as JSON to the file `target`, or to standard output for `-`."""
    text = json.dumps(data, indent=2) + "\n"
    if target != "-" and Path(target).is_dir():
        raise UsageError(f"--json {target} is a folder; name a file in it, or - for standard output")
    if target == "-":
        sys.stdout.write(text)
    elif Path(target).exists() and not Path(target).is_file():
        Path(target).write_text(text, encoding="utf-8")  # a pipe or a device is written to, not replaced
    else:
        write_text(Path(target), text, "--json")


def parse_size(text: str | None, option: str) -> tuple[int, int] | None:
    """Read `HEIGHTxWIDTH`. Raises UsageError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"{option} {text!r}: expected HEIGHTxWIDTH in pixels, for example 256x384")
    return int(parts[0]), int(parts[1])


class ShownProgress:
    """A bar on a terminal, plain lines in a log."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = err()
        self._quiet = quiet
        self._bar: RichProgress | None = None
        self._live: Live | None = None
        self._texts: dict[str, str] = {}
        self._name = ""
        self._total = self._done = self._done_before = 0
        self._started = self._last_line = 0.0

    def __enter__(self) -> ShownProgress:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._stop()

    def start(self, name: str, total: int, done: int = 0) -> None:
        """Begin a phase."""
        self._stop()
        self._name, self._total, self._done, self._done_before = name, total, done, done
        self._started = self._last_line = time.monotonic()
        self._texts = {}
        if self._quiet:
            return
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._bar = RichProgress(*columns, console=self._console)
            self._bar.add_task(escape(name), total=total, completed=done, values="")
            self._live = Live(self._bar, console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            self._console.print(f"{name}: {done}/{total}", markup=False)

    def advance(self, **values: float) -> None:
        """Finish one step."""
        self._done += 1
        shown = "  ".join(f"{_short(key)} {_number(value)}" for key, value in values.items())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, values=shown)
        elif not self._quiet and self._line_is_due():
            self._last_line = time.monotonic()
            elapsed = self._last_line - self._started
            left = elapsed / (self._done - self._done_before) * (self._total - self._done)
            self._console.print(
                f"{self._name}: {self._done}/{self._total}  {elapsed:.0f} s, {left:.0f} s left  {shown}",
                markup=False,
            )
            if self._texts:
                self._console.print("    " + "; ".join(f"{k}: {v}" for k, v in self._texts.items()), markup=False)

    def state(self, **texts: str) -> None:
        """Tell what holds until it is told anew."""
        self._texts |= texts
        if self._live is not None and self._bar is not None:
            lines = (Text(f"  {key}: {value}", style="dim") for key, value in self._texts.items())
            self._live.update(Group(self._bar, *lines))

    def note(self, text: str) -> None:
        """Say something once."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def _line_is_due(self) -> bool:
        interval = _VERBOSE_LINE_EVERY_S if verbose() else _LINE_EVERY_S
        return self._done == self._total or time.monotonic() - self._last_line >= interval

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = self._bar = None


def _short(key: str) -> str:
    return key.removeprefix("loss.")


def _number(value: float) -> str:
    return f"{value / 1e9:.2f}G" if abs(value) >= 1e8 else f"{value:.3g}"


def parse_settings(given: list[str] | None) -> dict[str, str]:
    """Read repeated NAME=VALUE. Raises UsageError for one without '=' or given twice."""
    from bmtas.errors import UsageError

    settings: dict[str, str] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not (name and equals):
            raise UsageError(f"--set {text!r}: expected NAME=VALUE, for example --set entropy_weight=0")
        if name in settings:
            raise UsageError(f"--set {name}: given twice, as {settings[name]} and {value}; leave one out")
        settings[name] = value.strip()
    return settings
