import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from costs import (
    CostError,
    CostTable,
    FixedCost,
    LayerCost,
    Resource,
    expected_cost,
    expected_from_groupings,
    expected_groups,
    expected_layer_costs,
    parse_budget,
    partition_costs,
)
from costs.forms import extreme_architectures, inverted_costs
from costs.partitions import bell, partitions_of, read_key, tasks_of, write_key

Floats = npt.NDArray[np.float64]
Draw = Callable[..., Floats]
MakeTable = Callable[..., CostTable]
MADDS, MS, MIB = Resource.MADDS, Resource.LATENCY_MS, Resource.PEAK_MEMORY_MIB
ALMOST = 1e12
"""A sharpness at which rows are exactly one-hot in float64."""


def groupings(tasks: int) -> list[tuple[tuple[int, ...], ...]]:
    return [tuple(tasks_of(block) for block in partition) for partition in partitions_of(2**tasks - 1)]


@pytest.mark.parametrize("kind", ["group_count", "partition"])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0, 40.0, ALMOST])
@pytest.mark.parametrize(("tasks", "layers", "candidates"), [(1, 2, 1), (2, 4, 2), (3, 4, 3), (3, 2, 5), (4, 3, 3)])
def test_every_form_agrees_with_enumeration_of_all_draws(
    draw_probs: Draw,
    enumerate_draws: Callable[..., Any],
    make_general_table: MakeTable,
    tasks: int,
    layers: int,
    candidates: int,
    sharpness: float,
    kind: str,
) -> None:
    rng = np.random.default_rng(tasks)
    probs = draw_probs(rng, layers, tasks, sharpness, candidates)
    width = tasks if kind == "group_count" else bell(tasks)
    costs = rng.uniform(1.0, 9.0, size=(layers, width))  # in no order: a table of measurements may be like that
    table = make_general_table(tasks, latency=costs, memory=costs[::-1].copy())
    listed = groupings(tasks)

    def stated(costs: Floats) -> Callable[[int, tuple[tuple[int, ...], ...]], float]:
        return lambda layer, k: float(costs[layer, len(k) - 1 if kind == "group_count" else listed.index(k)])

    drawn = enumerate_draws(probs)
    for resource, layer_costs in ((MS, costs), (MIB, costs[::-1])):
        expected = drawn.expected(stated(layer_costs))
        found = expected_layer_costs(torch.from_numpy(probs), table, resource)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(expected_from_groupings(probs, table, resource), expected, rtol=1e-12)
    total = expected_cost(torch.from_numpy(probs), table, MS).item()
    assert total == pytest.approx(0.5 + math.fsum(drawn.expected(stated(costs))), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 8.0])
def test_four_tasks_and_four_layers_agree_with_enumeration(
    draw_probs: Draw, enumerate_draws: Callable[..., Any], make_general_table: MakeTable, sharpness: float
) -> None:
    # Three candidates: 81^4 = 43 million draws. The layers before are those of the tests above.
    rng = np.random.default_rng(4)
    probs = draw_probs(rng, 4, 4, sharpness, 3)
    drawn = enumerate_draws(probs)
    for width in (4, 15):
        costs = rng.uniform(1.0, 9.0, size=(4, width))
        table = make_general_table(4, latency=costs)
        expected = drawn.expected(lambda i, k, c=costs, w=width: c[i, len(k) - 1 if w == 4 else groupings(4).index(k)])
        np.testing.assert_allclose(
            expected_layer_costs(torch.from_numpy(probs), table, MS).numpy(), expected, rtol=1e-12
        )
    np.testing.assert_allclose(expected_groups(torch.from_numpy(probs)).numpy(), drawn.expected_groups(), rtol=1e-11)


@pytest.mark.parametrize("draws", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_eight_tasks_agree_with_draws(draw_probs: Draw, make_general_table: MakeTable, draws: int) -> None:
    tasks, layers, part = 8, 18, 100_000
    rng = np.random.default_rng(11)
    probs = draw_probs(rng, layers, tasks, 6.0)
    costs = np.sort(rng.uniform(1.0, 9.0, size=(layers, tasks)), axis=1)
    total, groups = np.full(draws, 0.5), np.zeros(draws)
    for start in range(0, draws, part):
        together = np.ones((part, tasks, tasks), dtype=np.bool_)
        for layer in range(layers):
            # The grouping of a draw: pairs that agree in this layer and all before; its groups have one lowest member.
            chosen = np.stack([rng.choice(tasks, size=part, p=probs[layer, t]) for t in range(tasks)], axis=1)
            together &= chosen[:, :, None] == chosen[:, None, :]
            count = (~np.tril(together, k=-1).any(axis=2)).sum(axis=1)
            total[start : start + part] += costs[layer, count - 1]
            groups[start : start + part] += count
    by_partition = costs[:, [len(p) - 1 for p in partitions_of(2**tasks - 1)]]
    for latency in (costs, by_partition):
        found = expected_cost(torch.from_numpy(probs), make_general_table(tasks, latency=latency), MS).item()
        assert found == pytest.approx(total.mean(), abs=4 * total.std() / math.sqrt(draws))
    found = expected_groups(torch.from_numpy(probs)).sum().item()
    assert found == pytest.approx(groups.mean(), abs=4 * groups.std() / math.sqrt(draws))


@pytest.mark.parametrize("width", [4, 15])
def test_gradients_agree_with_finite_differences(make_general_table: MakeTable, width: int) -> None:
    table = make_general_table(4, latency=np.random.default_rng(0).uniform(size=(3, width)))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda alpha: expected_cost(alpha.softmax(-1), table, MS), (logits,))


@pytest.mark.parametrize("width", [4, 15])
def test_gradients_at_one_hot_rows_are_finite_and_right(make_general_table: MakeTable, width: int) -> None:
    table = make_general_table(4, latency=np.random.default_rng(1).uniform(size=(3, width)))
    draws = torch.tensor([[0, 0, 0, 0], [1, 1, 2, 2], [0, 2, 1, 1]])  # together, two pairs, one pair
    probs = torch.nn.functional.one_hot(draws, 3).to(torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(expected_cost(probs, table, MS), probs)
    assert gradient.isfinite().all()
    for place in np.ndindex(3, 4, 3):
        moved, step = probs.detach().clone(), 2.0**-17
        moved[place] += step  # the cost is a straight line in each entry, so a difference quotient is exact
        rise = (expected_cost(moved, table, MS) - expected_cost(probs.detach(), table, MS)).item()
        assert gradient[place].item() == pytest.approx(rise / step, abs=1e-7)


def test_a_cost_that_is_proportional_after_all_collapses_to_the_subsets(make_general_table: MakeTable) -> None:
    table = make_general_table(6, latency=np.outer([3.0, 0.7], np.arange(1, 7)))
    inverted = inverted_costs(table, MS)
    assert (inverted != 0).any(axis=0).sum() == 2**6 - 6  # the singletons, and one for each set of several tasks
    probs = torch.rand(2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    torch.testing.assert_close(
        expected_layer_costs(probs, table, MS),
        expected_groups(probs) * torch.tensor([3.0, 0.7], dtype=torch.float64),
        rtol=1e-13,
        atol=0,
    )


def test_count_and_partition_tables_of_equal_content_are_equal(make_general_table: MakeTable) -> None:
    counts = np.random.default_rng(5).uniform(size=(2, 5))
    spread = counts[:, [len(p) - 1 for p in partitions_of(31)]]
    one, other = make_general_table(5, latency=counts), make_general_table(5, latency=spread)
    np.testing.assert_allclose(inverted_costs(one, MS), inverted_costs(other, MS), atol=1e-12)
    for table in (one, other):
        np.testing.assert_array_equal(partition_costs(table, MS), spread)
    assert inverted_costs(one, MS) is inverted_costs(one, MS)


def test_a_peak_has_no_expected_total(make_general_table: MakeTable) -> None:
    table = make_general_table(3, latency=np.ones((2, 3)), memory=np.array([[1.0, 5, 9], [2, 3, 4]]))
    with pytest.raises(CostError, match=r"maximum over layers.*expected_layer_costs"):
        expected_cost(torch.full((2, 3, 3), 1 / 3), table, MIB)
    assert table.architecture_cost([1, 2], MIB) == 3
    assert table.architecture_cost([2, 3], MIB) == 5
    assert table.architecture_cost([((0, 1), (2,)), ((0,), (1,), (2,))], MIB) == 5
    assert (table.shared_total(MIB), table.split_total(MIB), table.separate_total(MIB)) == (2, 9, 9)
    assert table.fixed_cost(MIB) == 0.5


def test_a_partition_table_asks_for_groupings(make_general_table: MakeTable) -> None:
    table = make_general_table(3, latency=np.arange(10.0).reshape(2, 5))
    assert table.shared_total(MS) == 0.5 + 0 + 5
    assert table.split_total(MS) == 0.5 + 4 + 9
    assert table.architecture_cost([((0, 2), (1,)), ((2,), (1,), (0,))], MS) == 0.5 + 2 + 9
    with pytest.raises(CostError, match="layer 'layer0': latency_ms depends on the partition, which 2 groups do not"):
        table.architecture_cost([2, 3], MS)
    with pytest.raises(CostError, match="expected a partition of the tasks 0 to 2"):
        table.architecture_cost([((0,), (1,)), ((0,), (1,), (2,))], MS)
    assert table.architecture_cost([2, 3], MADDS) == 0.5 + 2 * 2 + 3 * 3
    for ask in (table.layer_costs, table.count_costs):
        with pytest.raises(CostError, match="depends on"):
            ask(MS)


def test_extremes_of_tables_that_are_not_in_order(make_general_table: MakeTable) -> None:
    counts = make_general_table(3, latency=np.array([[5.0, 1, 9], [4, 2, 3]]))
    low, high = extreme_architectures(counts, MS)
    assert [len(g) for g in low] == [2, 2]
    assert [len(g) for g in high] == [3, 3]
    parts = make_general_table(3, latency=np.array([[5.0, 1, 2, 3, 9], [4, 6, 0, 8, 7]]))
    low, high = extreme_architectures(parts, MS)  # 0,2|1 twice is 2 + 0; the singletons twice 9 + 7
    assert low == (((0, 2), (1,)),) * 2
    assert high == (((0,), (1,), (2,)),) * 2
    peaks = make_general_table(3, latency=np.ones((2, 3)), memory=np.array([[5.0, 1, 9], [4, 2, 3]]))
    low, high = extreme_architectures(peaks, MIB)
    assert peaks.architecture_cost(low, MIB) == 2
    assert peaks.architecture_cost(high, MIB) == 9


def test_tables_of_all_kinds_survive_json_and_are_readable(make_general_table: MakeTable) -> None:
    table = make_general_table(3, latency=np.arange(10.0).reshape(2, 5), memory=np.ones((2, 3)))
    data = json.loads(table.to_json())
    assert data["depends_on"] == {
        "madds": "groups_proportional",
        "latency_ms": "partition",
        "peak_memory_mib": "group_count",
    }
    assert data["layers"][0]["per_partition"]["latency_ms"]["t0+t1|t2"] == 1.0
    again = CostTable.from_json(table.to_json())
    assert again == table
    turned = again.subset(["t2", "t0", "t1"])
    assert turned.architecture_cost([((1, 2), (0,))] * 2, MS) == table.architecture_cost([((0, 1), (2,))] * 2, MS)
    with pytest.raises(CostError, match="latency_ms depend on the partition of all tasks"):
        table.subset(["t0", "t1"])
    assert make_general_table(3, latency=np.arange(6.0).reshape(2, 3)).subset(["t1"]).count_costs(MS).tolist() == [
        [0],
        [3],
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: d["layers"][0]["per_count"]["peak_memory_mib"].pop(),
            ["layer 'layer0': 2 costs in peak_memory_mib"],
        ),
        (
            lambda d: d["layers"][1]["per_partition"]["latency_ms"].pop("t0|t1|t2"),
            ["layer 'layer1', latency_ms: 4 of the 5 groupings of 3 tasks have a cost; add 't0|t1|t2'. Correct"],
        ),
        (
            lambda d: d["layers"][1]["per_partition"]["latency_ms"].update({"t2|t1|t0": 1.0}),
            ["5 of the 5", "but 't0|t1|t2' and 't2|t1|t0' name the same; leave one out"],
        ),
        (
            lambda d: d["layers"][1]["per_partition"].update(latency_ms={"t0+t1+t2": 1.0}),
            ["1 of the 5 groupings", "add 't0+t1|t2', 't0+t2|t1', 't0|t1+t2' and 1 more"],
        ),
        (
            lambda d: d["layers"][1]["per_partition"]["latency_ms"].update({"t0|t9": 1.0}),
            ["layer 'layer1', latency_ms: grouping 't0|t9'", "t0+t1+t2"],
        ),
        (lambda d: d["layers"][1]["per_count"].update(madds=[1.0, 2, 3]), ["once each"]),
        (lambda d: d["depends_on"].pop("madds"), ["depends_on speaks of latency_ms, peak_memory_mib"]),
        (lambda d: d["depends_on"].update(madds="partition"), ["madds depends on partition", "per_partition"]),
        (lambda d: d["depends_on"].update(madds="moon"), ["depends_on"]),
    ],
)
def test_a_broken_table_is_refused(
    make_general_table: MakeTable, change: Callable[[Any], object], words: list[str]
) -> None:
    data = json.loads(make_general_table(3, latency=np.ones((2, 5)), memory=np.ones((2, 3))).to_json())
    change(data)
    with pytest.raises(CostError) as caught:
        CostTable.from_json(json.dumps(data), where="nano.json")
    for word in ["nano.json", *words]:
        assert word in str(caught.value)


def test_too_many_tasks_for_sums_over_groupings() -> None:
    names = [f"t{t}" for t in range(11)]
    table = CostTable(
        backbone="toy",
        tasks=names,
        input_size=(8, 8),
        batch=1,
        depends_on="group_count",
        layers=[LayerCost(name="l", per_count={MS: list(range(11))})],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={MS: 0.0})],
        provenance={},
    )
    with pytest.raises(CostError, match=r"11 tasks: latency_ms depends on group_count .* up to 10"):
        expected_cost(torch.full((1, 11, 2), 0.5), table, MS)


def test_groupings_are_read_as_people_write_them() -> None:
    names = ["semseg", "parts", "edge"]
    assert write_key((3, 4), names) == "semseg+parts|edge"
    assert read_key(" edge | parts + semseg", names) == (3, 4)
    with pytest.raises(CostError, match=r"'semseg\|parts': expected each of"):
        read_key("semseg|parts", names)


def test_memory_budgets() -> None:
    assert parse_budget("512MiB").value == 512
    assert parse_budget("1.5 GiB").value == 1536
    assert parse_budget("256kib").value == 0.25
    with pytest.raises(CostError, match="KiB, MiB or GiB"):
        parse_budget("512MB")
