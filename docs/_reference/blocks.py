"""What pages hold that a reader types: their code blocks, and the commands in these."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("", "sh", "bash", "console")
"""Languages of fenced blocks that hold what is typed; indented blocks have none."""
TYPED = re.compile(r"^(?:\.?/?\S*/bin/)?(?:bmtas|torchrun|python3?|cp)\s")
"""How a line begins that is typed: everything else in such a block is a picture or another program."""


@dataclass(frozen=True)
class Block:
    """A code block of a page: its language, its title if it is a file, and its lines."""

    page: str
    language: str
    title: str | None
    text: str


@dataclass(frozen=True)
class Command:
    """A command as a page has it, the line in which it stands, perhaps with others, and its words without comments."""

    page: str
    text: str
    line: str
    words: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...] | None:
        """What follows `bmtas`, or None if it is another program."""
        names = [i for i, word in enumerate(self.words) if word.rsplit("/", 1)[-1] == "bmtas"]
        launched = self.words[0].rsplit("/", 1)[-1] in ("bmtas", "torchrun")
        return self.words[names[0] + 1 :] if names and launched else None


def pages() -> list[Path]:
    """Return all pages that are not generated, README.md first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> Iterator[Block]:
    """Give the code blocks of a page in their order: fenced ones, and those that are indented by four and stand after an empty line."""
    page = path.relative_to(ROOT).as_posix()
    fence: tuple[str, str | None] | None = None
    held: list[str] = []
    empty_before = True
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        mark = re.match(r"```(\w*)(?: title=\"([^\"]*)\")?", line)
        if fence is not None and line.startswith("```"):
            yield Block(page, *fence, "\n".join(held))
            fence, held = None, []
        elif fence is not None:
            held.append(line)
        elif mark:
            if held:
                yield Block(page, "", None, "\n".join(held).rstrip())
            fence, held = (mark[1], mark[2]), []
        elif line.startswith("    ") and (held or empty_before):
            held.append(line[4:])
        elif line.strip() == "" and held:
            held.append("")
        elif held:
            yield Block(page, "", None, "\n".join(held).rstrip())
            held = []
        empty_before = line.strip() == ""
    if held:
        yield Block(page, "", None, "\n".join(held).rstrip())


def commands(path: Path) -> Iterator[Command]:
    """Give what a page says to type, in its order: continued lines are joined, `a && b` are two commands, comments are left out."""
    for block in blocks(path):
        if block.language not in SHELL:
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            if not TYPED.match(line) and not re.match(r"^[A-Z_]+=\S+ bmtas ", line):
                continue
            for part in re.split(r"\s&&\s", re.sub(r"\s+#.*$", "", line)):
                yield Command(block.page, part.strip(), line, tuple(shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", part))))
