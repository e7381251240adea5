"""Resources, their units, and quantities written by people: `9GMAdds`, `4.5 MParams`, `12ms`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from enum import Enum
from typing import Final, Literal

from costs.errors import CostError


class Resource(str, Enum):
    """What a network uses up; the value is the key in JSON, with the base unit in its name.

    Functions of this package that take a resource take its key as well: `"latency_ms"`.
    """

    MADDS = "madds"
    """Multiply-adds: one multiply with its add counts 1."""
    PARAMS = "params"
    """Trainable parameters."""
    LATENCY_MS = "latency_ms"
    """Milliseconds for one pass."""
    ENERGY_MJ = "energy_mj"
    """Millijoules for one pass."""
    PEAK_MEMORY_MIB = "peak_memory_mib"
    """Mebibytes of activations alive at once, at the worst moment of one pass: a maximum over layers, not a sum."""

    @property
    def is_peak(self) -> bool:
        """Whether the parts of a network add up to their maximum and not to their sum."""
        return self is Resource.PEAK_MEMORY_MIB

    @property
    def label(self) -> str:
        """Name for people, without a unit, which quantities carry themselves."""
        return _LABELS[self]

    def __str__(self) -> str:
        """Return the JSON key, so that messages read `madds` and not `Resource.MADDS`."""
        return self.value


def as_resource(found: object) -> Resource:
    """Return the resource that is given, also by its key. Raises CostError, naming the known ones, if there is none."""
    try:
        return Resource(found)
    except ValueError:
        raise CostError(f"resource: found {found!r}, known: {', '.join(Resource)}; give one of them") from None


Dependence = Literal["groups_proportional", "group_count", "partition"]
"""What the cost of a layer is a function of, from the most special to the most general."""


@dataclass(frozen=True)
class Budget:
    """A limit on one resource: `value` in the base unit (multiply-adds, parameters, ms, mJ, MiB), `text` as it was given, without blanks."""

    resource: Resource
    value: float
    text: str

    def __post_init__(self) -> None:
        """Take the resource by its key, too. Raises CostError if it is not known."""
        object.__setattr__(self, "resource", as_resource(self.resource))


_PREFIX_EXPONENTS: Final = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12}
_PREFIX_OF: Final = {0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
_WORD_UNITS: Final = {"madds": Resource.MADDS, "params": Resource.PARAMS}
_TIME_EXPONENTS: Final = {"us": -3, "µs": -3, "μs": -3, "ms": 0, "s": 3}
_ENERGY_EXPONENTS: Final = {"uJ": -3, "µJ": -3, "μJ": -3, "mJ": 0, "J": 3}
"""The case of these matters: 1 MJ would be a million joules."""
_MEMORY_POWERS: Final = {"kib": -1, "mib": 0, "gib": 1}
_UNIT_NAMES: Final = {
    Resource.MADDS: "MAdds",
    Resource.PARAMS: "Params",
    Resource.LATENCY_MS: "ms",
    Resource.ENERGY_MJ: "mJ",
    Resource.PEAK_MEMORY_MIB: "MiB",
}
_LABELS: Final = {
    Resource.MADDS: "MAdds",
    Resource.PARAMS: "Params",
    Resource.LATENCY_MS: "Latency",
    Resource.ENERGY_MJ: "Energy",
    Resource.PEAK_MEMORY_MIB: "Peak memory",
}
_EXAMPLE: Final = "write for example 9GMAdds, 4.5MParams or 64MiB"

_QUANTITY: Final = re.compile(
    r"\s*(?P<number>[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?(?![a-z])|nan(?![a-z])))?"
    r"\s*(?P<unit>.*?)\s*",
    re.DOTALL,
)


def parse_budget(text: str) -> Budget:
    """Read a budget: a decimal number, an optional SI prefix (k, M, G, T) and a unit (MAdds, Params), or a number
    with ms, us or s (latency), uJ, mJ or J (energy), or KiB, MiB or GiB (peak memory).

    Spaces around the unit and the case of the unit's letters do not matter; the case of prefixes and of joules does.
    Raises CostError if the number is missing or not positive and finite, or the unit is missing or unknown.
    """
    if not isinstance(text, str):
        raise CostError(
            f"budget {text!r}: found {type(text).__name__}, expected a number and a unit as text; {_EXAMPLE}"
        )
    match = _QUANTITY.fullmatch(text)
    number, unit = (match["number"], match["unit"]) if match else (None, text)
    if number is None:
        raise CostError(f"budget {text!r}: no number found; a budget is a number and a unit, {_EXAMPLE}")
    if not unit:
        raise CostError(f"budget {text!r}: no unit found after {number}; {_EXAMPLE}")
    resource, exponent, factor = _read_unit(unit, text)
    try:
        value = float(Decimal(number).scaleb(exponent)) * factor  # Decimal, so that 4.1GMAdds is exactly 4100000000
    except ArithmeticError:  # an exponent beyond all measure
        value = math.inf
    if not (math.isfinite(value) and value > 0):
        raise CostError(f"budget {text!r}: found {number}, but a budget is positive and finite; {_EXAMPLE}")
    return Budget(resource, value, "".join(text.split()))


def as_budgets(budgets: Sequence[Budget | str]) -> tuple[Budget, ...]:
    """Return the budgets, those given as text read by `parse_budget`.

    Raises CostError as that does, and if `budgets` is no sequence: a single budget is given as `[budget]`.
    """
    if isinstance(budgets, str) or not isinstance(budgets, Sequence):
        raise CostError(f"budgets: found {budgets!r} alone, expected a sequence of budgets; give [{budgets!r}]")
    return tuple(budget if isinstance(budget, Budget) else parse_budget(budget) for budget in budgets)


def _read_unit(unit: str, text: str) -> tuple[Resource, int, float]:
    """Return the resource, and the power of ten and the factor to its base unit, of `unit` with its prefix."""
    if unit.lower() in _TIME_EXPONENTS:
        return Resource.LATENCY_MS, _TIME_EXPONENTS[unit.lower()], 1.0
    if unit in _ENERGY_EXPONENTS:
        return Resource.ENERGY_MJ, _ENERGY_EXPONENTS[unit], 1.0
    if unit.lower() in _MEMORY_POWERS:
        return Resource.PEAK_MEMORY_MIB, 0, 1024.0 ** _MEMORY_POWERS[unit.lower()]
    for name, resource in _WORD_UNITS.items():
        if unit.lower().endswith(name):
            prefix = unit[: -len(name)].strip()
            if prefix in _PREFIX_EXPONENTS:
                return resource, _PREFIX_EXPONENTS[prefix], 1.0
            raise CostError(
                f"budget {text!r}: {prefix!r} before {_UNIT_NAMES[resource]} is not a prefix known here; "
                f"known: k, M, G, T (case matters, M is a million); {_EXAMPLE}"
            )
    raise CostError(f"budget {text!r}: {unit!r} is not a unit known here;{_hint(unit)} {_EXAMPLE}")


def _hint(unit: str) -> str:
    if re.search(r"flops?", unit, re.IGNORECASE):
        return (
            " MAdds are meant: one multiply with its add counts 1 (FLOPs count the two apart and are about 2x as "
            "many, though some papers call MAdds FLOPs: halve the number only if yours counts both);"
        )
    if re.search(r"macs?$", unit, re.IGNORECASE):
        return " MACs are the same as MAdds, the name used here;"
    if re.fullmatch(r"[kmgt]?b(ytes?)?", unit, re.IGNORECASE):
        return (
            " memory is given in KiB, MiB or GiB, powers of 1024 (MB means a million bytes to some and 2^20 to others);"
        )
    if re.fullmatch(r"[ukm]?j(oules?)?", unit, re.IGNORECASE):
        return " energy is given in uJ, mJ or J (case matters, MJ would be a million joules);"
    return " known: MAdds, Params (with k, M, G or T before them), ms, us, s, uJ, mJ, J, KiB, MiB, GiB;"


def format_quantity(value: float, resource: Resource, *, digits: int = 3, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return `value` (base unit) with `digits` significant digits, SI prefix and unit, as in `9.00 GMAdds`.

    `rounding` is one of the constants of `decimal`. Digits before the point are never rounded away: `1234
    ms`, `1536 MiB`.
    """
    unit = _UNIT_NAMES[resource]
    if not math.isfinite(value) or value == 0:
        return f"{value:g} {unit}"
    number = Decimal(value)
    if abs(number) >= Decimal(10) ** 27:  # beyond what a decimal context of 28 digits rounds
        return f"{value:.{digits - 1}e} {unit}"
    largest = max(_PREFIX_OF) if resource in _WORD_UNITS.values() else 0
    exponent = min(max(number.adjusted() // 3 * 3, 0), largest)
    rounded = _round(number.scaleb(-exponent), digits, rounding)
    if abs(rounded) >= 1000 and exponent < largest:  # 999.9996 million is 1.00 G, not 1000 M
        exponent += 3
        rounded = _round(number.scaleb(-exponent), digits, rounding)
    return f"{rounded:f} {_PREFIX_OF[exponent]}{unit}"


def unit_scale(value: float, resource: Resource) -> tuple[float, str]:
    """Return what to divide by and the unit with its prefix, so that `value` is a short number: (1e9, "GMAdds")."""
    unit = format_quantity(value, resource).split()[-1]
    prefix = unit.removesuffix(_UNIT_NAMES[resource])
    return 10.0 ** _PREFIX_EXPONENTS[prefix], unit


def _round(number: Decimal, digits: int, rounding: str) -> Decimal:
    """Round to `digits` significant digits, but never before the point."""
    place = min(number.adjusted() - digits + 1, 0)
    rounded = number.quantize(Decimal(1).scaleb(place), rounding=rounding)
    if rounded.adjusted() > number.adjusted():  # 9.999 became 10.00: one digit after the point too many
        rounded = rounded.quantize(Decimal(1).scaleb(min(place + 1, 0)))
    return rounded
