"""docs/files.md against the files of a run: what it names is there, and what is there it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WHERE = {
    "architecture.json": "architecture.json",
    "table.json": "table.json",
    "metrics.json": "networks/found/metrics.json",
    "parity.json": "networks/found/parity.json",
    "bench.json": "bench.json",
    "search/probabilities.json": "search/probabilities.json",
    "history.jsonl": "search/history.jsonl",
}
VARYING = {
    "architecture.json": ("costs", "measured"),
    "table.json": ("depends_on", "layers[].per_group", "layers[].per_count", "fixed[].cost"),
    "metrics.json": ("tasks",),
    "parity.json": ("artefacts", "artefacts.*.tasks"),
    "bench.json": ("results[].compute.percentiles",),
    "history.jsonl": ("loss",),
}
"""Keys below which names vary."""
NAMED_IN_PROSE = {
    "parity.json": ("positives", "probability_difference", "probability_limit", "stages"),
    "bench.json": ("compute.q1_ms", "q3_ms", "min_ms", "max_ms", "spread", "window_ends", "warmup", "confidence"),
    "history.jsonl": ("tree", "multiplier", "expected", "temperature", "probabilities", "budget", "entropy"),
}
"""Keys that the page sums up in a sentence."""


@pytest.fixture(scope="module")
def folder(finished: Path) -> Path:
    """A run that went through all commands."""
    return min((finished / "runs").iterdir())


@pytest.fixture(scope="module")
def documented_keys(root: Path) -> dict[str, list[str]]:
    """The keys of each file, as the page lists them."""
    text = (root / "docs" / "files.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {s.splitlines()[0].strip(): re.findall(r"^\| `([^`]+)` \|", s, flags=re.MULTILINE) for s in sections}


def keys(value: Any, place: str, varying: tuple[str, ...]) -> Iterator[str]:
    """Give the keys of a JSON value, inner ones after a dot; names that vary are *, items of a list []."""
    if place:
        yield place
    if isinstance(value, dict):
        for name, inner in value.items():
            below = "*" if place in varying or any(name.startswith(f"{v}.") for v in varying) else name
            if any(name.startswith(f"{v}.") for v in varying):  # `loss.a1` of a history is one key
                below = f"{name.split('.')[0]}.*"
            yield from keys(inner, f"{place}.{below}" if place else below, varying)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                yield from keys(inner, f"{place}[]", varying)


def read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def found_in(folder: Path, name: str) -> set[str]:
    value = read(folder / WHERE[name])
    parts = value if isinstance(value, list) else [value]
    return {key for part in parts for key in keys(part, "", VARYING.get(name, ()))}


@pytest.mark.parametrize("name", WHERE)
def test_what_the_page_names_is_there(name: str, folder: Path, documented_keys: dict[str, list[str]]) -> None:
    assert documented_keys[name]
    there = found_in(folder, name)
    assert [key for key in documented_keys[name] if key not in there] == []


@pytest.mark.parametrize("name", WHERE)
def test_what_is_there_the_page_names(name: str, folder: Path, documented_keys: dict[str, list[str]]) -> None:
    """To the depth to which the page goes: below a key that it lists as a whole it says nothing."""
    listed = documented_keys[name]
    missing = []
    for key in sorted(found_in(folder, name)):
        above = [key, *(key[: m.start()] for m in re.finditer(r"\.|\[\]", key))]
        inside = any(other.startswith((f"{key}.", f"{key}[]")) for other in listed)
        prose = any(part in key for part in NAMED_IN_PROSE.get(name, ()))
        if not inside and not prose and not any(part in listed for part in above):
            missing.append(key)
    assert missing == []
