"""GPU memory and identity through libcudart by ctypes: a device needs no Python package for it. Needs no torch."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmtas.errors import EnvironmentProblem

_TO_DEVICE, _TO_HOST = 1, 2
_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, -Minor
_PROPERTIES_BYTES = 1 << 14  # cudaDeviceProp has about 1 KiB and grows; it begins with the name, 256 bytes
_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
# Those of functions that are given more than references to numbers.
_ARGUMENTS: dict[str, list[Any]] = {
    "cudaDeviceGetAttribute": [ctypes.POINTER(_int), _int, _int],
    "cudaGetDeviceProperties": [_pointer, _int],
    "cudaMalloc": [ctypes.POINTER(_pointer), _size],
    "cudaFree": [_pointer],
    "cudaMemcpyAsync": [_pointer, _pointer, _size, _int, _pointer],
    "cudaStreamCreate": [ctypes.POINTER(_pointer)],
    "cudaStreamSynchronize": [_pointer],
    "cudaStreamDestroy": [_pointer],
}


@dataclass(frozen=True)
class Device:
    """The GPU, and the versions of CUDA: of the runtime that is loaded, and the latest that the driver knows."""

    name: str
    compute_capability: tuple[int, int]
    runtime: str
    driver: str


def candidates() -> list[str]:
    """Return where libcudart may be: what the loader finds, NVIDIA's Python packages, the toolkit's folder."""
    names = [f"libcudart.so{suffix}" for suffix in (".13", ".12", "")]
    packages = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (packages.submodule_search_locations or ())] if packages is not None else []
    found = [path for folder in folders for path in sorted(folder.glob("*/lib/libcudart.so*"))]
    for home in (Path(h) for h in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if h):
        found += sorted(home.glob("lib64/libcudart.so*")) + sorted(home.glob("targets/*/lib/libcudart.so*"))
    return [*names, *dict.fromkeys(str(path) for path in found)]


def load(path: str) -> Any:
    """Return libcudart at `path` with its functions declared. Raises OSError or AttributeError if it is none."""
    loaded: Any = ctypes.CDLL(path)
    if not hasattr(loaded, "cudaGetDeviceProperties"):  # CUDA 12 has it under the name of its second form
        loaded.cudaGetDeviceProperties = loaded.cudaGetDeviceProperties_v2
    for name, arguments in _ARGUMENTS.items():
        getattr(loaded, name).argtypes = arguments
    loaded.cudaGetErrorString.argtypes, loaded.cudaGetErrorString.restype = [_int], ctypes.c_char_p
    return loaded


@functools.cache
def library() -> Any:
    """Return the first libcudart that finds a GPU. Raises EnvironmentProblem if none does."""
    problems: dict[str, str] = {}
    for path in candidates():
        try:
            loaded = load(path)
            count = _int(0)
            check(loaded, loaded.cudaGetDeviceCount(ctypes.byref(count)), "counting the GPUs")
        except (OSError, AttributeError):  # not there; not what its name says
            continue
        except EnvironmentProblem as problem:  # an older one beside it may fit the driver
            problems.setdefault(str(problem), path)
            continue
        if count.value > 0:
            return loaded
        problems.setdefault("it counts none", path)
    found = (
        "; ".join(f"{path}: {problem}" for problem, path in problems.items())
        or "libcudart, the CUDA runtime, was not found"
    )
    raise EnvironmentProblem(f"no CUDA device: {found}. TensorRT engines need an NVIDIA GPU; here, use ONNX Runtime")


def check(loaded: Any, code: int, what: str) -> None:
    """Raise EnvironmentProblem with CUDA's own words if `code` is not 0, success."""
    if code:
        words = loaded.cudaGetErrorString(code).decode(errors="replace")
        raise EnvironmentProblem(f"{what} failed: {words} (CUDA error {code}); `bmtas doctor` checks GPU and driver")


def call(name: str, *arguments: Any) -> None:
    """Call a function of libcudart. Raises EnvironmentProblem if it fails."""
    check(library(), getattr(library(), name)(*arguments), name)


def device() -> Device:
    """Return what GPU 0 is. Raises EnvironmentProblem where there is none."""
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    call("cudaGetDeviceProperties", properties, 0)
    major, minor = (_number("cudaDeviceGetAttribute", attribute, 0) for attribute in (_MAJOR, _MINOR))
    versions = [_number(f"cuda{part}GetVersion") for part in ("Runtime", "Driver")]
    runtime, driver = (f"{number // 1000}.{number % 1000 // 10}" for number in versions)
    return Device(properties.raw[:256].split(b"\0")[0].decode(errors="replace"), (major, minor), runtime, driver)


def _number(name: str, *arguments: int) -> int:
    value = _int(0)
    call(name, ctypes.byref(value), *arguments)
    return value.value


class Stream:
    """A stream of the GPU: what is put into it runs in that order."""

    def __init__(self) -> None:
        handle = _pointer()
        call("cudaStreamCreate", ctypes.byref(handle))
        self.handle = int(handle.value or 0)
        self.close = weakref.finalize(self, library().cudaStreamDestroy, _pointer(self.handle))

    def synchronise(self) -> None:
        """Wait until all of it has run. Raises EnvironmentProblem if something of it failed."""
        call("cudaStreamSynchronize", _pointer(self.handle))


class Buffer:
    """`nbytes` of GPU memory, given back with the object or by `close()`."""

    def __init__(self, nbytes: int) -> None:
        address = _pointer()
        call("cudaMalloc", ctypes.byref(address), max(nbytes, 1))
        self.address = int(address.value or 0)
        self.nbytes = nbytes
        self.close = weakref.finalize(self, library().cudaFree, _pointer(self.address))

    def fill(self, host: int, stream: Stream) -> None:
        """Copy from the host address `host` to the GPU."""
        _copy(self.address, host, self.nbytes, _TO_DEVICE, stream)

    def fetch(self, host: int, stream: Stream) -> None:
        """Copy from the GPU to the host address `host`."""
        _copy(host, self.address, self.nbytes, _TO_HOST, stream)


def _copy(to: int, source: int, nbytes: int, direction: int, stream: Stream) -> None:
    call("cudaMemcpyAsync", _pointer(to), _pointer(source), nbytes, direction, _pointer(stream.handle))
