"""Every command of README.md and docs/ is run as it stands, page by page in the order of the page, in one folder.

What makes it small stands in a `bmtas.toml` of that folder, and in small files under the names that the page uses.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _reference.blocks import ROOT, commands, pages

from bmtas import kinds
from bmtas.networks import backbone as backbones

SKIPPED = {
    "torchrun": "two processes of PyTorch that talk to each other; tests/parallel does it",
    "python benchmarks/": "a study that takes minutes to hours; tests/benchmarks looks at them",
    "--format tensorrt": "TensorRT and an NVIDIA GPU",
    "PASCAL_MT": "a data set to download, and days on a GPU",
    "NYUD_MT": "a data set to download, and days on a GPU",
    "PATH": "a placeholder for a data set to download",
    "examples/ccp.yaml": "a data set that is not part of this repository",
    "docs/ccp_table.md": "belongs to a data set that is not part of this repository",
    "--budget ...": "a placeholder",
    "~/photos": "the reader's own folder; the tutorial has the same command",
    "--costs board.json": "a table to which the reader adds what was measured; examples/own-table.json is run",
    "/shared/": "several machines",
    "--preset standard": "ten jobs of a preset for a GPU; the page's other sweeps are run",
    "--budget 12ms": "a table in ms that can be trusted, which needs a machine without other work; tests/export/latency has one",
    "decode --measured": "a measured table, as above",
}
"""Parts of lines that cannot be run here, and why: what stands in one line with `&&` goes together."""

SKIPPED_PAGES = {"docs/jetson.md": "a Jetson, and TensorRT on it"}

FAILING = {
    "--fail-if 'p99>20ms'": 6,  # five samples support no 99th percentile, and the page says that this fails
    "misses>0": (0, 6),  # whether a frame is late depends on what else the machine does
    "--precision int8": (0, 4),  # INT8 that is slower, or loses too much, is not written, and the page says so
    "--precision fp32,int8": (0, 4),
    "bmtas doctor": (0, 3),  # this machine may have faults
}
"""Parts of commands that end otherwise than with 0."""

SLOW = (
    "docs/baselines.md",
    "docs/bench.md",
    "docs/export.md",
    "docs/latency.md",
    "docs/plugins.md",
    "docs/searching.md",
    "docs/sweep.md",
    "docs/tutorial.md",
)
MADE = {"README.md": ("my.yaml",), "docs/tutorial.md": ("photos",)}
"""What a page makes itself, so that it must not be there before."""
WITHOUT = {
    "docs/plugins.md": ("backbone",),  # its search names another
    "docs/searching.md": ("backbone",),
}
"""Settings that a page does not go with."""
WITH_A_RUN = ("docs/latency.md", "docs/bench.md", "docs/export.md", "docs/report.md", "docs/settings.md")


def reason_to_skip(command: Any) -> str | None:
    return SKIPPED_PAGES.get(command.page) or next((why for part, why in SKIPPED.items() if part in command.line), None)


def allowed(text: str) -> tuple[int, ...]:
    code = next((code for part, code in FAILING.items() if part in text), 0)
    return code if isinstance(code, tuple) else (code,)


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page's plugins bring is not known to the next page."""
    monkeypatch.setattr(kinds, "_KINDS", {})
    monkeypatch.setattr(backbones, "_OWN", {})


@pytest.fixture
def scratch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function (page) that makes a folder of its own for the page, and goes there."""

    def go(page: str) -> Path:
        source: Path = request.getfixturevalue("finished" if page in WITH_A_RUN else "prepared")
        target = tmp_path / "work"
        shutil.copytree(source, target, symlinks=True)
        settings = target / "bmtas.toml"
        kept = [s for s in settings.read_text("utf-8").splitlines() if s.split(" =")[0] not in WITHOUT.get(page, ())]
        settings.write_text("\n".join(kept), encoding="utf-8")
        monkeypatch.chdir(target)
        return target

    return go


def expanded(word: str) -> list[str]:
    """Return what the shell makes of a word."""
    return [str(path) for path in sorted(Path().glob(word))] or [word] if "*" in word else [word]


def run_page(page: str, typed: list[Any], blocks: list[Any], invoke: Callable[..., Any]) -> list[str]:
    """Run what a page says, and return what was run. A file that it shows with a title is written first."""
    for name in MADE.get(page, ()):
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()
    for block in blocks:
        if block.title and "/" not in block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
    done = []
    for command in typed:
        if reason_to_skip(command):
            continue
        done.append(command.text)
        words = [name for word in command.words for name in expanded(word)]
        if command.arguments is not None:
            answer = invoke(words[1:])
            assert answer.code in allowed(command.text), (
                f"{page}: {command.text}: code {answer.code}\n{answer.err[-2000:]}"
            )
        elif words[0] == "cp":
            shutil.copy(words[1], words[2])
        else:
            assert words[0] == "python", f"{page}: {command.text}: neither bmtas nor python nor cp"
            exec(compile(Path(words[1]).read_text(encoding="utf-8"), words[1], "exec"), {"__name__": "__main__"})
    return done


def runnable_pages() -> list[Any]:
    """Return the pages of which anything can be run, those that take long as slow ones."""
    found = []
    for path in pages():
        if any(not reason_to_skip(command) for command in commands(path)):
            name = path.relative_to(ROOT).as_posix()
            found.append(pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []))
    return found


@pytest.mark.parametrize("page", runnable_pages())
def test_a_page_runs_as_it_stands(
    page: str,
    documented: dict[str, Any],
    code_blocks: dict[str, Any],
    scratch: Callable[[str], Path],
    invoke: Callable[..., Any],
) -> None:
    scratch(page)
    done = run_page(page, documented[page], code_blocks[page], invoke)
    runnable = [c for c in documented[page] if not reason_to_skip(c)]
    assert len(done) == len(runnable)


def test_the_python_page_runs(code_blocks: dict[str, Any], scratch: Callable[[str], Path]) -> None:
    scratch("docs/python.md")
    names: dict[str, Any] = {}
    for block in code_blocks["docs/python.md"]:
        assert block.language == "python"
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block.text, "docs/python.md", "exec"), names)
    assert names["results"]["networks"]["found"]["costs"]["madds"] <= 4.2e6
    assert set(names["predictions"]) == {"a1", "a2", "b1", "b2"}
    assert names["found"].cost[names["Resource"].LATENCY_MS] <= 50


def test_what_is_left_out_still_stands_in_the_documentation(documented: dict[str, Any]) -> None:
    everything = [command.line for page in documented.values() for command in page]
    assert all(documented[page] for page in SKIPPED_PAGES)
    for part in (*SKIPPED, *FAILING):
        assert any(part in text for text in everything), part
