"""Settings from a file: `bmtas.toml` holds what would otherwise be typed each time.

    runs = "experiments"              # for every command that has the option
    plugins = ["my_backbone.py"]      # Python files that bring backbones and kinds of tasks of one's own

    [search]                          # for one command
    data = "my.yaml"
    budget = ["9GMAdds"]

One precedence for all options: what is typed, then the environment (where `--help` names a variable), then this file, then the default.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from bmtas.errors import EnvironmentProblem, UsageError, nearest
from bmtas.plugins import load_plugin, name_plugins
from cli.console import err, verbose
from cli.groups import DefaultGroup
from cli.options import DEFAULT_RUNS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "bmtas.toml"
"""Looked for in the folder in which the command is started."""
PLUGINS = "plugins"
_WITHOUT_PLUGINS = ("build", "check", "compare", "doctor", "predict", "profile", "report", "show")
"""Commands that need no code of the user's: what the file names for others is not run, for they run where there is no torch. `profile` loads it where it counts."""
_BY_ITS_WORKERS = ("bench",)
"""Those whose own process never imports torch, so that plugins are loaded where a network is."""


def find_configuration(asked: Path | None) -> Path | None:
    """Return the file that holds: the one asked for, or the one of this folder, or None. Raises UsageError if the one asked for is missing."""
    if asked is None:
        try:
            return Path(FILE_NAME) if Path(FILE_NAME).is_file() else None
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot look into the folder {Path().absolute()}: {error.strerror}; start in another one"
            ) from None
    if not asked.exists() or asked.is_dir():
        raise UsageError(
            f"--config {asked}: there is no such file; it is a TOML file with a table per command (/dev/null for no settings)"
        )
    return asked


def configure(context: typer.Context, asked: Path | None, plugins: Sequence[Path]) -> None:
    """Take the settings of the file for the command that follows, and load the plugins that it needs, those of the file first."""
    path = find_configuration(asked)
    found: list[Path] = []
    if path is not None:
        context.default_map, found = read_configuration(path, context)
    name_plugins((*found, *plugins))
    loaded = [*([] if context.invoked_subcommand in _WITHOUT_PLUGINS else found), *plugins]
    loaded = [] if context.invoked_subcommand in _BY_ITS_WORKERS else loaded
    if verbose():
        err().print(f"settings: {path or 'no file'}; plugins: {', '.join(map(str, loaded)) or 'none'}", markup=False)
    for plugin in loaded:
        load_plugin(plugin)


def usual_runs(typed: Path) -> Path:
    """Return where runs are kept: as typed or in the environment, else as the file of this folder says, for completion."""
    if typed != DEFAULT_RUNS or not Path(FILE_NAME).is_file():
        return typed
    try:
        told = tomllib.loads(Path(FILE_NAME).read_text(encoding="utf-8")).get("runs", typed)
    except (OSError, ValueError):  # what is wrong with it is said when a command is run
        return typed
    return Path(str(told))


def from_the_file(context: typer.Context) -> frozenset[str]:
    """Return the options of a command that were not typed but stand in the file, such as --search-steps."""
    return frozenset(p.opts[0] for p in context.command.params if source_of(context, p.name) == "DEFAULT_MAP")


def settle(context: typer.Context, pairs: Sequence[tuple[str, str]]) -> None:
    """Let what is typed hold: of two parameters that contradict each other the one that stands in the file goes back to its default.

    Raises UsageError where both are typed, or both stand in the file.
    """
    parameters = {p.name: p for p in context.command.params}
    for pair in pairs:
        if any(context.params[name] is None or context.params[name] is False for name in pair):
            continue
        in_file = [name for name in pair if source_of(context, name) == "DEFAULT_MAP"]
        if len(in_file) != 1:
            names = " and ".join(parameters[name].opts[0] for name in pair)
            place = "in the settings file " if in_file else ""
            raise UsageError(f"{names} {place}contradict each other; leave one out")
        (idle,) = in_file
        context.params[idle] = parameters[idle].default
        source = context.get_parameter_source(idle)
        assert source is not None  # it stands in the file
        context.set_parameter_source(idle, type(source).DEFAULT)


def source_of(context: typer.Context, parameter: str | None) -> str:
    """Return where the value of a parameter comes from, in click's word: COMMANDLINE, ENVIRONMENT, DEFAULT_MAP or DEFAULT."""
    source = None if parameter is None else context.get_parameter_source(parameter)
    return "" if source is None else source.name


def read_toml(path: Path) -> dict[str, Any]:
    """Return what stands in a file of settings, nothing of it checked. Raises UsageError for what is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}; correct it there") from None


def read_configuration(path: Path, context: typer.Context) -> tuple[dict[str, Any], list[Path]]:
    """Return the values of the file by command and parameter, as click takes defaults, and the plugins that it names.

    Paths in it are relative to the folder in which the command is started. Raises UsageError for what is no TOML, and for an unknown command or option, or a
    value that its option does not take.
    """
    content = read_toml(path)
    plugins = content.pop(PLUGINS, [])
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise UsageError(
            f"{path}: {PLUGINS} = {plugins!r}: expected a list of Python files, such as ['my_backbone.py']"
        )
    shared = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    reader = _Reader(path, context)
    reader.check_shared(shared)
    return reader.group(context.command, shared, tables, ()), [Path(name) for name in plugins]


class _Reader:
    def __init__(self, path: Path, context: typer.Context) -> None:
        self._path, self._context = path, context
        invoked = context.invoked_subcommand
        self._bound = (
            ("sweep", "search") if invoked == "sweep" else (invoked,)
        )  # a sweep passes options on to its searches

    def check_shared(self, shared: Mapping[str, Any]) -> None:
        known = {name for command in _leaves(self._context.command) for name in _options(command)}
        root: Any = self._context.command
        for key in shared:
            if key in root.commands and key not in known:
                raise self._no_table((key,))
            if _dashed(key) not in known:
                raise UsageError(
                    f"{self._path}: no command has the option --{_dashed(key)}; {nearest(_dashed(key), known)}"
                )

    def group(
        self, group: Any, shared: Mapping[str, Any], tables: Mapping[str, Any], where: tuple[str, ...]
    ) -> dict[str, Any]:
        """Return the defaults of all commands of a group; keys beside its commands' tables belong to the one that needs no name."""
        defaults: dict[str, Any] = {}
        own = {key: value for key, value in tables.items() if key not in group.commands}
        for name, command in group.commands.items():
            values = tables.get(name, {})
            place = (*where, name)
            if not isinstance(values, Mapping):
                raise self._no_table(place)
            if hasattr(command, "commands"):
                defaults[name] = self.group(command, shared, values, place)
                continue
            if isinstance(group, DefaultGroup) and name == group.DEFAULT:
                values, place, own = {**own, **values}, where, {}
            defaults[name] = self._command(command, shared, values, place)
            if place == where:
                defaults[""] = defaults[name]  # the name under which a group's unnamed command is looked up
        for name in own:
            raise UsageError(
                f"{self._path}: [{'.'.join((*where, name))}]: there is no such command; {nearest(name, group.commands)}"
            )
        return defaults

    def _no_table(self, place: tuple[str, ...]) -> UsageError:
        return UsageError(f"{self._path}: {place[-1]} is a command; its options stand in a table [{'.'.join(place)}]")

    def _command(
        self, command: Any, shared: Mapping[str, Any], values: Mapping[str, Any], where: tuple[str, ...]
    ) -> dict[str, Any]:
        options = _options(command)
        taken: dict[str, str] = {}
        for key in values:
            if _dashed(key) not in options:
                raise UsageError(
                    f"{self._path}: [{'.'.join(where)}] {key}: unknown option; {nearest(_dashed(key), options)}"
                )
            other = taken.setdefault(options[_dashed(key)].name, key)
            if other != key:
                raise UsageError(f"{self._path}: [{'.'.join(where)}] {other} and {key} are one option; leave one out")
        defaults = {}
        for key, value in shared.items():
            option = options.get(_dashed(key))
            # What stands at the top is for many commands, and need not be fit for one that is not run now.
            if option is not None and where[0] in self._bound:
                defaults[option.name] = self._value(option, value, f"{key} = {value!r}, for {' '.join(where)}")
        for key, value in values.items():
            option = options[_dashed(key)]
            defaults[option.name] = self._value(option, value, f"[{'.'.join(where)}] {key} = {value!r}")
        return defaults

    def _value(self, option: Any, value: Any, place: str) -> Any:
        """Return a value as its option takes it. Raises UsageError, with its `place`, where it does not."""
        told = f"{self._path}: {place}"
        if isinstance(value, bool) != bool(option.is_flag):
            raise UsageError(f"{told}: expected {'true or false' if option.is_flag else 'a value, not true or false'}")
        if isinstance(value, list) and not option.multiple:
            raise UsageError(f"{told}: the option is given once; give one value, without brackets")
        if isinstance(value, bool):
            return value
        texts = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        given = texts if option.multiple else texts[0]
        try:
            option.process_value(self._context, given)
        except typer.BadParameter as error:
            raise UsageError(f"{told}: {error.message}") from None
        return given


def _leaves(command: Any) -> Iterator[Any]:
    if not hasattr(command, "commands"):
        yield command
        return
    for part in command.commands.values():
        yield from _leaves(part)


def _options(command: Any) -> dict[str, Any]:
    """Return the options of a command by the names that are typed, without dashes before them; hidden ones are no settings."""
    return {
        name.removeprefix("--"): option
        for option in command.params
        for name in option.opts
        if name.startswith("--") and name != "--help" and not option.hidden
    }


def _dashed(key: str) -> str:
    return key.replace("_", "-")
