"""What an ONNX file says of itself, read without the package `onnx`, which a device does not have. Needs no torch.

Only the outermost fields of the file's protocol buffer are walked (ModelProto in onnx.proto); the graph is stepped over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmtas.errors import UsageError
from export.metadata import read_metadata

_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Data = bytes | mmap.mmap


def onnx_metadata(path: Path) -> dict[str, Any]:
    """Return what `bmtas export` wrote into the ONNX file; empty for a file of other origin. Raises UsageError if it is none."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist; `bmtas export` writes ONNX files")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = [(number, value) for number, value in fields(data, skip=(_GRAPH,))]
        entries = dict(_entry(value) for number, value in found if number == _METADATA)
    except (ValueError, IndexError, UnicodeDecodeError, TypeError):  # an empty file cannot be mapped: ValueError
        raise UsageError(f"{path} is no ONNX file, or was cut short; export it again") from None
    if not {_IR_VERSION, _GRAPH} <= {number for number, _ in found}:
        raise UsageError(f"{path} is no ONNX file: it holds no graph; export it again")
    return read_metadata(entries, str(path))


def _entry(value: Any) -> tuple[str, str]:
    """Return the key and the value of a StringStringEntryProto."""
    parts = {number: text.decode() for number, text in fields(value)}
    return parts[1], parts.get(2, "")


def fields(data: _Data, skip: tuple[int, ...] = ()) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of the fields of a message; bytes as bytes, those in `skip` as empty ones.

    Raises ValueError or IndexError if `data` is no message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        length, at = {_FIXED64: (8, at), _FIXED32: (4, at)}.get(wire) or _length(data, at, wire)
        if number == 0 or at + length > len(data):
            raise ValueError("not a message")
        yield number, b"" if number in skip else data[at : at + length]
        at += length


def _length(data: _Data, at: int, wire: int) -> tuple[int, int]:
    if wire != _BYTES:
        raise ValueError("not a message")
    return _varint(data, at)


def _varint(data: _Data, at: int) -> tuple[int, int]:
    """Return the number at `at`, seven bits per byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not a number")
