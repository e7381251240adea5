"""What a device does with a kit: check, build each precision, prove, measure in turn, keep INT8 only if it pays. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.errors import BmtasError, BuildError, ParityError
from bmtas.extras import own_version
from bmtas.files import write_json
from bmtas.progress import Progress
from export.proof.references import References
from export.stopwatch import measure, ratio, summarise, timed
from export.tensorrt import sidecar
from export.tensorrt.deliver import build_engine, engine_limits
from export.tensorrt.engine import EngineSession
from export.tensorrt.kit import Kit, read_kit
from export.tensorrt.options import EngineOptions
from export.tensorrt.plan import version_text
from export.tensorrt.preflight import this_machine
from export.tensorrt.sidecar import Sidecar

SCHEMA_VERSION = 1
REPORT = "report.json"


@dataclass(frozen=True)
class Int8Decision:
    """Whether the INT8 engine stays, and why."""

    keep: bool
    reason: str


def build_kit(
    folder: Path,
    progress: Progress,
    *,
    changes: Mapping[str, Any] | None = None,
    samples: int | None = None,
    warmup: int | None = None,
    keep_slow_int8: bool = False,
    least_share: float | None = None,
) -> dict[str, Any]:
    """Build, prove and measure the engines of the kit in `folder`; return the report, which is also written to `report.json`.

    `changes` replaces fields of the kit's EngineOptions; `samples`, `warmup` and `keep_slow_int8` what the kit says. Engines lie beside
    their ONNX files. An engine that cannot be built or proved is not written; the others are, and the report names it. Raises
    UsageError for a kit that is damaged, EnvironmentProblem without TensorRT or a GPU (before anything is built), and after all is
    written the first BuildError or ParityError that a build met.
    """
    kit = read_kit(folder)
    options = replace(kit.engine_options, **(changes or {}))
    machine = this_machine()
    references = References.load(folder / kit.references.file)
    built, failures = _build_all(folder, kit, references, options, progress, least_share)
    engines = {precision: _engine_path(folder, kit, precision) for precision in built}
    rounds = (kit.samples if samples is None else samples, kit.warmup if warmup is None else warmup)
    latencies = measure_engines(engines, references, *rounds, progress) if engines else {}
    decision = decide_int8(latencies, force=kit.keep_slow_int8 or keep_slow_int8)
    report = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"bmtas {own_version()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "device": machine.device,
            "compute_capability": version_text(machine.compute_capability),
            "tensorrt": version_text(machine.tensorrt),
        },
        "engines": {p: _entry(engines[p], built[p], latencies[p]) for p in built},
        "ratios": ratios(latencies),
        "int8": None if decision is None else asdict(decision),
        "failures": {p: {"exit_code": e.exit_code, "message": str(e)} for p, e in failures.items()},
    }
    _settle(engines, built, report, decision)
    write_json(folder / REPORT, report)
    for error in failures.values():
        raise error
    return report


def _engine_path(folder: Path, kit: Kit, precision: str) -> Path:
    return (folder / kit.networks[precision].file).with_suffix(".engine")


def _build_all(
    folder: Path,
    kit: Kit,
    references: References,
    options: EngineOptions,
    progress: Progress,
    least_share: float | None,
) -> tuple[dict[str, Sidecar], dict[str, BmtasError]]:
    built: dict[str, Sidecar] = {}
    failures: dict[str, BmtasError] = {}
    for precision, entry in kit.networks.items():
        progress.note(f"{precision}: building {_engine_path(folder, kit, precision).name} from {entry.file}")
        try:
            built[precision] = build_engine(
                folder / entry.file,
                _engine_path(folder, kit, precision),
                precision=precision,
                references=references,
                limits=engine_limits(
                    precision, references, kit.tolerances, kit.scaled if precision == "fp32" else None
                ),
                options=options,
                progress=progress,
                least_share=least_share,
            )
        except (BuildError, ParityError) as error:
            failures[precision] = error
            progress.note(f"{precision}: {error}")
    return built, failures


def measure_engines(
    engines: Mapping[str, Path], references: References, samples: int, warmup: int, progress: Progress
) -> dict[str, list[float]]:
    """Return the latencies in ms of the engines, measured in turn in one process, copies to and from the GPU included."""
    sessions = {precision: EngineSession(path) for precision, path in engines.items()}
    image = references.images[:1]

    progress.start("measure", samples + warmup)
    candidates = {precision: timed(partial(session, image)) for precision, session in sessions.items()}
    return measure(candidates, samples=samples, warmup=warmup, tick=progress.advance)


def ratios(latencies: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return how many times faster each precision is than each wider one, median and quartiles: `fp32_over_fp16` and so on."""
    order = [p for p in ("fp32", "bf16", "fp16", "int8") if p in latencies]
    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    return {f"{a}_over_{b}": ratio(latencies[a], latencies[b]) for a, b in pairs}


def decide_int8(latencies: Mapping[str, Sequence[float]], *, force: bool) -> Int8Decision | None:
    """Decide whether the INT8 engine stays: only if it is faster than FP16 (or the widest there is) in three rounds of four.

    Explicit INT8 is slower than FP16 on many networks, because what is not fused costs conversions. None without an INT8 engine.
    """
    if "int8" not in latencies:
        return None
    other = next((p for p in ("fp16", "bf16", "fp32") if p in latencies), None)
    if other is None:
        return Int8Decision(True, "kept: nothing was built beside it to compare it with")
    found = ratio(latencies[other], latencies["int8"])
    said = (
        f"{other} takes {found['median']:.2f} times as long as int8 (quartiles {found['q1']:.2f} to {found['q3']:.2f})"
    )
    if found["q1"] > 1:
        return Int8Decision(True, f"kept: {said}")
    if force:
        return Int8Decision(True, f"kept because it was forced, although it is not reliably faster: {said}")
    return Int8Decision(False, f"not kept, because it is not reliably faster: {said}")


def _entry(path: Path, described: Sidecar, latencies: Sequence[float]) -> dict[str, Any]:
    return {
        "file": path.name,
        "kept": True,
        "proved": described.parity is not None,
        "precision_found": described.precision_found,
        "plan_bytes": described.plan_bytes,
        "facts": described.facts,
        "parity": described.parity,
        "timing": {**summarise(latencies), "latencies_ms": list(latencies)},
    }


def _settle(
    engines: Mapping[str, Path], built: Mapping[str, Sidecar], report: dict[str, Any], decision: Int8Decision | None
) -> None:
    """Write the timings into the sidecars; take an INT8 engine away that does not pay."""
    for precision, path in engines.items():
        if precision == "int8" and decision is not None and not decision.keep:
            path.unlink()
            sidecar.sidecar_path(path).unlink()
            report["engines"][precision]["kept"] = False
            continue
        summary = {k: v for k, v in report["engines"][precision]["timing"].items() if k != "latencies_ms"}
        sidecar.write(path, built[precision].model_copy(update={"timing": summary}))
