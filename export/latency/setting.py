"""In which runtime, where and with how many threads a kit is measured, and what opens its files there. Needs no torch."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bmtas.errors import UsageError
from bmtas.progress import Progress
from export.latency.kit import Kit, file_of
from export.sessions.onnx import OnnxSession
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

    @property
    def label(self) -> str:
        """What files of this setting are called: `fp32-cpu-2threads`."""
        threads = f"-{self.threads}thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        return f"{self.precision}-{self.provider}{threads}"


class Opener(Protocol):
    """Opens items of a kit by name."""

    def __call__(self, item: str) -> Session:
        """Return the loaded item."""


def opener(folder: Path, kit: Kit, setting: Setting, progress: Progress) -> Opener:
    """Return what opens the items of the kit in its runtime. Raises UsageError where the setting does not fit the kit."""
    if setting.precision not in kit.precisions:
        raise UsageError(
            f"the kit holds {', '.join(kit.precisions)}, not {setting.precision}; prepare it with --precision {setting.precision}"
        )
    if kit.runtime != "onnxruntime" and setting.provider != "cpu":
        raise UsageError(f"--provider {setting.provider} is for ONNX Runtime; this kit is for {kit.runtime}")
    if kit.runtime == "tensorrt":
        return _TensorRT(folder, setting, progress)
    if kit.runtime == "openvino":
        return lambda item: OpenVinoSession(
            folder / file_of(setting.precision, item), setting.precision, setting.threads
        )
    if setting.provider == "cpu" and setting.precision in ("fp16", "bf16"):
        raise UsageError(
            f"ONNX Runtime on CPUs does not compute in {setting.precision}: it would be measured in FP32 under another name; "
            "take --precision fp32 or int8, or --provider cuda"
        )
    return lambda item: OnnxSession(folder / file_of(setting.precision, item), setting.provider, setting.threads)


class _TensorRT:
    """Builds an engine for each item when it is first opened, and keeps it in a folder of this process's own."""

    def __init__(self, folder: Path, setting: Setting, progress: Progress) -> None:
        self._folder, self._setting, self._progress = folder, setting, progress
        self._plans = tempfile.TemporaryDirectory(prefix="bmtas-plans-")

    def __call__(self, item: str) -> Session:
        plan = Path(self._plans.name) / f"{item}.plan"
        if not plan.exists():
            path = self._folder / file_of(self._setting.precision, item)
            plan.write_bytes(build_plan(path, EngineOptions(), self._progress))
        return LoadedEngine(plan.read_bytes())
