"""What a table with measured costs says of their measurement: on what, how, and how far whole networks were off."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from costs.parts import Frozen
from costs.units import Resource

MOST_ERROR: Final = 0.10
"""A budget in a measured resource is refused where whole networks are further off than this (median, relative)."""

_Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Positive = Annotated[int, Field(gt=0, strict=True)]


class HeldOut(Frozen):
    """How far whole networks that the table was not fitted to are from it; errors are |predicted - measured| / measured.

    Attributes:
        networks: how many there are.
        median_error: of all of them.
        median_interval: 95 % confidence interval of the median error, by bootstrap over the networks.
        worst_error: of all of them.
        ratio_interval: the least and greatest measured / predicted.
        proportional_median_error: the median error of the prediction that is proportional to multiply-adds.
        proportional_worst_error: its worst error.
    """

    networks: _Positive
    median_error: _Share
    median_interval: tuple[_Share, _Share]
    worst_error: _Share
    ratio_interval: tuple[_Ratio, _Ratio]
    proportional_median_error: _Share
    proportional_worst_error: _Share


class Correction(Frozen):
    """A network that was measured after the table: all costs were multiplied by `factor`, `upper` / `predicted`.

    `median` and `upper` are what was measured: the median, and the upper end of its confidence interval.
    """

    group_counts: list[_Positive]
    predicted: _Ratio
    median: _Ratio
    upper: _Ratio
    factor: _Ratio


class Measurement(Frozen):
    """How one resource of a table was measured.

    Attributes:
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        runtime: with its version, `onnxruntime 1.31.1`.
        provider: where the runtime ran, in its own name for it.
        threads: per operator, 0 where the runtime chose.
        device: the identity of the machine, as `bmtas doctor --json` has it.
        date: when the last of it was measured, ISO 8601.
        samples: runs of each part and network, at least.
        spread: median over all parts of the relative standard error of their medians.
        held_out: how far whole networks were from the table when it was fitted, before any correction.
        coefficients: of the fit (`export.latency.fit`): `sum`, `elements`, `constant`.
        corrections: those applied since, in order.
        margin: the costs in the table are so many times what was fitted and corrected, for a device that is not at hand.
        rail: of energy: the power rail that was measured.
    """

    precision: str
    runtime: str
    provider: str
    threads: Annotated[int, Field(ge=0, strict=True)]
    device: dict[str, Any]
    date: str
    samples: _Positive
    spread: _Share
    held_out: HeldOut
    coefficients: dict[str, float]
    corrections: list[Correction] = Field(default_factory=list)
    margin: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    rail: str | None = None


Measurements = dict[Resource, Measurement]
