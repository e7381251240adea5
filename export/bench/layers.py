"""Where the time goes: what the runtime's own profiler tells of operations, attributed to modules and tasks by their names."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.errors import EnvironmentProblem
from bmtas.extras import require
from export.bench.candidates import Candidate
from export.bench.graph_names import nodes_of_values
from export.bench.phases import Phases
from export.bench.report import LayerTimes, Module
from export.sessions.onnx import PROVIDERS, OnnxSession
from export.sessions.openvino import MODEL, OpenVinoSession
from export.sessions.protocol import Array
from export.tensorrt.api import require_tensorrt
from export.tensorrt.engine import EngineSession

INFERENCES, WARMUP = 20, 5
NOTE = (
    "from a run of its own with the runtime's profiler on, medians per inference; the sum is not the total: the profiler costs time, "
    "operations may overlap, and what the runtime adds itself (conversions of layout, copies) is unattributed"
)
# As `export.onnx_file` names nodes: the operation, whose weights they are, then its parts. Operations of networks that are no trees may name
# a layer inside their names, so they are looked for first.
_TREE = r"(?:stem|heads|layers\.\d+)"
_WIRED = (
    r"(?:convs|norms|skips|fusions|sums|masks|refines|subspaces|links|read_ins|read_outs)(?:\.(?:stem|layers|\d+))+"
)
_MODULE = re.compile(rf"(?<![\w+])(?P<module>(?:{_WIRED}|{_TREE})\.(?P<tasks>[\w-]+(?:\+[\w-]+)*))(?=[./]|$)")
_KERNEL = "_kernel_time"

Times = dict[str, list[float]]
"""The ms of each operation in every inference."""


def tells_layers(candidate: Candidate) -> str | None:
    """Return why a candidate tells no times of operations; None if it does."""
    if isinstance(candidate.loaded, OnnxSession) and candidate.loaded.provider != PROVIDERS["cpu"]:
        return (
            f"on {candidate.loaded.provider} ONNX Runtime's profiler tells how long the host took to start an operation, not how long the "
            "GPU took to run it; build an engine with `bmtas build`, or use --provider cpu"
        )
    if isinstance(candidate.loaded, (OnnxSession, OpenVinoSession, EngineSession)):
        return None
    return "it tells no times of operations; give an ONNX file, an engine or a folder of OpenVINO"


def layer_times(candidate: Candidate, provider: str, batch: int | None) -> LayerTimes:
    """Return where the time of a candidate that `tells_layers` goes."""
    times, known = _times(candidate, provider, batch)
    by_module: dict[str | None, list[float]] = defaultdict(list)
    tasks: dict[str, list[str]] = {}
    for name, values in times.items():
        module = owner(known.get(name, name))
        by_module[None if module is None else module[0]].append(float(np.median(values)))
        if module is not None:
            tasks[module[0]] = module[1]
    loose = sum(by_module.pop(None, []))
    modules = [Module(module=m, tasks=tasks[m], operations=len(v), ms=sum(v)) for m, v in by_module.items() if m]
    modules.sort(key=lambda m: ({"stem": 0, "heads": 2}.get(m.module.split(".")[0], 1), m.module))
    return LayerTimes(
        key=candidate.key,
        inferences=INFERENCES,
        modules=modules,
        unattributed_ms=loose,
        sum_ms=loose + sum(m.ms for m in modules),
        note=NOTE,
    )


def owner(name: str) -> tuple[str, list[str]] | None:
    """Return the module that an operation's name tells, and its tasks; None where it names none, or several that were joined."""
    found = {match["module"]: match["tasks"].split("+") for match in _MODULE.finditer(name)}
    return next(iter(found.items())) if len(found) == 1 else None


def _times(candidate: Candidate, provider: str, batch: int | None) -> tuple[Times, Mapping[str, str]]:
    """Return the times of operations, and the names of nodes behind names that the runtime has given."""
    loaded, path = candidate.loaded, candidate.path
    assert path is not None
    assert isinstance(loaded, (OnnxSession, OpenVinoSession, EngineSession))
    feed = _feed(loaded, batch)
    if isinstance(loaded, OnnxSession):
        return _of_onnx_runtime(path, provider, candidate.threads, feed), nodes_of_values(path)
    if isinstance(loaded, OpenVinoSession):
        return _of_openvino(path, loaded, candidate.threads, feed), {}
    return _of_tensorrt(path, feed), {}


def _feed(loaded: Any, batch: int | None) -> dict[str, Array]:
    phases = Phases(lambda image, _: {}, loaded.image_spec, loaded.metadata(), batch)
    return {loaded.image_spec.name: phases.feed}


def _of_onnx_runtime(path: Path, provider: str, threads: int, feed: dict[str, Array]) -> Times:
    runtime = require("onnxruntime", "host")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as place:
        options.profile_file_prefix = str(Path(place) / "profile")
        session = runtime.InferenceSession(str(path), options, providers=[PROVIDERS[provider]])
        got = session.get_providers()[0]
        if got != PROVIDERS[provider]:
            raise EnvironmentProblem(
                f"--layers: the profile was asked of {PROVIDERS[provider]}, and ONNX Runtime took {got}; "
                "`bmtas doctor` tells why, --provider cpu measures on the CPU"
            )
        for _ in range(WARMUP + INFERENCES):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _collected(onnx_runtime_events(events))


def onnx_runtime_events(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield name and ms of each operation that ONNX Runtime's profile tells of; `dur` is in us.

    What was fused into the blocked layout goes by the value that it makes, with an ending of its own.
    """
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            yield name.removesuffix(_KERNEL).removesuffix("_nchwc"), float(event["dur"]) / 1000


def _of_openvino(path: Path, loaded: OpenVinoSession, threads: int, feed: dict[str, Array]) -> Times:
    openvino = require("openvino", "openvino")
    core = openvino.Core()
    settings: dict[str, Any] = {
        "PERF_COUNT": True,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"fp16": "f16", "bf16": "bf16"}.get(loaded.precision, "f32"),
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = core.read_model(str(path / MODEL if path.is_dir() else path))
    request = core.compile_model(model, loaded.provider, settings).create_infer_request()

    def events() -> Iterator[tuple[str, float]]:
        for _ in range(WARMUP + INFERENCES):
            request.infer(feed)
            for operation in request.get_profiling_info():
                if operation.real_time.total_seconds() > 0:
                    yield operation.node_name, operation.real_time.total_seconds() * 1e3

    return _collected(events())


def _of_tensorrt(path: Path, feed: dict[str, Array]) -> Times:
    trt = require_tensorrt()
    told: list[tuple[str, float]] = []

    class Listener(trt.IProfiler):  # type: ignore[name-defined]
        """Notes what TensorRT reports."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Note one layer of one inference."""
            told.append((layer_name, ms))

    session, listener = EngineSession(path), Listener()
    session._context.profiler = listener  # a context of its own: the one that is measured stays without a listener
    for _ in range(WARMUP + INFERENCES):
        session.run(feed)
    return _collected(told)


def _collected(events: Iterable[tuple[str, float]]) -> Times:
    """Return the times by operation, without those of the warm-up."""
    found: Times = defaultdict(list)
    for name, ms in events:
        found[name].append(ms)
    return {name: values[-INFERENCES:] for name, values in found.items()}
