"""Fitting recovers what made-up machines are made of, and says how far whole networks are from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from bmtas.errors import UsageError
from bmtas.files import write_json
from costs.join import join_tables
from costs.reach import budget_range
from costs.table import CostTable
from costs.units import Resource
from export.latency.fit import Network, fit_table, held_out
from export.latency.kit import Kit
from export.latency.setting import Setting
from export.latency.tables import fitted_json, read_fitted, table_path
from export.latency.visits import Visits
from tests.export.latency.made_up import ELEMENTS, NAMES, part_times, times_of

A, B, C = 0.8, -0.9, 0.35  # what is in proportion, per million numbers at borders, per call
SETTING = Setting(threads=1)
LATENCY, ENERGY = Resource.LATENCY_MS, Resource.ENERGY_MJ
MakeVisits = Callable[..., Visits]


@pytest.fixture(scope="module")
def kit(toy_kit: Kit) -> Kit:
    return toy_kit


@pytest.fixture(scope="module")
def times(kit: Kit) -> dict[str, float]:
    return times_of(kit, part_times(kit), A, B, C)


def layer_time(parts: dict[str, float], layer: int, groups: int) -> float:
    name = f"layers.{layer:02d}"
    return A * parts[f"{name}.x{groups}"] + B * groups * ELEMENTS[name] / 1e6


def fixed_time(parts: dict[str, float]) -> float:
    fixed = ["stem", *(f"heads.{n}" for n in NAMES)]
    return A * sum(parts[n] for n in fixed) + B * sum(ELEMENTS[n] for n in fixed) / 1e6 + C


class TestWithoutNoise:
    def test_the_machine_is_recovered(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        fitted = fit_table(kit, visits_of_times(times), SETTING)
        about = fitted.table.measured[LATENCY]
        assert about.coefficients == pytest.approx({"sum": A, "elements": B, "constant": C}, rel=1e-6)
        parts = part_times(kit)
        for i, layer in enumerate(fitted.table.layers):
            expected = [layer_time(parts, i, n) for n in (1, 2, 3)]
            assert layer.per_count[LATENCY] == pytest.approx(expected, rel=1e-6)
        assert fitted.table.fixed_cost(LATENCY) == pytest.approx(fixed_time(parts), rel=1e-6)
        trees = [n for n in fitted.networks[LATENCY] if n.role != "separate"]
        assert len(trees) == 28
        for network in trees:
            assert network.predicted == pytest.approx(times[network.name], rel=1e-6)
            assert network.measured == pytest.approx(times[network.name], rel=1e-12)
        assert about.held_out.networks == 18
        assert about.held_out.worst_error < 1e-6
        assert about.held_out.ratio_interval == pytest.approx((1, 1), abs=1e-6)
        assert about.spread == 0

    def test_costs_in_proportion_to_multiply_adds_are_further_off(
        self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        """By hand: the median time per multiply-add of the networks fitted to, times those of each network held out."""
        fitted = fit_table(kit, visits_of_times(times), SETTING)
        table = kit.counted()
        madds = {
            n.name: table.architecture_cost(kit.architecture(n).task_indices, Resource.MADDS)
            for n in kit.networks
            if n.role != "separate"
        }
        roles = {n.name: n.role for n in kit.networks}
        per_madd = np.median([times[n] / madds[n] for n in madds if roles[n] in ("fit", "anchor")])
        errors = [abs(per_madd * madds[n] / times[n] - 1) for n in madds if roles[n] == "held_out"]
        about = fitted.table.measured[LATENCY].held_out
        assert about.proportional_median_error == pytest.approx(np.median(errors), rel=1e-5)
        assert about.proportional_worst_error == pytest.approx(max(errors), rel=1e-5)
        assert about.proportional_worst_error > 0.1
        separate = next(n for n in fitted.networks[LATENCY] if n.role == "separate")
        assert separate.proportional == pytest.approx(per_madd * table.separate_total(Resource.MADDS))

    def test_drift_of_the_machine_cancels(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        rng = np.random.default_rng(5)
        drift = np.exp(rng.normal(0, 0.4, (5, 64)))
        items = {item: i for i, item in enumerate(times)}
        drifting = visits_of_times(times, passes=5, factors=lambda number, item: drift[number, items[item]])
        steady, moved = (fit_table(kit, v, SETTING) for v in (visits_of_times(times, passes=5), drifting))
        # Ratios to the anchor are the same; all is scaled by how much slower the anchor was in the median.
        scale = np.median([ms for v in drifting.visits for ms in v.anchor_ms]) / times["net.shared"]
        assert scale != pytest.approx(1, abs=1e-3)
        for one, other in zip(steady.networks[LATENCY], moved.networks[LATENCY], strict=True):
            assert other.predicted == pytest.approx(scale * one.predicted, rel=1e-5)
        assert moved.table.measured[LATENCY].held_out.worst_error < 1e-5

    def test_what_was_measured_and_how_is_told(
        self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        visits = visits_of_times(times, passes=5)
        kept = [v for v in visits.visits if v.item != "stem" or v.number < 3]
        about = fit_table(kit, Visits(visits.header, tuple(kept)), Setting("int8", threads=2)).table.measured[LATENCY]
        assert (about.precision, about.threads) == ("int8", 2)
        assert (about.runtime, about.provider) == ("onnxruntime 1.31.1", "CPUExecutionProvider")
        assert about.device == visits.header.device
        assert about.date == "2026-01-02T03:04:04+00:00"
        assert about.samples == 3 * 3  # three visits of the stem with three runs each
        assert about.corrections == []


class TestWithNoise:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_error_is_that_of_the_noise(
        self, seed: int, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        rng = np.random.default_rng(seed)
        noisy = {item: value * float(np.exp(rng.normal(0, 0.01))) for item, value in times.items()}
        noisy["net.shared"] = times["net.shared"]
        about = fit_table(kit, visits_of_times(noisy), SETTING).table.measured[LATENCY].held_out
        assert 0.001 < about.median_error < 0.02
        low, high = about.median_interval
        assert low <= about.median_error <= high <= about.worst_error < 0.06
        assert about.proportional_median_error > 2 * about.median_error
        assert about.ratio_interval[0] < 1 < about.ratio_interval[1]

    @pytest.mark.parametrize("seed", range(6))
    def test_no_cost_falls_below_zero_whatever_is_measured(
        self, seed: int, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        rng = np.random.default_rng(seed)
        wild = {item: value * float(np.exp(rng.normal(0, 0.7))) for item, value in times.items()}
        table = fit_table(kit, visits_of_times(wild), SETTING).table
        assert table.count_costs(LATENCY).min() > 0
        assert min(part.cost[LATENCY] for part in table.fixed) > 0

    def test_a_border_that_would_cost_less_than_nothing_is_left_out(
        self, kit: Kit, visits_of_times: MakeVisits
    ) -> None:
        """Two copies of a layer take 0.08 ms in a network, and 0.108 ms are to be taken back at its borders."""
        parts = {**part_times(kit), "layers.00.x2": 0.1}
        assert layer_time(parts, 0, 2) == pytest.approx(-0.028)
        table = fit_table(kit, visits_of_times(times_of(kit, parts, A, B, C)), SETTING).table
        assert table.measured[LATENCY].coefficients["elements"] == 0
        assert table.count_costs(LATENCY).min() > 0

    def test_the_spread_is_the_median_of_the_standard_errors(
        self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        """Each item 1, 2 and 3 % slower than its anchor: 1.2533 x 1.4826 x 0.01 / sqrt(3) / 1.02."""
        visits = visits_of_times(times, passes=3)
        slower = [
            v.model_copy(update={"latency_ms": [ms * (1.01 + 0.01 * v.number) for ms in v.latency_ms]})
            for v in visits.visits
        ]
        about = fit_table(kit, Visits(visits.header, tuple(slower)), SETTING).table.measured[LATENCY]
        assert about.spread == pytest.approx(1.2533 * 1.4826 * 0.01 / 3**0.5 / 1.02, rel=1e-9)


class TestEnergy:
    def test_it_is_fitted_likewise(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        parts = {name: value * (3 + number % 4) for number, (name, value) in enumerate(part_times(kit).items())}
        energies = times_of(kit, parts, 0.7, 1.5, 2.0)
        fitted = fit_table(kit, visits_of_times(times, passes=5, energies=energies), SETTING)
        assert list(fitted.networks) == [LATENCY, ENERGY]
        assert fitted.table.resources() == (Resource.MADDS, Resource.PARAMS, LATENCY, ENERGY)
        for network in fitted.networks[ENERGY]:
            if network.role != "separate":
                assert network.predicted == pytest.approx(energies[network.name], rel=1e-6)
        assert fitted.table.measured[ENERGY].coefficients == pytest.approx(
            {"sum": 0.7, "elements": 1.5, "constant": 2.0}, rel=1e-6
        )
        assert fitted.table.measured[LATENCY].coefficients["sum"] == pytest.approx(A, rel=1e-6)

    def test_its_spread_is_its_own(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        visits = visits_of_times(times, passes=3, energies=times)
        uneven = [
            v.model_copy(update={"energy_mj": (v.energy_mj or 0) * (1.01 + 0.01 * v.number)}) for v in visits.visits
        ]
        measured = fit_table(kit, Visits(visits.header, tuple(uneven)), SETTING).table.measured
        assert measured[LATENCY].spread == 0
        assert measured[ENERGY].spread == pytest.approx(1.2533 * 1.4826 * 0.01 / 3**0.5 / 1.02, rel=1e-9)

    def test_without_it_the_table_knows_none(
        self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        assert ENERGY not in fit_table(kit, visits_of_times(times), SETTING).table.resources()


class TestRefused:
    @pytest.mark.parametrize("item", ["layers.03.x2", "net.07", "heads.b"])
    def test_an_item_that_was_not_measured(
        self, item: str, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits
    ) -> None:
        visits = visits_of_times({name: value for name, value in times.items() if name != item})
        with pytest.raises(UsageError, match=f"{item} has no latency_ms yet.*bmtas profile run.*goes on with it"):
            fit_table(kit, visits, SETTING)

    def test_energy_that_was_not_measured(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        visits = visits_of_times(times, energies=times)
        without = [v.model_copy(update={"energy_mj": None}) if v.item == "stem" else v for v in visits.visits]
        with pytest.raises(UsageError, match="stem has no energy_mj yet"):
            fit_table(kit, Visits(visits.header, tuple(without)), SETTING)

    def test_nothing_at_all(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        with pytest.raises(UsageError, match="stem has no latency_ms yet"):
            fit_table(kit, Visits(visits_of_times(times).header, ()), SETTING)

    def test_one_network_fits_no_table(self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits) -> None:
        held = [n.model_copy(update={"role": "held_out"}) if n.role == "fit" else n for n in kit.networks]
        alone = kit.model_copy(update={"networks": held})  # not checked, as a kit that is read would be
        with pytest.raises(UsageError, match=r"no table can be fitted to these measurements.*with more passes"):
            fit_table(alone, visits_of_times(times), SETTING)


def network(measured: float, predicted: float, proportional: float) -> Network:
    return Network("net", "held_out", (1, 2), measured, predicted, proportional)


class TestHeldOut:
    def test_by_hand(self) -> None:
        found = held_out(
            [
                network(10, 11, 15),  # 10 % above; in proportion 50 %
                network(10, 8, 10),  # 20 % below; 0
                network(20, 21, 16),  # 5 %; 20 %
                network(4, 4, 5),  # 0; 25 %
                network(5, 7, 5.5),  # 40 %; 10 %
            ]
        )
        assert found.networks == 5
        assert found.median_error == pytest.approx(0.1)
        assert found.worst_error == pytest.approx(0.4)
        assert found.ratio_interval == pytest.approx((5 / 7, 10 / 8))
        assert found.proportional_median_error == pytest.approx(0.2)
        assert found.proportional_worst_error == pytest.approx(0.5)
        # The median of five drawn with replacement is the least or the greatest of all in 5.8 % each.
        assert found.median_interval == pytest.approx((0.0, 0.4))

    def test_the_interval_is_that_of_the_bootstrap(self) -> None:
        """The median of n draws is at most the k-th smallest error if so many or more than half the draws are among the first k."""
        n = 31
        errors = np.sort(np.random.default_rng(3).uniform(0.001, 0.2, n))
        found = held_out([network(1.0, 1.0 + float(e), 1.0) for e in errors])
        at_most = scipy.stats.binom.sf((n - 1) // 2, n, np.arange(1, n + 1) / n)
        low, high = (int(np.argmax(at_most >= share)) for share in (0.025, 0.975))
        assert errors[low - 1] <= found.median_interval[0] <= errors[low + 1]
        assert errors[high - 1] <= found.median_interval[1] <= errors[high + 1]
        assert found.median_error == pytest.approx(errors[n // 2], rel=1e-6)


class TestFile:
    @pytest.fixture
    def written(
        self, kit: Kit, times: dict[str, float], visits_of_times: MakeVisits, tmp_path: Path
    ) -> tuple[Path, Any]:
        fitted = fit_table(kit, visits_of_times(times, energies=times), SETTING)
        path = table_path(tmp_path, SETTING)
        write_json(path, fitted_json(fitted))
        return path, fitted

    def test_it_reads_back(self, written: tuple[Path, Any]) -> None:
        path, fitted = written
        assert path.name == "table-fp32-cpu-1thread.json"
        read = read_fitted(path)
        assert read.table == fitted.table
        assert read.networks == fitted.networks

    def test_it_joins_the_counted_table_and_says_what_budgets_can_be_met(
        self, written: tuple[Path, Any], kit: Kit
    ) -> None:
        joined = join_tables(kit.counted(), CostTable.from_json(written[0].read_bytes()), "table")
        assert joined.measured == written[1].table.measured
        parts = part_times(kit)
        ends = [fixed_time(parts) + sum(layer_time(parts, i, n) for i in range(6)) for n in (1, 3)]
        assert budget_range(joined, LATENCY) == pytest.approx(ends, rel=1e-6)
        assert joined.shared_total(Resource.MADDS) == kit.counted().shared_total(Resource.MADDS)

    def test_networks_that_cannot_be_read(self, written: tuple[Path, Any]) -> None:
        path = written[0]
        whole = json.loads(path.read_text())
        for broken in (3, {"latency_ms": [{"name": "net"}]}, {"colour": []}, {"latency_ms": [3]}):
            path.write_text(json.dumps({**whole, "networks": broken}))
            with pytest.raises(UsageError, match=r"its networks cannot be read .*fit the table again"):
                read_fitted(path)

    def test_a_table_of_other_origin_has_no_networks(self, kit: Kit, tmp_path: Path) -> None:
        path = tmp_path / "own.json"
        path.write_text(kit.counted().to_json())
        read = read_fitted(path)
        assert (read.table, read.networks) == (kit.counted(), {})
