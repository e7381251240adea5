"""The lower bounds that the workflow tries are those of pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("reads TOML with the standard library of Python 3.11", allow_module_level=True)

import tomllib

ROOT = Path(__file__).parents[2]


def test_the_workflow_tries_the_lower_bounds_that_are_stated() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    bounds = {m[1]: m[2] for text in stated if (m := re.fullmatch(r"(\w+)>=([\d.]+)", text))}
    tried = dict(re.findall(r"(\w+)==([\d.]+)", (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")))
    padded = {name: ".".join((*version.split("."), "0", "0")[:3]) for name, version in bounds.items()}
    assert tried == padded
    assert set(bounds) == {"numpy", "pydantic", "rich", "typer"}
