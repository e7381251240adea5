"""What a user can get wrong about a run and what comes after its search: the message names what comes first, or what there is."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

COMMANDS = ("train", "evaluate", "export", "bench", "show")


def test_data_that_have_changed_do_not_enter_an_old_run(
    bmtas: Callable[..., Any], new_data: Callable[[Path], Path], tmp_path: Path, copied_run: Callable[..., Path]
) -> None:
    manifest = new_data(tmp_path / "data")
    path = copied_run("run.json", "table.json", "architecture.json")
    config = json.loads((path / "run.json").read_text())
    manifest.write_text(manifest.read_text().replace("ball", "sphere"))
    (path / "run.json").write_text(json.dumps({**config, "data": str(manifest)}))
    result = bmtas("train", "--network", "shared", "--runs", path.parent)
    assert result.code == 2
    assert "has changed since" in result.err
    assert "bmtas search" in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_run_the_message_names_the_command_that_makes_one(
    bmtas: Callable[..., Any], tmp_path: Path, command: str
) -> None:
    result = bmtas(command, "--runs", tmp_path / "nothing")
    assert result.code == 2
    assert "`bmtas search`" in result.err
    assert str(tmp_path / "nothing") in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unfinished_search_is_named_as_what_comes_first(
    bmtas: Callable[..., Any], copied_run: Callable[..., Path], command: str
) -> None:
    path = copied_run("run.json", "table.json")
    result = bmtas(command, "--runs", path.parent)
    assert result.code == 2
    assert "the same `bmtas search` again" in result.err


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("evaluate",), "`bmtas train`"),
        (("evaluate", "--network", "separate"), "`bmtas train --network separate`"),
        (("export",), "`bmtas train`"),
        (("export", "--network", "shared"), "`bmtas train --network shared`"),
        (("bench",), "`bmtas train`"),
    ],
)
def test_without_training_the_message_names_train(
    bmtas: Callable[..., Any], copied_run: Callable[..., Path], arguments: tuple[str, ...], first: str
) -> None:
    path = copied_run("run.json", "table.json", "architecture.json")
    result = bmtas(*arguments, "--runs", path.parent)
    assert result.code == 2
    assert first in result.err


@pytest.mark.parametrize("arguments", [("bench",), ("bench", "--network", "found")])
def test_without_an_export_the_message_names_export(
    bmtas: Callable[..., Any], copied_run: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    path = copied_run("run.json", "table.json", "architecture.json", "networks/found/weights.pt")
    result = bmtas(*arguments, "--runs", path.parent)
    assert result.code == 2
    assert "`bmtas export" in result.err


def test_a_run_that_is_not_there_is_answered_with_those_that_are(
    bmtas: Callable[..., Any], copied_run: Callable[..., Path]
) -> None:
    path = copied_run("run.json", "table.json", "architecture.json")
    result = bmtas("show", "--run", "017-elsewhere", "--runs", path.parent)
    assert result.code == 2
    assert "'017-elsewhere'" in result.err
    assert path.name in result.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("file", ["run.json", "table.json", "architecture.json"])
def test_a_run_of_a_newer_version_is_refused(
    bmtas: Callable[..., Any], copied_run: Callable[..., Path], command: str, file: str
) -> None:
    path = copied_run("run.json", "table.json", "architecture.json")
    data = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps({**data, "schema_version": 2}))
    result = bmtas(command, "--runs", path.parent)
    assert result.code == 2
    assert file in result.err
    assert "schema 2" in result.err
    assert "upgrade bmtas" in result.err


def test_results_of_a_newer_version_are_refused(bmtas: Callable[..., Any], copied_run: Callable[..., Path]) -> None:
    for file, newer in (("bench.json", 3), ("networks/found/metrics.json", 2)):
        path = copied_run("run.json", "table.json", "architecture.json", file)
        data = json.loads((path / file).read_text())
        (path / file).write_text(json.dumps({**data, "schema_version": newer}))
        result = bmtas("show", "--runs", path.parent)
        assert result.code == 2
        assert f"{file} follows schema {newer}" in result.err
        (path / file).unlink()


def test_a_run_file_that_was_cut_short_is_named(bmtas: Callable[..., Any], copied_run: Callable[..., Path]) -> None:
    path = copied_run("run.json", "table.json", "architecture.json")
    text = (path / "table.json").read_text()
    (path / "table.json").write_text(text[: len(text) // 2])
    result = bmtas("show", "--runs", path.parent)
    assert result.code == 2
    assert "table.json is not valid JSON" in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("export", "--format", "onx"), "unknown format 'onx'; did you mean 'onnx'?"),
        (("export", "--network", "fond"), "unknown network 'fond'; did you mean 'found'?"),
        (("train", "--network", "seperate"), "unknown network 'seperate'; did you mean 'separate'?"),
        (("bench", "--network", "alll"), "unknown network 'alll'; did you mean 'all'?"),
        (("bench", "--provider", "cdua", "--no-eager"), "unknown provider 'cdua'; did you mean 'cuda'?"),
        (("bench", "absent.onnx"), "absent.onnx does not exist"),
        (("bench", "--samples", "0"), "--samples"),
    ],
)
def test_unknown_formats_networks_and_providers_are_refused(
    bmtas: Callable[..., Any], tiny_run: Any, arguments: tuple[str, ...], told: str
) -> None:
    before = (tiny_run.path / "bench.json").read_bytes()
    result = bmtas(*arguments, "--runs", tiny_run.root)
    assert result.code == 2
    assert told in result.err
    assert (tiny_run.path / "bench.json").read_bytes() == before


def test_tensorrt_that_is_not_there_is_a_matter_of_the_machine(bmtas: Callable[..., Any], tiny_run: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    result = bmtas("export", "--format", "tensorrt", "--runs", tiny_run.root)
    assert result.code == 3
    assert "TensorRT" in result.err
    assert "pip install tensorrt" in result.err
    assert "--remote USER@HOST" in result.err
    assert "JetPack" in result.err
    assert list(tiny_run.path.rglob("*.engine*")) == []


def test_a_provider_that_is_not_there_is_never_replaced_silently(start: Callable[..., Any], tiny_run: Any) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    process = start("bench", tiny_run.path / "networks/shared/model.onnx", "--provider", "cuda", "--quiet")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert out == ""
    assert "CUDAExecutionProvider" in err
    assert "--provider cpu" in err
    assert "UserWarning" not in err  # one message, no noise of the library


def test_json_goes_into_a_pipe_and_leaves_it_a_pipe(
    bmtas: Callable[..., Any], copied_run: Callable[..., Path], tmp_path: Path
) -> None:
    """`--json /dev/stderr` and the like must not be replaced by a file."""
    path = copied_run("run.json", "table.json", "architecture.json")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        result = bmtas("show", "--json", pipe, "--runs", path.parent)
        assert result.code == 0
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert json.loads(os.read(reader, 65536))["run"] == path.name
    finally:
        os.close(reader)
