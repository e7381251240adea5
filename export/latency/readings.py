"""What a device has measured of an exported network, to correct a table by. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from bmtas.closing import Reading
from bmtas.errors import UsageError
from costs.measurement import Measurement
from costs.table import CostTable
from costs.units import Resource
from export.bench.report import Result, read_report
from export.machine.identity import Identity, unlike


def readings_from(path: Path, table: CostTable, tasks: tuple[str, ...], network: str) -> dict[Resource, Reading]:
    """Return what the report at `path` (`bmtas bench --json`) says of `network`, in the resources that `table` has from a device.

    Raises UsageError if the report is of another device, runtime, precision or other tasks than the table, or does not tell of the network.
    """
    if not table.measured:
        raise UsageError(
            "the run's table was not measured, so there is nothing to correct; search with one that was (`bmtas profile --latency`)"
        )
    report = read_report(path)
    about = next(iter(table.measured.values()))
    differences = unlike(Identity.model_validate(about.device), report.device)
    if differences:
        raise UsageError(f"{path} is of another device than the table: {'; '.join(differences)}; measure on that one")
    result = _result(path, report.results, about, tasks, network)
    upper = result.compute.high_ms or result.compute.median_ms
    readings = {Resource.LATENCY_MS: Reading(result.compute.median_ms, upper)}
    energy, rail = result.energy.gross_mj, result.energy.main_rail
    if energy is not None and rail is not None and rail in energy:
        readings[Resource.ENERGY_MJ] = Reading(energy[rail], energy[rail])
    return {resource: reading for resource, reading in readings.items() if resource in table.measured}


def _result(path: Path, results: list[Result], about: Measurement, tasks: tuple[str, ...], network: str) -> Result:
    """Return the one result that was measured as the table was."""
    named = [r for r in results if r.network == network] or (results if len(results) == 1 else [])
    if not named:
        raise UsageError(
            f"{path} tells of {', '.join(sorted({r.network for r in results}))}, not of {network}; name one with --network"
        )
    alike = [
        r
        for r in named
        if (r.runtime, r.provider, r.precision, r.threads)
        == (about.runtime, about.provider, about.precision, about.threads)
    ]
    if not alike:
        found = "; ".join(f"{r.runtime}, {r.provider}, {r.precision}, {r.threads} threads" for r in named)
        raise UsageError(
            f"{path} has {named[0].network} in {found}, the table is of {about.runtime}, {about.provider}, {about.precision}, {about.threads} "
            "threads; measure it so"
        )
    if tuple(alike[0].tasks) and sorted(alike[0].tasks) != sorted(tasks):
        raise UsageError(
            f"{path}: the network has the tasks {', '.join(alike[0].tasks)}, the run {', '.join(tasks)}; give the run's own"
        )
    return alike[0]
