"""The space of AutoMTL: in every convolution of the backbone each task takes the shared one, one of its own, or none.

Zhang et al., "AutoMTL: a programming framework for automating efficient multi-task learning", NeurIPS 2022, supplement, algorithm 1.
Where a convolution keeps the shape of its input, skipping it is doing nothing, also for the normalisation behind it; elsewhere a task
that skips has a 1x1 convolution of its own. What is neither convolution nor normalisation has no choice.

Normalisations are our own choice. In the published code each task has its own, so that nothing is computed once after the first
of them. Here tasks share a normalisation if all that they compute before it is the same: then it is one computation, and the
network is smaller by what is merged. Behind a convolution that a task has for itself it is the task's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bmtas.architecture import WiredArchitecture
from bmtas.config import Method
from bmtas.errors import UsageError
from bmtas.graph import Expression, head_name
from bmtas.methods.automtl.prices import CHOICES, SHARED, SKIP, Choices, Prices, Wiring, read_prices
from bmtas.methods.automtl.reach import cheapest_choices, dearest_cost
from bmtas.methods.automtl.settings import Own
from bmtas.networks.operations import Kit
from bmtas.networks.traced import conv_of, keeps_shape, skip_name
from bmtas.networks.tracing import IMAGE_PLACE, Kind, Trace, Traced, trace_of
from costs.table import CostTable
from costs.units import Budget, Resource


@dataclass(frozen=True)
class ConvolutionSpace:
    """All choices for the tasks of `kit` on its backbone; the first `shared` convolutions have none. Raises UsageError where there are not so many."""

    kit: Kit
    shared: int = 0

    def __post_init__(self) -> None:
        """Check the number of convolutions."""
        if self.shared > len(self.trace.convs):
            raise UsageError(
                f"--set shared={self.shared}: {self.kit.backbone.name} has {len(self.trace.convs)} convolutions; give at most so many"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in output order."""
        return tuple(self.kit.tasks)

    @cached_property
    def trace(self) -> Trace:
        """The operations of the backbone."""
        return trace_of(self.kit.backbone)

    @cached_property
    def identity(self) -> npt.NDArray[np.bool_]:
        """Which convolutions are skipped by doing nothing, (L,)."""
        return np.array([keeps_shape(conv_of(self.trace, place, self.kit)) for place in self.trace.convs])

    @cached_property
    def forced(self) -> npt.NDArray[np.bool_]:
        """Which convolutions are shared in any case, (L,)."""
        return np.arange(len(self.trace.convs)) < self.shared

    @cached_property
    def wiring(self) -> Wiring:
        """Which values depend on which choices."""
        column = {place: i for i, place in enumerate(self.trace.convs)}
        free = [o for o in self.trace.operations if o.kind is not Kind.CONV and o.behind is None]

        def rows(places: Sequence[int]) -> npt.NDArray[np.bool_]:
            found = np.zeros((len(places), len(column)), dtype=bool)
            for row, place in enumerate(places):
                found[row, [column[above] for above in self.trace.above[place]]] = True
            return found

        return Wiring(
            self.identity,
            self.forced,
            rows(self.trace.convs),
            rows([o.place for o in free]),
            tuple(o.name for o in free),
        )

    def prices(self, table: CostTable, resource: Resource) -> Prices:
        """Return what the parts of a network cost in `resource`, multiply-adds or parameters."""
        heads = [head_name(task) for task in self.tasks]
        norms = [self._name(self.trace.norm_behind.get(place)) for place in self.trace.convs]
        never = self.identity | self.forced
        skips = [
            None if none else skip_name(self.trace.operations[p])
            for p, none in zip(self.trace.convs, never, strict=True)
        ]
        convs = [self.trace.operations[place].name for place in self.trace.convs]
        return read_prices(table, resource, convs, norms, skips, self.wiring.free, heads)

    def _name(self, place: int | None) -> str | None:
        return None if place is None else self.trace.operations[place].name

    def architecture(self, choices: Choices) -> WiredArchitecture:
        """Return the network in which task t takes `choices[t, l]` in convolution l."""
        return WiredArchitecture.of(self.kit.backbone.name, Method.AUTOMTL.value, _Drawing(self, choices).outputs())

    def cover(self) -> Iterable[WiredArchitecture]:
        """Yield the networks that share everything and that skip everything."""
        for choice in (SHARED, SKIP):
            yield self.architecture(self.held(np.full((len(self.tasks), len(self.trace.convs)), choice)))

    def held(self, choices: Choices) -> Choices:
        """Return the choices with those that are no choice."""
        return np.where(self.forced, SHARED, choices)

    def check(self, table: CostTable, budgets: Sequence[Budget]) -> None:
        """Raise BudgetError where no network within all budgets is found."""
        from bmtas.methods.automtl.repair import Limits  # which knows the space

        Limits.of(self, table, budgets).cheapest()

    def random(self, rng: np.random.Generator) -> WiredArchitecture:
        """Return a network whose choices have probabilities drawn evenly; with another, tasks choose together in a convolution."""
        shape = len(self.tasks), len(self.trace.convs)
        single = rng.choice(CHOICES, size=shape, p=rng.dirichlet(np.ones(CHOICES)))
        together = rng.choice(CHOICES, size=shape[1], p=rng.dirichlet(np.ones(CHOICES)))
        return self.architecture(self.held(np.where(rng.random(shape[1]) < rng.random(), together, single)))

    def reach(self, table: CostTable, resource: Resource) -> tuple[float, float]:
        """Return what the cheapest and the dearest network cost, in base units: see `bmtas.methods.automtl.reach`."""
        prices = self.prices(table, resource)
        least = cheapest_choices([prices], [1.0], self.wiring, len(self.tasks))
        together = np.broadcast_to(least, (1, len(self.tasks), len(least)))
        return float(prices.of(together, self.wiring)[0]), dearest_cost(prices, self.wiring, len(self.tasks))


class _Drawing:
    """The expressions of all tasks, place by place; equal values are the same object, so that prefixes are compared at once."""

    def __init__(self, space: ConvolutionSpace, choices: Choices) -> None:
        self._space, self._trace = space, space.trace
        self._all = "+".join(space.tasks)
        self._choice = {place: choices[:, i] for i, place in enumerate(space.trace.convs)}
        self._made: dict[tuple[str, str, tuple[int, ...]], Expression] = {}

    def outputs(self) -> dict[str, Expression]:
        """Return the head of each task."""
        values: list[list[Expression | None]] = []  # [place][task]
        for operation in self._trace.operations:
            read = [
                [values[i][t] if i != IMAGE_PLACE else None for i in operation.inputs]
                for t in range(len(self._space.tasks))
            ]
            values.append([self._value(operation, t, read) for t in range(len(read))])
        ends = (self._trace.features, self._trace.tap)
        return {
            task: Expression(head_name(task), task, tuple(e for e in (values[i][t] for i in ends) if e is not None))
            for t, task in enumerate(self._space.tasks)
        }

    def _value(self, operation: Traced, task: int, read: Sequence[Sequence[Expression | None]]) -> Expression | None:
        """Return what `task` has after an operation of which each task reads `read[task]`; None is the image."""
        name, inputs = self._space.tasks[task], read[task]
        if operation.kind is Kind.CONV:
            return self._convolved(operation, name, int(self._choice[operation.place][task]), inputs)
        if operation.behind is not None and self._choice[operation.behind][task] == SKIP:
            return inputs[0]
        if operation.kind is Kind.NORM:
            same = [n for n, other in zip(self._space.tasks, read, strict=True) if other[0] is inputs[0]]
            return self._make(operation.name, "+".join(same), inputs)
        return self._make(operation.name, self._all if operation.owns else "", inputs)

    def _convolved(
        self, conv: Traced, task: str, choice: int, inputs: Sequence[Expression | None]
    ) -> Expression | None:
        if choice == SKIP:
            same = self._space.identity[self._trace.convs.index(conv.place)]
            return inputs[0] if same else self._make(skip_name(conv), task, inputs)
        return self._make(conv.name, self._all if choice == SHARED else task, inputs)

    def _make(self, operation: str, weights: str, inputs: Sequence[Expression | None]) -> Expression:
        key = operation, weights, tuple(id(e) for e in inputs)
        if key not in self._made:
            self._made[key] = Expression(operation, weights, tuple(e for e in inputs if e is not None))
        return self._made[key]


def open_space(method: Method, kit: Kit, own: Mapping[str, Any]) -> ConvolutionSpace:
    """Return the space for the backbone and tasks of `kit`. Raises UsageError for more shared convolutions than there are."""
    return ConvolutionSpace(kit, Own.model_validate(own).shared)
