"""Files of images and labels to arrays in the one in-memory form per kind (table in `bmtas.tasks`).

Label files are decoded at their own size and resampled afterwards, so every pixel is checked and a median is
that of the file, whatever size is asked for.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmtas.data.manifest import TaskSpec
from bmtas.data.stored import ONE_CHANNEL, SIXTEEN_BIT, Array, described, read_raw
from bmtas.errors import UsageError, nearest
from bmtas.tasks import IGNORE, TaskKind


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


def _decode_ids(path: Path, name: str, spec: TaskSpec, raw: Array, mode: str) -> npt.NDArray[np.uint8]:
    """Return class ids or 0 and 1, (H, W) uint8 with 255 for what is ignored."""
    if raw.ndim != 2 or (mode != "npy" and mode not in ONE_CHANNEL) or raw.dtype.kind not in "biu":
        raise UsageError(
            f"{path} holds {described(raw, mode)}; a label of task {name!r} is a single channel of whole "
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
    vectors: Array
    if spec.read_as == "npy":
        if raw.ndim != 3 or raw.shape[2] != 3 or raw.dtype.kind != "f":
            raise _wrong_encoding(path, name, spec, raw, mode, "floats of shape (height, width, 3)")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and so invalid
            vectors = raw.astype(np.float32)
        valid = np.asarray(np.isfinite(vectors).all(axis=2))
    else:
        if mode not in ("RGB", "RGBA"):
            raise _wrong_encoding(path, name, spec, raw, mode, "an RGB image")
        vectors, valid = colour_vectors(raw[..., :3] if spec.read_as == "rgb" else raw[..., 2::-1])
    turned = np.empty_like(vectors)
    for channel, axis in enumerate(spec.channel_axes):
        sign = -1 if axis.startswith("-") else 1
        turned[..., "xyz".index(axis[-1])] = sign * vectors[..., channel]
    return unit_normals(turned, valid)


def colour_vectors(
    colours: npt.NDArray[np.uint8], off: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the vectors px / 127.5 - 1 of `colours` (H, W, 3), and where (H, W) they stand for a direction.

    White, black and middle grey stand for none, and what is at most `off` levels away from one of them in all channels.
    """
    near = [np.abs(colours - level).max(axis=2) <= off for level in (0.0, 127.5, 255.0)]
    return colours / 127.5 - 1, ~(near[0] | near[1] | near[2])


def unit_normals(vectors: Array, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return `vectors` (H, W, 3) at length 1, float32; (0, 0, 0) where not `valid` (H, W) or of hardly any length."""
    kept = np.where(valid[..., None], vectors, 0).astype(np.float64)
    length = np.linalg.norm(kept, axis=2, keepdims=True)
    # 127 or 128 in all channels is how 8 bits hold a zero vector: length up to 0.007.
    return np.where(length > 0.01, kept / np.maximum(length, 0.01), 0).astype(np.float32)


def _decode_measures(path: Path, name: str, spec: TaskSpec, raw: Array, mode: str) -> npt.NDArray[np.float32]:
    """Return metres or another measure, (H, W) float32, NaN where there is none."""
    fits, asked = {
        "npy": (
            mode == "npy" and raw.ndim == 2 and raw.dtype.kind in "fiu",
            "numbers of shape (height, width)",
        ),
        "uint8": (mode == "L", "an 8-bit grey image"),
        "uint16": (mode in SIXTEEN_BIT, "a 16-bit grey image"),
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
        f"{path} holds {described(raw, mode)}; task {name!r} has encoding {spec.read_as!r}, which asks for "
        f"{asked}: convert the file or correct 'encoding' in the manifest"
    )
