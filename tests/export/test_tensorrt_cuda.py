"""libcudart by ctypes: a real one, on a machine without a GPU, must say so clearly."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from bmtas.errors import EnvironmentProblem
from export.tensorrt import cuda


def libcudart() -> str:
    """Where a real libcudart is; skips the test where there is none."""
    for path in cuda.candidates():
        try:
            cuda.load(path)
        except (OSError, AttributeError):
            continue
        return path
    pytest.skip("no libcudart on this machine")


def no_gpu() -> None:
    """Skip the test where a GPU answers."""
    count = ctypes.c_int(0)
    if ctypes.CDLL(libcudart()).cudaGetDeviceCount(ctypes.byref(count)) == 0 and count.value:
        pytest.skip("this machine has a GPU")


def test_a_real_library_tells_its_version_and_explains_its_errors() -> None:
    loaded = cuda.load(libcudart())
    version = ctypes.c_int(0)
    assert loaded.cudaRuntimeGetVersion(ctypes.byref(version)) == 0
    assert 11000 <= version.value < 20000
    cuda.check(loaded, 0, "nothing")
    with pytest.raises(EnvironmentProblem, match=r"reserving memory failed: out of memory \(CUDA error 2\)"):
        cuda.check(loaded, 2, "reserving memory")  # cudaErrorMemoryAllocation


@pytest.mark.parametrize("use", [cuda.library, cuda.device, cuda.Stream, lambda: cuda.Buffer(16)])
def test_without_a_gpu_everything_says_no_cuda_device(use: object) -> None:
    no_gpu()
    assert callable(use)
    with pytest.raises(EnvironmentProblem, match=r"no CUDA device: .*CUDA error \d+.*ONNX Runtime"):
        use()


def test_libraries_that_are_none_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    broken = tmp_path / "lib64" / "libcudart.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert str(broken) in cuda.candidates()
    monkeypatch.setattr(cuda, "candidates", lambda: [str(broken), "libm.so.6", str(tmp_path / "absent.so")])
    cuda.library.cache_clear()
    with pytest.raises(EnvironmentProblem, match="no CUDA device: libcudart, the CUDA runtime, was not found"):
        cuda.library()
