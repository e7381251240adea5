"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from _reference.text import escaped, first_sentence, subclasses

from bmtas.errors import BmtasError
from cli.groups import DefaultGroup
from cli.main import app

FOLDER = "reference/commands"
_SIGNALS = "130 stopped by Ctrl-C, 143 by SIGTERM; what was done so far is kept, and the same command goes on"


@dataclass(frozen=True)
class Command:
    """A command with the words that are typed for it."""

    words: tuple[str, ...]
    command: Any

    @property
    def title(self) -> str:
        """As it is typed."""
        return " ".join(("bmtas", *self.words))


def root() -> Any:
    """Return the whole command line."""
    return typer.main.get_command(app)


def commands() -> Iterator[Command]:
    """Give all commands in the order of `bmtas --help`, those of groups after each other, the one without a name first."""
    for name, command in root().commands.items():
        yield from _leaves((name,), command)


def _leaves(words: tuple[str, ...], command: Any) -> Iterator[Command]:
    parts = getattr(command, "commands", None)
    if parts is None:
        yield Command(words, command)
        return
    unnamed = getattr(command, "DEFAULT", DefaultGroup.DEFAULT) if isinstance(command, DefaultGroup) else None
    if unnamed is not None:
        yield Command(words, parts[unnamed])
    for name, part in parts.items():
        if name != unnamed:
            yield from _leaves((*words, name), part)


def pages() -> dict[str, str]:
    """Return the pages by path: an index, and one for each command or group of commands."""
    by_name: dict[str, list[Command]] = {}
    for command in commands():
        by_name.setdefault(command.words[0], []).append(command)
    made = {f"{FOLDER}/{name}.md": _page(name, members) for name, members in by_name.items()}
    return {f"{FOLDER}/index.md": _index(by_name), **made}


def _index(by_name: dict[str, list[Command]]) -> str:
    lines = [
        "# Commands",
        "",
        "Made from the commands themselves when this page was built; `--help` says the same.",
        "",
    ]
    lines += ["| command | |", "|---|---|"]
    for name, members in by_name.items():
        for member in members:
            place = f"{name}.md" + (f"#{_anchor(member)}" if len(members) > 1 else "")
            lines.append(f"| [`{member.title}`]({place}) | {first_sentence(_summary(member.command))} |")
    lines += ["", "## Options of all commands", "", "They stand before the command: `bmtas --verbose search`.", ""]
    lines += [_definition(p) for p in root().params if not getattr(p, "hidden", False)]
    lines += ["", "## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | done |"]
    lines += [f"| {code} | {' '.join(meanings)} |" for code, meanings in sorted(_exit_codes().items())]
    lines += [f"| {_SIGNALS.split()[0]}, 143 | {_SIGNALS.split(' ', 1)[1]} |", ""]
    lines += ["All messages, by exit code: [errors](../errors.md).", ""]
    return "\n".join(lines)


def _exit_codes() -> dict[int, list[str]]:
    """Return what the error classes say of themselves, by exit code; those that only carry another's code say nothing new."""
    found: dict[int, list[str]] = {}
    for error in subclasses(BmtasError):
        if error.__name__.startswith("_") or "exit_code" not in vars(error) or not isinstance(error.exit_code, int):
            continue
        if error.exit_code > 0 and error.exit_code < 128:
            found.setdefault(error.exit_code, []).append(first_sentence(error.__doc__ or ""))
    return found


def _page(name: str, members: list[Command]) -> str:
    lines = [f"# bmtas {name}", ""]
    for member in members:
        if len(members) > 1:
            lines += [f"## {member.title} {{ #{_anchor(member)} }}", ""]
        lines += [*_described(member), ""]
    return "\n".join(lines)


def _anchor(command: Command) -> str:
    return "-".join(("bmtas", *command.words))


def _summary(command: Any) -> str:
    return str(command.help or "")


def _described(command: Command) -> Iterator[str]:
    text, _, example = _summary(command.command).partition("Example:")
    arguments = [p for p in command.command.params if p.param_type_name == "argument"]
    options = [p for p in command.command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(_usage(p) for p in arguments)
    yield from ("```text", f"{command.title} [OPTIONS] {usage}".rstrip(), "```", "", escaped(text.strip()), "")
    if example.strip():
        yield from ("Example:", "", "```sh", example.strip(), "```", "")
    if command.command.epilog:
        yield from (escaped(command.command.epilog), "")
    if arguments:
        yield from ("**Arguments**", "", *map(_definition, arguments))
    panels: dict[str, list[Any]] = {}
    for option in options:
        panels.setdefault(option.rich_help_panel or "Options", []).append(option)
    for panel, members in panels.items():
        yield from (f"**{panel}**", "", *map(_definition, members))


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _definition(parameter: Any) -> str:
    """Return one option or argument as an entry of a definition list."""
    is_option = parameter.param_type_name == "option"
    names = (*parameter.opts, *parameter.secondary_opts) if is_option else (_usage(parameter).strip("[]"),)
    flag = is_option and parameter.is_flag
    value = "" if flag or not is_option else f" {parameter.metavar or _value(parameter)}"
    told = [f"default `{_shown(parameter.default)}`"] if _has_default(parameter) else []
    if parameter.required:
        told.append("required")
    if parameter.envvar:
        told.append(f"environment: `{parameter.envvar}`")
    if parameter.multiple and "epeatable" not in (parameter.help or ""):
        told.append("repeatable")
    shown = ", ".join(f"`{name}{value}`" for name in names)
    end = f" *({'; '.join(told)})*" if told else ""
    return f"{shown}\n:   {escaped(parameter.help or '')}{end}\n"


def _has_default(parameter: Any) -> bool:
    if parameter.default is None or parameter.default == () or callable(parameter.default):
        return False
    return not (getattr(parameter, "is_flag", False) and parameter.default is False)


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _value(option: Any) -> str:
    """Return what stands for the value of an option: its choices, its range, or the kind of value."""
    kind = _inner(option.type_descriptor.annotation)
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    name = {int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")
    if option.min is not None and option.max is not None:
        return f"{option.min:g}..{option.max:g}" if option.max < 1000 else f"{name} from {option.min:g}"
    return f"{name} from {option.min:g}" if option.min is not None else name


def _inner(kind: Any) -> Any:
    """Return the type of one value: that of a list's items, or what stands beside None."""
    if typing.get_origin(kind) in (list, tuple):
        return _inner(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _inner(next(part for part in typing.get_args(kind) if part is not type(None)))
    return kind


def option_names(command: Command) -> list[str]:
    """Return all spellings of the options of a command that its help shows."""
    shown = [p for p in command.command.params if p.param_type_name == "option" and not p.hidden]
    return [name for p in shown for name in (*p.opts, *p.secondary_opts) if re.match("--?[a-z]", name)]
