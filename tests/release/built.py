"""The distributions, built from a copy of the tree without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOUSE = ("bmtas", "cli", "costs", "export")
_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build", "dist", "site", "runs")


def build(folder: Path) -> Path:
    """Build the source distribution, and the wheel from it, and return the folder with both."""
    source = folder / "source"
    source.mkdir()
    for path in sorted(ROOT.iterdir()):
        if path.is_file():
            shutil.copy(path, source)
    for name in (*HOUSE, "benchmarks", "docs", "examples", "tests", ".ci"):
        shutil.copytree(ROOT / name, source / name, ignore=_SKIPPED)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "dist"
