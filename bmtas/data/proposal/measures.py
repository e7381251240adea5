"""Files of numbers that measure something: depth with the scale of its unit, or any other regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bmtas.data.proposal.found import Line, Meaning, Refused
from bmtas.data.proposal.layout import Stream
from bmtas.data.proposal.values import Pixels
from bmtas.data.stored import SIXTEEN_BIT
from bmtas.tasks import TaskKind

_TOP = 65535
_FULL = 0.98 * _TOP  # greatest value of a file that was stretched to its own maximum
_OFTEN = 0.8  # share of files
_SOFT = 0.9  # share of pixels that are 0 or 255 in a mask with soft edges
_SCALES = {
    1000: "millimetres",
    256: "1/256 m, as KITTI has",
    5000: "1/5000 m, as TUM has",
    512: "1/512 m, as Taskonomy has",
    100: "centimetres",
    10000: "tenths of a millimetre",
}
_NEAR, _FAR = 0.25, 60.0  # metres between which the median of a picture's depth plausibly lies
_ROOM = 20.0  # metres; whole depth maps in millimetres are of rooms
_MILLIMETRES = 100.0  # a median depth above this is hardly in metres


def guess_measure(stream: Stream, looks: Sequence[Pixels], said: Sequence[str]) -> Meaning | Refused:
    """Return whether numbers are depth, another measure, or a mask with soft edges."""
    look = looks[0]
    if look.mode == "npy":
        return _depth_array(looks) if "depth" in said[:1] else _array(looks, said)
    if look.mode in SIXTEEN_BIT:
        return _sixteen_bits(looks, said)
    if look.mode == "L":
        extreme = float(np.mean([look.zero + look.part_255 for look in looks]))
        if extreme >= _SOFT and said[:1] != ["depth"]:
            return _soft_mask(looks, extreme)
        return _eight_bits(looks, said)
    return Refused(
        stream.title,
        f"{look.what} with up to {max(x.distinct for x in looks)} values",
        "write classes as ids 0, 1, ... and measures as 16-bit grey PNG or .npy",
    )


def _sixteen_bits(looks: Sequence[Pixels], said: Sequence[str]) -> Meaning:
    full = sum(look.high >= _FULL for look in looks)
    relative = len(looks) >= 3 and full >= _OFTEN * len(looks)
    evidence = f"16 bits, {_range(looks)}"
    if not relative and said[:1] != ["regression"]:
        lines, doubts = _scales(looks)
        if not said:
            doubts += ("taken for depth because it has 16 bits, not by the name",)
        lines += (Line("kind", "regression", "if this is no depth; 'scale' then makes the numbers small", True),)
        return Meaning(TaskKind.DEPTH, (Line("encoding", "uint16"), *_invalid_top(looks), *lines), evidence, doubts)
    lines = (Line("encoding", "uint16"), *_invalid(looks))
    if relative:
        why = f"the greatest value is near 65535 in {full} of {len(looks)} files: each has a scale of its own"
        lines += (Line("normalise", "median_mad", why),)
        doubts = (
            () if said[:1] == ["regression"] else ("every file has a scale of its own, so this is no depth in metres",)
        )
        return Meaning(TaskKind.REGRESSION, lines, f"{evidence}; each file fills them", doubts)
    high = max(look.high for look in looks)
    lines += (
        Line("scale", f"{1 / high:.6g}", f"1/{high:g}, so that the network learns numbers up to 1"),
        Line("normalise", "median_mad", "if only relative values within an image mean something", True),
    )
    return Meaning(TaskKind.REGRESSION, lines, f"{evidence}; the name says no depth")


def _eight_bits(looks: Sequence[Pixels], said: Sequence[str]) -> Meaning:
    lines = (
        Line("encoding", "uint8"),
        Line("scale", f"{1 / 255:.6g}", "1/255, so that the network learns numbers up to 1"),
        *_invalid(looks),
    )
    doubts: tuple[str, ...] = ()
    if "depth" in said[:1]:
        doubts = (
            "8 bits hold no depth in metres: learnt as relative numbers; write 16-bit files in millimetres for 'kind: depth'",
        )
    evidence = f"8 bits, up to {max(look.distinct for look in looks)} values in a file that change from pixel to pixel"
    return Meaning(TaskKind.REGRESSION, lines, evidence, doubts)


def _soft_mask(looks: Sequence[Pixels], extreme: float) -> Meaning:
    return Meaning(
        TaskKind.BINARY,
        (
            Line("ignore", "null", "255 is the foreground"),
            Line("kind", "regression", "to learn the values in between; then with 'encoding: uint8'", True),
        ),
        f"{extreme:.1%} of the pixels are 0 or 255, the others are soft edges",
        ("every value above 0 counts as foreground, soft edges too",),
    )


def _depth_array(looks: Sequence[Pixels]) -> Meaning:
    middle = float(np.nanmedian([look.quantiles[1] for look in looks]))
    far = float(np.nanmax([look.quantiles[2] for look in looks]))
    evidence = f"{looks[0].what}, {_range(looks)}"
    lines: tuple[Line, ...] = (Line("encoding", "npy"),)
    if middle > _MILLIMETRES:
        lines += (
            Line("scale", "0.001", f"millimetres: median {middle / 1000:.3g} m, 99 % below {far / 1000:.3g} m"),
            Line("scale", "1", f"if these are metres: median {middle:.4g} m", True),
        )
    else:
        lines += (Line("scale", "1", f"metres: median {middle:.3g} m, 99 % below {far:.3g} m"),)
    doubts = ("there are negative values, which do not count as depth",) if _least(looks) < 0 else ()
    return Meaning(TaskKind.DEPTH, lines, f"{evidence}; the name says depth", doubts)


def _array(looks: Sequence[Pixels], said: Sequence[str]) -> Meaning:
    lines = (
        Line("encoding", "npy"),
        *_invalid(looks),
        Line("kind", "depth", "if these are metres along the viewing direction", True),
    )
    name = "the name says no depth" if said[:1] == ["regression"] else "the name does not say what it measures"
    return Meaning(TaskKind.REGRESSION, lines, f"{looks[0].what}, {_range(looks)}; {name}")


def _scales(looks: Sequence[Pixels]) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Return the scale that makes metres of the values, and others that would be possible."""
    middle = float(np.nanmedian([look.quantiles[1] for look in looks]))
    far = float(np.nanmax([look.quantiles[2] for look in looks]))
    empty = float(np.mean([look.zero for look in looks]))
    fives = int(np.gcd.reduce([look.step for look in looks])) % 5 == 0
    order = list(_SCALES)
    if fives and middle / 5000 >= _NEAR:
        order = [5000, *order]
        why = "all values are multiples of 5, "
    elif empty > 0.5:
        order = [256, *order]
        why = f"{empty:.0%} of the pixels are empty, as in maps of a lidar, "
    elif middle / 1000 < _NEAR:
        order, why = [100, *order], "in millimetres all would be very near, "
    else:
        order = order if far / 1000 <= _ROOM else [5000, *order]
        why = ""
    fitting = [unit for unit in dict.fromkeys(order) if _NEAR <= middle / unit <= _FAR] or [1000]

    def line(unit: int, first: str, alternative: bool) -> Line:
        text = f"{first}{_SCALES[unit]}: median {middle / unit:.3g} m, 99 % below {far / unit:.3g} m"
        return Line("scale", f"{1 / unit:.10g}", text, alternative)

    lines = (line(fitting[0], why, False), *(line(unit, "", True) for unit in fitting[1:4]))
    return lines, (f"the scale is a guess from the range ({_SCALES[fitting[0]]}): compare a distance that you know",)


def _invalid_top(looks: Sequence[Pixels]) -> tuple[Line, ...]:
    files = sum(look.top > 0 for look in looks)
    return (
        (Line("invalid", str(_TOP), f"65535 is in {files} of {len(looks)} files, far above the rest"),) if files else ()
    )


def _invalid(looks: Sequence[Pixels]) -> tuple[Line, ...]:
    """Return whether 0 stands for no value: it is there, and nothing comes near it."""
    files = sum(look.zero > 0 for look in looks)
    if not files:
        return ()
    step = float(np.gcd.reduce([look.step for look in looks]))
    least = min((look.low for look in looks if look.low > 0), default=0.0)
    if min(look.low for look in looks) > 0 and looks[0].dtype.kind in "iu" and least > 8 * step:
        return (Line("invalid", "0", f"0 is in {files} of {len(looks)} files, and the next value is {least:g}"),)
    return (Line("invalid", "0", f"if 0, which is in {files} of {len(looks)} files, means no value", True),)


def _least(looks: Sequence[Pixels]) -> float:
    return float(np.nanmin([look.low for look in looks]))


def _range(looks: Sequence[Pixels]) -> str:
    empty = float(np.mean([look.zero + look.wrong for look in looks]))
    high = float(np.nanmax([look.high for look in looks]))
    return f"values {_least(looks):g} to {high:g} in {len(looks)} files, {empty:.1%} of the pixels 0 or no number"
