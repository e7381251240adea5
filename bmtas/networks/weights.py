"""`--weights imagenet|none|FILE`: the backbone's pretrained weights, never silently replaced by random ones."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.networks.backbone import Backbone
from bmtas.torchvision_remedy import import_torchvision


@dataclass(frozen=True)
class Weights:
    """Pretrained parameters by encoder operation, as state dicts relative to the operation."""

    origin: str
    by_operation: Mapping[str, Mapping[str, Tensor]]

    def covers(self, operation: str) -> bool:
        """Whether there are pretrained parameters for `operation` (there are none for the ASPP module and heads)."""
        return operation in self.by_operation

    def load_into(self, operations: Mapping[str, nn.Module]) -> None:
        """Copy the parameters into the operations they belong to. Raises UsageError if shapes or names differ."""
        for name, state in self.by_operation.items():
            try:
                operations[name].load_state_dict(state)
            except RuntimeError as error:
                raise UsageError(f"weights from {self.origin} do not fit {name}: {error}") from None


def load_weights(choice: str, backbone: Backbone) -> Weights | None:
    """Return the weights that `--weights` names: `imagenet`, `none` (gives None: random), or a file.

    A file is a state dict with torchvision's names, as `.pth`/`.pt` (read without pickled code) or `.safetensors`.
    Raises EnvironmentProblem if ImageNet weights cannot be fetched, UsageError if the backbone has none or a file is not
    such a state dict.
    """
    name = check_weights(choice, backbone)
    if choice == "none":
        return None
    if choice == "imagenet":
        return _by_operation(_fetch_imagenet(backbone, name), backbone, name)
    return _by_operation(_read_file(Path(choice)), backbone, choice)


def check_weights(choice: str, backbone: Backbone) -> str:
    """Return torchvision's name of the weights that `--weights imagenet` names, else nothing; no file is read.

    Raises UsageError if the backbone has no ImageNet weights, or the file is not there.
    """
    if choice == "imagenet":
        if backbone.weights_name is None:
            raise UsageError(
                f"--weights imagenet: nobody has published ImageNet weights of {backbone.name} here; give --weights none for random "
                "ones, or a file with yours"
            )
        return backbone.weights_name
    if choice != "none" and not Path(choice).is_file():
        raise UsageError(
            f"--weights {choice!r} is neither 'imagenet' nor 'none' nor a file that exists; give one of these"
        )
    return ""


def _fetch_imagenet(backbone: Backbone, weights_name: str) -> Mapping[str, Tensor]:
    entry: Any = operator.attrgetter(weights_name)(import_torchvision().models)
    target = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[1]
    try:
        if target.exists():
            return _read_file(target)
        return entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except UsageError as error:
        raise EnvironmentProblem(
            f"{error}. It is the ImageNet weights' place: delete the file to fetch it again"
        ) from None
    except (OSError, RuntimeError) as error:  # no network, or a file whose hash is wrong
        raise EnvironmentProblem(
            f"the ImageNet weights of {backbone.name} cannot be fetched ({error}). Either fetch {entry.url} on a "
            f"machine with a network and put the file at {target}, or name a file with --weights FILE, or train from "
            "random weights with --weights none"
        ) from error


def _read_file(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 -- the readers raise whatever the broken bytes lead to
        raise UsageError(
            f"{path} cannot be read as weights ({type(error).__name__}: {_first_line(error)}); expected a state "
            "dict of tensors, saved by torch.save or as .safetensors"
        ) from None
    tensors = isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not tensors:
        raise UsageError(f"{path} holds no state dict: expected a mapping of parameter names to tensors")
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no further message")


def _by_operation(state: Mapping[str, Tensor], backbone: Backbone, origin: str) -> Weights:
    """Cut a state dict with torchvision's names into the operations of the adapter."""
    collected: dict[str, dict[str, Tensor]] = {}
    for prefix, target in backbone.build().keys.items():
        operation, inner = _split(target)
        part = {k.removeprefix(prefix + "."): v for k, v in state.items() if k.startswith(prefix + ".")}
        if not part:
            raise UsageError(
                f"weights from {origin} hold no parameters called '{prefix}.*'; expected the names of torchvision's "
                f"{backbone.name}, found {', '.join(sorted(state)[:3]) or 'nothing'}, ..."
            )
        collected.setdefault(operation, {}).update({inner + k: v for k, v in part.items()})
    return Weights(origin, collected)


def _split(target: str) -> tuple[str, str]:
    """Split `stem.conv1` into the operation `stem` and the prefix `conv1.`; `layers.03` has no prefix."""
    parts = target.split(".")
    depth = 2 if parts[0] == "layers" else 1
    inner = ".".join(parts[depth:])
    return ".".join(parts[:depth]), inner + "." if inner else ""
