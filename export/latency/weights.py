"""Lets all files of a kit point into one file of numbers instead of carrying weights of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bmtas.files import atomic_path
from export.latency.kit import WEIGHTS

if TYPE_CHECKING:
    from onnx import ModelProto

_PAGE: Final = 4096
_STARTS: Final = 1024
"""Weights begin at so many different places, so that no runtime takes two of them for the same."""
_KEPT_BYTES: Final = 1024
"""Smaller constants may be shapes, scales and bounds, whose values matter."""
_DEVIATION: Final = 0.02
"""Small enough that nothing overflows on the way; biases of this size keep what flows from fading into denormal numbers."""

_INT8_DEVIATION: Final = 32.0


class SharedWeights:
    """The file of numbers of one folder of a kit."""

    def __init__(self) -> None:
        self._next = 0
        self._types: dict[int, int] = {}  # ONNX element type to the bytes that its longest tensor takes

    def share(self, model: ModelProto) -> None:
        """Replace the weights of `model`, its large constants, by places in the file; others stay where they are."""
        import onnx

        proto = onnx.TensorProto
        weights = (proto.FLOAT, proto.FLOAT16, proto.BFLOAT16, proto.INT8)
        scales = _scales(model)
        for constant in model.graph.initializer:
            length = _bytes(constant)
            if constant.data_type not in weights or constant.name in scales or length < _KEPT_BYTES:
                continue
            self._types[constant.data_type] = max(self._types.get(constant.data_type, 0), length)
            offset = self._next % _STARTS * _PAGE
            self._next += 1
            for field in (
                "raw_data",
                "float_data",
                "int32_data",
            ):  # the second and third hold floats and all shorter types
                constant.ClearField(field)
            constant.data_location = onnx.TensorProto.EXTERNAL
            del constant.external_data[:]
            for key, value in (("location", self.name(constant.data_type)), ("offset", offset), ("length", length)):
                constant.external_data.add(key=key, value=str(value))

    def name(self, element: int) -> str:
        """Return the name of the file for an ONNX element type."""
        from onnx import TensorProto

        kind = "" if element == TensorProto.FLOAT else f".{TensorProto.DataType.Name(element).lower()}"
        return WEIGHTS.replace(".bin", f"{kind}.bin")

    def write(self, folder: Path) -> list[str]:
        """Write the numbers that the files point to, drawn anew from the same seed each time; return the files' names."""
        import onnx

        for element, longest in self._types.items():
            kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
            size = (longest + _STARTS * _PAGE) // kind.itemsize + 1
            integers = element == onnx.TensorProto.INT8
            numbers = np.random.default_rng(0).normal(0, _INT8_DEVIATION if integers else _DEVIATION, size)
            if integers:
                numbers = numbers.clip(-127, 127)  # as quantised weights are: symmetric
            content = numbers.astype(np.float32).astype(kind).tobytes()
            with atomic_path(folder / self.name(element)) as temporary:
                temporary.write_bytes(content)
        return [self.name(element) for element in self._types]


def _scales(model: ModelProto) -> set[str]:
    """Return the scales and zero points of 8-bit numbers: with one per channel they are long, and their values matter, too."""
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return {name for node in model.graph.node if node.op_type in kinds for name in node.input[1:]}


def _bytes(constant: object) -> int:
    from onnx.numpy_helper import to_array

    return int(to_array(constant).nbytes)
