"""Every command of README.md and docs/ exists, with every option that it is given."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from cli.main import app

DYNAMIC = {"sweep": "search"}
"""Commands that pass options on to another one."""


def found(arguments: tuple[str, ...]) -> tuple[Any, list[str], list[str]]:
    """Return the command that is named, its names, and the words after it; options of the whole command line stand before it."""
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    rest = list(arguments)
    while rest and (rest[0].startswith("-") or hasattr(command, "commands")):
        if rest[0].startswith("-"):
            option = next((p for p in command.params if rest[0] in p.opts), None)
            if option is None or hasattr(command, "DEFAULT"):
                break
            rest = rest[1 if option.is_flag else 2 :]
        elif rest[0] in command.commands:
            names.append(rest[0])
            command, rest = command.commands[rest[0]], rest[1:]
        else:
            break
    if hasattr(command, "commands"):
        assert hasattr(command, "DEFAULT"), f"bmtas {' '.join(arguments)}: there is no such command"
        command = command.commands[command.DEFAULT]
    return command, names, rest


def options(command: Any) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}


def unknown_options(arguments: tuple[str, ...]) -> set[str]:
    command, names, rest = found(arguments)
    known = options(command) | {"--help"}
    if names and names[0] in DYNAMIC:
        known |= options(typer.main.get_command(app).commands[DYNAMIC[names[0]]])
    typed = {word.split("=")[0] for word in rest if word.startswith("-") and word != "-"}
    return typed - known


def test_every_command_and_option_exists(documented: dict[str, Any]) -> None:
    checked = [command for page in documented.values() for command in page if command.arguments is not None]
    assert len(checked) > 80  # 100 and more when this was written: an empty list would pass
    wrong = {c.text: sorted(unknown) for c in checked if (unknown := unknown_options(c.arguments))}
    assert not wrong


def test_the_main_pages_have_commands(documented: dict[str, Any]) -> None:
    for page in ("README.md", "docs/index.md", "docs/tutorial.md", "docs/bench.md", "docs/export.md", "docs/sweep.md"):
        assert any(command.arguments for command in documented[page]), page


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (("search", "--budgett", "9GMAdds"), {"--budgett"}),
        (("bench", "model.onnx", "--thread", "2"), {"--thread"}),
        (("--verbose", "bench", "compare", "a.json", "b.json", "--forced"), {"--forced"}),
        (("sweep", "--data", "planted", "--budget", "4MMAdds"), set()),
        (("--plugin", "own.py", "search", "--dry-run"), set()),
    ],
)
def test_a_wrong_option_would_be_found(arguments: tuple[str, ...], unknown: set[str]) -> None:
    assert unknown_options(arguments) == unknown


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(AssertionError, match="no such command"):
        found(("serach", "--budget", "9GMAdds"))
