"""In which runtime, where and with how many threads a kit is measured, and what opens its files there. Needs no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bmtas.errors import UsageError, nearest
from bmtas.progress import Progress
from export.latency.kit import Kit, RuntimeName, file_of
from export.sessions.onnx import PROVIDERS, OnnxSession
from export.sessions.openvino import OpenVinoSession
from export.sessions.protocol import Session
from export.tensorrt.build import build_plan
from export.tensorrt.engine import LoadedEngine
from export.tensorrt.options import EngineOptions


@dataclass(frozen=True)
class Setting:
    """`precision` of the kit's files; `provider` of ONNX Runtime (others have one); `threads` on the CPU, 0: the runtime's choice."""

    precision: str = "fp32"
    provider: str = "cpu"
    threads: int = 0
    runtime: RuntimeName = "onnxruntime"

    @property
    def label(self) -> str:
        """What files of this setting are called: `fp32-cpu-2threads`."""
        threads = f"-{self.threads}thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        where = self.provider if self.runtime == "onnxruntime" else self.runtime
        return f"{self.precision}-{where}{threads}"


class Opener(Protocol):
    """Opens items of a kit by name."""

    def __call__(self, item: str) -> Session:
        """Return the loaded item."""


def check_setting(setting: Setting, precisions: Collection[str], runtime: RuntimeName) -> None:
    """Raise UsageError where a setting does not fit a kit of `precisions` for `runtime`, or would measure something else under its name."""
    if setting.precision not in precisions:
        raise UsageError(
            f"the kit holds {', '.join(precisions)}, not {setting.precision}; prepare it with --precision {setting.precision}"
        )
    if setting.runtime != runtime:
        raise UsageError(
            f"the kit is for {runtime}, not {setting.runtime}; prepare it with --runtime {setting.runtime}"
        )
    if setting.provider not in PROVIDERS:
        raise UsageError(f"unknown provider {setting.provider!r}; {nearest(setting.provider, PROVIDERS)}")
    if runtime != "onnxruntime" and setting.provider != "cpu":
        raise UsageError(f"--provider {setting.provider} is for ONNX Runtime; this kit is for {runtime}")
    if setting.threads and (runtime == "tensorrt" or setting.provider != "cpu"):
        raise UsageError(f"--threads {setting.threads}: threads are a CPU's; leave it out for a GPU")
    if runtime == "onnxruntime" and setting.provider == "cpu" and setting.precision in ("fp16", "bf16"):
        raise UsageError(
            f"ONNX Runtime on CPUs does not compute in {setting.precision}: it would be measured in FP32 under another name; "
            "take --precision fp32 or int8, or --provider cuda"
        )


def open_file(path: Path, setting: Setting, progress: Progress) -> Session:
    """Load an ONNX file as `setting` has it run; for TensorRT an engine is built from it. Raises what the sessions raise."""
    if setting.runtime == "tensorrt":
        return LoadedEngine(build_plan(path, EngineOptions(), progress))
    if setting.runtime == "openvino":
        return OpenVinoSession(path, setting.precision, setting.threads)
    return OnnxSession(path, setting.provider, setting.threads)


def run_of(session: Session) -> Callable[[], object]:
    """Return one run of a loaded file on noise, the same every time."""
    return partial(session.run, {name: spec.noise() for name, spec in session.inputs.items()})


def opener(folder: Path, kit: Kit, setting: Setting, progress: Progress) -> Opener:
    """Return what opens the items of the kit in its runtime. Raises UsageError where the setting does not fit the kit."""
    check_setting(setting, kit.precisions, kit.runtime)
    if kit.runtime == "tensorrt":
        return _TensorRT(folder, setting, progress)
    return lambda item: open_file(folder / file_of(setting.precision, item), setting, progress)


class _TensorRT:
    """Builds an engine for each item when it is first opened, and keeps it in a folder of this process's own."""

    def __init__(self, folder: Path, setting: Setting, progress: Progress) -> None:
        self._folder, self._setting, self._progress = folder, setting, progress
        self._numbers: dict[str, int] = {}
        self._plans = tempfile.TemporaryDirectory(prefix="bmtas-plans-")

    def __call__(self, item: str) -> Session:
        number = self._numbers.setdefault(item, len(self._numbers))
        plan = Path(self._plans.name) / f"{number}.plan"  # never a name from a file: what lies there is trusted
        if not plan.exists():
            path = self._folder / file_of(self._setting.precision, item)
            plan.write_bytes(build_plan(path, EngineOptions(), self._progress))
        return LoadedEngine(plan.read_bytes())
