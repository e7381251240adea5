"""What a device does with a kit: check, build each precision, prove, measure in turn, keep INT8 only if it pays. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.errors import BmtasError, BuildError, UsageError
from bmtas.extras import own_version
from bmtas.files import write_json
from bmtas.progress import Progress
from export.proof.limits import Limit
from export.proof.references import References
from export.stopwatch import measure, ratio, summarise, timed
from export.tensorrt import sidecar
from export.tensorrt.build import BuildStopped
from export.tensorrt.engine import EngineSession
from export.tensorrt.engine_file import build_engine, check_asked, engine_limits
from export.tensorrt.kit import Kit, read_kit
from export.tensorrt.options import EngineOptions, settings_for
from export.tensorrt.plan import version_text
from export.tensorrt.preflight import this_machine
from export.tensorrt.sidecar import Sidecar

SCHEMA_VERSION = 1
REPORT = "report.json"
MEASUREMENT = "measurement"
"""The name, beside the precisions, under which the report tells that the engines could not be measured."""


class KitIncomplete(BuildError):
    """Not all of a kit could be built, proved and measured; the engines that could are in place.

    `report` is the whole report and `report_path` the file that holds it. The exit code is that of the first failure.
    """

    def __init__(self, report: dict[str, Any], report_path: Path) -> None:
        failures = report["failures"]
        told = "; ".join(f"{name}: {failure['message']}" for name, failure in failures.items())
        kept = ", ".join(entry["file"] for entry in report["engines"].values() if entry["kept"])
        super().__init__(f"{told}. Engines built and proved: {kept or 'none'}; {report_path} tells of all")
        self.exit_code = int(next(iter(failures.values()))["exit_code"])
        self.report, self.report_path = report, report_path


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
    their ONNX files; engines of earlier builds from ONNX files that are not in the kit are removed. An engine that cannot be built or
    proved is not written; the others are, and the report names it. Raises UsageError for a damaged kit or options that this machine
    lacks and EnvironmentProblem without TensorRT or a GPU, all before anything is changed; BuildStopped after Ctrl-C, without a report;
    and once all is written, KitIncomplete if anything failed.
    """
    kit = read_kit(folder)
    options = replace(kit.engine_options, **(changes or {}))
    machine = this_machine()
    settings_for(options, machine.tensorrt, machine.compute_capability)
    references = References.load(folder / kit.references.file)
    limits = {}
    for precision in kit.networks:
        check_asked(precision, options)
        limits[precision] = engine_limits(precision, references, kit.tolerances, kit.scaled)
    (folder / REPORT).unlink(missing_ok=True)  # of an earlier build, whose engines are now replaced
    removed = _remove_foreign(folder, kit, progress)
    built, failures = _build_all(folder, kit, references, limits, options, progress, least_share)
    engines = {precision: _engine_path(folder, kit, precision) for precision in built}
    rounds = (kit.samples if samples is None else samples, kit.warmup if warmup is None else warmup)
    latencies: dict[str, list[float]] = {}
    try:
        latencies = measure_engines(engines, references, *rounds, progress) if engines else {}
    except BmtasError as error:
        failures[MEASUREMENT] = error
    decision = _decide(kit.networks, built, latencies, force=kit.keep_slow_int8 or keep_slow_int8)
    report = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"bmtas {own_version()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "device": machine.device,
            "compute_capability": version_text(machine.compute_capability),
            "tensorrt": version_text(machine.tensorrt),
        },
        "host": kit.host,
        "engines": {p: _entry(engines[p], built[p], latencies.get(p)) for p in built},
        "ratios": ratios(latencies),
        "int8": None if decision is None else asdict(decision),
        "failures": {name: _failure(folder, kit, name, error) for name, error in failures.items()},
        "removed": removed,
    }
    _settle(engines, built, report, decision)
    write_json(folder / REPORT, report)
    if failures:
        raise KitIncomplete(report, folder / REPORT) from next(iter(failures.values()))
    return report


def _engine_path(folder: Path, kit: Kit, precision: str) -> Path:
    return (folder / kit.networks[precision].file).with_suffix(".engine")


def _remove_foreign(folder: Path, kit: Kit, progress: Progress) -> list[str]:
    """Remove the engines that bmtas built here from ONNX files that are not in the kit, with their sidecars; return their names."""
    known = {entry.sha256 for entry in kit.networks.values()}
    removed = []
    for beside in sorted(folder.glob("*.engine.json")):
        path = beside.with_suffix("")
        try:
            described = sidecar.read(path)
        except UsageError:  # not one of ours, and no session loads an engine with it
            continue
        if described.onnx_sha256 not in known:
            _remove_engine(path)
            removed.append(path.name)
            progress.note(f"{path.name} is removed: it was built from an ONNX file that is not in this kit")
    return removed


def _remove_engine(path: Path) -> None:
    path.unlink(missing_ok=True)
    sidecar.sidecar_path(path).unlink(missing_ok=True)


def _build_all(
    folder: Path,
    kit: Kit,
    references: References,
    limits: Mapping[str, Mapping[str, Limit]],
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
                limits=limits[precision],
                options=options,
                progress=progress,
                least_share=least_share,
            )
        except BuildStopped:
            raise
        except BmtasError as error:
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


def _decide(
    wanted: Iterable[str], built: Mapping[str, Sidecar], latencies: Mapping[str, Sequence[float]], *, force: bool
) -> Int8Decision | None:
    """Return `decide_int8`, or where INT8 or what it has to beat could not be measured, that it does not stay unless it is forced.

    `wanted` are the precisions of the kit: INT8 has to beat the narrowest of the others, and not a wider one in its place.
    """
    if "int8" not in built:
        return None
    other = next((p for p in ("fp16", "bf16", "fp32") if p in wanted), None)
    missing = next((p for p in ("int8", other) if p is not None and p not in latencies), None)
    if missing is None:
        return decide_int8(latencies, force=force)
    if force:
        return Int8Decision(True, f"kept because it was forced, although {missing} could not be measured")
    return Int8Decision(False, f"not kept, because {missing} could not be measured beside it")


def _failure(folder: Path, kit: Kit, name: str, error: BmtasError) -> dict[str, Any]:
    """Return what failed; `earlier_engine` is the one of an earlier build from the same ONNX file, which stays."""
    earlier = name in kit.networks and _engine_path(folder, kit, name).is_file()
    return {
        "exit_code": error.exit_code,
        "message": str(error),
        "earlier_engine": _engine_path(folder, kit, name).name if earlier else None,
    }


def _entry(path: Path, described: Sidecar, latencies: Sequence[float] | None) -> dict[str, Any]:
    """Return what the report tells of an engine; `timing` is None where it could not be measured."""
    return {
        "file": path.name,
        "kept": True,
        "proved": described.parity is not None,
        "precision_found": described.precision_found,
        "plan_bytes": described.plan_bytes,
        "facts": described.facts,
        "parity": described.parity,
        "timing": None if latencies is None else {**summarise(latencies), "latencies_ms": list(latencies)},
    }


def _settle(
    engines: Mapping[str, Path], built: Mapping[str, Sidecar], report: dict[str, Any], decision: Int8Decision | None
) -> None:
    """Write the timings into the sidecars; take an INT8 engine away that does not pay."""
    for precision, path in engines.items():
        if precision == "int8" and decision is not None and not decision.keep:
            _remove_engine(path)
            report["engines"][precision]["kept"] = False
            continue
        timing = report["engines"][precision]["timing"]
        if timing is None:
            continue
        summary = {k: v for k, v in timing.items() if k != "latencies_ms"}
        sidecar.write(path, built[precision].model_copy(update={"timing": summary}))
