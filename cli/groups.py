"""A group of commands of which one needs no name: `bmtas bench model.onnx` and `bmtas bench compare a.json b.json`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class DefaultGroup(TyperGroup):
    """Runs the command called `DEFAULT` for whatever does not begin with the name of one, options and `--help` included."""

    DEFAULT = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command's name where no command is named."""
        if not args or args[0] not in self.commands:
            args = [self.DEFAULT, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command; the default one is called like the group in its help."""
        name, command, rest = super().resolve_command(ctx, args)
        if name != self.DEFAULT or command is None:
            return name, command, rest

        class Unnamed(command.context_class):  # type: ignore[misc,name-defined]
            """The context of a command without a name, whose path does not end with the space before one."""

            @property
            def command_path(self) -> str:
                return str(super().command_path).rstrip()

        command.context_class = Unnamed
        return "", command, rest


def default_group(**settings: Any) -> typer.Typer:
    """Return an app to which the default command is added as `app.command(DefaultGroup.DEFAULT, hidden=True)`."""
    return typer.Typer(cls=DefaultGroup, **settings)
