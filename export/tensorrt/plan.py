"""The header of a TensorRT plan, read in pure Python: which version built it, before any native code sees it. Needs no torch.

The fields are those that NVIDIA's own trtexec prints with --getPlanVersionOnly (sampleEngines.cpp, printPlanVersion).
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass

from bmtas.errors import UsageError

Version = tuple[int, ...]
HEADER_BYTES = 28
TAG = 0x74727466
"""The first four bytes as a little-endian number: the letters `ftrt`."""
_MOST_JSON = 1 << 20


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself: the version of its layout, and the four numbers of the TensorRT that built it."""

    serialisation: int
    tensorrt: Version


def read_header(data: bytes, where: str) -> PlanHeader:
    """Return the header of the plan that begins with `data`; `where` names it in messages.

    Raises UsageError for anything else than a plan of a known layout.
    """
    if len(data) < HEADER_BYTES:
        raise UsageError(f"{where} has {len(data)} bytes; a TensorRT plan begins with {HEADER_BYTES}: it was cut short")
    tag, serialisation = struct.unpack_from("<II", data)
    if tag != TAG:
        raise UsageError(f"{where} is no TensorRT plan: {_what_it_is(data, tag)}; build one with `bmtas build`")
    if serialisation != 0:
        raise UsageError(
            f"{where} is a TensorRT plan of layout {serialisation}; this version of bmtas reads layout 0: upgrade bmtas, or build the "
            "engine with `bmtas build`"
        )
    return PlanHeader(serialisation, tuple(data[24:28]))


def _what_it_is(data: bytes, tag: int) -> str:
    """Say what a file that is no plan begins with, as far as it is known."""
    if 2 <= tag <= _MOST_JSON and data[4:5] == b"{":
        return (
            f"it begins with a length, {tag}, and JSON, as some exporters put before the plan. Such a file fails in every other loader, and "
            "bmtas does not load engines of others; export the network with bmtas and run `bmtas build`"
        )
    if data[:4] == TAG.to_bytes(4, "big"):
        return "its first bytes are a plan's in the order of a big-endian machine; build it on the machine that runs it"
    if tag & 0xFFFFFF00 == TAG & 0xFFFFFF00:
        return (
            f"it begins with 0x{tag:08x}, where the plans that bmtas knows begin with 0x{TAG:08x}; it comes from a TensorRT that bmtas "
            "does not know. Build the engine here with `bmtas build`"
        )
    return f"it begins with 0x{tag:08x} instead of 0x{TAG:08x}; `bmtas build` makes engines from exported ONNX files"


def parse_version(text: str) -> Version:
    """Return the leading numbers of a version such as `10.16.1.11` or `10.3.0+jetpack6`. Raises UsageError if there are none."""
    match = re.match(r"\d+(\.\d+)*", text)
    if match is None:
        raise UsageError(f"{json.dumps(text)} is no version of TensorRT; expected numbers and points, such as 10.16.1")
    return tuple(int(part) for part in match.group().split("."))


def version_text(version: Version) -> str:
    """Return a version as text."""
    return ".".join(str(part) for part in version)


def same_version(first: Version, second: Version) -> bool:
    """Whether two versions agree in all numbers that both tell; JetPack's bindings tell three, plans four."""
    shared = min(len(first), len(second))
    return shared > 0 and first[:shared] == second[:shared]


def runs_version_compatible(built: Version, running: Version) -> bool:
    """Whether a version-compatible plan of `built` runs on `running`: never backwards; across majors only 8 to 10 and 10 to 11.

    Source: NVIDIA's engine compatibility page, 11.1 and 11.4.1.
    """
    shared = min(len(built), len(running))
    if built[:1] == running[:1]:
        return built[:shared] <= running[:shared]
    return (built[0], running[0]) in ((8, 10), (10, 11))
