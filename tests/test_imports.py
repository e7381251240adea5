"""The arrows of the house: cli -> export -> bmtas -> costs, and no torch where nobody asked for it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("cli", "export", "bmtas", "costs")
MAY_IMPORT = {
    "costs": {"costs"},
    "bmtas": {"bmtas", "costs"},
    "export": {"export", "bmtas", "costs"},
    "cli": {"cli", "export", "bmtas", "costs"},
}
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in HOUSE}
LIBRARY = [path for package in ("export", "bmtas", "costs") for path in FILES[package]]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, at its top or inside a function."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)  # `from bmtas import search`


def house_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in HOUSE}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_collector_of_imports_sees_them() -> None:
    assert "bmtas.searching" in house_imports(ROOT / "bmtas/methods/branched/finder.py")
    assert "costs.table" in house_imports(ROOT / "bmtas/runs.py")
    assert all(len(files) > 5 for files in FILES.values())


@pytest.mark.parametrize("package", HOUSE)
def test_imports_run_one_way(package: str) -> None:
    wrong = {
        f"{shown(path)}: {name}"
        for path in FILES[package]
        for name in house_imports(path)
        if name.split(".")[0] not in MAY_IMPORT[package]
    }
    assert wrong == set()


@pytest.mark.parametrize("name", ["architecture", "graph", "tasks", "relaxation", "errors", "files", "settings"])
def test_ground_modules_stand_on_nothing_but_errors_and_files(name: str) -> None:
    found = {module for module in house_imports(ROOT / "bmtas" / f"{name}.py") if module.count(".") == 1}
    assert found <= {"bmtas.errors", "bmtas.files", "bmtas.graph"}


def test_networks_know_nothing_of_the_activities() -> None:
    activities = {f"bmtas.{name}" for name in ("searching", "training", "evaluation", "workflow", "runs")}
    for path in sorted((ROOT / "bmtas/networks").glob("*.py")):
        assert house_imports(path) & activities == set(), shown(path)


def test_costs_know_nothing_of_networks_with_names() -> None:
    for path in FILES["costs"]:
        assert "torchvision" not in {name.split(".")[0] for name in imports(path)}, shown(path)


@pytest.mark.parametrize("path", LIBRARY, ids=shown)
def test_library_files_neither_print_nor_exit_nor_speak_typer(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} & {"typer", "click", "rich"} == set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "quit", "sys.exit", "os._exit", "sys.stdout.write"), called
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert not ast.unparse(node.exc).startswith(("SystemExit", "KeyboardInterrupt()"))


def test_there_is_one_entry_point() -> None:
    assert [path for path in ROOT.glob("*/__main__.py") if path.parent.name in HOUSE] == []


def modules_of(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["search", "--help"], ["bench", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    modules = modules_of(f"from cli.main import run\nassert run({arguments}) == 0")
    assert "cli.main" in modules
    heavy = {"torch", "torchvision", "numpy", "scipy", "PIL", "onnx", "onnxruntime", "fvcore", "yaml"}
    assert heavy & set(modules) == set()


CONSUMERS = (
    *("export.check", "export.predict", "export.artefacts", "export.metadata", "export.onnx_metadata"),
    *(
        "export.request",
        "export.proof.compare",
        "export.proof.limits",
        "export.proof.references",
        "export.proof.report",
    ),
    *("export.sessions.files", "export.sessions.onnx", "export.sessions.openvino"),
    *("export.stages.manifest", "export.stages.runner", "export.stages.schedule"),
    *("export.tensorrt.kit", "export.tensorrt.preflight", "export.tensorrt.engine", "export.tensorrt.on_device"),
    *("export.machine.identity", "export.machine.sampler", "export.doctor.examine"),
    *("export.latency.kit", "export.latency.measure", "export.latency.fit", "export.latency.visits"),
    *(
        f"export.bench.{name}"
        for name in ("candidates", "compare", "gates", "layers", "marginal", "measure", "report", "tables")
    ),
    *("cli.bench", "cli.bench_view", "cli.build", "cli.check", "cli.doctor", "cli.predict"),
)
"""What reads, checks, builds and runs exported files."""


def test_what_a_device_needs_can_be_imported_without_torch() -> None:
    files = ("bmtas.architecture", "bmtas.tasks", "bmtas.graph", "bmtas.runs", "bmtas.summary", "bmtas.files")
    files += ("bmtas.expectation", "bmtas.plots", "bmtas.tables", "costs.join", "costs.subsets")
    names = (*files, "costs.table", "costs.units", "export.stopwatch", *CONSUMERS)
    modules = modules_of("\n".join(f"import {name}" for name in names))
    assert set(names) <= set(modules)
    assert "torch" not in modules


def test_what_uses_exported_files_can_be_imported_without_what_makes_them() -> None:
    rooms = [path for path in FILES["export"] if path.parent.name in ("proof", "tensorrt") and path.stem != "__init__"]
    names = {"export.stopwatch", *CONSUMERS, *(f"export.{p.parent.name}.{p.stem}" for p in rooms)}
    modules = modules_of("\n".join(f"import {name}" for name in sorted(names)))
    assert names <= set(modules)
    heavy = {"torch", "torchvision", "onnx", "onnx_ir", "onnxruntime", "openvino", "tensorrt", "PIL", "scipy"}
    assert heavy & set(modules) == set()
