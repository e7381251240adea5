"""What the generators of the reference have in common."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Any


def escaped(text: str) -> str:
    """Return plain text as Markdown that shows it as it is; what stands between backticks stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if i % 2 else re.sub(r"([*_\[\]|\\])", r"\\\1", html.escape(part, quote=False))
        for i, part in enumerate(parts)
    )


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring, as Markdown on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return escaped(re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph)[0])


def subclasses(parent: type[Any]) -> Iterator[type[Any]]:
    """Give all subclasses that are loaded, nearest first."""
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown; cells are Markdown already."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace(chr(10), ' ') for cell in line)} |" for line in lines) + "\n"
