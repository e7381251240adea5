"""A disk without room: exit code 3, a message that says so, and nothing half written. The disk is a real one, of some KiB."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Runs in a mount namespace of its own, so that the file system is gone when the process is.
SCRIPT = """
import contextlib, io, json, os, shutil, subprocess, sys
from pathlib import Path
disk, trained, arguments = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
from cli.main import run
answers = {}

def attempt(name, *arguments):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = run(list(arguments))
        except BaseException as error:
            code = repr(error)
    files = sorted(str(p.relative_to(disk)) for p in disk.rglob("*") if p.is_file() and p.name != "filler")
    answers[name] = {"code": code, "err": err.getvalue(), "files": files}
    shutil.rmtree(disk / "runs", ignore_errors=True)

def resize(size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)

filler = disk / "filler"
with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
attempt("run folder", *arguments)
filler.unlink()
resize("4k")
attempt("half a run folder", *arguments)
resize("12m")
run_folder = disk / "runs" / trained.name
for name in ("run.json", "table.json", "architecture.json", "networks/shared/weights.pt"):
    (run_folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trained / name, run_folder / name)
attempt("onnx file", "export", "--network", "shared", "--runs", str(disk / "runs"))
resize("24k")
attempt("first checkpoint", *arguments)
resize("20m")
attempt("large checkpoint", *arguments)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(
    trained_run: Any, search_tiny: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    disk = tmp_path_factory.mktemp("disk")
    own_namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = f"mount -t tmpfs -o size=12k none '{disk}'"
    if shutil.which("unshare") is None:
        pytest.skip("no `unshare` here to mount a small disk with")
    if subprocess.run([*own_namespace, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow to mount a small disk")
    script = [sys.executable, "-c", SCRIPT, str(disk), str(trained_run.path), json.dumps(search_tiny(disk / "runs"))]
    done = subprocess.run(
        [*own_namespace, "sh", "-c", f'{mount} && exec "$0" "$@"', *script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    "moment", ["run folder", "half a run folder", "first checkpoint", "large checkpoint", "onnx file"]
)
def test_a_full_disk_is_told_and_nothing_half_written_stays(answers: dict[str, Any], moment: str) -> None:
    answer = answers[moment]
    assert answer["code"] == 3, answer
    assert "no space left" in answer["err"]
    assert [name for name in answer["files"] if Path(name).name.startswith(".")] == []
    assert not [name for name in answer["files"] if name.endswith(("checkpoint.pt", "model.onnx"))]


@pytest.mark.parametrize("moment", ["run folder", "half a run folder"])
def test_a_run_folder_appears_whole_or_not_at_all(answers: dict[str, Any], moment: str) -> None:
    assert answers[moment]["code"] == 3, answers[moment]
    assert answers[moment]["files"] == []
