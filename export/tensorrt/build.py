"""From an ONNX file to a TensorRT plan, on every version from 10 on: the precision is in the file. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bmtas.errors import BmtasError, BuildError, EnvironmentProblem, UsageError
from bmtas.interrupt import Stop, stop_between_steps
from bmtas.progress import Progress
from export.tensorrt import api, cuda, timing_cache
from export.tensorrt.options import EngineOptions, Settings, settings_for
from export.tensorrt.plan import parse_version

_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|cannot allocate|could not be allocated", re.IGNORECASE
)


class BuildStopped(BmtasError):
    """The build was stopped by signal `number`; nothing of this engine was written."""

    def __init__(self, number: int) -> None:
        super().__init__("the build was stopped; this engine was not written, and the same command begins it again")
        self.exit_code = 128 + number  # what a shell reports for a process that a signal has ended


class BuildProgress:
    """Shows the phases that TensorRT nests: the outermost as steps, what runs inside it as text. Asks it to end on a signal."""

    def __init__(self, progress: Progress, stop: Stop) -> None:
        self._progress, self._stop = progress, stop
        self._outermost: str | None = None
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Begin a phase of `num_steps` steps inside `parent_phase`, if there is one."""
        self._steps[phase_name] = num_steps
        if not parent_phase:
            self._outermost = phase_name
            self._progress.start(phase_name, num_steps)
        else:
            self._progress.state(building=phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Finish step number `step` (from 0) of a phase; return whether the build goes on."""
        if phase_name == self._outermost:
            self._progress.advance()
        else:
            self._progress.state(building=f"{phase_name}, {step + 1} of {self._steps.get(phase_name, step + 1)}")
        return not self._stop.requested

    def phase_finish(self, phase_name: str) -> None:
        """End a phase, whether or not all of its steps were needed."""
        self._steps.pop(phase_name, None)


def build_plan(onnx_path: Path, options: EngineOptions, progress: Progress) -> bytes:
    """Build a plan from the ONNX file and return it.

    Raises EnvironmentProblem where TensorRT or a GPU is missing, UsageError for options that they lack, BuildError if TensorRT
    cannot parse or build, BuildStopped after Ctrl-C.
    """
    if not onnx_path.is_file():
        raise UsageError(f"{onnx_path} does not exist; `bmtas export` writes ONNX files")
    trt = api.require_tensorrt()
    device = cuda.device()
    version = parse_version(str(trt.__version__))
    settings = settings_for(options, version, device.compute_capability)
    timings = timing_cache.cache_file(options, version, device)
    api.log().take()  # what came before is about another build
    try:
        builder = trt.Builder(api.log())
    except TypeError as error:  # the bindings' way to say that the GPU cannot be used
        raise EnvironmentProblem(
            f"TensorRT cannot use the GPU {device.name} ({error}): {api.told(api.log().take())}. {api.ADVICE}"
        ) from None
    # What TensorRT only points to is held by a name until the end: the parser has the weights, the cache gets the timings.
    definition, _parser = _parse(trt, builder, settings, onnx_path)
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    cache = None if timings is None else _use_timings(config, timings, progress)
    with stop_between_steps() as stop:
        monitor = _monitor(trt, BuildProgress(progress, stop))
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(definition, config)
    if stop.requested:
        raise BuildStopped(stop.signal)
    if plan is None:
        raise BuildError(failure(onnx_path, trt.__version__, api.log().take(), options))
    if timings is not None and cache is not None:
        _keep_timings(config, timings)
    return bytes(plan)


def _parse(trt: Any, builder: Any, settings: Settings, onnx_path: Path) -> tuple[Any, Any]:
    """Return the network and the parser, which must live as long as the network is built from."""
    flags = 0
    for name in settings.creation_flags:
        flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
    definition = builder.create_network(flags)
    parser = trt.OnnxParser(definition, api.log())
    if not parser.parse_from_file(str(onnx_path)):
        problems = [parser_problem(parser.get_error(i)) for i in range(parser.num_errors)]
        raise BuildError(
            f"TensorRT {trt.__version__} cannot parse {onnx_path}: {', '.join(problems) or api.told(api.log().take())}; "
            "a newer TensorRT may read it, or the file of another --precision"
        )
    return definition, parser


def parser_problem(parser_error: Any) -> str:
    """Return what the ONNX parser complains of, with the name of the node, which begins with the module that it comes from."""
    node, operator = parser_error.node_name(), parser_error.node_operator()
    where = f"node {node} ({operator}): " if node else ""
    return f"{where}{parser_error.desc()}"


def _configure(trt: Any, config: Any, settings: Settings) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector does not tell formats
    for name in settings.set_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    for name in settings.clear_flags:
        config.clear_flag(getattr(trt.BuilderFlag, name))
    if settings.hardware is not None:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, settings.hardware)
    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.optimisation_level is not None:
        config.builder_optimization_level = settings.optimisation_level
    if settings.aux_streams is not None:
        config.max_aux_streams = settings.aux_streams


def _use_timings(config: Any, path: Path, progress: Progress) -> Any:
    """Give the builder the timings of earlier builds and return them; none if there are none or TensorRT refuses them."""
    cache = config.create_timing_cache(timing_cache.read(path))
    if cache is None or not config.set_timing_cache(cache, False):
        progress.note(f"TensorRT refuses the timing cache {path}, made by another version or GPU; it is begun anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _keep_timings(config: Any, path: Path) -> None:
    timing = config.get_timing_cache()
    if timing is not None:
        timing_cache.write(path, bytes(timing.serialize()))


def _monitor(trt: Any, shown: BuildProgress) -> Any:
    """Return a `tensorrt.IProgressMonitor` that tells `shown`."""
    base: Any = trt.IProgressMonitor

    class Monitor(base):
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            shown.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return shown.step_complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            shown.phase_finish(phase_name)

    return Monitor()


def failure(onnx_path: Path, version: str, messages: list[str], options: EngineOptions) -> str:
    """Return the message of a build that gave no plan, with advice where memory was short."""
    text = f"TensorRT {version} could not build an engine from {onnx_path}: {api.told(messages)}"
    if not any(_OUT_OF_MEMORY.search(message) for message in messages):
        return text
    advice = ["end what else uses the GPU"]
    if options.workspace_mib is None or options.workspace_mib > 256:
        advice.append("bound the workspace (--workspace 256MiB)")
    if options.optimisation_level is None or options.optimisation_level > 1:
        advice.append("look for kernels less long (--optimisation-level 1)")
    advice.append("on a Jetson, whose CPU shares the memory, add swap and leave the desktop")
    return f"{text}. The memory ran out: {'; '.join(advice)}"
