"""An engine, from the ONNX file to the proved plan with its sidecar, or nothing. Needs no torch."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from bmtas.errors import BuildError, UsageError
from bmtas.extras import own_version
from bmtas.files import atomic_path
from bmtas.progress import Progress
from export.artefacts import digest
from export.formats import require_precision
from export.onnx_metadata import onnx_metadata
from export.proof.compare import compare, require_parity
from export.proof.limits import ENGINE_SCALED, Limit, limits_for
from export.proof.references import References
from export.sessions.protocol import TensorSpec
from export.tensorrt import cuda, sidecar
from export.tensorrt.api import require_tensorrt
from export.tensorrt.build import build_plan
from export.tensorrt.engine import LoadedEngine
from export.tensorrt.inspector import LEAST_SHARE, check_precision, found_precision, layer_formats
from export.tensorrt.options import EngineOptions
from export.tensorrt.plan import parse_version, read_header, same_version, version_text
from export.tensorrt.sidecar import Sidecar, TensorFact


def engine_limits(
    precision: str, references: References, overrides: Mapping[str, float] | None = None, scaled: float | None = None
) -> dict[str, Limit]:
    """Return the parity limits by task of an engine: those of `limits_for`, but in FP32 the raw one of a GPU where none is given.

    Raises UsageError for what `limits_for` refuses.
    """
    raw = ENGINE_SCALED if precision == "fp32" and scaled is None else scaled
    return limits_for(precision, references.tasks, overrides, raw)


def check_asked(precision: str, options: EngineOptions) -> None:
    """Raise UsageError for a precision that is none, or that the options contradict."""
    require_precision(precision)
    if precision == "fp32" and options.tf32:
        raise UsageError("TF32 rounds factors to 10 bits, which is not fp32; leave --tf32 out, or build fp16")


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    *,
    precision: str,
    references: References | None,
    limits: Mapping[str, Limit] | None,
    options: EngineOptions,
    progress: Progress,
    least_share: float | None = None,
) -> Sidecar:
    """Build an engine at `engine_path`, read its precision back, prove it on `references`, and return what it is.

    `precision` is the one that the ONNX file holds: nothing else decides what is built. `limits` None: the usual ones. Without
    `references` the engine is left unproved, and its sidecar says so (`parity` is None). Raises BuildError if it cannot be built
    or is not in this precision, ParityError if it computes something else; nothing is written then, and what was there before stays.
    """
    check_asked(precision, options)
    metadata = onnx_metadata(onnx_path)
    told = metadata.get("precision", precision)
    if told != precision:
        raise UsageError(
            f"{onnx_path} holds {told}, but {precision} was asked for; the precision of an engine is that of its file"
        )
    plan = build_plan(onnx_path, options, progress)
    version = str(require_tensorrt().__version__)
    _check_header(plan, version)
    loaded = LoadedEngine(plan, version_compatible=options.version_compatible)
    formats = layer_formats(loaded.inspect())
    if least_share is None and precision == "int8":
        # Sensitive layers were left above 8 bits when the file was made, and it says how many were not.
        least_share = LEAST_SHARE["int8"] * float(metadata.get("int8_share", 1.0))
    check_precision(precision, formats, least_share)
    parity = None
    if references is not None:
        limits = engine_limits(precision, references) if limits is None else limits
        parity = compare(references.pairs(loaded), references.tasks, limits, final=references.final)
        require_parity(parity)
    device = cuda.device()
    described = Sidecar(
        written_by=f"bmtas {own_version()}",
        tensorrt=version,
        cuda_runtime=device.runtime,
        cuda_driver=device.driver,
        device=device.name,
        compute_capability=device.compute_capability,
        precision=precision,
        precision_found=found_precision(formats),
        layer_formats=formats,
        facts=loaded.facts(),
        options=options.to_json(),
        metadata=metadata,
        inputs=_facts(loaded.inputs),
        outputs=_facts(loaded.output_specs),
        onnx_sha256=digest(onnx_path),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        parity=parity,
    )
    write_engine(engine_path, plan, described)
    return described


def write_engine(path: Path, plan: bytes, described: Sidecar) -> None:
    """Write a plan and its sidecar so that a plan is never there without what it is; on failure what was there before stays."""
    beside = sidecar.sidecar_path(path)
    before = beside.read_bytes() if beside.is_file() else None
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(plan)
            sidecar.write(
                path, described
            )  # first: a sidecar without its plan is harmless, and an older plan is refused
    except BaseException:
        with contextlib.suppress(OSError):
            if path.is_file() and digest(path) == described.plan_sha256:
                raise  # stopped once both were in place
            if before is None:
                beside.unlink()
            else:
                beside.write_bytes(before)
        raise


def _check_header(plan: bytes, version: str) -> None:
    """Raise BuildError if the plan's header does not tell this TensorRT: such a plan would be refused when it is to be loaded."""
    try:
        built = read_header(plan, "the plan").tensorrt
    except UsageError as error:
        raise BuildError(
            f"TensorRT {version} built a plan that bmtas cannot check before loading it: {error}"
        ) from None
    if not same_version(built, parse_version(version)):
        raise BuildError(
            f"TensorRT {version} built a plan whose header says {version_text(built)}; bmtas does not know this layout"
        )


def _facts(specs: Mapping[str, TensorSpec]) -> dict[str, TensorFact]:
    return {name: TensorFact(shape=tuple(int(n) for n in s.shape), dtype=s.dtype) for name, s in specs.items()}
