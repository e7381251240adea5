"""Machines to read: trees of files from a compact text, and a module with NVML's names that answers what is recorded."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
NOT_SUPPORTED = 3


def grow(name: str, root: Path) -> Path:
    """Write the files that trees/`name`.txt describes below `root`: `path = content`, or `path <<`, lines, `>>`."""
    lines = iter((HERE / "trees" / f"{name}.txt").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.endswith(" <<"):
            content = "\n".join(iter(lambda: next(lines), ">>"))
            put(root, line.removesuffix(" <<"), content)
        else:
            path, _, content = line.partition(" =")
            put(root, path, content.strip())
    return root


def put(root: Path, path: str, content: object) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{content}\n", encoding="utf-8")


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything, so a test of what may not be read is somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class HandClock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class NVMLError(Exception):
    def __str__(self) -> str:
        return "Not Supported" if self.args[0] == NOT_SUPPORTED else f"error {self.args[0]}"


class RecordedNvml:
    """Answers as the module `pynvml` does. What is not recorded is answered by NVML_ERROR_NOT_SUPPORTED, as a Jetson does."""

    NVMLError = NVMLError
    NVML_CLOCK_GRAPHICS, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 0, 2, 0
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self, name: str) -> None:
        self.answers: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        self.calls: dict[str, int] = {}
        self.open = 0
        self.clock: Callable[[], float] = time.perf_counter

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        assert fields == [self.NVML_FI_DEV_POWER_INSTANT]
        told = self.answers.get("power_instant_mw")
        value = SimpleNamespace(uiVal=told or 0)
        return [SimpleNamespace(nvmlReturn=NOT_SUPPORTED if told is None else 0, value=value)]

    def __getattr__(self, function: str) -> Any:
        if not function.startswith("nvml"):
            raise AttributeError(function)

        def answer(*arguments: Any) -> Any:
            recorded = self.answers.get(function, {"error": NOT_SUPPORTED})
            turn = self.calls[function] = self.calls.get(function, -1) + 1
            if not isinstance(recorded, dict):
                return recorded
            if "error" in recorded:
                raise NVMLError(recorded["error"])
            if "series" in recorded:
                return recorded["series"][min(turn, len(recorded["series"]) - 1)]
            if "per_second" in recorded:
                return int(recorded["per_second"] * self.clock())
            if "total" in recorded:
                return SimpleNamespace(**recorded)
            return recorded[str(arguments[-1])]

        return answer
