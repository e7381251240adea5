"""The command lines that would make a run again, from what its files say. Needs no torch."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterable
from typing import Any

from bmtas.config import PRESETS, Decode, Method, ResourceTermKind, RunConfig
from bmtas.method_options import means_nothing
from bmtas.runs import INHERITED
from export.report.blocks import Missing
from export.report.gather import Material, Network
from export.report.words import size_text

OWN_TABLE = "TABLE.json"
"""Stands for the user's own cost table, of which a run keeps the numbers and not the place."""
_FROM = "RUN"
_OPTIONS = {
    "warmup_steps": "--warmup-steps",
    "weight_steps": "--search-steps",
    "learning_rate": "--search-learning-rate",
    "estimator": "--estimator",
    "cost_estimate": "--cost-estimate",
}
_OF_BOTH = {"batch_size": "--batch-size", "accumulate": "--accumulate", "precision": "--precision"}
_OF_TRAINING = {"steps": "--train-steps", "learning_rate": "--train-learning-rate"}
_FOLLOWS = {"weight_steps_per_cycle", "arch_steps_per_cycle"}
"""Settings that the preset may take from the number of images."""
_TERM = {"resource_term", "resource_weight"}


def search_command(config: RunConfig) -> tuple[str, list[str]]:
    """Return the `bmtas search` that resolves to `config`, and notes on what no option of it says."""
    words = ["bmtas", "search", "--data", config.data]
    notes: list[str] = []
    if config.method is not Method.BRANCHED:
        words += ["--method", config.method.value]
    if config.reference is not None:
        words += ["--from", _FROM]
        notes.append(f"{_FROM} stands for the run whose tree was permuted; run.json has that tree as `reference`")
    words += ["--tasks", ",".join(task["name"] for task in config.tasks), "--backbone", config.backbone]
    for budget in config.budgets:
        words += ["--budget", budget]
    if config.table_digest is not None:
        words += ["--costs", OWN_TABLE]
        notes.append(
            f"{OWN_TABLE} stands for the cost table that was given; its digest, by which bmtas knows it, is {config.table_digest}"
        )
    words += ["--preset", config.preset.value]
    if config.weights != PRESETS[config.preset].weights:
        words += ["--weights", config.weights]
    words += ["--seed", str(config.seed), "--size", size_text(config.deploy_size)]
    if config.method.searches:
        words += ["--search-size", size_text(config.search_size)]
    words += ["--train-size", size_text(config.train_size)]
    if config.decode is not Decode.BEST:
        words += ["--decode", config.decode.value]
    options, left = _settings(config)
    words += options
    if left:
        notes.append(
            f"no option sets {', '.join(left)}, which the presets of this version have otherwise; run.json has them"
        )
    return shlex.join(words), notes


def _settings(config: RunConfig) -> tuple[list[str], list[str]]:
    """Return the options for what differs from the preset, and the settings that differ and have none."""
    search, train, own = _preset_of(config)
    searched = _differing(config.search.model_dump(mode="json"), search) if config.method.searches else {}
    trained = _differing(config.train.model_dump(mode="json"), train)
    options: list[str] = []
    for name, flag in _OPTIONS.items():
        if name in searched and not means_nothing(config.method, flag):
            options += [flag, str(searched.pop(name))]
    if searched.pop("activation_checkpointing", False):
        options.append("--activation-checkpointing")
    options += _term(config, searched)
    for name, flag in _OF_BOTH.items():
        if name in trained and (
            not config.method.searches or getattr(config.search, name) == getattr(config.train, name)
        ):
            options += [flag, str(trained.pop(name))]
            searched.pop(name, None)
    for name, flag in _OF_TRAINING.items():
        if name in trained:
            options += [flag, str(trained.pop(name))]
    for name, value in config.own.items():
        if own.get(name) != value:
            options += ["--set", f"{name}={value}"]
    if PRESETS[config.preset].whole_passes:
        searched = {name: value for name, value in searched.items() if name not in _FOLLOWS}
    return options, [*(f"search.{name}" for name in searched), *(f"train.{name}" for name in trained)]


def _term(config: RunConfig, searched: dict[str, Any]) -> list[str]:
    """Return the options for how the cost enters the loss, and take these settings out of `searched`."""
    for name in _TERM:
        searched.pop(name, None)
    if config.method.searches and config.search.resource_term is ResourceTermKind.WEIGHT:
        return ["--resource-weight", str(config.search.resource_weight)]
    if config.method.searches and config.search.resource_term is ResourceTermKind.NONE:
        return ["--no-resource-term"]
    return []


def _preset_of(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the settings of search, training and method that the preset has for this method."""
    preset = PRESETS[config.preset]
    search, train = preset.search.model_dump(mode="json"), preset.train.model_dump(mode="json")
    if config.method.one_module or config.method is Method.BRANCHED:
        return search, train, {}
    module = importlib.import_module(f"bmtas.methods.{config.method.folder}.settings")
    name = config.preset.value
    own = module.Own.model_validate(module.OWN.get(name, {})).model_dump(mode="json")
    return (
        {**search, **_plain(module.SEARCH.get(name, {}))},
        {**train, **_plain(module.TRAIN.get(name, {}))},
        own,
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _differing(values: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if preset.get(name) != value}


def next_step(told: Material) -> Missing | None:
    """Return how a network is come by, None where there is one."""
    if told.ended:
        return None
    if (told.run.search_folder / "trials.json").exists():
        budgets = ", ".join(told.config.budgets)
        return Missing(
            f"The search has ended, but no network that was measured is within {budgets}; a tree for another budget can be derived.",
            told.command("decode", "--budget BUDGET"),
        )
    return Missing(
        "The search has not ended; the same command goes on where it stopped.", search_command(told.config)[0]
    )


def commands(told: Material) -> tuple[list[str], list[str]]:
    """Return the commands that would make the run again, in their order, and notes on what they leave open."""
    search, notes = search_command(told.config)
    found = [search]
    trained = [network.name for network in told.networks if network.trained]
    plain = [name for name in trained if name != INHERITED]
    if plain:
        found.append(f"bmtas train --network {','.join(plain)}")
    if INHERITED in trained:
        found.append("bmtas train --init search")
    found += list(dict.fromkeys(line for network in told.networks for line in _exports(network, len(told.tasks))))
    if told.bench is not None:
        found.append(_of_latest(told.bench.command or "bmtas bench"))
    return _joined_exports(found), notes


def _of_latest(command: str) -> str:
    """Return `command` without its run: made again, it is the latest one, and may have another number."""
    words = shlex.split(command)
    return shlex.join(word for word, before in zip(words, ["", *words], strict=False) if "--run" not in (word, before))


def _exports(network: Network, count: int) -> list[str]:
    """Return a command for each way in which files of a network with `count` tasks were exported."""
    ways: dict[tuple[str, ...], None] = {}
    for file, proof in network.proofs.items():
        words = ["bmtas", "export", "--network", network.name]
        if file.endswith(".stages"):
            words.append("--split-at-branches")
        if len(proof.tasks) < count:
            words += ["--tasks", ",".join(proof.tasks)]
        if proof.format != "onnx":
            words += ["--format", proof.format]
        if proof.precision != "fp32":
            words += ["--precision", proof.precision]
        if proof.outputs != "logits":
            words += ["--outputs", proof.outputs]
        if proof.input.get("dtype") == "uint8":
            words += ["--input", "uint8"]
        ways.setdefault(tuple(words))
    return [shlex.join(words) for words in ways]


def _joined_exports(lines: Iterable[str]) -> list[str]:
    """Return the commands with those exports joined that differ in the network alone."""
    found: list[str] = []
    places: dict[str, int] = {}
    for line in lines:
        words = line.split(" ")
        if words[:3] != ["bmtas", "export", "--network"]:
            found.append(line)
            continue
        rest = " ".join(words[4:])
        if rest not in places:
            places[rest] = len(found)
            found.append(line)
        else:
            known = found[places[rest]].split(" ")
            found[places[rest]] = " ".join([*known[:3], f"{known[3]},{words[3]}", *known[4:]])
    return found
