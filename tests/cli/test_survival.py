"""Killed, interrupted or cut short: the same command goes on and ends where it would have ended."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Checkpoints after every step instead of every half minute, so that there is something to kill between.
EVERY_STEP = """
import bmtas.searching, bmtas.training
bmtas.searching.Search.checkpoint_every_s = 0.0
bmtas.training.Training.checkpoint_every_s = 0.0
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wait_until(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """SIGKILL at the moment at which `reached` becomes true."""
    wait_until(process, reached)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def steps_written(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_search_that_is_killed_twice_ends_where_it_would_have_ended(
    searched_run: Any,
    search_tiny: Callable[..., list[str]],
    start: Callable[..., Any],
    bmtas: Callable[..., Any],
    tmp_path: Path,
) -> None:
    command = search_tiny(tmp_path)
    run = tmp_path / searched_run.path.name
    history = run / "search/history.jsonl"
    # The line is written just before its checkpoint: both kills meet a checkpoint that is being written.
    for moment in (2, 4):
        kill_when(start(*command, setup=EVERY_STEP), lambda moment=moment: steps_written(history) >= moment)
        assert not (run / "architecture.json").exists()
    result = bmtas(*command)
    assert result.code == 0
    assert "continuing at step" in result.err
    assert [p.name for p in tmp_path.iterdir()] == [run.name]
    for name in ("architecture.json", "search/probabilities.json"):
        assert (run / name).read_bytes() == (searched_run.path / name).read_bytes()
    assert [r["step"] for r in lines(history)] == [0, 1, 2, 3, 4]  # 1 warm-up, 3 architecture, 1 weight step
    assert lines(history) == lines(searched_run.path / "search/history.jsonl")


def test_training_that_is_killed_ends_with_the_same_weights(
    trained_run: Any, copied_run: Callable[..., Path], start: Callable[..., Any], bmtas: Callable[..., Any]
) -> None:
    run = copied_run("run.json", "table.json", "architecture.json")
    folder = run / "networks/shared"
    command = ("train", "--network", "shared", "--runs", run.parent)
    kill_when(start(*command, setup=EVERY_STEP), (folder / "checkpoint.pt").exists)
    assert not (folder / "weights.pt").exists()
    result = bmtas(*command)
    assert result.code == 0, result.err
    assert "continuing at step" in result.err
    ours, theirs = (
        torch.load(path / "networks/shared/weights.pt", weights_only=True)["network"]
        for path in (run, trained_run.path)
    )
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert lines(folder / "history.jsonl") == lines(trained_run.path / "networks/shared/history.jsonl")
    assert [r["step"] for r in lines(folder / "history.jsonl")] == [0, 1]


def test_ctrl_c_ends_a_search_with_130_and_says_how_to_go_on(
    searched_run: Any,
    search_tiny: Callable[..., list[str]],
    start: Callable[..., Any],
    bmtas: Callable[..., Any],
    tmp_path: Path,
) -> None:
    process = start(*search_tiny(tmp_path, search_steps=500), setup=EVERY_STEP)
    history = tmp_path / searched_run.path.name / "search/history.jsonl"
    wait_until(process, lambda: steps_written(history) >= 1)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130, rest
    assert "stopping after this step ..." in rest
    assert "the same command goes on from here" in rest
    assert "Traceback" not in rest
    (run,) = tmp_path.iterdir()
    saved = torch.load(run / "search/checkpoint.pt", weights_only=True)
    assert [r["step"] for r in lines(run / "search/history.jsonl")] == list(range(saved["done"]))
    assert 0 < saved["done"] < 2001
    for arguments in (("show",), ("train",), ("export",)):
        result = bmtas(*arguments, "--runs", tmp_path)
        assert result.code == 2
        assert "the same `bmtas search` again" in result.err


def test_ctrl_c_before_the_first_step_is_no_traceback(
    search_tiny: Callable[..., list[str]], start: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(*search_tiny(tmp_path, search_steps=500))
    line = process.stderr.readline()  # notes about the plan come first, and the network is built after them
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130, line + rest
    assert "Traceback" not in rest


def test_what_is_finished_begins_anew_and_what_is_not_goes_on(
    copied_run: Callable[..., Path], search_tiny: Callable[..., list[str]], bmtas: Callable[..., Any], searched_run: Any
) -> None:
    # As killed between the last checkpoint and the architecture.
    run = copied_run("run.json", "table.json", "search/checkpoint.pt", "search/history.jsonl")
    command = search_tiny(run.parent)

    def runs() -> list[str]:
        return sorted(p.name[:3] for p in run.parent.iterdir())

    assert bmtas(*command).code == 0
    assert runs() == ["001"]
    assert (run / "architecture.json").read_bytes() == (searched_run.path / "architecture.json").read_bytes()
    # Unfinished again, but --new says not to go on with it.
    (run / "architecture.json").unlink()
    assert bmtas(*command, "--new").code == 0
    assert runs() == ["001", "002"]
    # Run 001 is still unfinished, and the same command goes on with it.
    assert bmtas(*command).code == 0
    assert runs() == ["001", "002"]
    assert (run / "architecture.json").exists()
    # Nothing is unfinished now: the same command begins the next one.
    assert bmtas(*command).code == 0
    assert runs() == ["001", "002", "003"]
    found = [(p / "search/probabilities.json").read_bytes() for p in sorted(run.parent.iterdir())]
    assert found[0] == found[1] == found[2]  # the seed decides everything


def test_a_search_with_another_configuration_does_not_go_on_with_the_latest_run(
    copied_run: Callable[..., Path], search_tiny: Callable[..., list[str]], bmtas: Callable[..., Any]
) -> None:
    run = copied_run("run.json", "table.json", "search/checkpoint.pt", "search/history.jsonl")
    result = bmtas(*search_tiny(run.parent), "--seed", "1")
    assert result.code == 0
    assert f"{run.name} has not ended, but differs in seed (0 there, 1 now); a new run begins" in " ".join(
        result.err.split()
    )
    assert sorted(p.name[:3] for p in run.parent.iterdir()) == ["001", "002"]
    assert not (run / "architecture.json").exists()


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_a_search_checkpoint_that_was_cut_short_is_refused_and_the_advice_works(
    copied_run: Callable[..., Path], search_tiny: Callable[..., list[str]], bmtas: Callable[..., Any], searched_run: Any
) -> None:
    run = copied_run("run.json", "table.json", "search/checkpoint.pt", "search/history.jsonl")
    checkpoint = run / "search/checkpoint.pt"
    cut(checkpoint)
    result = bmtas(*search_tiny(run.parent))
    assert result.code == 2
    assert str(checkpoint) in result.err
    assert f"Delete {checkpoint}" in " ".join(result.err.split())
    checkpoint.unlink()
    assert bmtas(*search_tiny(run.parent)).code == 0
    assert (run / "architecture.json").read_bytes() == (searched_run.path / "architecture.json").read_bytes()
    assert [r["step"] for r in lines(run / "search/history.jsonl")] == [0, 1, 2, 3, 4]


def test_a_training_checkpoint_that_was_cut_short_is_refused_and_the_advice_works(
    copied_run: Callable[..., Path], bmtas: Callable[..., Any]
) -> None:
    run = copied_run(
        "run.json",
        "table.json",
        "architecture.json",
        "networks/shared/checkpoint.pt",
        "networks/shared/history.jsonl",
    )
    checkpoint = run / "networks/shared/checkpoint.pt"
    cut(checkpoint)
    command = ("train", "--network", "shared", "--runs", run.parent)
    result = bmtas(*command)
    assert result.code == 2
    assert str(checkpoint) in result.err
    assert f"Delete {checkpoint}" in " ".join(result.err.split())
    checkpoint.unlink()
    assert bmtas(*command).code == 0
    assert [r["step"] for r in lines(run / "networks/shared/history.jsonl")] == [0, 1]


def test_weights_that_were_cut_short_are_refused(copied_run: Callable[..., Path], bmtas: Callable[..., Any]) -> None:
    run = copied_run("run.json", "table.json", "architecture.json", "networks/shared/weights.pt")
    cut(run / "networks/shared/weights.pt")
    for command in ("export", "evaluate"):
        result = bmtas(command, "--network", "shared", "--runs", run.parent)
        assert result.code == 2
        assert "weights.pt cannot be read" in result.err
    assert not (run / "networks/shared/model.onnx").exists()


@pytest.mark.slow
def test_a_broken_checkpoint_gives_way_to_the_one_before_and_the_end_is_the_same(
    search_tiny: Callable[..., list[str]],
    start: Callable[..., Any],
    bmtas: Callable[..., Any],
    searched_run: Any,
    tmp_path: Path,
) -> None:
    process = start(*search_tiny(tmp_path), setup=EVERY_STEP)
    process.communicate(timeout=120)
    (run,) = tmp_path.iterdir()
    (run / "architecture.json").unlink()
    cut(run / "search/checkpoint.pt")
    result = bmtas(*search_tiny(tmp_path))
    assert result.code == 0
    assert "Going on from the checkpoint before it" in " ".join(result.err.split())
    assert "continuing at step 4 of 5" in result.err
    assert (run / "architecture.json").read_bytes() == (searched_run.path / "architecture.json").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_quick_search_killed_at_twenty_random_moments_ends_bit_for_bit_the_same(
    tiny_data: Path, start: Callable[..., Any], bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    command = ["search", "--data", tiny_data, "--budget", "130MMAdds", "--size", "64x64", "--search-size", "32x32"]
    assert bmtas(*command, "--runs", tmp_path / "straight").code == 0
    (straight,) = (tmp_path / "straight").iterdir()
    moments = random.Random(4)
    setup = "import bmtas.searching\nbmtas.searching.Search.checkpoint_every_s = 0.2"
    kills = searches = 0
    while kills < 20:
        runs = tmp_path / f"killed{searches}"
        searches += 1
        while not list(runs.glob("*/architecture.json")):
            process = start(*command, "--runs", runs, setup=setup)
            if kills < 20:
                # From before torch is imported to the middle of many steps and of the files they write.
                time.sleep(moments.uniform(0.5, 12.0))
            if kills < 20 and process.poll() is None:
                process.kill()
                kills += 1
            process.communicate(timeout=600)
        (run,) = [path for path in runs.iterdir() if not path.name.startswith(".")]
        for name in ("architecture.json", "search/probabilities.json"):
            assert (run / name).read_bytes() == (straight / name).read_bytes()
        assert lines(run / "search/history.jsonl") == lines(straight / "search/history.jsonl")
        ours, theirs = (
            torch.load(path / "search/checkpoint.pt", weights_only=True)["network"] for path in (run, straight)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
