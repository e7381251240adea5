"""The files around a release say the same: version, Pythons, commands, paths."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.release.built import HOUSE, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "Dockerfile.jetpack"]


def load(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return data


def commands(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def pythons(workflow: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    for job in workflow["jobs"].values():
        found |= set(job.get("strategy", {}).get("matrix", {}).get("python", []))
        found |= {step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})}
    return {version for version in found if not version.startswith("$")}


def promised() -> set[str]:
    return {c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: Python :: 3\.\d+$", c)}


def test_the_version_stands_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert load(ROOT / "CITATION.cff")["version"] == PROJECT["version"]
    for package in HOUSE:
        for path in (ROOT / package).rglob("*.py"):
            assert "__version__ =" not in path.read_text(encoding="utf-8"), path


def test_the_change_log_begins_with_what_is_not_released() -> None:
    sections = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", section) for section in sections[1:])


def test_the_citation_names_the_paper() -> None:
    citation = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Bruggemann",
        "Kanakis",
        "Georgoulis",
        "Van Gool",
    ]
    assert paper["year"] == "2020"


def test_every_promised_python_is_run_and_no_other() -> None:
    assert pythons(load(ROOT / ".github/workflows/ci.yml")) == promised()
    lowest = min(tuple(map(int, version.split("."))) for version in promised())
    assert PROJECT["requires-python"] == ">=" + ".".join(map(str, lowest))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_do_what_ci_run_does(path: Path) -> None:
    workflow = load(path)
    assert ".ci/run" in commands(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        assert int(job["timeout-minutes"]) <= 60


def test_the_release_builds_what_its_tag_says() -> None:
    text = "\n".join(commands(load(ROOT / ".github/workflows/release.yml")))
    assert "-m build" in text
    assert '"v$(.venv/bin/bmtas --version)" = "${GITHUB_REF_NAME}"' in text


def test_files_that_commands_name_are_there() -> None:
    for path in WORKFLOWS:
        for name in re.findall(r"\btests/[\w/]+(?:\.py)?", "\n".join(commands(load(path)))):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_containers_copy_what_is_there_and_install_extras_that_exist(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert set(HOUSE) <= copied
    assert {"pyproject.toml", "README.md", "LICENSE"} <= copied  # which the build reads
    assert all((ROOT / name).exists() for name in copied)
    extras = [line.partition("=")[2] for line in lines if line.startswith("ARG EXTRA=")]
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    assert 'ENTRYPOINT ["bmtas"]' in lines
