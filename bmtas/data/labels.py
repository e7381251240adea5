"""Files of images and labels to arrays in the one in-memory form per kind (table in `bmtas.tasks`).

Label files are decoded at their own size and resampled afterwards, so every pixel is checked and a median is
that of the file, whatever size is asked for.
"""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.data.manifest import TaskSpec
from bmtas.errors import UsageError, nearest
from bmtas.extras import require
from bmtas.tasks import IGNORE, TaskKind

Array = npt.NDArray[Any]

_ONE_CHANNEL = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I")  # "I" is how some versions of Pillow open 16-bit PNG
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


def read_label(path: Path, name: str, spec: TaskSpec) -> Array:
    """Return the label of task `name` in `path`, at the file's own size, in the form of the task's kind.

    Raises UsageError where the file cannot be read, is not encoded as the manifest says, or holds a value
    that is neither a class nor ignored.
    """
    raw, mode = read_raw(path)
    if spec.read_as in ("ids", "mask"):
        return _decode_ids(path, name, spec, raw, mode)
    if spec.kind is TaskKind.NORMALS:
        return _decode_normals(path, name, spec, raw, mode)
    return _decode_measures(path, name, spec, raw, mode)


def resize_nearest(label: Array, size: tuple[int, int]) -> Array:
    """Return `label`, (H, W) or (H, W, 3), at `size` (height, width); pixels take the one at their centre."""
    if label.shape[:2] == size:
        return label
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, label.shape[:2], strict=True)
    )
    resized: Array = label[rows[:, None], columns]
    return resized


def read_csv(path: Path, name: str, classes: tuple[str, ...]) -> dict[str, int]:
    """Return the class id of each image id in a CSV file with the columns `id` and `label`.

    A label is the name of a class or its number; an empty one is none. Raises UsageError with the line.
    """
    numbers = {str(i): i for i in range(len(classes))} | {c: i for i, c in enumerate(classes)}
    labels: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if not {"id", "label"} <= set(reader.fieldnames or ()):
                raise UsageError(
                    f"{path}: the first line has the columns {reader.fieldnames}; it needs 'id' and 'label'"
                )
            for row in reader:
                where, key, label = f"{path}:{reader.line_num}", row["id"] or "", (row["label"] or "").strip()
                if label and label not in numbers:
                    raise UsageError(f"{where}: unknown class {label!r} of task {name!r}; {nearest(label, classes)}")
                if label and labels.setdefault(key, numbers[label]) != numbers[label]:
                    raise UsageError(f"{where}: image {key!r} already has another label; keep one line")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path}: {error}; it must be a CSV file in UTF-8") from None
    return labels


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


def _decode_ids(path: Path, name: str, spec: TaskSpec, raw: Array, mode: str) -> npt.NDArray[np.uint8]:
    """Return class ids or 0 and 1, (H, W) uint8 with 255 for what is ignored."""
    if raw.ndim != 2 or (mode != "npy" and mode not in _ONE_CHANNEL) or raw.dtype.kind not in "biu":
        raise UsageError(
            f"{path} holds {_describe(raw, mode)}; a label of task {name!r} is a single channel of whole "
            "numbers: convert it, for example to an 8-bit grey PNG with the class id of each pixel (a "
            "palette PNG will do: its indices are the ids)"
        )
    if raw.dtype == np.bool_:
        raw = raw.astype(np.uint8)
    table: Sequence[int]
    if raw.dtype == np.uint8:
        table, positions = range(256), raw
    else:
        values, inverse = np.unique(raw, return_inverse=True)
        table, positions = values.tolist(), inverse.reshape(raw.shape)
    codes = np.array([_code(spec, value) for value in table], dtype=np.int16)[positions]
    wrong = codes < 0
    if wrong.any():
        raise _wrong_value(path, name, spec, int(raw[wrong][0]), int(wrong.sum()))
    return codes.astype(np.uint8)


def _code(spec: TaskSpec, value: int) -> int:
    """Return the class id that `value` in a file stands for, 255 for ignored, -1 for one without meaning."""
    mapping = spec.map or {}
    if value in mapping:
        return mapping[value]
    segmentation = spec.kind is TaskKind.SEGMENTATION
    if value in (spec.ignore if spec.ignore is not None else (IGNORE,) if segmentation else ()):
        return IGNORE
    if spec.map is not None or value < 0:
        return -1
    if segmentation:
        return value if value < len(spec.classes) else -1
    # In a mask 255 may be the foreground or what is ignored: the manifest says it, a guess would be silent.
    return -1 if value == IGNORE and spec.ignore is None else int(value > 0)


def _wrong_value(path: Path, name: str, spec: TaskSpec, value: int, pixels: int) -> UsageError:
    found = f"{path}: value {value} ({pixels} pixels hold it or another such value)"
    if spec.map is not None:
        return UsageError(f"{found} is not in the 'map' of task {name!r}; add it there or to 'ignore'")
    if spec.kind is TaskKind.SEGMENTATION:
        return UsageError(
            f"{found} is no class of task {name!r}, whose ids are 0 to {len(spec.classes) - 1}; add the "
            "class to 'classes', list the value under 'ignore' or translate it with 'map'"
        )
    if value == IGNORE:
        return UsageError(
            f"{found} may mean foreground or ignored in task {name!r}; write 'ignore: null' into the "
            "manifest if it is foreground, 'ignore: 255' if such pixels do not count"
        )
    return UsageError(f"{found} is negative in a mask of task {name!r}; list it under 'ignore' or use 'map'")


def _decode_normals(path: Path, name: str, spec: TaskSpec, raw: Array, mode: str) -> npt.NDArray[np.float32]:
    """Return unit vectors x right, y down, z forward, (H, W, 3) float32; (0, 0, 0) where there is none."""
    if spec.read_as == "npy":
        if raw.ndim != 3 or raw.shape[2] != 3 or raw.dtype.kind != "f":
            raise _wrong_encoding(path, name, spec, raw, mode, "floats of shape (height, width, 3)")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so invalid
            vectors = raw.astype(np.float32)
        valid = np.isfinite(vectors).all(axis=2)
    else:
        if mode not in ("RGB", "RGBA"):
            raise _wrong_encoding(path, name, spec, raw, mode, "an RGB image")
        colours = raw[..., :3] if spec.read_as == "rgb" else raw[..., 2::-1]
        vectors = colours.astype(np.float32) / np.float32(127.5) - 1
        valid = ~((colours == 0).all(axis=2) | (colours == 255).all(axis=2))
    normals = np.zeros(vectors.shape, dtype=np.float32)
    for channel, axis in enumerate(spec.channel_axes):
        sign = -1 if axis.startswith("-") else 1
        normals[..., "xyz".index(axis[-1])] = sign * np.where(valid, vectors[..., channel], 0)
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    # Grey, 127 or 128 in all channels, is how 8 bits hold a zero vector (length up to 0.007): no direction.
    return np.where(length > 0.01, normals / np.maximum(length, 0.01), 0).astype(np.float32)


def _decode_measures(path: Path, name: str, spec: TaskSpec, raw: Array, mode: str) -> npt.NDArray[np.float32]:
    """Return metres or another measure, (H, W) float32, NaN where there is none."""
    fits, asked = {
        "npy": (
            mode == "npy" and raw.ndim == 2 and raw.dtype.kind in "fiu",
            "numbers of shape (height, width)",
        ),
        "uint8": (mode == "L", "an 8-bit grey image"),
        "uint16": (mode in _SIXTEEN_BIT, "a 16-bit grey image"),
    }[spec.read_as]
    if not fits:
        raise _wrong_encoding(path, name, spec, raw, mode, asked)
    depth = spec.kind is TaskKind.DEPTH
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so invalid
        values = (raw * (spec.scale or 1.0)).astype(np.float32)
    valid = np.isfinite(values)
    if spec.invalid is not None:
        valid &= raw != spec.invalid
    if depth:
        valid &= values > 0
    values = np.where(valid, values, np.float32(np.nan))
    return _align(path, name, values, valid) if spec.normalise else values


def _align(
    path: Path, name: str, values: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return (value - median) / MAD, both over the valid pixels; MAD: the median distance from the median."""
    if not valid.any():
        return values
    known = values[valid].astype(np.float64)
    median = np.median(known)
    mad = np.median(np.abs(known - median))
    if mad == 0:
        raise UsageError(
            f"{path}: at least half of the valid pixels have the value {median:g}, so 'normalise: "
            f"median_mad' of task {name!r} divides by 0; name it as 'invalid', drop 'normalise' or the image"
        )
    return ((values - median) / mad).astype(np.float32)


def _wrong_encoding(path: Path, name: str, spec: TaskSpec, raw: Array, mode: str, asked: str) -> UsageError:
    return UsageError(
        f"{path} holds {_describe(raw, mode)}; task {name!r} has encoding {spec.read_as!r}, which asks for "
        f"{asked}: convert the file or correct 'encoding' in the manifest"
    )


def _describe(raw: Array, mode: str) -> str:
    if mode == "npy":
        return f"an array of {raw.dtype} of shape {raw.shape}"
    names = {
        "1": "1-bit",
        "L": "8-bit grey",
        "P": "palette",
        "RGB": "colour",
        "RGBA": "colour with transparency",
    }
    return f"a {names.get(mode, '16-bit grey' if mode in _SIXTEEN_BIT else 'different')} image (mode {mode})"
