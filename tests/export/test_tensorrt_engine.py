"""The TensorRT code uses only what both generations of the API have, as far as a machine without a GPU can tell."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
API = ROOT.parent / "shared" / "facts" / "tensorrt-api.json"
SOURCE = ROOT / "export" / "tensorrt_engine.py"

# Which class the objects in the source are of, by the last part of their name.
OBJECTS = {
    "builder": "Builder",
    "definition": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}


def chain(node: ast.Attribute) -> list[str]:
    """`self._trt.Logger.WARNING` as [trt, Logger, WARNING]; [] where it does not begin with a name."""
    parts = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    if not isinstance(value, ast.Name):
        return []
    parts.append(value.id)
    parts.reverse()
    if parts[0] == "self":
        parts.pop(0)
    parts[0] = parts[0].removeprefix("_")
    return parts


def used() -> set[tuple[str, ...]]:
    """(class or enum, member) and (top-level name,) of all that the source takes from TensorRT."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        parts = chain(node)
        if len(parts) < 2:
            continue
        if parts[0] == "trt" and not parts[1].startswith("__"):
            found.add((parts[1],))
            if len(parts) > 2:
                found.add((parts[1], parts[2]))
        elif parts[0] in OBJECTS:
            found.add((OBJECTS[parts[0]], parts[1]))
    return found


@pytest.mark.skipif(not API.is_file(), reason=f"no list of the API at {API}")
def test_everything_used_of_tensorrt_is_in_version_10_and_11() -> None:
    names = used()
    # Guards the collector: these are what an engine cannot do without.
    assert {
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "parse_from_file"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_name"),
        ("IExecutionContext", "execute_async_v3"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
    } <= names
    versions = json.loads(API.read_text(encoding="utf-8"))
    assert sorted({version.split(".")[0] for version in versions}) == ["10", "11"]
    for version, api in versions.items():
        members = {**api["classes"], **api["enums"]}
        missing = [
            ".".join(name)
            for name in names
            if (name[0] not in api["top_level"] if len(name) == 1 else name[1] not in members.get(name[0], ()))
        ]
        assert missing == [], f"TensorRT {version}"
