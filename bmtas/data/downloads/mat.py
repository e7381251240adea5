"""Variables of MATLAB's .mat files up to version 7, as arrays."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.errors import UsageError
from bmtas.extras import require

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_AT = (0, 512)  # MATLAB puts 512 bytes of its own before it

_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What reading a file that is cut off or no .mat raises in SciPy, wherever it stumbles."""


def read_mat(path: Path, key: str) -> npt.NDArray[Any]:
    """Return the variable `key` of the .mat file at `path`, at least 2-D, as MATLAB's arrays are.

    Structures become arrays with named fields. Raises UsageError if the file is missing, cut off, of version 7.3 (which
    is HDF5) or has no such variable, and EnvironmentProblem without SciPy.
    """
    scipy_io = require("scipy.io", "host")
    if _is_hdf5(path):
        raise UsageError(
            f"{path} is a .mat file of version 7.3, which is HDF5; .mat files are read here up to version 7, as the "
            f"published ones are: in MATLAB, load it and write it with save('{path.name}', '{key}', '-v7')"
        )
    try:
        found = scipy_io.loadmat(path, variable_names=[key])
        if key in found:
            return np.asarray(found[key])
        names = sorted(name for name, _, _ in scipy_io.whosmat(path))
    except (*_BROKEN, scipy_io.matlab.MatReadError) as error:
        raise UsageError(f"cannot read the .mat file {path}: {error}; unpack or download it again") from None
    raise UsageError(
        f"{path} has no variable {key!r}; it has {', '.join(names) or 'none'}: it belongs to another data set or variant"
    )


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_HDF5_AT[-1] + len(_HDF5))
    except OSError as error:
        raise UsageError(f"cannot read the .mat file {path}: {error}; unpack or download it again") from None
    return any(start[at : at + len(_HDF5)] == _HDF5 for at in _HDF5_AT)
