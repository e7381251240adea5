"""What the user asks of an export, checked before anything is computed. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bmtas.errors import UsageError
from export.formats import Format, find_format
from export.interface import Interface
from export.precision.guard import Drop
from export.precision.quantise import METHODS
from export.tensorrt.options import EngineOptions

DEFAULT_CALIBRATION = 64
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def parse_calibration(text: str) -> int | Path:
    """Read `--calibration`: a number of training images, or a folder. Raises UsageError if the folder holds no picture."""
    if text.isdecimal():
        return int(text)
    pictures(Path(text))
    return Path(text)


def pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted. Raises UsageError if there are none."""
    if not folder.is_dir():
        raise UsageError(
            f"--calibration {folder}: there is no such folder; give a folder of pictures, or a number of training images of at least 1"
        )
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise UsageError(
            f"--calibration {folder}: no picture in it ({', '.join(PICTURES)}); INT8 needs images as the camera gives them"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """One call of `bmtas export`, for one network.

    `tasks` are those of a subset (None: all). `images` is how many validation images prove the files. `scaled` and
    `tolerances` override the parity limits. `split` writes one ONNX file per stage, `merge` tries to join equal branches.
    INT8: `calibration` is a number of the run's training images or a folder of pictures; `drop` the loss of each task's own
    metric that is allowed, judged on `score_images` validation images; `force` writes what fails that, or is not faster.
    `remote` (user@host) prepares TensorRT engines for another machine instead of building them here; `remote_program` is how bmtas is
    called there.
    """

    formats: tuple[Format, ...] = (find_format("onnx"),)
    precisions: tuple[str, ...] = ("fp32",)
    interface: Interface = field(default_factory=Interface)
    tasks: tuple[str, ...] | None = None
    images: int = 8
    scaled: float | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)
    split: bool = False
    merge: bool = False
    calibration: int | Path = DEFAULT_CALIBRATION
    calibration_method: str = "minmax"
    drop: Drop = field(default_factory=Drop)
    score_images: int = 64
    samples: int = 30
    sensitivity: bool = False
    force: bool = False
    threads: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)
    remote: str | None = None
    remote_program: str = "bmtas"

    def __post_init__(self) -> None:
        """Check what belongs together. Raises UsageError."""
        names = {f.name for f in self.formats}
        if self.remote is not None and names != {"tensorrt"}:
            raise UsageError(
                "--remote prepares TensorRT engines for another machine; it goes with --format tensorrt alone"
            )
        if self.interface.dynamic and (names - {"onnx", "pt2"} or set(self.precisions) != {"fp32"}):
            raise UsageError(
                "--dynamic leaves dimensions free, which goes with --format onnx or pt2 and --precision fp32: calibration, engines and "
                "kernels of other precisions are made for one size. Export one static file per size instead"
            )
        if self.interface.dynamic and (self.split or self.merge):
            raise UsageError("--split-at-branches and --merge-branches need static shapes; leave --dynamic out")
        if self.split and "onnx" not in names:
            raise UsageError("--split-at-branches writes ONNX files; add --format onnx")
        if self.merge and (names not in ({"onnx"}, {"openvino"}) or set(self.precisions) != {"fp32"} or self.split):
            raise UsageError(
                "--merge-branches is decided by measuring one runtime in FP32, and moves branches into the trunk: it goes with --format onnx "
                "or openvino alone, --precision fp32, and without --split-at-branches"
            )
        if self.split and "bf16" in self.precisions:
            raise UsageError(
                "--split-at-branches with bf16: what flows between stages would be bfloat16, which NumPy has not; split fp32, fp16 or int8"
            )
        if self.calibration_method not in METHODS:
            raise UsageError(f"--calibration-method {self.calibration_method!r}; known: {', '.join(METHODS)}")
        if isinstance(self.calibration, int) and self.calibration < 1:
            raise UsageError(f"--calibration {self.calibration}: at least one image is needed")
