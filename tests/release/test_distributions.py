"""What is in the wheel and in the source distribution, and what their metadata promise."""

from __future__ import annotations

import email
import re
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from tests.release.built import HOUSE, ROOT, build

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="`build` is not installed: make setup")
    return build(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode("utf-8"))


def test_the_wheel_holds_the_house_and_nothing_else(wheel: Path, names: set[str]) -> None:
    assert wheel.name == f"bmtas-{PROJECT['version']}-py3-none-any.whl"
    info = f"bmtas-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {*HOUSE, info}
    modules = {path.relative_to(ROOT).as_posix() for package in HOUSE for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_holds_what_the_code_reads_at_run_time(names: set[str]) -> None:
    assert {f"{package}/py.typed" for package in HOUSE} <= names
    others = {
        path.relative_to(ROOT).as_posix()
        for package in HOUSE
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert any(name.endswith(".j2") for name in others)  # the report's page
    assert others <= names


def test_the_wheel_has_one_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert archive.read(name).decode().split() == ["[console_scripts]", "bmtas", "=", "cli.main:main"]


def test_the_device_role_needs_no_torch(metadata: Message) -> None:
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    bare = {re.split(r"[<>=!~; ]", line)[0] for line in needed}
    assert bare - {"tomli"} == {"numpy", "pydantic", "rich", "typer"}  # tomli for Python 3.10, which has no tomllib


def test_the_metadata(metadata: Message) -> None:
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "multi-task learning" in metadata["Keywords"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload().strip() == readme.strip()


def test_the_source_distribution_can_be_tested(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "constraints.txt",
        ".ci/run",
    }
    assert wanted <= names
    for folder, suffix in (
        ("tests", ".py"),
        ("docs", ".md"),
        ("examples", ".yaml"),
        ("benchmarks", ".py"),
        ("bmtas", ".py"),
    ):
        there = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob(f"*{suffix}")}
        assert there
        assert there <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
