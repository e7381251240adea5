"""The wheel in an environment that has what a device has: what it declares, ONNX Runtime, and nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from cli.main import run
from tests.release.built import build

pytestmark = pytest.mark.slow


def closure(*names: str) -> set[str]:
    """Return distributions with all that they need here, found by the metadata of what is installed."""
    found: set[str] = set()
    open_names = list(names)
    while open_names:
        name = open_names.pop().lower()
        if name in found:
            continue
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names.append(requirement.name)
    return found


def link(name: str, site: Path) -> None:
    """Show an environment one distribution of the one that runs the tests."""
    distribution = importlib.metadata.distribution(name)
    for first in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        target = Path(str(distribution.locate_file(first)))
        if not (site / first).exists():
            (site / first).symlink_to(target)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which the wheel was unpacked."""
    folder = tmp_path_factory.mktemp("device")
    (wheel,) = build(folder).glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    declared = [
        Requirement(line.partition(": ")[2])
        for line in (site / metadata).read_text(encoding="utf-8").splitlines()
        if line.startswith("Requires-Dist:")
    ]
    needed = [r.name for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    for name in closure(*needed, "onnxruntime"):
        link(name, site)
    return folder / "venv/bin/python"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was searched, trained and exported with all packages."""
    folder = tmp_path_factory.mktemp("runs")
    search = "search --data planted --backbone tiny --weights none --warmup-steps 1 --search-steps 1 --train-steps 1"
    sizes = "--batch-size 2 --size 64x64 --search-size 32x32 --train-size 32x32 --quiet"
    for line in (f"{search} {sizes}", "train --quiet", "export --quiet"):
        assert run([*line.split(), "--runs", str(folder)]) == 0, line
    return folder


def bmtas(device: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console script's function; torch and others must not be there at all."""
    code = (
        "import importlib.util, sys\n"
        "heavy = [n for n in ('torch', 'PIL', 'yaml', 'onnx', 'scipy', 'matplotlib') if importlib.util.find_spec(n)]\n"
        "assert not heavy, heavy\n"
        "from cli.main import main\n"
        "main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(device), "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=device.parents[2],
        env=environment,
    )


def test_help_and_version(device: Path) -> None:
    help_text = bmtas(device, "--help")
    assert help_text.returncode == 0, help_text.stderr
    assert "multi-task networks under a resource budget" in help_text.stdout
    assert bmtas(device, "--version").stdout.strip() == importlib.metadata.version("bmtas")


def test_doctor_says_which_extra_is_missing(device: Path) -> None:
    result = bmtas(device, "doctor", "--json", "-")
    found = json.loads(result.stdout)
    assert result.returncode == (3 if found["blocked"] else 0)
    extra = next(finding for finding in found["findings"] if finding["name"] == "extra host")
    assert "torch" in extra["found"]
    assert "bmtas[host]" in extra["fix"]


def test_show(device: Path, runs: Path) -> None:
    result = bmtas(device, "show", "--runs", str(runs), "--json", "-")
    assert result.returncode == 0, result.stderr
    assert bmtas(device, "show", "--runs", str(runs)).returncode == 0
    assert len(json.loads(result.stdout)["tree"]["tasks"]) == 4  # the planted ones


def test_bench_of_an_exported_file(device: Path, runs: Path) -> None:
    (model,) = runs.glob("*/networks/found/model.onnx")
    result = bmtas(device, "bench", str(model), "--samples", "4", "--warmup", "0", "--json", "-", "--quiet")
    assert result.returncode in (0, 7), result.stderr  # 7: the machine was too busy for a stable number
    assert json.loads(result.stdout)["schema_version"] == 2
    assert bmtas(device, "check", str(model)).returncode == 0


def test_commands_that_need_more_say_what_to_install(device: Path) -> None:
    result = bmtas(device, "search", "--budget", "9GMAdds")
    assert result.returncode == 3
    assert "pip install 'bmtas[host]'" in " ".join(result.stderr.split())
