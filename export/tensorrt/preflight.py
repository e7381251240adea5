"""Whether an engine belongs to this machine, decided before anything of it is deserialised. Needs no torch.

Deserialising a plan runs native code, and TensorRT has no check before it that can be relied on (support matrix of 11.4.1); so a
plan whose sidecar does not know it is never handed to TensorRT.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from bmtas.errors import EnvironmentProblem, UsageError
from export.artefacts import digest
from export.proof.references import FILE_NAME
from export.tensorrt import cuda
from export.tensorrt.api import tensorrt_version
from export.tensorrt.plan import Version, read_header, runs_version_compatible, same_version, version_text
from export.tensorrt.sidecar import Sidecar, read, sidecar_path


@dataclass(frozen=True)
class Machine:
    """What an engine depends on: the version of TensorRT and the GPU."""

    tensorrt: Version
    compute_capability: tuple[int, int]
    device: str


def this_machine() -> Machine:
    """Return this machine. Raises EnvironmentProblem where TensorRT or a GPU is missing."""
    version = tensorrt_version()
    gpu = cuda.device()
    return Machine(version, gpu.compute_capability, gpu.name)


def check_engine(path: Path, machine: Machine | None = None) -> Sidecar:
    """Return what the engine at `path` is, if `machine` (this one if None) may load it.

    Raises UsageError if the plan is not the one that its sidecar describes, or the ONNX file beside it (of the same stem) not the one from
    which it was built; EnvironmentProblem if it was built for another TensorRT or GPU. All with the command that builds it anew.
    """
    return load_checked(path, machine)[1]


def load_checked(path: Path, machine: Machine | None = None) -> tuple[bytes, Sidecar]:
    """Return the plan that was checked, and what it is. Raises what `check_engine` raises."""
    try:
        plan = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; {_rebuild(path)} makes it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    header = read_header(plan, str(path))
    if not sidecar_path(path).is_file():
        raise UsageError(
            f"{path} has no {sidecar_path(path).name} beside it. Loading an engine runs its native code, so bmtas loads only those that it "
            f"has built and knows; build it again: {_rebuild(path)}"
        )
    sidecar = read(path)
    rebuild = f"build it again: {_rebuild(path, sidecar)}"
    if hashlib.sha256(plan).hexdigest() != sidecar.plan_sha256:
        raise UsageError(
            f"{path} is not the file that {sidecar_path(path).name} describes: its SHA-256 differs, so it was changed or copied in part. It "
            f"is not loaded; {rebuild}"
        )
    if not same_version(header.tensorrt, sidecar.version):
        raise UsageError(
            f"{path} was built by TensorRT {version_text(header.tensorrt)}, but {sidecar_path(path).name} says {sidecar.tensorrt}; {rebuild}"
        )
    source = path.with_suffix(".onnx")
    if source.is_file() and digest(source) != sidecar.onnx_sha256:
        raise UsageError(
            f"the ONNX file was exported anew since {path} was built from it ({source} has another SHA-256 than {sidecar_path(path).name} "
            f"says); the engine computes what the file was then. {rebuild[0].upper()}{rebuild[1:]}"
        )
    here = this_machine() if machine is None else machine
    for problem in (_version_problem(header.tensorrt, sidecar, here), _gpu_problem(sidecar, here)):
        if problem is not None:
            raise EnvironmentProblem(f"{path} {problem}; {_rebuild(path, sidecar)} builds it for this machine")
    return plan, sidecar


def _version_problem(built: Version, sidecar: Sidecar, machine: Machine) -> str | None:
    """Say why this TensorRT cannot run the plan, or None if it can."""
    if same_version(built, machine.tensorrt):
        return None
    said = f"was built by TensorRT {version_text(built)}, and this machine has {version_text(machine.tensorrt)}"
    if not sidecar.engine_options.version_compatible:
        return f"{said}; a plan runs on the version that built it, unless it was built with --version-compatible"
    if runs_version_compatible(built, machine.tensorrt):
        return None
    return f"{said}; a version-compatible plan runs on later versions of the same major number, and 10 on 11, never on earlier ones"


def _gpu_problem(sidecar: Sidecar, machine: Machine) -> str | None:
    """Say why this GPU cannot run the plan, or None if it can."""
    level = sidecar.engine_options.hardware_compatibility
    built, here = (version_text(c) for c in (sidecar.compute_capability, machine.compute_capability))
    said = f"was built on {sidecar.device} (compute capability {built}), and this machine has {machine.device} ({here})"
    if level == "ampere+":
        return None if machine.compute_capability >= (8, 0) else f"{said}; it needs compute capability 8.0 or later"
    if machine.compute_capability != sidecar.compute_capability:
        return f"{said}; its kernels are for the other compute capability"
    if level == "none" and machine.device != sidecar.device:
        return (
            f"{said}; its kernels were chosen for the other GPU, unless it is built with --hardware-compatibility same"
        )
    return None


def _rebuild(path: Path, sidecar: Sidecar | None = None) -> str:
    """Return the command that builds the engine anew, as it was built, from the ONNX file of the same stem."""
    words = ["bmtas", "build", str(path.with_suffix(".onnx"))]
    if sidecar is not None:
        words += ["--precision", sidecar.precision, *sidecar.engine_options.to_arguments()]
        if sidecar.parity is None and not path.with_name(FILE_NAME).is_file():
            words.append("--unproved")
    return f"`{shlex.join(words)}`"
