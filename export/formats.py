"""The formats that a network is exported to, as data: options, help, docs and refusals are all made from this table. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmtas.errors import UsageError, nearest

if TYPE_CHECKING:  # help is made from this table, and must not wait for NumPy
    from export.interface import Interface


@dataclass(frozen=True)
class Format:
    """One target. `suffix` names its file or, with a slash, its folder; `needs` is the package beside those of `host`."""

    name: str
    aliases: tuple[str, ...]
    suffix: str
    precisions: tuple[str, ...]
    needs: str | None
    extra: str
    proved_by: str
    text: str


FORMATS = (
    Format(
        "onnx",
        ("ort",),
        ".onnx",
        ("fp32", "fp16", "bf16", "int8"),
        None,
        "host",
        "ONNX Runtime (bf16: OpenVINO)",
        "the master artefact, for ONNX Runtime and everything that reads ONNX",
    ),
    Format(
        "openvino",
        ("ov", "ir"),
        ".openvino/",
        ("fp32", "fp16", "bf16", "int8"),
        "openvino",
        "openvino",
        "OpenVINO, which must say that its convolutions run in the precision asked for",
        "OpenVINO's model.xml and model.bin, for Intel and other x86 and Arm CPUs, Intel GPUs and NPUs",
    ),
    Format(
        "tensorrt",
        ("trt", "engine"),
        ".tensorrt/",
        ("fp32", "fp16", "bf16", "int8"),
        "tensorrt",
        "gpu",
        "the engine itself, on the GPU for which it was built",
        "a TensorRT engine for this machine's GPU, or with --remote a kit that the device builds itself",
    ),
    Format(
        "pt2",
        ("torch", "program"),
        ".pt2",
        ("fp32",),
        None,
        "host",
        "PyTorch, the program loaded back",
        "PyTorch's exported program, for torch.compile, AOTInductor and ExecuTorch",
    ),
)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def find_format(name: str) -> Format:
    """Return the format called `name`, or by one of its aliases. Raises UsageError for an unknown one."""
    for known in FORMATS:
        if name == known.name or name in known.aliases:
            return known
    raise UsageError(f"unknown format {name!r}; {nearest(name, [known.name for known in FORMATS])}")


def parse_formats(text: str) -> list[Format]:
    """Read `--format onnx,openvino`; each format once, in the order given. Raises UsageError."""
    return list(dict.fromkeys(find_format(part.strip().lower()) for part in text.split(",")))


def require_precision(name: str) -> None:
    """Raise UsageError if `name` is no precision."""
    if name not in PRECISIONS:
        raise UsageError(f"unknown precision {name!r}; {nearest(name, PRECISIONS)}")


def parse_precisions(text: str, formats: Sequence[Format]) -> list[str]:
    """Read `--precision fp32,fp16`. Raises UsageError if one is unknown or a format does not have it."""
    asked = list(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for precision in asked:
        require_precision(precision)
        for known in formats:
            if precision not in known.precisions:
                raise UsageError(f"the format {known.name} has no {precision}; it has {', '.join(known.precisions)}")
    return asked


def artefact_stem(tasks: Sequence[str] | None, interface: Interface, precision: str, *, merged: bool = False) -> str:
    """Return the name without suffix: `model`, and what differs from the default, as in `model.semseg+depth.uint8.fp16`.

    `tasks` are those of a subset, None for all of the network's.
    """
    parts = ["model", *(["+".join(tasks)] if tasks is not None else []), *interface.label()]
    parts += ["merged"] if merged else []
    return ".".join([*parts, *([] if precision == "fp32" else [precision])])


def help_text() -> str:
    """Return the formats in one line each, for `--help`."""
    return "; ".join(f"{f.name} ({f.text}; {', '.join(f.precisions)})" for f in FORMATS)
