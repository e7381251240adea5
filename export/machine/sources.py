"""What can be sampled on this machine: sensors, energy counters, and what tells that a clock was lowered."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Quantity = Literal["temperature_c", "clocks_mhz", "power_w"]
Part = Literal["board", "gpu", "cpu", "other"]
"""What a rail feeds: the whole board, a whole GPU, a whole processor package, or some piece of these."""


@dataclass(frozen=True)
class Sensor:
    """Something that is read again and again; `read` returns None where it tells nothing."""

    name: str
    quantity: Quantity
    read: Callable[[], float | None]
    part: Part = "other"


@dataclass(frozen=True)
class Counter:
    """A counter of energy in mJ that begins again from 0 at `wraps_at_mj`. `gives_power` where nothing else tells the rail's power."""

    name: str
    read: Callable[[], float | None]
    wraps_at_mj: float
    part: Part = "other"
    gives_power: bool = False


@dataclass(frozen=True)
class Watch:
    """What tells why a clock is lowered now (or, where `events`, what has happened since it was made): no reasons if it is not."""

    part: str
    read: Callable[[], list[str] | None]
    events: bool = False


@dataclass
class Sources:
    """All that can be sampled; `main` names the rail of a whole board, GPU or CPU, `totals` those that are the sum of others."""

    sensors: list[Sensor] = field(default_factory=list)
    counters: list[Counter] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    totals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    main: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    closers: list[Callable[[], None]] = field(default_factory=list)

    def add(self, sensor: Sensor, reason: Callable[[], str]) -> None:
        """Add a sensor if it tells something now; otherwise note the `reason`."""
        if sensor.read() is None:
            self.unavailable[f"{sensor.quantity}.{sensor.name}"] = reason()
        else:
            taken = {other.name for other in self.sensors if other.quantity == sensor.quantity}
            self.sensors.append(dataclasses.replace(sensor, name=_free(sensor.name, taken)))

    def add_counter(self, counter: Counter) -> None:
        """Add a counter of energy."""
        taken = {other.name for other in self.counters}
        self.counters.append(dataclasses.replace(counter, name=_free(counter.name, taken)))

    def rails_of(self, part: Part) -> list[str]:
        """Return the rails that feed a part as a whole."""
        powers = [sensor.name for sensor in self.sensors if sensor.quantity == "power_w" and sensor.part == part]
        return list(dict.fromkeys([*powers, *(counter.name for counter in self.counters if counter.part == part)]))

    def close(self) -> None:
        """Close all files and libraries."""
        for close in self.closers:
            with contextlib.suppress(OSError):
                close()
        self.closers.clear()


def _free(name: str, taken: set[str]) -> str:
    """Return a name that nothing has yet: two zones of a machine may be of one type."""
    names = (name if number == 1 else f"{name} {number}" for number in itertools.count(1))
    return next(each for each in names if each not in taken)
