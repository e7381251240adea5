"""Files of images and arrays as they are stored: their sizes, their pixels at their own size, and what they hold in words."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bmtas.errors import UsageError
from bmtas.extras import require

Array = npt.NDArray[Any]

ONE_CHANNEL = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I")
"""Pillow's modes of images with a single channel of whole numbers."""

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")
"""Those with 16 bits; "I" is how some versions of Pillow open 16-bit PNG."""

_EXIF_ORIENTATION = 0x0112


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image as it is shown, from its header. Raises UsageError if it is none."""
    with _opened(path) as (_, picture):
        width, height = picture.size
        turned = picture.getexif().get(_EXIF_ORIENTATION, 1) >= 5  # 5 to 8 lie on their side
        return (width, height) if turned else (height, width)


def read_image(path: Path, size: tuple[int, int]) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Return an image as (H, W, 3) uint8 RGB at `size` (height, width), and its own size.

    The orientation that a camera noted is applied; resampling is bilinear and antialiased, as Pillow does it.
    Raises UsageError if the file is no image or is cut off.
    """
    with _opened(path) as (pil, picture):
        rgb = _to_rgb(pil, require("PIL.ImageOps", "host").exif_transpose(picture))
        own = (rgb.height, rgb.width)
        if own != size:
            rgb = rgb.resize((size[1], size[0]), pil.Resampling.BILINEAR)
        return np.array(rgb, dtype=np.uint8), own


def read_raw(path: Path) -> tuple[Array, str]:
    """Return what a label file holds, and Pillow's mode of it or `npy`."""
    if path.suffix.lower() != ".npy":
        with _opened(path) as (_, picture):
            return np.array(picture), str(picture.mode)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False), "npy"
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"cannot read the array {path}: {error}; write it with numpy.save") from None


def described(raw: Array, mode: str) -> str:
    """Return in words what a file holds, for messages; `mode` is Pillow's, `npy` or `mat`."""
    if mode in ("npy", "mat"):
        return f"an array of {raw.dtype} of shape {raw.shape}"
    names = {
        "1": "a 1-bit image",
        "L": "an 8-bit grey image",
        "P": "a palette image",
        "RGB": "a colour image",
        "RGBA": "a colour image with transparency",
    }
    name = names.get(mode, "a 16-bit grey image" if mode in SIXTEEN_BIT else "another kind of image")
    return f"{name} (mode {mode}), {raw.shape[0]} high and {raw.shape[1]} wide"


def array_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of the array in an .npy file, from its header. Raises UsageError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return header_of(file)[0]
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"cannot read the array {path}: {error}; unpack or download it again") from None


def header_of(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the type that the header of an .npy file states. Raises ValueError or EOFError if it is none."""
    npy = np.lib.format
    read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


@contextmanager
def _opened(path: Path) -> Iterator[tuple[ModuleType, Any]]:
    """Open an image; what goes wrong while it is open is told as a UsageError that names the file."""
    pil = require("PIL.Image", "host")
    try:
        with pil.open(path) as picture:
            yield pil, picture
    except pil.UnidentifiedImageError:
        raise UsageError(f"{path} is not an image that Pillow can read; replace the file or drop its id") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        pil.DecompressionBombError,
    ) as error:
        raise UsageError(f"cannot read the image {path}: {error}; replace the file or drop its id") from None


def _to_rgb(pil: ModuleType, picture: Any) -> Any:
    """Return a picture of any mode in RGB, without its transparency."""
    if picture.mode.startswith("I") or picture.mode == "F":
        # Pillow clips these to 255 instead of scaling them: 16 bits become 8, smaller values stay.
        values = np.asarray(picture, dtype=np.float64)
        values = values / 257 if values.max() > 255 else values
        picture = pil.fromarray(np.clip(np.nan_to_num(values), 0, 255).round().astype(np.uint8))
    elif "transparency" in picture.info:
        picture = picture.convert("RGBA")  # straight to RGB, Pillow warns about palettes with transparency
    return picture.convert("RGB")
