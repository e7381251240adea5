"""What an engine is, in a JSON file beside it; the plan itself stays as TensorRT made it. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bmtas.errors import UsageError
from bmtas.files import first_problem, read_json, write_json
from bmtas.tasks import Task
from export.interface import tasks_of
from export.tensorrt.options import EngineOptions
from export.tensorrt.plan import Version, parse_version

SCHEMA_VERSION = 1


class TensorFact(BaseModel):
    """One input or output: its shape and its NumPy type."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int, ...]
    dtype: str


class Sidecar(BaseModel):
    """The content of `<engine>.json`.

    `tensorrt`, `cuda_runtime`, `cuda_driver`, `device` and `compute_capability` are of the machine that built it. `precision_found` is the
    share of layer inputs and outputs in each number type, `facts` what the engine tells of its size. `parity` is None for an engine that was built unproved; `timing` until
    it is measured. `metadata` is what the ONNX file told, tasks and pre- and post-processing included.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    written_by: str
    tensorrt: str
    cuda_runtime: str
    cuda_driver: str
    device: str
    compute_capability: tuple[int, int]
    precision: str
    precision_found: dict[str, float]
    layer_formats: dict[str, int]
    facts: dict[str, int]
    options: dict[str, Any]
    metadata: dict[str, Any]
    inputs: dict[str, TensorFact]
    outputs: dict[str, TensorFact]
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    parity: dict[str, Any] | None = None
    timing: dict[str, Any] | None = None

    @property
    def version(self) -> Version:
        """The version of TensorRT that built the engine."""
        return parse_version(self.tensorrt)

    @property
    def engine_options(self) -> EngineOptions:
        """The options of the build. Raises UsageError if they are no options of this version of bmtas."""
        return EngineOptions.from_json(self.options)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in output order. Raises UsageError if the metadata tell none."""
        return tasks_of(self.metadata)


def sidecar_path(engine: Path) -> Path:
    """Return where the sidecar of an engine lies: `model.engine.json` beside `model.engine`."""
    return engine.with_name(f"{engine.name}.json")


def write(engine: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of `engine` atomically."""
    write_json(sidecar_path(engine), sidecar.model_dump(mode="json"))


def read(engine: Path) -> Sidecar:
    """Read the sidecar of `engine`. Raises UsageError if it is missing, damaged, or from a newer version of bmtas."""
    path = sidecar_path(engine)
    data = read_json(path, SCHEMA_VERSION)
    try:
        sidecar = Sidecar.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}; it was changed, build the engine again") from None
    try:
        _ = sidecar.version, sidecar.engine_options
    except UsageError as error:
        raise UsageError(f"{path}: {error}; it was changed, build the engine again") from None
    return sidecar
