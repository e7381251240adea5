"""What a device has measured of a network, and what measures one: the words between a search and a device. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bmtas.architecture import Architecture
from costs.units import Resource


@dataclass(frozen=True)
class Reading:
    """What one network was measured to take, in the base unit: the median, and the upper end of its confidence interval.

    `about` is what else is to be told of the measurement, as plain JSON values.
    """

    median: float
    upper: float
    about: Mapping[str, Any] = field(default_factory=dict)


class Meter(Protocol):
    """Measures networks on the device that the table was measured on."""

    def __call__(self, architecture: Architecture) -> Mapping[Resource, Reading]:
        """Return what the network of `architecture` takes; resources that are not measured here are left out."""
