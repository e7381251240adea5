"""A kit: the small networks from which a cost table is measured, with all that the device has to know. Needs no torch.

    manifest.json           what there is: parts, whole networks, hashes, the counted table
    fp32/layers.07.x3.onnx  three copies of a layer side by side; fp32/net.05.onnx a whole network; one folder per precision
    fp32/weights.bin        the numbers that stand for weights: files point into it, so that a kit is small

How long a layer takes does not depend on what its weights are, only on their being normal numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bmtas.architecture import Architecture, BranchedArchitecture, tree_of
from bmtas.errors import UsageError
from bmtas.files import file_hash, first_problem, read_json
from costs.errors import CostError
from costs.table import CostTable

MANIFEST: Final = "manifest.json"
SCHEMA_VERSION: Final = 1
WEIGHTS: Final = "weights.bin"
ANCHOR: Final = "net.shared"
"""The all-shared network: everything is measured in turn with it, so that drift of the machine cancels."""

PrecisionName = Literal["fp32", "fp16", "bf16", "int8"]
RuntimeName = Literal["onnxruntime", "openvino", "tensorrt"]
Role = Literal["anchor", "separate", "fit", "held_out"]
_Name = Annotated[str, Field(pattern=r"^[^/\\\x00]+$", max_length=200)]
"""Becomes a part of a file's name, which must not lead elsewhere."""
_Count = Annotated[int, Field(gt=0, strict=True)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartEntry(_Frozen):
    """`copies` copies of one operation (`stem`, `layers.07`, `heads.depth`) side by side; `elements` are read and given by one."""

    name: _Name
    operation: str
    copies: _Count
    elements: _Count


class NetworkEntry(_Frozen):
    """A whole network, and what it is for; `architecture` is that of `architecture.json`."""

    name: _Name
    role: Role
    architecture: dict[str, Any]


class Kit(_Frozen):
    """The manifest. `files` maps each file's path in the kit to its SHA-256, `table` is the counted cost table, `data` what it was asked for with."""

    schema_version: Literal[1] = SCHEMA_VERSION
    written_by: str
    runtime: RuntimeName
    precisions: Annotated[list[PrecisionName], Field(min_length=1)]
    data: str
    table: dict[str, Any]
    parts: Annotated[list[PartEntry], Field(min_length=1)]
    networks: Annotated[list[NetworkEntry], Field(min_length=1)]
    files: dict[str, str]

    @model_validator(mode="after")
    def _complete(self) -> Kit:
        counted = self.counted()
        named = {(part.operation, part.copies) for part in self.parts}
        wanted = {(layer.name, n) for layer in counted.layers for n in range(1, len(counted.tasks) + 1)}
        wanted |= {(part.name, 1) for part in counted.fixed}
        if missing := sorted(wanted - named):
            raise ValueError(f"the kit has no part for {missing[:3]}; prepare it anew")
        if not any(network.name == ANCHOR for network in self.networks):
            raise ValueError(f"the kit has no network {ANCHOR!r}; prepare it anew")
        roles = [network.role for network in self.networks]
        if roles.count("held_out") < 1 or roles.count("fit") < 1:
            raise ValueError("the kit has no networks to fit to, or none to be held against; prepare it anew")
        for precision in self.precisions:
            absent = [item for item in self.items() if file_of(precision, item) not in self.files]
            if absent:
                raise ValueError(f"the kit names no file of {absent[0]} in {precision}; prepare it anew")
        return self

    def items(self) -> list[str]:
        """Return the names of all parts and networks, the anchor among them."""
        return [part.name for part in self.parts] + [network.name for network in self.networks]

    def counted(self) -> CostTable:
        """Return the counted table. Raises ValueError where it breaks the rules of tables."""
        return CostTable.model_validate(self.table)

    def architecture(self, network: NetworkEntry) -> BranchedArchitecture:
        """Return the architecture of a network."""
        return tree_of(Architecture.from_json(network.architecture, f"the kit's network {network.name}"))


def file_of(precision: str, item: str) -> str:
    """Return the path inside the kit of a part or network in a precision."""
    return f"{precision}/{item}.onnx"


def read_kit(folder: Path) -> Kit:
    """Read the manifest of a kit and check every file against its hash.

    Raises UsageError for what is missing, changed or no kit.
    """
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} holds no {MANIFEST}: it is no kit; `bmtas profile prepare` writes one")
    data = read_json(folder / MANIFEST, SCHEMA_VERSION)
    try:
        kit = Kit.model_validate(data)
    except ValidationError as error:
        problem = first_problem(error).removeprefix(": Value error, ")  # of the whole, and not of one field
        raise UsageError(f"{folder / MANIFEST}: {problem}") from None
    except CostError as error:
        raise UsageError(f"{folder / MANIFEST}: {error}") from None
    for name, wanted in kit.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{folder / MANIFEST}: {name!r} leads out of the kit; only files of its own are measured")
        if not path.is_file():
            raise UsageError(f"{path} is missing: the kit was not copied whole; copy the folder again")
        if file_hash(path) != wanted:
            raise UsageError(
                f"{path} is not what the kit says: it was changed or copied in part; copy the folder again"
            )
    return kit
