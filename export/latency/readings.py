"""What a device has measured of an exported network, to correct a table by. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bmtas.errors import UsageError
from bmtas.readings import Reading
from costs.measurement import Measurement
from costs.table import CostTable
from costs.units import Resource
from export.bench.report import Report, Result, read_report
from export.latency.machine import differences


def readings_from(
    path: Path, table: CostTable, costs: Mapping[Resource, float], tasks: tuple[str, ...], network: str
) -> dict[Resource, Reading]:
    """Return what the report at `path` (`bmtas bench --json`) says of `network`, in the resources that `table` has from a device.

    `costs` are those of the run's network by its table: a network of other multiply-adds is another one. Raises UsageError if the report is of
    another device, network, runtime, precision, size or batch, or of a measurement that did not come to rest.
    """
    if not table.measured:
        raise UsageError(
            "the run's table was not measured, so there is nothing to correct; search with one that was (`bmtas profile --latency`)"
        )
    report = read_report(path)
    about = next(iter(table.measured.values()))
    elsewhere = differences(about, report.device)
    if elsewhere:
        raise UsageError(f"{path} is of another device than the table: {'; '.join(elsewhere)}; measure on that one")
    result = _result(path, report, about, network)
    _require_same_network(path, result, table, costs, tasks)
    _require_rest(path, report, result)
    assert result.compute.high_ms is not None
    readings = {Resource.LATENCY_MS: Reading(result.compute.median_ms, result.compute.high_ms)}
    energy, own = result.energy.gross_mj or {}, table.measured.get(Resource.ENERGY_MJ)
    if own is not None and own.rail in energy:
        readings[Resource.ENERGY_MJ] = Reading(energy[own.rail], energy[own.rail])
    return {resource: reading for resource, reading in readings.items() if resource in table.measured}


def _result(path: Path, report: Report, about: Measurement, network: str) -> Result:
    """Return the one result that was measured as the table was."""
    named = [r for r in report.results if r.network == network]
    if not named:
        known = ", ".join(sorted({r.network for r in report.results}))
        raise UsageError(f"{path} tells of {known}, not of {network}; say by --network which of them is the run's")
    wanted = (about.runtime, about.provider, about.precision, about.threads)
    alike = [r for r in named if (r.runtime, r.provider, r.precision, r.threads) == wanted]
    if not alike:
        found = "; ".join(f"{r.runtime}, {r.provider}, {r.precision}, {r.threads} threads" for r in named)
        raise UsageError(
            f"{path} has {network} in {found}, the table is of {about.runtime}, {about.provider}, {about.precision}, {about.threads} "
            "threads; measure it so"
        )
    return alike[0]


def _require_same_network(
    path: Path, result: Result, table: CostTable, costs: Mapping[Resource, float], tasks: tuple[str, ...]
) -> None:
    height, width = table.input_size
    shapes = ([table.batch, 3, height, width], [table.batch, height, width, 3])
    if result.input_shape not in shapes:
        raise UsageError(
            f"{path}: the network takes {'x'.join(map(str, result.input_shape))}, the table is of batch {table.batch} at {height}x{width}; "
            "measure the run's own export"
        )
    madds = (result.costs or {}).get(Resource.MADDS.value)
    if sorted(result.tasks) != sorted(tasks) or (madds is not None and madds != costs.get(Resource.MADDS, madds)):
        raise UsageError(
            f"{path}: {result.network} has the tasks {', '.join(result.tasks) or 'unknown'} and {madds or 'unknown'} MAdds, the run's network "
            f"{', '.join(tasks)} and {costs.get(Resource.MADDS)}; measure the run's own export"
        )


def _require_rest(path: Path, report: Report, result: Result) -> None:
    """Raise UsageError where a number is not the time of one inference after the other on a machine at rest."""
    reasons = list(result.compute.unmet)
    if result.compute.high_ms is None:
        reasons.append("too few samples for an interval")
    if result.frames is not None or result.paced is not None:
        reasons.append("it is of tasks at rates of their own, or of frames at a pace")
    if report.conditions.throttled:
        reasons.append(f"the device was throttled ({', '.join(report.conditions.throttle_reasons)})")
    if reasons:
        raise UsageError(
            f"{path}: {result.network} cannot correct a table: {'; '.join(reasons)}. Measure again, longer (--time-cap), with nothing else running"
        )
