"""Which node of an ONNX file makes which value, read without the package `onnx`, which a device does not have."""

from __future__ import annotations

from pathlib import Path

from export.onnx_metadata import fields

# Fields of ModelProto, GraphProto and NodeProto in onnx.proto.
_GRAPH, _NODE, _OUTPUT, _NAME = 7, 1, 2, 3
_INITIALIZER = 5


def nodes_of_values(path: Path) -> dict[str, str]:
    """Return the name of the node that makes each value of the file, which must be an ONNX file."""
    graph = next(value for number, value in fields(path.read_bytes()) if number == _GRAPH)
    found = {}
    for number, node in fields(graph, skip=(_INITIALIZER,)):
        if number == _NODE:
            parts = [(n, value) for n, value in fields(node) if n in (_OUTPUT, _NAME)]
            name = next((value.decode() for n, value in parts if n == _NAME), "")
            found.update({value.decode(): name for n, value in parts if n == _OUTPUT})
    return found
