"""TensorRT's and CUDA's interfaces over ONNX Runtime and host memory, for machines without a GPU.

It proves how our code uses the interfaces, from the ONNX file to the report, and nothing about TensorRT itself. A plan of it is
a header and the ONNX file; its inspector tells the types of the values in the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import struct
import sys
import time
from collections.abc import Iterator
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from bmtas.progress import Silent
from export.tensorrt import api, cuda

VERSION = (10, 3, 0, 30)
DEVICE = "Stand-in GPU"
_FORMATS = {
    TensorProto.FLOAT: "Float",
    TensorProto.FLOAT16: "Half",
    TensorProto.INT8: "Int8",
    TensorProto.UINT8: "UInt8",
    TensorProto.INT64: "Int64",
}


class Cudart:
    """The functions of libcudart that bmtas calls, on host memory; `blocks` is what is allocated."""

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.streams = 0
        self._awaited: list[tuple[int, int, int]] = []

    def cudaMalloc(self, pointer: Any, nbytes: int) -> int:
        block = ctypes.create_string_buffer(nbytes)
        pointer._obj.value = ctypes.addressof(block)
        self.blocks[ctypes.addressof(block)] = block
        return 0

    def cudaFree(self, pointer: Any) -> int:
        del self.blocks[pointer.value]
        return 0

    def cudaMemcpyAsync(self, to: Any, source: Any, nbytes: int, kind: int, stream: Any) -> int:
        device = (to if kind == 1 else source).value
        if device not in self.blocks or nbytes > len(self.blocks[device]):
            return 1
        if kind == 2:  # what the GPU gives back is there only once the stream was waited for
            self._awaited.append((to.value, source.value, nbytes))
        else:
            ctypes.memmove(to.value, source.value, nbytes)
        return 0

    def cudaStreamCreate(self, pointer: Any) -> int:
        self.streams += 1
        pointer._obj.value = 77
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:
        for to, source, nbytes in self._awaited:
            ctypes.memmove(to, source, nbytes)
        self._awaited.clear()
        return 0 if stream.value == 77 else 1

    def cudaStreamDestroy(self, stream: Any) -> int:
        self.streams -= 1
        return 0

    def cudaGetDeviceProperties(self, buffer: Any, device: int) -> int:
        buffer.value = DEVICE.encode()
        return 0

    def cudaDeviceGetAttribute(self, pointer: Any, attribute: int, device: int) -> int:
        pointer._obj.value = {75: 8, 76: 7}[attribute]
        return 0

    def cudaRuntimeGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = 12060
        return 0

    def cudaDriverGetVersion(self, pointer: Any) -> int:
        pointer._obj.value = 12080
        return 0

    def cudaGetErrorString(self, code: int) -> bytes:
        return b"invalid argument"


class ILogger:
    """What is given to the runtime, the builder and the parser."""

    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    """What is told of the build's phases."""


class Flags(Enum):
    STRONGLY_TYPED = 1
    TF32 = 7
    VERSION_COMPATIBLE = 13

    def __int__(self) -> int:
        return int(self.value)


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class Config:
    """An IBuilderConfig; `flags` begins as TensorRT's does."""

    def __init__(self) -> None:
        self.flags = {Flags.TF32}
        self.profiling_verbosity = "LAYER_NAMES_ONLY"
        self.progress_monitor: Any = None
        self.timing: Any = None
        self.pool: dict[str, int] = {}

    def set_flag(self, flag: Flags) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Flags) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        self.pool[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content not in (b"", b"timed") and not ignore_mismatch:
            return False
        self.timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timing


class TimingCache:
    """An ITimingCache."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class ParserError:
    """What the parser tells of a node."""

    def node_name(self) -> str:
        return "layers.00.depth/NonZero"

    def node_operator(self) -> str:
        return "NonZero"

    def desc(self) -> str:
        return "data-dependent shape"


class Parser:
    """An OnnxParser that refuses NonZero."""

    def __init__(self, network: dict[str, Any], logger: ILogger) -> None:
        self.network = network
        self.num_errors = 0

    def parse_from_file(self, model: str) -> bool:
        loaded = onnx.load(model)
        self.num_errors = sum(node.op_type == "NonZero" for node in loaded.graph.node)
        self.network["model"] = loaded
        return self.num_errors == 0

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class Builder:
    """Builds plans in `steps` steps of an outer phase and an inner one, unless it is asked to stop or is to `fail` with a message."""

    last: Config
    steps = 0
    fail: str | None = None

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> dict[str, Any]:
        assert flags == 1 << int(Flags.STRONGLY_TYPED)
        return {}

    def create_builder_config(self) -> Config:
        Builder.last = Config()
        return Builder.last

    def build_serialized_network(self, network: dict[str, Any], config: Config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Tactics", "Building Engine", 1)
        going = monitor.step_complete("Tactics", 0)
        monitor.phase_finish("Tactics")
        Builder.steps = 0
        while going and Builder.steps < 2:
            going = monitor.step_complete("Building Engine", Builder.steps)
            Builder.steps += 1
        monitor.phase_finish("Building Engine")
        if self.fail is not None:
            self.logger.log(ILogger.ERROR, self.fail)
        if not going or self.fail is not None:
            return None
        if config.timing is not None:
            config.timing.content = b"timed"
        header = struct.pack("<II16x4B", 0x74727466, 0, *VERSION)
        return header + bytes([config.profiling_verbosity == "DETAILED"]) + network["model"].SerializeToString()


class Runtime:
    """A Runtime."""

    def __init__(self, logger: ILogger) -> None:
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        return Engine(serialized_engine)


class Engine:
    """An ICudaEngine over ONNX Runtime."""

    int8_takes_s = 0.0
    device_memory_size_v2 = 4096
    num_aux_streams = 0

    def __init__(self, plan: bytes) -> None:
        self.detailed, self.model = plan[28], onnx.load_from_string(plan[29:])
        self.session = onnxruntime.InferenceSession(plan[29:], providers=["CPUExecutionProvider"])
        self.num_layers = len(self.model.graph.node)
        self.values = {i.name: (Mode.INPUT, i) for i in self.session.get_inputs()}
        self.values.update({o.name: (Mode.OUTPUT, o) for o in self.session.get_outputs()})
        self.num_io_tensors = len(self.values)

    def get_tensor_name(self, index: int) -> str:
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self.values[name][0]

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(self.values[name][1].shape)

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.values[name][1].type)

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, format: str) -> str:  # noqa: A002 -- TensorRT's own name
        assert format == "JSON"
        if not self.detailed:
            return json.dumps({"Layers": [node.name for node in self.model.graph.node], "Bindings": []})
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}

        def told(names: Any) -> list[dict[str, str]]:
            return [{"Name": n, "Format/Datatype": _FORMATS[types[n]]} for n in names if n in types]

        layers = [{"Name": n.name, "Inputs": told(n.input), "Outputs": told(n.output)} for n in graph.node]
        return json.dumps({"Layers": layers, "Bindings": list(self.values)})


class Context:
    """An IExecutionContext: reads and writes the addresses that it was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 77
        if any(node.op_type == "QuantizeLinear" for node in self.engine.model.graph.node):
            time.sleep(Engine.int8_takes_s)
        feeds = {}
        for name, (mode, value) in self.engine.values.items():
            if mode is Mode.INPUT:
                dtype = np.dtype(nptype(value.type))
                raw = ctypes.string_at(self.addresses[name], int(np.prod(value.shape)) * dtype.itemsize)
                feeds[name] = np.frombuffer(raw, dtype).reshape(value.shape)
        for output, result in zip(self.engine.session.get_outputs(), self.engine.session.run(None, feeds), strict=True):
            data = np.ascontiguousarray(result).tobytes()
            ctypes.memmove(self.addresses[output.name], data, len(data))
        return True


def nptype(kind: str) -> type:
    return {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[kind]


def tensorrt_module() -> ModuleType:
    """Return what stands in for the module `tensorrt`."""
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)  # PyTorch's tracer looks whether there is one
    module.__dict__.update(
        __version__="10.3.0",
        ILogger=ILogger,
        IProgressMonitor=IProgressMonitor,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=Runtime,
        NetworkDefinitionCreationFlag=Flags,
        BuilderFlag=Flags,
        TensorIOMode=Mode,
        nptype=nptype,
        ProfilingVerbosity=type("ProfilingVerbosity", (), {"DETAILED": "DETAILED"}),
        LayerInformationFormat=type("LayerInformationFormat", (), {"JSON": "JSON"}),
        MemoryPoolType=type("MemoryPoolType", (), {"WORKSPACE": "WORKSPACE"}),
        HardwareCompatibilityLevel=type("HardwareCompatibilityLevel", (), {"AMPERE_PLUS": "AMPERE_PLUS"}),
    )
    return module


@contextlib.contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Cudart]:
    """Put both in the place of the real ones; timing caches go to `cache`. Gives CUDA's memory, to look into."""
    here = Cudart()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_module())
    monkeypatch.setattr(cuda, "library", lambda: here)
    monkeypatch.setattr(Builder, "fail", None)
    monkeypatch.setenv("BMTAS_CACHE", str(cache))
    api.log.cache_clear()
    yield here
    api.log.cache_clear()


class Told(Silent):
    """Keeps what a build tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.lines.append(f"{name} of {total}")

    def advance(self, **values: float) -> None:
        self.lines.append("step")

    def state(self, **texts: str) -> None:
        self.lines.extend(texts.values())

    def note(self, text: str) -> None:
        self.lines.append(text)
