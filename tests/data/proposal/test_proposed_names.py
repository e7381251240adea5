"""Files that are called after classes and hold something else are told and left aside; the folder is proposed all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmtas.data.proposal import propose, write_proposal
from bmtas.data.proposal.class_names import read_class_names
from tests.data.proposal.trees_own import classes, photograph, save

NEITHER = "neither names, nor numbers with a name each"


def read(tmp_path: Path, file: str, text: str) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    (tmp_path / file).write_text(text, encoding="utf-8")
    return read_class_names(tmp_path, [tmp_path / file])


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("labels.json", '[{"id": null, "name": 1}]', NEITHER),
        ("labels.json", '[{"id": [2], "name": "a"}, {"id": 1, "name": "b"}]', NEITHER),
        ("labels.json", '[{"id": 1e400, "name": "a"}, {"id": 1, "name": "b"}]', NEITHER),
        ("labels.json", '[{"id": 0.5, "name": "a"}, {"id": 1, "name": "b"}]', NEITHER),
        ("labels.json", '{"a": true, "b": 5}', NEITHER),
        ("labels.json", '{"classes": 5}', NEITHER),
        ("labels.json", '{"0": {"name": "a"}, "1": {"name": "b"}}', NEITHER),
        ("labels.json", "[]", NEITHER),
        ("labels.json", "17", NEITHER),
        ("labels.json", "[" * 100_000, "nested too deeply"),
        ("labels.json", '{"classes": ' * 100_000, "nested too deeply"),
        ("labels.json", '[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]', "0 has more than one name"),
        ("labels.json", '{"a": 1, "b": 1}', "1 has more than one name"),
        ("labels.json", '{"0": "a", "0": "b"}', "a key stands twice in one object"),
        ("labels.json", '{"0": "a", "99999999999": "b"}', "99999999999 is no id of a class, which are 0 to 255"),
        ("labels.json", '{"a": -1, "b": 0}', "-1 is no id of a class, which are 0 to 255"),
        ("labels.json", '["a"', "Expecting ',' delimiter: line 1 column 5 (char 4)"),
        ("classes.txt", "0: a\n0: b\n", "0 has more than one name"),
        ("classes.txt", "alone\n", "1 names, not 2 to 255"),
    ],
)
def test_what_is_no_list_of_names_is_told(tmp_path: Path, file: str, text: str, why: str) -> None:
    aside = f"{file}: not understood as a list of class names and left aside: {why}"
    assert read(tmp_path, file, text) == ({}, [aside])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"categories": [{"id": "2", "name": "c"}, {"id": 0, "name": "a"}], "images": []}', ("a", "class_1", "c")),
        ('{"classes": 2, "names": ["a", "b"]}', ("a", "b")),
        ('{"id2label": {"1": "b", "0": "a"}}', ("a", "b")),
    ],
)
def test_forms_of_lists(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    assert read(tmp_path, "labels.json", text) == ({"labels.json": names}, [])


def test_a_folder_with_such_files_is_proposed(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for i in range(4):
        save(root / f"images/{i}.png", photograph(i))
        save(root / f"semseg/{i}.png", classes(i))
    for file, text in {"labels.json": '[{"id": null, "name": 1}]', "names.json": "[" * 100_000}.items():
        (root / file).write_text(text)
    proposal = propose(root)
    assert sum("not understood as a list of class names" in remark for remark in proposal.remarks) == 2
    assert len(write_proposal(proposal, tmp_path / "own.yaml").tasks[0].classes) == 4


def test_a_table_of_numbers_does_not_take_names_that_stand_twice(tmp_path: Path) -> None:
    """A manifest refuses classes of one name, since a table could not tell them apart."""
    root = tmp_path / "own"
    for i in range(8):
        save(root / f"images/{i}.jpg", photograph(i))
    (root / "kind.csv").write_text("id,label\n" + "".join(f"{i},{i % 3}\n" for i in range(8)))
    (root / "classes.txt").write_text("void\nvoid\ncar\n")
    assert write_proposal(propose(root), tmp_path / "own.yaml").tasks[0].classes == ("0", "1", "2")
