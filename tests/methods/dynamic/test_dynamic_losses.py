"""Scalars of arcs, the squeeze loss, and the expected cost against the enumeration of all draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bmtas.graph import Expression, merge
from bmtas.methods.dynamic.losses import ExpectedCost, scalars_of, squeeze_loss
from bmtas.methods.dynamic.topology import Arc, ArcCosts, Topology
from bmtas.networks.states import State
from costs.units import Resource

STATE = State(4, 1)


def random_costs(topology: Topology, seed: int, *, parameters: bool) -> ArcCosts:
    rng = np.random.default_rng([seed, parameters])
    return ArcCosts({arc: float(rng.integers(1, 100)) for arc in topology.arcs}, 7.0, parameters)


def costs_of_draw(topology: Topology, kept: list[tuple[Arc, ...]], costs: ArcCosts) -> float:
    """Return the cost of the merged graph of what tasks keep, dead ends and all: every kept arc is an output of its own."""
    outputs: dict[str, Expression] = {}
    for task, arcs in enumerate(kept):
        values: dict[int, Expression] = {}
        for target in range(topology.read_out + 1):
            into = [arc for arc in arcs if arc[1] == target]
            inputs = tuple(Expression(f"arc.{i}.{j}", "shared", (values[i],)) for i, j in into)
            values[target] = (
                inputs[0] if len(inputs) == 1 else Expression(f"sums.{len(inputs)}", f"{target}.{task}", inputs)
            )
            if not inputs:
                values[target] = Expression(f"nothing.{0 if target == 0 else 1}", "")  # the image, or zero
            outputs |= {f"{task}.{i}.{j}": e for (i, j), e in zip(into, inputs, strict=True)}
            outputs[f"{task}.{target}"] = values[target]

    def cost(operation: str) -> float:
        family, *numbers = operation.split(".")
        if family == "arc":
            return costs.per_arc[int(numbers[0]), int(numbers[1])]
        return float(numbers[0]) if family == "sums" and costs.parameters else 0.0

    graph = merge(outputs)
    return costs.fixed + (graph.params(cost) if costs.parameters else graph.madds(cost))


@pytest.mark.parametrize(("states", "flow", "tasks"), [pytest.param(3, 2, 2, marks=pytest.mark.slow), (2, 1, 3)])
def test_expected_cost_is_that_of_all_draws(states: int, flow: int, tasks: int) -> None:
    topology = Topology((STATE,) * states, flow, None)
    rng = np.random.default_rng(states)
    probabilities = rng.random((tasks, len(topology.arcs)))
    # Read-outs say nothing of values: to have fewer draws, all but one are certain.
    probabilities[:, 1 - states :] = rng.integers(0, 2, (tasks, states - 1))
    both = {r: random_costs(topology, 3, parameters=r is Resource.PARAMS) for r in (Resource.MADDS, Resource.PARAMS)}
    likely: list[dict[tuple[Arc, ...], float]] = [{} for _ in range(tasks)]
    for mask in itertools.product((False, True), repeat=len(topology.arcs)):
        kept = tuple(itertools.compress(topology.arcs, mask))
        for task, row in enumerate(probabilities):
            chance = math.prod(p if keep else 1 - p for p, keep in zip(row, mask, strict=True))
            if chance > 0:
                likely[task][kept] = chance
    expected = dict.fromkeys(both, 0.0)
    for draw in itertools.product(*likely):
        chance = math.prod(likely[t][kept] for t, kept in enumerate(draw))
        for resource, costs in both.items():
            expected[resource] += chance * costs_of_draw(topology, list(draw), costs)
    assert sum(likely[0].values()) == pytest.approx(1.0)
    found = ExpectedCost(topology, both)(torch.tensor(probabilities))
    for resource, value in expected.items():
        assert float(found[resource]) == pytest.approx(value, rel=1e-11)


def test_expected_cost_of_what_is_certain_is_the_cost() -> None:
    topology = Topology((STATE,) * 5, 3, 2)
    rng = np.random.default_rng(0)
    for seed in range(40):
        both = {
            r: random_costs(topology, seed, parameters=r is Resource.PARAMS) for r in (Resource.MADDS, Resource.PARAMS)
        }
        certain = rng.random((3, len(topology.arcs))) < rng.random()
        certain[1] = np.where(rng.random(len(topology.arcs)) < 0.8, certain[0], certain[1])
        kept = [tuple(a for a, keep in zip(topology.arcs, row, strict=True) if keep) for row in certain]
        found = ExpectedCost(topology, both)(torch.tensor(certain, dtype=torch.float64))
        for resource, costs in both.items():
            assert float(found[resource]) == costs_of_draw(topology, kept, costs)
            alive = [topology.alive(arcs) for arcs in kept]
            assert costs.total(alive) <= float(found[resource])  # without dead ends it is no more


def test_gradient_of_the_expected_cost() -> None:
    topology = Topology((STATE,) * 3, 2, None)
    both = {r: random_costs(topology, 5, parameters=r is Resource.PARAMS) for r in (Resource.MADDS, Resource.PARAMS)}
    probabilities = torch.rand(2, len(topology.arcs), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda p: tuple(ExpectedCost(topology, both)(p).values()), probabilities.requires_grad_()
    )


def test_scalars_by_hand() -> None:
    topology = Topology((STATE, STATE), 1, None)  # arcs: 0-1, 0-2, 1-2, 1-3, 2-3
    logits = torch.logit(torch.tensor([[0.2, 0.6, 0.2, 0.9, 0.3]], dtype=torch.float64))
    torch.testing.assert_close(scalars_of(topology, logits), torch.tensor([[1.0, 0.75, 0.25, 0.75, 0.25]]).double())
    far = scalars_of(topology, torch.tensor([[-900.0, -900.0, -901.0, 800.0, -2000.0]], dtype=torch.float64))
    share = 1 / (1 + math.exp(-1))  # sigmoids that are all but zero have ratios all the same
    torch.testing.assert_close(far, torch.tensor([[1.0, share, 1 - share, 1.0, 0.0]]).double())


def test_squeeze_loss_by_hand() -> None:
    links = torch.logit(torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]], dtype=torch.float64))
    assert float(squeeze_loss(links, 2.0)) == pytest.approx(0.4)  # the second task has 0.6 links, no more than 2
    assert float(squeeze_loss(links, 0.5)) == pytest.approx(1.9 + 0.1)
