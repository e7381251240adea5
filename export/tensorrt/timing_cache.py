"""What TensorRT has timed on this device, kept for the next build: faster builds, and the same kernels chosen. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from bmtas.errors import UsageError
from bmtas.files import atomic_path, cache_folder
from export.tensorrt.cuda import Device
from export.tensorrt.options import EngineOptions
from export.tensorrt.plan import Version, version_text


def cache_file(options: EngineOptions, version: Version, device: Device) -> Path | None:
    """Return where the timings of such builds are kept; None if `options` want no cache.

    A cache is bound to the GPU, CUDA, the version of TensorRT and the flags of the build; each has a file of its own, because
    TensorRT rejects another one's.
    """
    if options.timing_cache is False:
        return None
    if isinstance(options.timing_cache, Path):
        return options.timing_cache
    flags = {
        "hardware_compatibility": options.hardware_compatibility,
        "version_compatible": options.version_compatible,
        "tf32": options.tf32,
    }
    key = [device.name, list(device.compute_capability), version_text(version), device.runtime, flags]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    major, minor = device.compute_capability
    return cache_folder() / "tensorrt" / f"{name}-sm{major}{minor}-trt{version_text(version)}-{digest}.timing"


def read(path: Path) -> bytes:
    """Return the timings in `path`; none if it does not exist. Raises UsageError if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(
            f"the timing cache {path} cannot be read: {error.strerror or error}; name another file"
        ) from None


def write(path: Path, timings: bytes) -> None:
    """Write the timings to `path` atomically; builds at the same time leave one or the other's, never a mixture."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(timings)
