"""PyTorch and torchvision: for a GPU or not, and whether they fit together. Read from their files, because importing them takes seconds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from export.doctor.finding import Finding
from export.doctor.packages import installed
from export.machine.files import read_text

_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_CUDA_LIBRARY = "libtorch_cuda.so"


def torch_findings(*, gpu: bool, jetson: bool) -> Iterator[Finding]:
    """Yield what PyTorch is built for; nothing where it is not installed, which the extra `host` tells."""
    version, folder = installed("torch"), _folder("torch")
    if version is None or folder is None:
        return
    cuda = torch_cuda(folder)
    blind = gpu and cuda is None
    yield Finding(
        area="python",
        name="PyTorch",
        level="warning" if blind and not jetson else "note" if blind else "ok",
        found=f"{version}, "
        + (f"for CUDA {cuda}" if cuda else "for the CPU only" + ("; this machine has a GPU" if blind else "")),
        fix=None if not blind else _mend(jetson),
    )
    yield from _torchvision(version, folder)


def torch_cuda(folder: Path) -> str | None:
    """Return the version of CUDA (or of ROCm) that PyTorch was built for, or None for a CPU build."""
    text = read_text(folder / "version.py") or ""
    for name in ("cuda", "hip"):
        found = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
        if found is not None:
            return found[1]
    return None


def needs_cuda(folder: Path) -> bool:
    """Return whether the extension of torchvision is linked to PyTorch's CUDA library."""
    for library in sorted(folder.glob("_C*.so")):
        try:
            if _CUDA_LIBRARY.encode() in library.read_bytes():
                return True
        except OSError:
            continue
    return False


def _torchvision(torch_version: str, torch: Path) -> Iterator[Finding]:
    version, folder = installed("torchvision"), _folder("torchvision")
    if version is None or folder is None:
        return
    wanted = _wanted_torch()
    if wanted is not None and wanted != torch_version.partition("+")[0]:
        yield Finding(
            area="python",
            name="torchvision",
            level="warning",
            found=f"{version} was built for PyTorch {wanted}, and {torch_version} is installed",
            fix="pip install --upgrade --force-reinstall torch torchvision",
        )
    elif needs_cuda(folder) and not (torch / "lib" / _CUDA_LIBRARY).exists():
        yield Finding(
            area="python",
            name="torchvision",
            level="note",
            found=f"{version} is a CUDA build beside a CPU-only PyTorch: `import torchvision` alone fails (operator torchvision::nms does "
            "not exist). bmtas works around it",
            fix=f"pip install --force-reinstall --no-deps torchvision --index-url {_CPU_INDEX}",
        )
    else:
        yield Finding(area="python", name="torchvision", level="ok", found=f"{version}, fits PyTorch {torch_version}")


def _wanted_torch() -> str | None:
    """Return the one version of PyTorch that torchvision asks for."""
    for line in importlib.metadata.requires("torchvision") or []:
        found = re.match(r"torch\s*\(?==\s*([\d.]+)", line)
        if found is not None:
            return found[1]
    return None


def _mend(jetson: bool) -> str:
    if jetson:
        return "install NVIDIA's build of PyTorch for this JetPack; bench, profile and build need none"
    return "pip uninstall -y torch torchvision && pip install torch torchvision"


def _folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)  # finds without executing it
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
