"""What a report is made of: sections of tables, pictures, facts and remarks, which the template shows. Text is escaped there.

Every block has a `kind`, by which the template knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Cell:
    """One cell of a table: text, colours of tasks before it (their places in the task list), a bar of `share` in 0..1 behind it."""

    text: str
    tasks: tuple[int, ...] = ()
    share: float | None = None
    href: str | None = None
    strong: bool = False
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of a row names it. Columns are right-aligned but for those in `left`."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: frozenset[int] = frozenset((0,))


@dataclass(frozen=True)
class Drawing:
    """A picture drawn by `export.report.svg`: `markup` is whole and safe; `narrow` fits a small screen as it is."""

    kind: ClassVar[str] = "drawing"
    markup: str
    caption: str = ""
    narrow: bool = False


@dataclass(frozen=True)
class Image:
    """A picture of the run, embedded as a data: URI, with what is to be seen on it; a `large` one keeps its size on a small screen."""

    kind: ClassVar[str] = "image"
    uri: str
    alt: str
    caption: str
    width: int
    height: int
    large: bool = False


@dataclass(frozen=True)
class Facts:
    """Terms and what holds for them; with `tiles` as large numbers side by side."""

    kind: ClassVar[str] = "facts"
    entries: tuple[tuple[str, str, str], ...]
    tiles: bool = False


@dataclass(frozen=True)
class Remark:
    """A sentence; `tone` is empty, `muted`, or `problem`."""

    kind: ClassVar[str] = "remark"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Remarks:
    """Short sentences one below the other."""

    kind: ClassVar[str] = "remarks"
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Missing:
    """What is not there yet, and the command that would fill it."""

    kind: ClassVar[str] = "missing"
    text: str
    command: str


@dataclass(frozen=True)
class Code:
    """Lines to read or to copy as they stand; `label` says what they are."""

    kind: ClassVar[str] = "code"
    text: str
    label: str


@dataclass(frozen=True)
class Details:
    """Blocks that are closed until they are asked for; on paper they are open."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple[Block, ...]


Block = Table | Drawing | Image | Facts | Remark | Remarks | Missing | Code | Details


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; `key` is its anchor within the run."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class RunPage:
    """A run's part of a report. `answer` is its line at the top; `problems` name files that cannot be read."""

    anchor: str
    name: str
    answer: str
    top: Sequence[Block]
    sections: Sequence[Section]
    problems: tuple[str, ...] = field(default=())


def cells(*texts: str | Cell) -> tuple[Cell, ...]:
    """Return texts as a row of a table."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)


def missing_of(blocks: Sequence[Block]) -> list[Missing]:
    """Return what is said to be missing in `blocks` and in the details among them."""
    found: list[Missing] = []
    for block in blocks:
        if isinstance(block, Missing):
            found.append(block)
        elif isinstance(block, Details):
            found += missing_of(block.blocks)
    return found
