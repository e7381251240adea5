"""Every message with which a command ends, collected from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from _reference.text import escaped

PACKAGES = ("bmtas", "costs", "export", "cli")
EXIT_CODES = {"CostError": 2, "BudgetBelowReach": 6}
"""Those of the package `costs`, which knows none: `cli/main.py` gives them."""
_TITLES = {
    1: "training diverged, or jobs failed",
    2: "wrong input",
    3: "something is missing on this machine",
    4: "an artefact could not be built",
    5: "an export is not equal to the trained network",
    6: "the budget cannot be met",
    7: "a measurement is unstable",
}


@dataclass(frozen=True)
class Message:
    """A message: f-string fields stand as {expression}. `exit_code` is None where only the moment decides it."""

    text: str
    error: str
    exit_code: int | None
    file: str
    line: int

    @property
    def names_what_was_found(self) -> bool:
        """Whether a value of the moment stands in it."""
        return "{" in self.text


def sources(root: Path) -> Iterator[Path]:
    """Give all source files of the house."""
    for package in PACKAGES:
        yield from sorted((root / package).rglob("*.py"))


def error_classes(root: Path) -> dict[str, int | None]:
    """Return the exit code of every error class of the house, as the sources state or inherit it."""
    own: dict[str, int | None] = {}
    parents: dict[str, str] = {}
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
                parents[node.name] = node.bases[0].id
                for line in node.body:
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "exit_code":
                        own[node.name] = line.value.value if isinstance(line.value, ast.Constant) else None  # type: ignore[assignment]
    return {name: _inherited(name, own, parents) for name in parents if _of_house(name, parents)}


def _of_house(name: str, parents: Mapping[str, str]) -> bool:
    return name in EXIT_CODES or (
        name in parents and (parents[name] == "BmtasError" or _of_house(parents[name], parents))
    )


def _inherited(name: str, own: Mapping[str, int | None], parents: Mapping[str, str]) -> int | None:
    if name in EXIT_CODES:
        return EXIT_CODES[name]
    if name in own or name not in parents:
        return own.get(name)
    return _inherited(parents[name], own, parents)


def collect(root: Path) -> list[Message]:
    """Return all messages that are written where their error is made, by file and line.

    A message that a function puts together elsewhere, or that is another error's text, is not among them.
    """
    codes = error_classes(root)
    found = []
    for path in sources(root):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = _constant_texts(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in codes and node.args:
                text = _text(node.args[0], texts)
                if any(isinstance(part, ast.Constant) for part in _pieces(node.args[0])):
                    name = node.func.id
                    file = path.relative_to(root).as_posix()
                    found.append(Message(text, name, codes[name], file, node.lineno))
    return sorted(found, key=lambda m: (m.file, m.line))


def _pieces(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.JoinedStr):
        return list(node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_pieces(node.left), *_pieces(node.right)]
    return [node] if not isinstance(node, ast.Constant) or isinstance(node.value, str) else []


def _constant_texts(tree: ast.Module) -> dict[str, str]:
    """Return the texts that a module keeps under names, which messages take as fields."""
    return {
        ast.unparse(line.targets[0]): line.value.value
        for line in tree.body
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
    }


def _text(node: ast.expr, texts: Mapping[str, str]) -> str:
    return "".join(
        str(piece.value) if isinstance(piece, ast.Constant) else _field(piece, texts) for piece in _pieces(node)
    )


def _field(piece: ast.expr, texts: Mapping[str, str]) -> str:
    """Return a constant's text, or a field's expression in braces; `...` where that is long."""
    inner = piece.value if isinstance(piece, ast.FormattedValue) else piece
    shown = ast.unparse(inner)
    if shown in texts:
        return texts[shown]
    return f"{{{shown}}}" if len(shown) <= 40 and "{" not in shown else "{...}"


def page(root: Path) -> str:
    """Return the page with all messages, by exit code and file."""
    by_code: dict[int, dict[str, list[Message]]] = {}
    for message in collect(root):
        if message.exit_code is not None:
            by_code.setdefault(message.exit_code, {}).setdefault(message.file, []).append(message)
    lines = [
        "# Errors",
        "",
        "Every message with which a command ends, collected from the sources when this page was built. What stands in",
    ]
    lines += [
        "braces is filled in when it happens. A message says what was found, the rule, and the way out; `bmtas --verbose` adds where",
        "in the program it comes from. [Exit codes](commands/index.md#exit-codes).",
        "",
    ]
    for code, files in sorted(by_code.items()):
        lines += [f"## {code}: {_TITLES[code]} {{ #exit-{code} }}", ""]
        for file, messages in sorted(files.items()):
            lines += [f"**{file}**", ""]
            lines += [f"- {escaped(' '.join(message.text.split()))}" for message in messages]
            lines.append("")
    return "\n".join(lines)
