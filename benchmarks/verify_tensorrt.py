"""Do the TensorRT engines hold what bmtas says of them? One command for a machine with an NVIDIA GPU.

On a PC, `make verify-tensorrt` installs what it needs into an environment of its own and runs

    python benchmarks/verify_tensorrt.py [--kit FOLDER | --run RUN] [--samples 100] [--out docs]

Without --kit and --run it makes a small run on the generated scenes first. Then it exports FP32, FP16, BF16 and INT8 (without BF16
where this machine's CPU cannot prove it), builds an engine of each, reads its precision back, proves it against PyTorch's
outputs, measures all of them in turn, with ONNX Runtime where it is installed, tries whether foreign and damaged engines are
refused, and measures a second build with what the timing cache kept of the first. It writes tensorrt_report.md and
tensorrt_report.json, and ends with 0 only if all that was exported was built and proved, and all that is foreign refused.

On a Jetson, whose TensorRT comes with JetPack, take a kit there from another machine, which has PyTorch:

    bmtas export --format tensorrt --precision fp32,fp16,int8 --remote USER@JETSON     # prints how to copy the kit

and there, in a clone of the project, without PyTorch and ONNX Runtime:

    python3 -m venv --system-site-packages .venv-gpu
    .venv-gpu/bin/pip install .                                                        # or: pip install bmtas
    .venv-gpu/bin/python benchmarks/verify_tensorrt.py --kit KIT
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.errors import BmtasError, BuildError, EnvironmentProblem, UsageError
from bmtas.files import write_json, write_text
from bmtas.progress import Silent
from export.proof.references import References
from export.proof.report import worst_text
from export.sessions.onnx import OnnxSession
from export.stopwatch import measure, ratio, summarise, timed
from export.tensorrt import cuda, sidecar
from export.tensorrt.build import build_plan
from export.tensorrt.engine import EngineSession
from export.tensorrt.kit import Kit, read_kit
from export.tensorrt.on_device import KitIncomplete, build_kit
from export.tensorrt.plan import HEADER_BYTES, version_text
from export.tensorrt.preflight import check_engine, this_machine

SCHEMA_VERSION = 1
PRECISIONS = "fp32,fp16,bf16,int8"
WITHOUT_BF16 = "fp32,fp16,int8"
JETSON = (
    "Without PyTorch, as on a Jetson, verify a kit: `bmtas export --format tensorrt --precision fp32,fp16,int8 --remote USER@JETSON` on "
    "another machine prints how to copy it; here `python3 -m venv --system-site-packages .venv-gpu`, `.venv-gpu/bin/pip install .` (or "
    "`pip install bmtas`) and `.venv-gpu/bin/python benchmarks/verify_tensorrt.py --kit KIT`"
)
SMALL_RUN = [
    *(
        "--data",
        "scenes",
        "--budget",
        "2GMAdds",
        "--size",
        "256x256",
        "--search-size",
        "128x128",
        "--train-size",
        "128x128",
    ),
    *("--warmup-steps", "10", "--search-steps", "20", "--train-steps", "300"),
]


class Told(Silent):
    """Prints what the library notes."""

    def note(self, text: str) -> None:
        """Print it."""
        print(f"  {text}", flush=True)


def bmtas(*arguments: str) -> None:
    """Run a command of bmtas. Raises BuildError if it fails; its own message is on standard error."""
    print(f"  bmtas {' '.join(arguments)}", flush=True)
    code = "import sys; from cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False)
    if done.returncode:
        raise BuildError(f"`bmtas {arguments[0]}` ended with code {done.returncode}; its message is above")


def make_kit(arguments: argparse.Namespace, place: Path) -> tuple[Path, dict[str, str]]:
    """Return the folder of the kit, the one given, or one exported from the run given or from a small new one; and what it lacks, and why.

    Raises EnvironmentProblem where a kit must be exported and PyTorch is missing.
    """
    if arguments.kit is not None:
        read_kit(arguments.kit)
        return Path(shutil.copytree(arguments.kit, place / "kit")), {}
    missing = [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"{' and '.join(missing)} cannot be imported here, so no network can be exported. {JETSON}"
        )
    run = arguments.run
    if run is None:
        bmtas("search", *SMALL_RUN, "--runs", str(place / "runs"), "-q")
        bmtas("train", "--runs", str(place / "runs"), "-q")
        (run,) = (str(path) for path in (place / "runs").iterdir() if path.is_dir())
    export = ("export", "--run", run, "--format", "tensorrt", "--remote", "localhost", "--force", "-q", "--precision")
    left_out = {}
    try:
        bmtas(*export, PRECISIONS)
    except BuildError as error:
        print("  once more without bf16, which many CPUs cannot compute, so that it cannot be proved there", flush=True)
        bmtas(*export, WITHOUT_BF16)
        left_out["bf16"] = f"not exported: with it, {error}"
    kits = sorted(Path(run).rglob("kit.json"), key=lambda path: path.stat().st_mtime)
    if not kits:
        raise BuildError(f"`bmtas export --format tensorrt --remote` wrote no kit under {run}")
    return Path(shutil.copytree(kits[-1].parent, place / "kit")), left_out


def refused(what: str, attempt: Callable[[], Any]) -> dict[str, Any]:
    """Return whether `attempt` was refused with a message."""
    try:
        attempt()
    except BmtasError as error:
        return {"check": what, "held": True, "said": str(error)}
    return {"check": what, "held": False, "said": "it was accepted"}


def refusals(engine: Path, place: Path) -> list[dict[str, Any]]:
    """Try to load the engine where it does not belong, and damaged; say of each attempt whether it was refused."""
    machine, described = this_machine(), sidecar.read(engine)
    plan = engine.read_bytes()

    def altered(name: str, content: bytes, known: sidecar.Sidecar) -> Path:
        path = place / name
        path.write_bytes(content)
        sidecar.write(path, known)
        return path

    foreign = plan[:24] + bytes([9, 9, 9, 9]) + plan[HEADER_BYTES:]
    older = described.model_copy(update={"tensorrt": "9.9.9.9", "plan_sha256": hashlib.sha256(foreign).hexdigest()})
    changed = bytes([*plan[:-1], plan[-1] ^ 1])
    alone = place / "alone.engine"
    alone.write_bytes(plan)
    again = place / "again"
    again.mkdir()
    (again / "model.onnx").write_bytes(b"exported anew")
    prefixed = (2).to_bytes(4, "little") + b"{}" + plan
    return [
        refused(
            "a plan of which one bit was changed", lambda: EngineSession(altered("bit.engine", changed, described))
        ),
        refused("a plan without its sidecar", lambda: EngineSession(alone)),
        refused("JSON before the plan", lambda: EngineSession(altered("json.engine", prefixed, described))),
        refused("a plan of another TensorRT", lambda: EngineSession(altered("version.engine", foreign, older))),
        refused("another TensorRT on this machine", lambda: check_engine(engine, replace(machine, tensorrt=(9, 9, 9)))),
        refused(
            "another GPU", lambda: check_engine(engine, replace(machine, device="another", compute_capability=(5, 0)))
        ),
        refused(
            "an engine beside an ONNX file that was exported anew",
            lambda: EngineSession(altered("again/model.engine", plan, described)),
        ),
    ]


def accepted(engine: Path) -> dict[str, Any]:
    """Return whether the engine passes its own preflight, and the version of TensorRT that built it."""
    try:
        described = check_engine(engine)
    except BmtasError as error:
        return {"check": f"{engine.name} passes its preflight", "held": False, "said": str(error)}
    return {"check": f"{engine.name} passes its preflight", "held": True, "said": f"TensorRT {described.tensorrt}"}


def onnx_session(path: Path) -> OnnxSession | None:
    """Return ONNX Runtime on the GPU where it can, else on the CPU; None where it is not installed, as on a device."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    try:
        return OnnxSession(path, "cuda")
    except BmtasError:
        return OnnxSession(path)


def against_onnx_runtime(folder: Path, kit: Kit, engines: dict[str, Path], samples: int) -> dict[str, Any]:
    """Measure the engines, and ONNX Runtime on the widest file where it is installed, in turn; return latencies and ratios."""
    widest = next(iter(kit.networks))
    image = References.load(folder / kit.references.file).images[:1]
    other = onnx_session(folder / kit.networks[widest].file)
    candidates = {p: timed(partial(EngineSession(path), image)) for p, path in engines.items()}
    name = None
    if other is not None:
        name = f"{other.runtime} {other.provider.removesuffix('ExecutionProvider').lower()} {widest}"
        candidates = {name: timed(partial(other, image)), **candidates}
    latencies = measure(candidates, samples=samples, warmup=max(10, samples // 10))
    return {
        "onnxruntime": name,
        "latencies": {key: summarise(values) for key, values in latencies.items()},
        "onnxruntime_over": None if name is None else {p: ratio(latencies[name], latencies[p]) for p in engines},
    }


def timing_cache_gain(folder: Path, kit: Kit, place: Path) -> dict[str, float]:
    """Return the seconds of a build with an empty timing cache, and of the same with what it left."""
    entry = kit.networks.get("fp16") or next(iter(kit.networks.values()))
    options = replace(kit.engine_options, timing_cache=place / "own.timing")
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        build_plan(folder / entry.file, options, Silent())
        seconds.append(time.perf_counter() - start)
    return {"empty_s": seconds[0], "filled_s": seconds[1]}


def verify(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Return all that was found. Raises BmtasError only where nothing can be verified at all."""
    machine = this_machine()
    device = cuda.device()
    print(f"{machine.device}, TensorRT {version_text(machine.tensorrt)}, CUDA {device.runtime}", flush=True)
    folder, left_out = make_kit(arguments, place)
    kit = read_kit(folder)
    print("building, proving and measuring", flush=True)
    try:
        report = build_kit(folder, Told(), samples=arguments.samples, keep_slow_int8=True)
    except KitIncomplete as error:
        report = error.report
    engines = {precision: folder / entry["file"] for precision, entry in report["engines"].items() if entry["kept"]}
    if not engines:
        failures = "; ".join(f"{name}: {failure['message']}" for name, failure in report["failures"].items())
        raise BuildError(f"no engine could be built: {failures}")
    print("trying foreign and damaged engines", flush=True)
    checks = [accepted(path) for path in engines.values()] + refusals(next(iter(engines.values())), place)
    print("measuring against ONNX Runtime", flush=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "cuda": {"runtime": device.runtime, "driver": device.driver},
        "kit": report,
        "expected": [*kit.networks, *left_out],
        "left_out": left_out,
        "checks": checks,
        "against": against_onnx_runtime(folder, kit, engines, arguments.samples),
        "timing_cache": timing_cache_gain(folder, kit, place),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return what was found as a page."""
    kit, against = found["kit"], found["against"]
    machine = kit["machine"]
    where = (
        f"{machine['device']} (compute capability {machine['compute_capability']}), TensorRT {machine['tensorrt']}, CUDA "
        f"{found['cuda']['runtime']} (driver {found['cuda']['driver']}), {kit['date']}. Latencies are medians in ms of batch 1, "
        "measured in turn, copies to and from the GPU included."
    )
    lines = [
        "# TensorRT, verified",
        "",
        "    make verify-tensorrt",
        "",
        where,
        "",
        "| precision | built | layer tensors | median ms | spread | ONNX Runtime takes | worst difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for precision in found["expected"]:
        entry = kit["engines"].get(precision)
        if entry is None or not entry["kept"]:
            lines.append(f"| {precision} | no: {_why_not(found, precision).replace('|', '/')} | | | | | |")
            continue
        latency, others = against["latencies"][precision], against["onnxruntime_over"]
        times = "" if others is None else "{median:.2f}x ({q1:.2f} to {q3:.2f})".format(**others[precision])
        shares = ", ".join(f"{share:.0%} {kind}" for kind, share in entry["precision_found"].items())
        lines.append(
            f"| {precision} | {entry['plan_bytes'] / 2**20:.1f} MiB | {shares} | {latency['median_ms']:.3f} | {latency['spread']:.0%} | "
            f"{times} | {worst_text(entry['parity'])} |"
        )
    cache, name = found["timing_cache"], against["onnxruntime"]
    lines += [
        "",
        (
            "ONNX Runtime is not installed here. "
            if name is None
            else f"ONNX Runtime is {name}, {against['latencies'][name]['median_ms']:.3f} ms. "
        )
        + (f"INT8: {kit['int8']['reason']}. " if kit["int8"] is not None else "")
        + f"A build took {cache['empty_s']:.1f} s with an empty timing cache and {cache['filled_s']:.1f} s with a filled one.",
        "",
        "| check | held | what was said |",
        "|---|---|---|",
        *(
            f"| {c['check']} | {'yes' if c['held'] else '**no**'} | {c['said'].replace('|', '/')} |"
            for c in found["checks"]
        ),
        "",
    ]
    return "\n".join(lines)


def _why_not(found: dict[str, Any], precision: str) -> str:
    """Return why there is no engine of `precision`."""
    if precision in found["left_out"]:
        return str(found["left_out"][precision])
    kit = found["kit"]
    return str(kit["int8"]["reason"] if precision in kit["engines"] else kit["failures"][precision]["message"])


def main() -> int:
    """Verify, write the report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--kit", type=Path, help="a kit from `bmtas export --format tensorrt`")
    source.add_argument("--run", help="the path of a trained run, whose network `found` is exported")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs")
    arguments = parser.parse_args()
    try:
        if arguments.samples < 4:
            raise UsageError(f"--samples {arguments.samples}: at least 4 are needed for quartiles")
        with tempfile.TemporaryDirectory() as place:
            found = verify(arguments, Path(place))
    except BmtasError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write_json(arguments.out / "tensorrt_report.json", found)
    write_text(arguments.out / "tensorrt_report.md", markdown(found))
    print(arguments.out / "tensorrt_report.md")
    failures = list(found["kit"]["failures"].values())
    broken = [check["check"] for check in found["checks"] if not check["held"]]
    for text in [*(failure["message"] for failure in failures), *(f"not refused or not accepted: {b}" for b in broken)]:
        print(f"error: {text}", file=sys.stderr)
    if failures:
        return int(failures[0]["exit_code"])
    return BuildError.exit_code if broken else 0


if __name__ == "__main__":
    sys.exit(main())
