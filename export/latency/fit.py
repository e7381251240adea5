"""From measured parts to a cost table, and how far whole networks are from it. Needs no torch.

    latency(tree) = sum_l f_l(n_l) + fixed,     f_l(n) = a m_l(n) + b n e_l,     fixed = a (m_stem + m_heads) + b e + c

m_l(n) is the measured time of layer l with n groups, e_l the numbers that one group of it reads and gives. In a file of its own a
layer pays for being called and for bringing its inputs and outputs into the runtime's layout; inside a network it does not,
and what stands across two layers is fused. b takes back what is paid per number that crosses a border, c what is paid per
call, a what is left in proportion. The three come from whole networks (least squares of the relative error), and what the table
is worth from others.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bmtas.errors import UsageError
from bmtas.tables import architecture_costs
from costs.measurement import HeldOut, Measurement
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource
from export.latency.kit import Kit, NetworkEntry, Role
from export.latency.setting import Setting
from export.latency.visits import Visit, Visits, standard_error

_Floats = npt.NDArray[np.float64]
_FORMS: Final = (("sum", "elements", "constant"), ("sum", "constant"), ("sum",))
_RESAMPLES: Final = 2000
_CONFIDENCE: Final = 0.95
_ROUNDED: Final = 7
"""Significant digits of what stands in a table; clocks know fewer."""


@dataclass(frozen=True)
class Network:
    """A whole network of the kit: what was measured, and what the table and the multiply-adds alone say; in the base unit."""

    name: str
    role: Role
    group_counts: tuple[int, ...]
    measured: float
    predicted: float
    proportional: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**vars(self), "group_counts": list(self.group_counts)}


@dataclass(frozen=True)
class Fitted:
    """The table, and the kit's whole networks by resource."""

    table: CostTable
    networks: dict[Resource, list[Network]]


def fit_table(kit: Kit, measured: Visits, setting: Setting) -> Fitted:
    """Return the table of a kit that was measured in `setting`: multiply-adds and parameters as counted, latency and, where it was
    measured, energy as fitted. Raises UsageError if an item was not measured.
    """
    table = _counted_alone(kit.counted(), kit.data)
    networks = {}
    resources = [Resource.LATENCY_MS, *([Resource.ENERGY_MJ] if measured.header.rail is not None else [])]
    for resource in resources:
        fit = _Fit(kit, _values(kit, measured, resource), resource)
        table = fit.into(table)
        networks[resource] = fit.networks(table)
        about = _about(measured, setting, resource, fit.coefficients, networks[resource])
        table = table.model_copy(update={"measured": {**table.measured, resource: about}})
    return Fitted(table, networks)


def _counted_alone(counted: CostTable, data: str) -> CostTable:
    """Return the counted table with multiply-adds and parameters alone: the bound of memory is another version's business."""
    kept = (Resource.MADDS, Resource.PARAMS)
    return CostTable(
        backbone=counted.backbone,
        tasks=counted.tasks,
        input_size=counted.input_size,
        batch=counted.batch,
        depends_on=dict.fromkeys(kept, "groups_proportional"),
        layers=[LayerCost(name=x.name, per_group={r: x.per_group[r] for r in kept}) for x in counted.layers],
        fixed=[part.model_copy(update={"cost": {r: part.cost[r] for r in kept}}) for part in counted.fixed],
        provenance={**counted.provenance, "data": data},
    )


def _values(kit: Kit, measured: Visits, resource: Resource) -> dict[str, float]:
    """Return the time or energy of each item: its median ratio to the anchor times the anchor's median. Raises UsageError if one is missing."""
    latency = resource is Resource.LATENCY_MS

    def anchor(visit: Visit) -> list[float]:
        return visit.anchor_ms if latency else [visit.anchor_energy_mj] if visit.anchor_energy_mj else []

    scale = [value for visit in measured.visits for value in anchor(visit)]
    whole = statistics.median(scale) if scale else None
    values = {}
    for item in kit.items():
        ratios = _ratios(measured, item, resource)
        if not ratios or whole is None:
            raise UsageError(
                f"{item} has no {resource} yet: the measurement was stopped; `bmtas profile run` on the same kit goes on with it"
            )
        values[item] = statistics.median(ratios) * whole
    return values


def _ratios(measured: Visits, item: str, resource: Resource) -> list[float]:
    """Return what each visit of an item says of it relative to the anchor; energy is not measured in every one."""
    if resource is Resource.LATENCY_MS:
        return [visit.ratio for visit in measured.of(item)]
    both = [(visit.energy_mj, visit.anchor_energy_mj) for visit in measured.of(item)]
    return [own / anchor for own, anchor in both if own is not None and anchor is not None]


class _Fit:
    """The fit of one resource."""

    def __init__(self, kit: Kit, values: Mapping[str, float], resource: Resource) -> None:
        self._kit, self._values, self._resource = kit, values, resource
        self._counted = kit.counted()
        self._parts = {(part.operation, part.copies): part for part in kit.parts}
        fitted = [n for n in kit.networks if n.role in ("anchor", "fit")]
        self.coefficients = self._choose(
            np.array([self._features(n) for n in fitted]), np.array([values[n.name] for n in fitted])
        )
        proportional = [values[n.name] / self._madds(n) for n in fitted]
        self._per_madd = statistics.median(proportional)

    def _choose(self, features: _Floats, measured: _Floats) -> dict[str, float]:
        """Return the coefficients of the form that predicts best what it was not fitted to, of those that leave no cost below 0."""
        best: tuple[float, dict[str, float]] | None = None
        for form in _FORMS:
            columns = [_FORMS[0].index(name) for name in form]
            if len(measured) <= len(form):
                continue
            weights = _solve(features[:, columns], measured)
            found = dict.fromkeys(_FORMS[0], 0.0) | dict(zip(form, weights.tolist(), strict=True))
            if not self._positive(found):
                continue
            error = _left_out_error(features[:, columns], measured)
            if best is None or error < best[0]:
                best = (error, found)
        if best is None:
            raise UsageError(
                "no table can be fitted to these measurements: parts and whole networks contradict each other; measure again on a "
                "machine with less other work, or with more passes"
            )
        return best[1]

    def _positive(self, coefficients: Mapping[str, float]) -> bool:
        layers = [
            self._cost(layer.name, n, coefficients)
            for layer in self._counted.layers
            for n in range(1, len(self._counted.tasks) + 1)
        ]
        parts = [self._cost(part.name, 1, coefficients) for part in self._counted.fixed]
        return min([*layers, *parts, sum(parts) + coefficients["constant"]]) > 0

    def _cost(self, operation: str, copies: int, coefficients: Mapping[str, float]) -> float:
        part = self._parts[operation, copies]
        return coefficients["sum"] * self._values[part.name] + coefficients["elements"] * copies * part.elements / 1e6

    def _features(self, network: NetworkEntry) -> tuple[float, float, float]:
        counts = self._kit.architecture(network).group_counts
        used = [(layer.name, n) for layer, n in zip(self._counted.layers, counts, strict=True)]
        used += [(part.name, 1) for part in self._counted.fixed]
        times = sum(self._values[self._parts[key].name] for key in used)
        return times, sum(n * self._parts[name, n].elements for name, n in used) / 1e6, 1.0

    def _madds(self, network: NetworkEntry) -> float:
        return architecture_costs(self._counted, self._kit.architecture(network))[Resource.MADDS]

    def into(self, table: CostTable) -> CostTable:
        """Return `table` with the fitted costs of the resource beside its own."""
        resource, tasks = self._resource, len(table.tasks)
        layers = [
            layer.model_copy(
                update={
                    "per_count": {
                        **layer.per_count,
                        resource: [_rounded(self._cost(layer.name, n, self.coefficients)) for n in range(1, tasks + 1)],
                    }
                }
            )
            for layer in table.layers
        ]
        own = {part.name: self._cost(part.name, 1, self.coefficients) for part in table.fixed}
        whole = sum(own.values())
        # What is paid once per network stands with no part; each takes its share, so that their sum is right.
        share = (whole + self.coefficients["constant"]) / whole
        fixed: list[FixedCost] = [
            part.model_copy(update={"cost": {**part.cost, resource: _rounded(share * own[part.name])}})
            for part in table.fixed
        ]
        assert isinstance(table.depends_on, dict)
        depends = {**table.depends_on, resource: "group_count"}
        return table.model_copy(update={"layers": layers, "fixed": fixed, "depends_on": depends})

    def networks(self, table: CostTable) -> list[Network]:
        """Return all whole networks of the kit with what was measured and what the fitted `table` predicts."""
        return [self._network(entry, table) for entry in self._kit.networks]

    def _network(self, entry: NetworkEntry, table: CostTable) -> Network:
        architecture = self._kit.architecture(entry)
        return Network(
            entry.name,
            entry.role,
            architecture.group_counts,
            self._values[entry.name],
            architecture_costs(table, architecture)[self._resource],
            self._per_madd * self._madds(entry),
        )


def _solve(features: _Floats, measured: _Floats) -> _Floats:
    """Return the coefficients of least squared relative error."""
    solution = np.linalg.lstsq(features / measured[:, None], np.ones(len(measured)), rcond=None)[0]
    return np.asarray(solution, dtype=np.float64)


def _left_out_error(features: _Floats, measured: _Floats) -> float:
    """Return the mean squared relative error of each network predicted from the fit to the others."""
    errors = []
    for i in range(len(measured)):
        others = np.arange(len(measured)) != i
        predicted = features[i] @ _solve(features[others], measured[others])
        errors.append((predicted / measured[i] - 1) ** 2)
    return float(np.mean(errors))


def _about(
    measured: Visits,
    setting: Setting,
    resource: Resource,
    coefficients: dict[str, float],
    networks: Sequence[Network],
) -> Measurement:
    visits = {item: measured.of(item) for item in {visit.item for visit in measured.visits}}
    ratios = [_ratios(measured, item, resource) for item in visits]
    errors = [standard_error(found) for found in ratios if len(found) > 2]
    return Measurement(
        precision=setting.precision,
        runtime=measured.header.runtime,
        provider=measured.header.provider,
        threads=setting.threads,
        device=measured.header.device,
        date=max(visit.date for visit in measured.visits),
        samples=min(sum(_samples(visit, resource) for visit in found) for found in visits.values()),
        spread=statistics.median(errors) if errors else 0.0,
        held_out=held_out([n for n in networks if n.role == "held_out"]),
        coefficients=coefficients,
        rail=measured.header.rail if resource is Resource.ENERGY_MJ else None,
    )


def _samples(visit: Visit, resource: Resource) -> int:
    return len(visit.latency_ms) if resource is Resource.LATENCY_MS else int(visit.energy_mj is not None)


def held_out(networks: Sequence[Network]) -> HeldOut:
    """Return how far `networks`, to which nothing was fitted, are from the table; with a bootstrap interval of the median error."""
    errors = np.array([abs(n.predicted - n.measured) / n.measured for n in networks])
    proportional = [abs(n.proportional - n.measured) / n.measured for n in networks]
    ratios = [n.measured / n.predicted for n in networks]
    draws = np.random.default_rng(0).integers(0, len(errors), (_RESAMPLES, len(errors)))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.median(errors[draws], axis=1), [tail, 1 - tail])
    return HeldOut(
        networks=len(errors),
        median_error=_rounded(float(np.median(errors))),
        median_interval=(_rounded(float(low)), _rounded(float(high))),
        worst_error=_rounded(float(errors.max())),
        ratio_interval=(_rounded(min(ratios)), _rounded(max(ratios))),
        proportional_median_error=_rounded(statistics.median(proportional)),
        proportional_worst_error=_rounded(max(proportional)),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_ROUNDED}g}")
