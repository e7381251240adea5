"""What messages say: what was found, and the way out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from _reference import messages

WAY_OUT = re.compile(
    r";|\b(give|name|use|choose|take|install|correct|mend|raise|free|leave|write|read|run|search|train|export|expected|must|needs?|put|build|"
    r"check|start|measure|convert|copy|delete|known|keep|set|add|make|reachable|is one of|allowed|belongs|upgrade|say|restore|"
    r"only|alone|at least|at most|exclude|go with|goes with)\b",
    re.IGNORECASE,
)
"""A clause after a semicolon, an imperative, or the rule itself."""

OF_OTHERS = re.compile(r"\W*|by the table as corrected\W*|by the table\W*|with that margin\W*")
"""What is left without the fields where a message only passes on another error's text, which has the way out."""


def passes_on(text: str) -> bool:
    """Whether a message is another's text, or a text that a function puts together."""
    return OF_OTHERS.fullmatch(re.sub(r"\{[^}]*\}", "", text)) is not None


@pytest.fixture(scope="module")
def collected(root: Path) -> list[messages.Message]:
    return messages.collect(root)


def test_the_collection_is_whole(collected: list[messages.Message], root: Path) -> None:
    """Counted another way: the classes' names with a bracket behind them in the sources, less their definitions."""
    written = sum(
        len(
            re.findall(
                r"\braise (?:UsageError|EnvironmentProblem|BudgetError|BuildError|CostError)\(", p.read_text("utf-8")
            )
        )
        for p in messages.sources(root)
    )
    assert written > 500
    assert len(collected) > 0.95 * written


def test_exit_codes_are_those_of_the_house(collected: list[messages.Message]) -> None:
    told = {message.error: message.exit_code for message in collected}
    expected = {"UsageError": 2, "EnvironmentProblem": 3, "BuildError": 4, "ParityError": 5, "BudgetError": 6}
    assert {name: told[name] for name in expected} == expected
    assert (told["CostError"], told["BudgetBelowReach"]) == (2, 6)


def test_a_message_names_what_was_found(collected: list[messages.Message]) -> None:
    """A value of the moment stands in it, or it is about an option or a thing that is not there, which it names."""
    silent = [m for m in collected if not m.names_what_was_found and not re.search(r"--[a-z]", m.text)]
    nothing_there = re.compile(
        r"\b(no|nothing|none|not|one task|at least|TF32|whichever way|32 bits|died|give other)\b"
    )
    assert [f"{m.file}: {m.text}" for m in silent if not nothing_there.search(m.text)] == []


def test_a_message_has_a_way_out(collected: list[messages.Message]) -> None:
    without = [m for m in collected if not WAY_OUT.search(m.text) and not passes_on(m.text)]
    assert [f"{m.file}: {m.text}" for m in without] == []


def test_the_page_has_every_message(collected: list[messages.Message], root: Path) -> None:
    page = messages.page(root)
    assert page.count("\n- ") == sum(m.exit_code is not None for m in collected)
    for code in (1, 2, 3, 4, 5, 6):
        assert f"{{ #exit-{code} }}" in page
