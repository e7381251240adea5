"""What an engine's inspector tells of the precision that was built, in the forms of TensorRT 10 and 11: pure. Needs no torch.

An engine that silently is FP32 where FP16 was asked for is the failure that this catches: it runs, and is several times slower.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from bmtas.errors import BuildError, UsageError, nearest

NOT_TOLD = "not told"
_TYPES = re.compile(
    r"(?<![a-z0-9])(?:(?P<bf16>bf16|bfloat16|bfloat)|(?P<fp16>fp16|float16|half)|(?P<fp8>fp8|float8|e4m3|e5m2)|(?P<fp4>fp4|e2m1)"
    r"|(?P<fp32>fp32|float32|float)|(?P<uint8>uint8)|(?P<int8>int8)|(?P<int4>int4)|(?P<int32>int32)|(?P<int64>int64)|(?P<bool>bool))"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
_COUNTED = (
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "fp8",
    "int4",
    "fp4",
)  # a camera's bytes and class ids say nothing of precision
_REDUCED = _COUNTED[1:]
LEAST_SHARE = {"fp16": 0.5, "bf16": 0.5, "int8": 0.25}
"""The least share of layer inputs and outputs in the precision asked for. An FP16 engine has FP32 at its ends and in the layers
kept for their range; an INT8 engine in what is not a convolution, too. An engine that lost its precision has none or a few."""


def layer_formats(text: str) -> dict[str, int]:
    """Return how many inputs and outputs of layers the engine has in each data format, as its inspector tells in JSON.

    TensorRT 10 tells `Format/Datatype`, 11 `DataType` and `Format`. Raises BuildError if the text is not what an inspector tells.
    """
    try:
        told = json.loads(text)
        layers = told["Layers"]
        formats = Counter(_format(tensor) for layer in layers for tensor in _tensors(layer))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"the engine's inspector tells something that bmtas does not know ({error!r}), so its precision cannot be proved; it begins "
            f"with {text[:80]!r}"
        ) from None
    return dict(sorted(formats.items()))


def _tensors(layer: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(layer, str):  # an engine built without DETAILED tells only names
        return
    for side in ("Inputs", "Outputs"):
        yield from layer.get(side, [])


def _format(tensor: Mapping[str, Any]) -> str:
    if "Format/Datatype" in tensor:
        return str(tensor["Format/Datatype"])
    told = [str(tensor[key]) for key in ("DataType", "Format") if key in tensor]
    return ", ".join(told) or NOT_TOLD


def number_type(data_format: str) -> str | None:
    """Return fp32, fp16, bf16, int8, ... that a format's text names first; None if it names none."""
    match = _TYPES.search(data_format)
    return match.lastgroup if match else None


def found_precision(formats: Mapping[str, int]) -> dict[str, float]:
    """Return the share of layer inputs and outputs in each number type, largest first; bytes of images and ids left out."""
    counts: Counter[str] = Counter()
    for data_format, count in formats.items():
        kind = number_type(data_format)
        if kind in _COUNTED:
            counts[kind] += count
    total = sum(counts.values())
    return {kind: count / total for kind, count in counts.most_common()}


def check_precision(asked: str, formats: Mapping[str, int], least: float | None = None) -> None:
    """Raise BuildError if an engine with these formats is not in the precision asked for.

    FP32 must have nothing reduced; the others at least the share `least` (LEAST_SHARE if None) of their own type. Raises UsageError
    for an unknown precision or a share outside 0 to 1.
    """
    if asked != "fp32" and asked not in LEAST_SHARE:
        raise UsageError(f"unknown precision {asked!r}; {nearest(asked, ['fp32', *LEAST_SHARE])}")
    if least is not None and not 0 <= least <= 1:
        raise UsageError(f"a least share of {least:g}: give a number from 0 to 1")
    shares = found_precision(formats)
    said = ", ".join(f"{share:.0%} {kind}" for kind, share in shares.items())
    if not shares:
        raise BuildError(
            f"the engine does not tell in which precision its layers were built (formats: {', '.join(formats) or 'none'}), so {asked} "
            "cannot be proved; build it again with `bmtas build`, which asks TensorRT to keep that"
        )
    if asked == "fp32":
        reduced = [kind for kind in shares if kind in _REDUCED]
        if reduced:
            raise BuildError(
                f"TensorRT built layers in reduced precision where fp32 was asked for: {said} of layer inputs and outputs. If the ONNX "
                f"file is meant to be {reduced[0]}, say --precision {reduced[0]}"
            )
        return
    wanted = LEAST_SHARE[asked] if least is None else least
    if shares.get(asked, 0.0) < wanted:
        raise BuildError(
            f"the engine is not {asked}: {said} of layer inputs and outputs, and at least {wanted:.0%} must be {asked}. The precision is in "
            "the ONNX file: export it with this precision. If layers were kept in higher precision on purpose, lower --least-share"
        )
