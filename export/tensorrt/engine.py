"""TensorRT engines as sessions: checked first, then loaded and run with GPU memory of their own. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bmtas.errors import BuildError, EnvironmentProblem, UsageError
from export.sessions.protocol import Array, OneImage, TensorSpec
from export.tensorrt import api, cuda
from export.tensorrt.preflight import Machine, load_checked


class LoadedEngine(OneImage):
    """A plan of which it is known that this machine may run it: one that it has just built, or one that passed the preflight."""

    def __init__(self, plan: bytes, *, version_compatible: bool = False) -> None:
        """Load `plan`. Raises EnvironmentProblem without TensorRT or a GPU, BuildError if TensorRT refuses the plan."""
        trt = api.require_tensorrt()
        cuda.library()
        api.log().take()
        try:
            self._runtime = trt.Runtime(api.log())
        except TypeError as error:  # the bindings' way to say that the GPU cannot be used
            raise EnvironmentProblem(
                f"TensorRT cannot use a GPU here ({error}): {api.told(api.log().take())}"
            ) from None
        if version_compatible:  # such a plan brings the runtime of its own version, which is host code
            self._runtime.engine_host_code_allowed = True
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(
                f"TensorRT {trt.__version__} cannot load the engine: {api.told(api.log().take())}; build it again"
            )
        context = engine.create_execution_context()
        if context is None:
            raise EnvironmentProblem(
                f"the GPU has no memory left for the engine: {api.told(api.log().take())}; end what else uses it"
            )
        self._trt, self._engine, self._context = trt, engine, context
        self.runtime = f"tensorrt {trt.__version__}"
        self.provider = cuda.device().name
        self.inputs: dict[str, TensorSpec] = {}
        self.output_specs: dict[str, TensorSpec] = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            spec = TensorSpec(
                name, tuple(engine.get_tensor_shape(name)), _numpy_name(trt, engine.get_tensor_dtype(name))
            )
            into = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if into else self.output_specs)[name] = spec
        self.outputs = list(self.output_specs)
        self._reserve()

    def _reserve(self) -> None:
        """Reserve GPU memory for all inputs and outputs, once, and host memory for the outputs of a run."""
        self._stream = cuda.Stream()
        self._buffers: dict[str, cuda.Buffer] = {}
        for spec in (*self.inputs.values(), *self.output_specs.values()):
            if not all(isinstance(n, int) and n > 0 for n in spec.shape):
                raise UsageError(
                    f"{spec.name!r} has the shape {spec.shape}; bmtas builds engines of static shapes: export without --dynamic"
                )
            self._buffers[spec.name] = cuda.Buffer(_empty(spec).nbytes)
            if not self._context.set_tensor_address(spec.name, self._buffers[spec.name].address):
                raise BuildError(f"TensorRT takes no memory for {spec.name!r}: {api.told(api.log().take())}")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for inputs by name, once the GPU is done; copies to and from the GPU included.

        Raises UsageError for inputs of other names, types or shapes than the engine's, BuildError if the engine fails.
        """
        for array in self._checked(feeds).items():
            name, values = array
            self._buffers[name].fill(values.ctypes.data, self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise BuildError(f"the TensorRT engine failed to run: {api.told(api.log().take())}")
        results = {name: _empty(spec) for name, spec in self.output_specs.items()}
        for name, values in results.items():
            self._buffers[name].fetch(values.ctypes.data, self._stream)
        self._stream.synchronise()
        return results

    def _checked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if feeds.keys() != self.inputs.keys():
            raise UsageError(
                f"the engine takes {', '.join(self.inputs)}, but was given {', '.join(feeds) or 'nothing'}; give each of its inputs once"
            )
        for name, values in feeds.items():
            spec = self.inputs[name]
            if values.shape != spec.shape or values.dtype.name != spec.dtype:
                raise UsageError(
                    f"input {name!r}: the engine takes {spec.dtype} of shape {spec.shape}, but was given {values.dtype} of {values.shape}"
                )
        return {name: np.ascontiguousarray(values) for name, values in feeds.items()}

    def inspect(self) -> str:
        """Return what the engine's inspector tells of its layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def facts(self) -> dict[str, int]:
        """Return how much GPU memory the engine's values take (bytes), beside its inputs and outputs, and how many streams it uses."""
        return {
            "device_memory_bytes": int(self._engine.device_memory_size_v2),
            "aux_streams": int(self._engine.num_aux_streams),
            "layers": int(self._engine.num_layers),
        }

    def metadata(self) -> dict[str, Any]:
        """Return nothing: what an engine is stands beside it, not in it."""
        return {}


class EngineSession(LoadedEngine):
    """The engine at a path, loaded only if it passed the preflight."""

    def __init__(self, path: Path, machine: Machine | None = None) -> None:
        """Check and load the engine. Raises what `check_engine` and LoadedEngine raise."""
        plan, self.sidecar = load_checked(path, machine)
        super().__init__(plan, version_compatible=self.sidecar.engine_options.version_compatible)

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the ONNX file from which the engine was built, from the sidecar."""
        return self.sidecar.metadata


def _empty(spec: TensorSpec) -> Array:
    shape = tuple(int(n) for n in spec.shape)
    return np.empty(shape, dtype=spec.dtype)


def _numpy_name(trt: Any, data_type: Any) -> str:
    """Return NumPy's name of a tensor's type. Raises BuildError for a type that NumPy has not."""
    try:
        return str(np.dtype(trt.nptype(data_type)).name)
    except TypeError:
        raise BuildError(
            f"the engine has an input or output of type {data_type}, which NumPy has not; export it again"
        ) from None
