"""The machine that a table was measured on. Needs no torch."""

from __future__ import annotations

from pydantic import ValidationError

from bmtas.errors import UsageError
from bmtas.files import first_problem
from costs.measurement import Measurement
from export.machine.identity import Identity, unlike


def measured_on(measurement: Measurement) -> Identity:
    """Return the machine that a table was measured on. Raises UsageError if it does not tell."""
    try:
        return Identity.model_validate(measurement.device)
    except ValidationError as error:
        told = first_problem(error)
        raise UsageError(f"the table does not tell what it was measured on ({told}); measure it again") from None


def differences(measurement: Measurement, here: Identity) -> list[str]:
    """Return in what the machine that a table was measured on differs from this one; nothing if times are comparable."""
    return unlike(measured_on(measurement), here, measurement.runtime)
