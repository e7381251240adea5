"""Files: never half written, and read with a message for everything that can be wrong with them."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.files import append_line, atomic_folder, atomic_path, read_json, read_lines, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text(path, "old")
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert names(path.parent) == ["file.txt"]


def test_the_old_content_stands_until_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
        assert temporary.suffix == path.suffix
        temporary.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), OSError(errno.EIO, "no"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_old_content_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    ],
)
def test_a_full_disk_is_explained(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(EnvironmentProblem, match=r"no space left for .*file\.txt.*--runs") as caught:
        write()
    assert caught.value.exit_code == 3
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file.txt"]


def fill(path: Path, content: str) -> None:
    with atomic_folder(path) as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "file.txt").write_text(content, encoding="utf-8")


def content_of(path: Path) -> str:
    return (path / "deep" / "file.txt").read_text(encoding="utf-8")


def test_a_folder_takes_the_place_of_the_old_with_all_in_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.stages"
    fill(path, "old")
    (path / "left.txt").write_text("left", encoding="utf-8")
    fill(path, "new")
    assert content_of(path) == "new"
    assert names(path) == ["deep"]
    assert names(path.parent) == ["model.stages"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def break_rename(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException, *, done: bool) -> None:
    """Let the rename of that number, the first is 1, end in `error`, before or after it was done."""
    count = 0
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count != number:
            return rename(self, target)
        if done:
            rename(self, target)
        if isinstance(error, KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)  # a real Ctrl-C, which Python raises before the next line
        raise error

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize(
    ("number", "done", "left"),
    [(1, False, "old"), (1, True, "old"), (2, False, "old"), (2, True, "new")],
)
def test_a_folder_is_never_lost_to_ctrl_c_between_its_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, done: bool, left: str
) -> None:
    path = tmp_path / "model.stages"
    fill(path, "old")
    break_rename(monkeypatch, number, KeyboardInterrupt(), done=done)
    with pytest.raises(KeyboardInterrupt):
        fill(path, "new")
    assert content_of(path) == left
    assert names(tmp_path) == ["model.stages"]


@pytest.mark.parametrize("first", [True, False])
def test_a_disk_that_fills_up_at_the_last_rename_of_a_folder_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    path = tmp_path / "model.stages"
    if not first:
        fill(path, "old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    break_rename(monkeypatch, 1 if first else 2, full, done=False)
    with pytest.raises(EnvironmentProblem, match=r"no space left for .*model\.stages"):
        fill(path, "new")
    assert names(tmp_path) == ([] if first else ["model.stages"])
    assert first or content_of(path) == "old"


def test_what_cannot_be_put_back_is_kept_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.stages"
    fill(path, "old")
    rename = Path.replace
    broken = OSError(errno.EIO, os.strerror(errno.EIO))

    def replace(self: Path, target: Path) -> Path:
        if target == path:
            raise broken
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(EnvironmentProblem, match="could not be put back") as caught:
        fill(path, "new")
    kept = next(folder for folder in tmp_path.iterdir() if ".old." in folder.name) / "model.stages"
    assert str(kept) in str(caught.value)
    assert content_of(kept) == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_line_that_does_not_fit_on_the_disk_is_explained() -> None:
    with pytest.raises(EnvironmentProblem, match="no space left for /dev/full"):
        append_line(Path("/dev/full"), {"step": 1})


def test_a_file_where_a_folder_should_be_is_explained(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("", encoding="utf-8")
    with pytest.raises(EnvironmentProblem, match="--runs"):
        write_text(tmp_path / "runs" / "001" / "run.json", "{}")


def test_a_result_is_as_readable_as_any_other_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "file.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o644


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    data = {"schema_version": 1, "name": "größer", "values": [1, 2.5, None]}
    write_json(tmp_path / "file.json", data)
    assert read_json(tmp_path / "file.json", 1) == data


def test_an_older_schema_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"schema_version": 1})
    assert read_json(tmp_path / "file.json", 2) == {"schema_version": 1}


def test_json_without_a_schema_version_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="schema_version"):
        write_json(tmp_path / "file.json", {"a": 1})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema_version": 2}', "upgrade bmtas"),
        (b'{"schema_version": 1, "a": [1, 2', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[1, 2]", "schema_version"),
        (b"3", "schema_version"),
        (b'{"a": 1}', "schema_version"),
        (b'{"schema_version": "1"}', "schema_version"),
        (b'{"schema_version": null}', "schema_version"),
        (b'{"schema_version": true}', "schema_version"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_json(path, 1)
    assert str(path) in str(caught.value)


def test_every_cut_of_a_json_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"schema_version": 1, "values": [1, 2, 3]})
    content = path.read_bytes().rstrip()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError):
            read_json(path, 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"file\.json does not exist"):
        read_json(tmp_path / "file.json", 1)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.json").mkdir()
    with pytest.raises((UsageError, EnvironmentProblem), match=r"file\.json"):
        read_json(tmp_path / "file.json", 1)


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    for step in range(3):
        append_line(path, {"step": step})
    assert read_lines(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "history.jsonl") == []


def test_a_last_line_that_was_cut_is_left_out_wherever_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    whole, last = json.dumps({"step": 0}) + "\n", json.dumps({"step": 12, "loss": 0.5})
    for length in range(len(last)):
        path.write_text(whole + last[:length], encoding="utf-8")
        assert read_lines(path) == [{"step": 0}]


def test_what_is_appended_after_a_cut_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps({"step": 0}) + "\n" + '{"step": 1, "lo', encoding="utf-8")
    append_line(path, {"step": 1})
    append_line(path, {"step": 2})
    assert read_lines(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_the_message_names_the_option_that_chooses_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(EnvironmentProblem, match=r"cannot write .*choose a folder of your own \(--picture\)"):
        write_text(tmp_path / "file/look.png", "", "--picture")
    with pytest.raises(EnvironmentProblem, match=r"\(--runs, --out\)"):
        write_text(tmp_path / "file/run.json", "")
