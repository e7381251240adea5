"""What a user may ask of a TensorRT build, and what of it is set on which version: pure decisions. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem, UsageError, nearest
from export.tensorrt.plan import Version, version_text

HARDWARE = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
"""`--hardware-compatibility` and the names of TensorRT's enum."""
FIRST_VERSION = (10, 0)
"""Strongly typed networks begin here; 10.3 (JetPack 6.2) is the oldest whose API the tests hold."""
FIRST_SAME = (10, 9)
_UNITS = {"": 1, "mib": 1, "gib": 1024}


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built. What is None is left to TensorRT.

    `workspace_mib` bounds the memory that layers may use beside their tensors, `optimisation_level` (0 to 5) the time spent on
    looking for fast kernels, `aux_streams` how many streams may run branches beside each other (0: one stream).
    `hardware_compatibility`: `none` (this GPU), `ampere+` (compute capability 8.0 and later, slower), `same` (the same
    compute capability). `version_compatible`: later versions of TensorRT run it, too; may be slower. `tf32`: layers in FP32 may
    round factors to 10 bits. `timing_cache`: True for the file that bmtas keeps per device, a path, or False.
    """

    workspace_mib: int | None = None
    optimisation_level: int | None = None
    aux_streams: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    tf32: bool = False
    timing_cache: bool | Path = True

    def __post_init__(self) -> None:
        """Check the ranges. Raises UsageError."""
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"a workspace of {self.workspace_mib} MiB: give at least 1 MiB, or leave it to TensorRT")
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise UsageError(f"optimisation level {self.optimisation_level}: TensorRT knows 0 (fast build) to 5")
        if self.aux_streams is not None and self.aux_streams < 0:
            raise UsageError(f"{self.aux_streams} auxiliary streams: give 0 (a single stream) or more")
        if self.hardware_compatibility not in HARDWARE:
            raise UsageError(
                f"unknown hardware compatibility {self.hardware_compatibility!r}; "
                f"{nearest(self.hardware_compatibility, HARDWARE)}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the options as plain JSON values, without where the timing cache lies."""
        return {**asdict(self), "timing_cache": bool(self.timing_cache)}

    def to_arguments(self) -> list[str]:
        """Return the options of `bmtas build` that ask for the same; a timing cache of one's own is not among them."""
        words = []
        for option, value in (
            ("--workspace", None if self.workspace_mib is None else f"{self.workspace_mib}MiB"),
            ("--optimisation-level", self.optimisation_level),
            ("--aux-streams", self.aux_streams),
            (
                "--hardware-compatibility",
                None if self.hardware_compatibility == "none" else self.hardware_compatibility,
            ),
        ):
            words += [] if value is None else [option, str(value)]
        for option, given in (
            ("--version-compatible", self.version_compatible),
            ("--tf32", self.tf32),
            ("--no-timing-cache", self.timing_cache is False),
        ):
            words += [option] if given else []
        return words

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EngineOptions:
        """Inverse of `to_json`. Raises UsageError for unknown names or wrong types."""
        kinds: dict[str, tuple[type, ...]] = {
            "workspace_mib": (int, type(None)),
            "optimisation_level": (int, type(None)),
            "aux_streams": (int, type(None)),
            "hardware_compatibility": (str,),
            "version_compatible": (bool,),
            "tf32": (bool,),
            "timing_cache": (bool,),
        }
        for name, value in data.items():
            if name not in kinds:
                raise UsageError(f"unknown engine option {name!r}; {nearest(name, kinds)}")
            if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
                raise UsageError(f"engine option {name}: {value!r} is of the wrong type")
        return cls(**data)


@dataclass(frozen=True)
class Settings:
    """What is set on the builder, by the names of TensorRT's enums."""

    creation_flags: tuple[str, ...]
    set_flags: tuple[str, ...]
    clear_flags: tuple[str, ...]
    hardware: str | None
    workspace_bytes: int | None
    optimisation_level: int | None
    aux_streams: int | None


def settings_for(
    options: EngineOptions, version: Version, compute_capability: tuple[int, int] | None = None
) -> Settings:
    """Decide what `options` mean for TensorRT `version` on a GPU of `compute_capability` (None: not known).

    The precision is in the ONNX graph, on every version: TensorRT 11 has no flags for it. Raises UsageError for what this
    version or GPU lacks, EnvironmentProblem for a version without strongly typed networks.
    """
    if version < FIRST_VERSION:
        raise EnvironmentProblem(
            f"TensorRT {version_text(version)} is too old: bmtas needs {version_text(FIRST_VERSION)} or later, whose networks take their "
            "precision from the ONNX file; upgrade TensorRT (JetPack 6 has 10.3)"
        )
    if options.hardware_compatibility == "same" and version < FIRST_SAME:
        raise UsageError(
            f"--hardware-compatibility same needs TensorRT {version_text(FIRST_SAME)} or later, this is {version_text(version)}; use none, "
            "or ampere+"
        )
    if compute_capability is not None:
        _check_gpu(options, compute_capability)
    hardware = None if options.hardware_compatibility == "none" else HARDWARE[options.hardware_compatibility]
    return Settings(
        # From 11 on all networks are strongly typed, and the flag is deprecated.
        creation_flags=("STRONGLY_TYPED",) if version[0] == 10 else (),
        set_flags=("VERSION_COMPATIBLE",) if options.version_compatible else (),
        clear_flags=() if options.tf32 else ("TF32",),  # on by default
        hardware=hardware,
        workspace_bytes=None if options.workspace_mib is None else options.workspace_mib * 2**20,
        optimisation_level=options.optimisation_level,
        aux_streams=options.aux_streams,
    )


def _check_gpu(options: EngineOptions, compute_capability: tuple[int, int]) -> None:
    found = version_text(compute_capability)
    if options.hardware_compatibility == "ampere+" and compute_capability < (8, 0):
        raise UsageError(
            f"--hardware-compatibility ampere+ needs compute capability 8.0 or later, this GPU has {found}"
        )
    if options.version_compatible and compute_capability < (7, 0):
        raise UsageError(f"--version-compatible needs compute capability 7.0 or later, this GPU has {found}")


def parse_mib(text: str, option: str) -> int:
    """Read a size such as `512`, `512MiB` or `2GiB` as MiB. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).lower() if match else None
    if match is None or unit not in _UNITS:
        raise UsageError(f"{option} {text!r}: expected a size in MiB or GiB, for example 512MiB or 2GiB")
    size = float(match.group(1)) * _UNITS[unit]
    if size < 1 or size != int(size):
        raise UsageError(f"{option} {text!r}: expected a whole number of MiB, at least 1")
    return int(size)
