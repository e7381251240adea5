"""The proof before a network is handed over: what agrees passes, and every disagreement is refused."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import BudgetError, BuildError
from bmtas.networks.backbone import get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.profile import build_table
from bmtas.proof import measure_network, prove_costs
from bmtas.tasks import Task, TaskKind
from costs.join import join_tables
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource, parse_budget

SIZE = (32, 64)
TASKS = (Task(name="a", kind=TaskKind.DEPTH), Task(name="b", kind=TaskKind.BINARY), Task(name="c", kind=TaskKind.DEPTH))
NAMES = tuple(task.name for task in TASKS)
MADDS, PARAMS, MS, _, MIB = Resource


@pytest.fixture(scope="module")
def table() -> CostTable:
    return build_table(get_backbone("mobilenet_v2"), TASKS, SIZE)


@pytest.fixture(scope="module")
def tree() -> Architecture:
    groupings = ((NAMES,),) * 3 + ((("a", "c"), ("b",)),) * 10 + ((("a",), ("b",), ("c",)),) * 5
    return BranchedArchitecture(backbone="mobilenet_v2", tasks=NAMES, groupings=groupings)


@pytest.fixture(scope="module")
def network(tree: Architecture) -> GraphNetwork:
    return build_network(tree, TASKS)


def changed(table: CostTable, resource: Resource, factor: float) -> CostTable:
    """Return the table with the costs of all layers in one resource changed: it then describes another network."""
    layers = [
        layer.model_copy(
            update={
                "per_group": {r: c * (factor if r == resource else 1) for r, c in layer.per_group.items()},
                "per_count": {
                    r: [c * (factor if r == resource else 1) for c in cs] for r, cs in layer.per_count.items()
                },
            }
        )
        for layer in table.layers
    ]
    fields = {name: getattr(table, name) for name in CostTable.model_fields}
    return CostTable(**{**fields, "layers": layers})


def with_latency(table: CostTable, by_group: list[float]) -> CostTable:
    """Return the table with a latency that somebody has measured: of each layer by number of groups, of fixed parts 1 ms."""
    own = CostTable(
        backbone=table.backbone,
        tasks=table.tasks,
        input_size=table.input_size,
        batch=1,
        depends_on="group_count",
        layers=[LayerCost(name=layer.name, per_count={MS: by_group}) for layer in table.layers],
        fixed=[FixedCost(name=p.name, shared=p.shared, tasks=p.tasks, cost={MS: 1.0}) for p in table.fixed],
        provenance={},
    )
    return join_tables(table, own, "own.json")


def test_what_is_measured_is_what_pytorch_counts(network: GraphNetwork) -> None:
    measured = measure_network(network, SIZE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, *SIZE))
    assert 2 * measured[MADDS] == counter.get_total_flops()
    assert measured[PARAMS] == sum(p.numel() for p in network.parameters())


def test_a_network_as_the_table_has_it_passes_with_its_costs(
    table: CostTable, tree: Architecture, network: GraphNetwork
) -> None:
    stated, measured = prove_costs(network, tree, table, [parse_budget("10GMAdds"), parse_budget("1GiB")])
    assert set(stated) == set(measured) == {MADDS, PARAMS, MIB}
    assert stated[MADDS] == measured[MADDS] == table.architecture_cost(tree.group_counts, MADDS)
    assert stated[PARAMS] == measured[PARAMS]
    assert 0 < measured[MIB] <= stated[MIB] == table.architecture_cost(tree.group_counts, MIB)


@pytest.mark.parametrize(("resource", "factor"), [(MADDS, 1.01), (MADDS, 0.99), (PARAMS, 2), (MIB, 0.5)])
def test_a_table_of_another_network_is_refused(
    table: CostTable, tree: Architecture, network: GraphNetwork, resource: Resource, factor: float
) -> None:
    with pytest.raises(BuildError, match="does not describe this network"):
        prove_costs(network, tree, changed(table, resource, factor), [])


def test_a_network_of_another_architecture_is_refused(table: CostTable, network: GraphNetwork) -> None:
    with pytest.raises(BuildError, match="the table says"):
        prove_costs(network, BranchedArchitecture.shared("mobilenet_v2", NAMES, 18), table, [])


@pytest.mark.parametrize("budget", ["1MMAdds", "10kParams", "0.1MiB"])
def test_a_network_over_a_budget_is_refused(
    table: CostTable, tree: Architecture, network: GraphNetwork, budget: str
) -> None:
    with pytest.raises(BudgetError, match=f"over {budget}"):
        prove_costs(network, tree, table, [parse_budget("10GMAdds"), parse_budget(budget)])


def test_a_users_own_resource_is_held_to_the_budget_by_the_table(
    table: CostTable, tree: Architecture, network: GraphNetwork
) -> None:
    joined = with_latency(table, [1.0, 1.5, 1.75])
    # 3 layers of one group, 10 of two, 5 of three; stem and three heads.
    latency = 3 * 1.0 + 10 * 1.5 + 5 * 1.75 + 4 * 1.0
    stated, measured = prove_costs(network, tree, joined, [parse_budget(f"{latency}ms")])
    assert stated[MS] == latency
    assert MS not in measured
    with pytest.raises(BudgetError, match=r"30\.75000 ms, over 30\.7ms"):
        prove_costs(network, tree, joined, [parse_budget("30.7ms")])


def test_a_table_without_memory_is_proved_in_what_it_knows(
    table: CostTable, tree: Architecture, network: GraphNetwork
) -> None:
    """As the tables of runs before there was peak memory."""
    old = CostTable(
        backbone=table.backbone,
        tasks=table.tasks,
        input_size=table.input_size,
        batch=1,
        layers=[LayerCost(name=layer.name, per_group=layer.per_group) for layer in table.layers],
        fixed=[
            part.model_copy(update={"cost": {r: c for r, c in part.cost.items() if r != MIB}}) for part in table.fixed
        ],
        provenance={},
    )
    stated, measured = prove_costs(network, tree, old, [parse_budget("10GMAdds")])
    assert set(stated) == {MADDS, PARAMS}
    assert set(measured) == {MADDS, PARAMS, Resource.PEAK_MEMORY_MIB}
