"""Runs to report on: one with everything done, one that has only been searched, one that is no tree. Made once by the commands."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.main import run

VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass(frozen=True)
class Answer:
    """What one command answered."""

    code: int
    out: str
    err: str


def invoke(*arguments: object) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(a) for a in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


class Page(HTMLParser):
    """The parts of a page: its tables as {caption: rows of texts}, headings, ids, links, attributes of all elements, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tables: dict[str, list[list[str]]] = {}
        self.headings: list[tuple[int, str]] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self._caption, self._rows = "", [[""]]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        self.text += data
        if "caption" in self.open:
            self._caption += data
        elif self.open and "table" in self.open and {"td", "th"} & set(self.open):
            self._rows[-1][-1] += data
        elif self.open and self.open[-1] in ("h1", "h2", "h3", "h4"):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    def row(self, caption: str, name: str) -> dict[str, str]:
        """The row called `name` of the table whose caption begins so, by the titles of its columns."""
        rows = next(rows for title, rows in self.tables.items() if title.startswith(caption))
        return next(dict(zip(rows[0], row, strict=True)) for row in rows[1:] if row[0] == name)

    def styled(self, tag: str, style: str) -> list[dict[str, str]]:
        """The attributes of the elements with this tag and class."""
        return [found for name, found in self.elements if name == tag and style in found.get("class", "").split()]


@dataclass(frozen=True)
class Made:
    """A run, and functions that report on it."""

    path: Path

    def json(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return content

    def report(self) -> tuple[Answer, Page]:
        answer = invoke("report", self.path)
        return answer, Page((self.path / "report.html").read_text(encoding="utf-8"))


PLAN = ("search", "--data", "planted", "--backbone", "tiny", "--train-steps", 8, "--quiet")
SEARCH = (*PLAN, "--warmup-steps", 4, "--search-steps", 6)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _answer(*arguments: object) -> None:
    answer = invoke(*arguments)
    assert answer.code == 0, answer.err


@pytest.fixture(scope="session")
def reported_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """001 with everything done, 002 a baseline that is trained, 003 only searched, 004 no tree."""
    root = tmp_path_factory.mktemp("reported")
    places = ("--runs", root)
    _answer(*SEARCH, "--budget", "4.2MMAdds", *places)
    _answer("train", "--network", "all", "--quiet", *places)
    _answer("export", "--network", "found", "--images", 2, *places)
    _answer("bench", "--network", "found", "--samples", 12, "--warmup", 0, "--no-eager", "--quiet", *places)
    _answer(*PLAN, "--method", "vanilla", "--budget", "4.2MMAdds", *places)
    _answer("train", "--quiet", *places)
    _answer(*SEARCH, "--budget", "4.6MMAdds", "--seed", 1, *places)
    _answer(*SEARCH, "--method", "automtl", *places)
    assert [path.name[:3] for path in sorted(root.iterdir())] == ["001", "002", "003", "004"]
    return root


@pytest.fixture
def made(reported_runs: Path, tmp_path: Path) -> Callable[..., Made]:
    """Copy a run by its number, so that a test may change it; without checkpoints, which nothing here reads."""

    def copy(number: int, name: str | None = None) -> Made:
        source = next(path for path in reported_runs.iterdir() if path.name.startswith(f"{number:03d}-"))
        target = tmp_path / (name or source.name)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint*.pt", "report.html"))
        return Made(target)

    return copy


@pytest.fixture
def bmtas() -> Callable[..., Answer]:
    """The command line, run in this process."""
    return invoke


@pytest.fixture(scope="session")
def parsed() -> Callable[[Path], Page]:
    """Read a report."""
    return lambda path: Page(path.read_text(encoding="utf-8"))
