"""A folder with all that a machine needs to build, prove and measure engines, without PyTorch and without asking back. Needs no torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bmtas.errors import UsageError, nearest
from bmtas.extras import own_version
from bmtas.files import atomic_folder, first_problem, read_json, write_json
from export.artefacts import digest
from export.formats import PRECISIONS
from export.proof.limits import limits_for
from export.proof.references import FILE_NAME, References
from export.tensorrt.options import EngineOptions
from export.tensorrt.remote import Commands, commands

SCHEMA_VERSION = 1
KIT_FILE = "kit.json"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class KitEntry(BaseModel):
    """One file of a kit, by its name in the folder, with its SHA-256."""

    model_config = ConfigDict(frozen=True)

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("file")
    @classmethod
    def _stays_in_the_folder(cls, name: str) -> str:
        if not _PLAIN.fullmatch(name):
            raise ValueError(f"{name!r} is no plain file name")
        return name


class Kit(BaseModel):
    """The content of `kit.json`.

    `networks` is by precision; `tolerances` and `scaled` override the parity limits as in `limits_for`. `host` is what the machine that
    exported them found, by precision: its own proof, and what stays in FP32 and why. It comes back in the report of the build.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    written_by: str
    networks: dict[str, KitEntry] = Field(min_length=1)
    references: KitEntry
    options: dict[str, Any] = {}
    tolerances: dict[str, float] = {}
    scaled: float | None = None
    samples: int = Field(default=50, ge=1)
    warmup: int = Field(default=10, ge=0)
    keep_slow_int8: bool = False
    host: dict[str, Any] = {}

    @field_validator("networks")
    @classmethod
    def _known_precisions(cls, networks: dict[str, KitEntry]) -> dict[str, KitEntry]:
        for name in networks:
            if name not in PRECISIONS:
                raise ValueError(f"unknown precision {name!r}; {nearest(name, PRECISIONS)}")
        return networks

    @property
    def engine_options(self) -> EngineOptions:
        """The options of the builds. Raises UsageError if they are no options of this version of bmtas."""
        return EngineOptions.from_json(self.options)


def prepare_kit(
    folder: Path,
    networks: Mapping[str, Path],
    references: References,
    *,
    options: EngineOptions,
    remote: str | None = None,
    program: str = "bmtas",
    tolerances: Mapping[str, float] | None = None,
    scaled: float | None = None,
    samples: int = 50,
    warmup: int = 10,
    keep_slow_int8: bool = False,
    host: Mapping[str, Any] | None = None,
) -> Commands | None:
    """Write a kit to `folder`, in place of all that was there, and return the commands that take it to `remote` and build there.

    Without a `remote` the kit is for this machine, and None is returned. `networks` are ONNX files by precision, `host` what was found
    while they were made, in JSON's own types. Nothing connects anywhere. Raises UsageError for a remote or names that cannot be
    used, and for options with a path, which a kit cannot take to another machine.
    """
    said = None if remote is None else commands(remote, folder, program)
    if isinstance(options.timing_cache, Path):
        raise UsageError(
            f"the timing cache {options.timing_cache} is a path of this machine, which a kit does not hold; leave it out, or give "
            "`bmtas build KIT --timing-cache FILE` where the kit is built"
        )
    if not networks:
        raise UsageError("a kit needs at least one exported ONNX file")
    for precision in networks:
        limits_for(precision, references.tasks, tolerances, scaled)  # what it refuses is told here, not on the device
    with atomic_folder(folder) as fresh:
        entries = {}
        for precision, path in networks.items():
            shutil.copyfile(path, fresh / path.name)
            entries[precision] = KitEntry(file=path.name, sha256=digest(fresh / path.name))
        if len({entry.file for entry in entries.values()}) < len(entries) or FILE_NAME in {
            e.file for e in entries.values()
        }:
            raise UsageError(
                f"the files of a kit need names of their own: {', '.join(e.file for e in entries.values())}"
            )
        references.save(fresh / FILE_NAME)
        kit = Kit(
            written_by=f"bmtas {own_version()}",
            networks=entries,
            references=KitEntry(file=FILE_NAME, sha256=digest(fresh / FILE_NAME)),
            options=options.to_json(),
            tolerances=dict(tolerances or {}),
            scaled=scaled,
            samples=samples,
            warmup=warmup,
            keep_slow_int8=keep_slow_int8,
            host=dict(host or {}),
        )
        write_json(fresh / KIT_FILE, kit.model_dump(mode="json"))
    return said


def read_kit(folder: Path) -> Kit:
    """Return the kit in `folder`, with the hashes of all its files checked.

    Raises UsageError if it is none, from a newer version of bmtas, or if a file is missing or was changed on the way.
    """
    path = folder / KIT_FILE
    if not path.is_file():
        raise UsageError(f"{folder} is no kit: it has no {KIT_FILE}; `bmtas export --format tensorrt` writes kits")
    data = read_json(path, SCHEMA_VERSION)
    try:
        kit = Kit.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}; it was changed, export the kit again") from None
    for entry in (*kit.networks.values(), kit.references):
        file = folder / entry.file
        if not file.is_file():
            raise UsageError(f"{file} is missing; copy the kit again, whole")
        if digest(file) != entry.sha256:
            raise UsageError(
                f"{file} is not the file that {KIT_FILE} describes (its SHA-256 differs): it was changed or copied in part; copy the kit again"
            )
    return kit
