"""A kit goes to another machine whole and unchanged, or is refused there; the commands are what a shell reads as meant."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmtas.errors import UsageError
from bmtas.tasks import Task, TaskKind
from export.proof.references import References
from export.tensorrt.kit import prepare_kit, read_kit
from export.tensorrt.on_device import decide_int8, ratios
from export.tensorrt.options import EngineOptions
from export.tensorrt.remote import commands, parse_remote

DEPTH = Task(name="depth", kind=TaskKind.DEPTH)
OPTIONS = EngineOptions(workspace_mib=256, aux_streams=0)


@pytest.fixture
def references() -> References:
    images = np.zeros((1, 3, 4, 4), np.float32)
    return References(images, {"depth": images[:, :1] + 2}, (DEPTH,), False, "pytorch 2.13.0")


@pytest.fixture
def networks(tmp_path: Path) -> dict[str, Path]:
    files = {"fp32": tmp_path / "exported" / "model.onnx", "fp16": tmp_path / "exported" / "model.fp16.onnx"}
    for precision, path in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"the network in {precision}".encode())
    return files


@pytest.fixture
def kit(tmp_path: Path, networks: dict[str, Path], references: References) -> Path:
    folder = tmp_path / "kit"
    prepare_kit(
        folder, networks, references, options=OPTIONS, remote="nvidia@orin", tolerances={"depth": 0.02}, samples=7
    )
    return folder


def test_a_kit_holds_the_files_their_hashes_and_what_was_asked(kit: Path) -> None:
    assert sorted(path.name for path in kit.iterdir()) == [
        "kit.json",
        "model.fp16.onnx",
        "model.onnx",
        "references.npz",
    ]
    written = json.loads((kit / "kit.json").read_text(encoding="utf-8"))
    assert written["networks"]["fp16"] == {
        "file": "model.fp16.onnx",
        "sha256": hashlib.sha256(b"the network in fp16").hexdigest(),
    }
    back = read_kit(kit)
    assert back.engine_options == OPTIONS
    assert (back.tolerances, back.scaled, back.samples, back.keep_slow_int8) == ({"depth": 0.02}, None, 7, False)
    np.testing.assert_array_equal(
        References.load(kit / back.references.file).outputs["depth"], np.full((1, 1, 4, 4), 2)
    )


def test_what_the_host_found_comes_back(
    tmp_path: Path, networks: dict[str, Path], references: References, kit: Path
) -> None:
    assert read_kit(kit).host == {}
    host = {
        "fp16": {
            "range_check": {"out_of_range": [{"node": "heads.depth/Conv", "largest": 7e4}]},
            "tasks": {"depth": {"value": 1e-5, "passed": True}},
        }
    }
    prepare_kit(kit, networks, references, options=OPTIONS, host=host)
    assert read_kit(kit).host == host
    assert json.loads((kit / "kit.json").read_text(encoding="utf-8"))["host"] == host


def test_a_kit_that_is_built_here_needs_no_commands_and_may_have_any_name(
    tmp_path: Path, networks: dict[str, Path], references: References
) -> None:
    folder = tmp_path / "a kit (mine)"
    assert prepare_kit(folder, networks, references, options=OPTIONS) is None
    assert list(read_kit(folder).networks) == ["fp32", "fp16"]
    said = prepare_kit(tmp_path / "kit", networks, references, options=OPTIONS, remote="orin")
    assert said == commands("orin", tmp_path / "kit")


def test_a_new_kit_takes_the_place_of_an_old_one(kit: Path, networks: dict[str, Path], references: References) -> None:
    (kit / "model.engine").write_bytes(b"of the old kit")
    prepare_kit(kit, {"fp32": networks["fp32"]}, references, options=OPTIONS, remote="orin")
    assert sorted(path.name for path in kit.iterdir()) == ["kit.json", "model.onnx", "references.npz"]


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx", "references.npz"])
def test_a_file_that_was_changed_or_lost_on_the_way_is_named(kit: Path, name: str) -> None:
    content = (kit / name).read_bytes()
    (kit / name).write_bytes(content[:-1])
    with pytest.raises(UsageError, match=rf"{name} is not the file.*copied in part"):
        read_kit(kit)
    (kit / name).unlink()
    with pytest.raises(UsageError, match=rf"{name} is missing"):
        read_kit(kit)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema_version": 2}, "schema 2"),
        ({"networks": {}}, "networks"),
        ({"networks": {"fp61": {"file": "model.onnx", "sha256": "0" * 64}}}, "did you mean 'fp16'"),
        ({"networks": {"fp32": {"file": "../model.onnx", "sha256": "0" * 64}}}, "no plain file name"),
        ({"networks": {"fp32": {"file": "/etc/passwd", "sha256": "0" * 64}}}, "no plain file name"),
        ({"networks": {"fp32": {"file": "model.onnx", "sha256": "short"}}}, "sha256"),
        ({"samples": 0}, "samples"),
    ],
)
def test_a_changed_kit_json_is_refused(kit: Path, change: dict[str, Any], match: str) -> None:
    path = kit / "kit.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(UsageError, match=match):
        read_kit(kit)


def test_a_folder_that_is_no_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no kit.*bmtas export --format tensorrt"):
        read_kit(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"options": EngineOptions(timing_cache=Path("mine"))}, "path of this machine"),
        ({"remote": "-oProxyCommand=x"}, "expected USER@HOST"),
        ({"tolerances": {"deepth": 0.1}}, "did you mean 'depth'"),
        ({"networks": {}}, "at least one"),
        ({"networks": {"fp32": Path("a/model.onnx"), "fp16": Path("b/model.onnx")}}, "names of their own"),
    ],
)
def test_what_would_fail_on_the_device_is_refused_here(
    tmp_path: Path,
    networks: dict[str, Path],
    references: References,
    change: dict[str, Any],
    match: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/model.onnx", "b/model.onnx"):
        Path(path).parent.mkdir()
        Path(path).write_bytes(b"x")
    asked: dict[str, Any] = {"options": OPTIONS, "remote": "orin", "networks": networks, **change}
    with pytest.raises(UsageError, match=match):
        prepare_kit(tmp_path / "kit", asked.pop("networks"), references, **asked)
    assert not (tmp_path / "kit").exists()


def test_the_commands_are_read_by_a_shell_as_meant(tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "kit"  # a space, and on the way a name that needs quotes
    said = commands("nvidia@192.168.1.20", folder, "/home/nvidia/my venv/bin/bmtas")
    assert shlex.split(said.copy) == ["scp", "-r", str(folder), "nvidia@192.168.1.20:"]
    words = shlex.split(said.build)
    assert words[:2] == ["ssh", "nvidia@192.168.1.20"]
    assert len(words) == 3  # the other machine's shell takes its line apart once more
    assert shlex.split(words[2]) == ["/home/nvidia/my venv/bin/bmtas", "build", "kit"]
    assert shlex.split(said.fetch) == ["scp", "nvidia@192.168.1.20:kit/report.json", str(folder)]


@pytest.mark.parametrize("text", ["nvidia@orin", "orin", "u_1@10.0.0.7", "jetson@orin-nx.local"])
def test_hosts_and_users_are_taken(text: str) -> None:
    assert parse_remote(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "-v", "-oProxyCommand=id", "a b@c", "u@h; id", "u@$(id)", "u@h:path", "u@", "@h", "u@-h", "a@b@c", "u@h\n"],
)
def test_everything_else_is_no_remote(text: str) -> None:
    with pytest.raises(UsageError, match="expected USER@HOST"):
        parse_remote(text)


@pytest.mark.parametrize(("name", "program"), [("ki t", "bmtas"), ("-kit", "bmtas"), ("kit", "-x"), ("kit", "")])
def test_names_that_a_shell_would_take_apart_are_refused(tmp_path: Path, name: str, program: str) -> None:
    with pytest.raises(UsageError):
        commands("orin", tmp_path / name, program)


def test_int8_stays_only_if_it_is_faster_in_three_rounds_of_four() -> None:
    fp16 = [4.0, 4.0, 4.0, 4.0, 4.0]
    faster = decide_int8({"fp16": fp16, "int8": [2.0, 2.0, 2.0, 2.0, 8.0]}, force=False)
    assert faster is not None
    assert faster.keep
    # The ratios 2, 2, 2, 0.8, 0.8: faster in most rounds, and yet not reliably.
    unsteady = {"fp16": fp16, "int8": [2.0, 2.0, 2.0, 5.0, 5.0], "fp32": [9.0] * 5}
    slower = decide_int8(unsteady, force=False)
    assert slower is not None
    assert not slower.keep
    assert "2.00 times as long as int8 (quartiles 0.80 to 2.00)" in slower.reason
    forced = decide_int8(unsteady, force=True)
    assert forced is not None
    assert forced.keep
    assert "forced" in forced.reason


def test_int8_is_compared_with_what_there_is() -> None:
    assert decide_int8({"fp16": [1.0]}, force=False) is None
    against_fp32 = decide_int8({"fp32": [3.0, 3.0], "int8": [1.0, 1.0]}, force=False)
    assert against_fp32 is not None
    assert "fp32 takes 3.00 times" in against_fp32.reason
    alone = decide_int8({"int8": [1.0]}, force=False)
    assert alone is not None
    assert alone.keep


def test_ratios_are_of_the_wider_precision_over_the_narrower() -> None:
    found = ratios({"int8": [1.0, 1.0], "fp32": [6.0, 6.0], "fp16": [2.0, 3.0]})
    assert {name: value["median"] for name, value in found.items()} == {
        "fp32_over_fp16": 2.5,
        "fp32_over_int8": 6.0,
        "fp16_over_int8": 2.5,
    }
