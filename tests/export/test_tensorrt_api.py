"""The TensorRT code uses only what the versions of the API have, with arguments that they take; and it needs no PyTorch."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.tensorrt.options import HARDWARE, EngineOptions, settings_for
from export.tensorrt.plan import parse_version

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "export" / "tensorrt"
# Names, enum members and arguments, listed from NVIDIA's bindings wheels of these versions; 10.3 is JetPack 6.2's.
API: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "tensorrt_api.json").read_text(encoding="utf-8"))

# Which class the objects in the source are of, by the last part of their name.
OBJECTS = {
    "builder": "Builder",
    "definition": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "timing": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
SUBCLASSES = {"Log": "ILogger", "Monitor": "IProgressMonitor"}
OURS = {("ILogger", "take"), ("ILogger", "said")}


def chain(node: ast.expr) -> list[str]:
    """`self._trt.Logger.WARNING` as [trt, Logger, WARNING]; [] where it does not begin with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return []
    parts.insert(0, node.id)
    if parts[0] == "self":
        parts.pop(0)
    if parts:
        parts[0] = parts[0].removeprefix("_")
    return parts


def sources() -> list[tuple[str, ast.Module]]:
    """The files of the room that hold TensorRT's module."""
    found = [(path.name, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(ROOM.glob("*.py"))]
    return [(n, tree) for n, tree in found if any(isinstance(x, ast.Name) and x.id == "trt" for x in ast.walk(tree))]


def resolved(parts: list[str]) -> tuple[str, ...] | None:
    """(class or enum, member), or (top-level name,), of a chain that goes into TensorRT; None for others."""
    if len(parts) >= 2 and parts[0] == "trt":
        return None if parts[1].startswith("__") else tuple(parts[1:3])
    if len(parts) >= 2 and parts[0] in OBJECTS:
        return OBJECTS[parts[0]], parts[1]
    return None


def used() -> set[tuple[str, ...]]:
    """All that the sources take from TensorRT."""
    found: set[tuple[str, ...]] = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                name = resolved(chain(node))
                if name is not None:
                    found |= {name, name[:1]}
    return found


def has(api: dict[str, Any], name: tuple[str, ...]) -> bool:
    if len(name) == 1:
        return name[0] in api["top_level"]
    return name[1] in api["classes"].get(name[0], ()) or name[1] in api["enums"].get(name[0], ())


def test_the_list_is_of_both_generations_and_of_jetpack_6() -> None:
    assert sorted(API) == ["10.16.1", "10.3.0", "11.4.0"]
    assert "FP16" in API["10.3.0"]["enums"]["BuilderFlag"]
    assert "FP16" not in API["11.4.0"]["enums"]["BuilderFlag"]


@pytest.mark.parametrize("version", API)
def test_everything_used_of_tensorrt_is_there(version: str) -> None:
    names = used()
    # Guards the collector: these are what an engine cannot do without.
    assert {
        ("Builder", "build_serialized_network"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "node_name"),
        ("IBuilderConfig", "set_timing_cache"),
        ("IBuilderConfig", "progress_monitor"),
        ("ITimingCache", "serialize"),
        ("Runtime", "deserialize_cuda_engine"),
        ("Runtime", "engine_host_code_allowed"),
        ("ICudaEngine", "get_tensor_name"),
        ("IExecutionContext", "execute_async_v3"),
        ("EngineInspector", "get_engine_information"),
        ("ProfilingVerbosity", "DETAILED"),
        ("IProgressMonitor",),
    } <= names
    assert [name for name in sorted(names) if not has(API[version], name)] == []


@pytest.mark.parametrize("version", API)
def test_calls_have_arguments_that_the_bindings_take(version: str) -> None:
    checked = 0
    for file, tree in sources():
        for node in ast.walk(tree):
            name = resolved(chain(node.func)) if isinstance(node, ast.Call) else None
            if name is None or not isinstance(node, ast.Call):
                continue
            member = name[1] if len(name) > 1 else "__init__"
            forms = API[version]["classes"].get(name[0], {}).get(member)
            if forms is None:  # a function of the module, or an enum's value
                continue
            given = [keyword.arg for keyword in node.keywords]
            fits = [
                form
                for form in forms
                if len(node.args) + len(given) <= len(form)
                and all(keyword in [a.rstrip("=") for a in form[len(node.args) :]] for keyword in given)
                and all(a.endswith("=") or a in given for a in form[len(node.args) :])
            ]
            assert fits, f"{file}:{node.lineno} {'.'.join(name)} takes {forms}"
            checked += 1
    assert checked >= 15


@pytest.mark.parametrize("version", API)
def test_callbacks_have_the_arguments_that_tensorrt_gives(version: str) -> None:
    found = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in SUBCLASSES:
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and (SUBCLASSES[node.name], method.name) not in OURS:
                        form = API[version]["classes"][SUBCLASSES[node.name]][method.name]
                        assert [[a.arg for a in method.args.args[1:]]] == form
                        found.add((node.name, method.name))
    assert {
        ("Log", "log"),
        ("Monitor", "phase_start"),
        ("Monitor", "step_complete"),
        ("Monitor", "phase_finish"),
    } <= found


@pytest.mark.parametrize("version", API)
def test_all_that_the_options_set_is_there(version: str) -> None:
    """What `settings_for` decides is set by name, which no attribute in the source shows."""
    enums = API[version]["enums"]
    for level, compatible, tf32 in itertools.product(HARDWARE, (False, True), (False, True)):
        if level == "same" and version == "10.3.0":
            assert HARDWARE["same"] not in enums["HardwareCompatibilityLevel"]
            continue
        options = EngineOptions(hardware_compatibility=level, version_compatible=compatible, tf32=tf32)
        settings = settings_for(options, parse_version(version))
        assert set(settings.creation_flags) <= set(enums["NetworkDefinitionCreationFlag"])
        assert {*settings.set_flags, *settings.clear_flags} <= set(enums["BuilderFlag"])
        assert settings.hardware is None or settings.hardware in enums["HardwareCompatibilityLevel"]


def test_the_room_can_be_imported_without_torch_onnx_or_onnx_runtime() -> None:
    names = [f"export.tensorrt.{path.stem}" for path in sorted(ROOM.glob("*.py")) if path.stem != "__init__"]
    assert len(names) >= 14
    code = "\n".join(f"import {name}" for name in (*names, "export.proof.references", "cli.build"))
    heavy = "{'torch', 'onnx', 'onnxruntime', 'tensorrt', 'openvino', 'scipy', 'PIL'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
