"""The merged graph: the product's one representation of a network. Needs no torch.

Every method derives, per task, an expression of (operation, weights, inputs). Equal operation with equal weights on equal
inputs is one node, whatever the method: merging is hash-consing. The graph is then counted, run, cut down to some of
the tasks and exported; for the branched method it is the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

IMAGE = "image"
"""Name of the graph's input."""
HEADS = "heads."
"""What the names of heads begin with."""


@dataclass(frozen=True)
class Expression:
    """`operation` with `weights` applied to `inputs`; without inputs it reads the image.

    `operation` names what is computed (`layers.07`), `weights` which copy of its parameters (`semseg+parts`), and is empty where
    there are none (a sum). Scalars on the edges of a weighted sum are parameters of the operation that sums.
    """

    operation: str
    weights: str
    inputs: tuple[Expression, ...] = ()

    @property
    def module(self) -> str:
        """Name of the parameters: equal for all nodes that share them."""
        # A head belongs to one task and is called heads.semseg, not heads.semseg.semseg.
        own = not self.weights or self.operation == head_name(self.weights)
        return self.operation if own else f"{self.operation}.{self.weights}"


@dataclass(frozen=True)
class Node:
    """One computation of the merged graph: the parameters `module` applied to the values of the nodes `inputs`.

    `tasks` are those whose predictions need it.
    """

    name: str
    operation: str
    module: str
    inputs: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def weights(self) -> str:
        """Which copy of the operation's parameters it applies, as in `Expression`."""
        if self.module != self.operation:
            return self.module[len(self.operation) + 1 :]
        return self.operation.removeprefix(HEADS) if self.operation.startswith(HEADS) else ""


@dataclass(frozen=True)
class MergedGraph:
    """Nodes in an order in which every node comes after its inputs, and the node that gives each task's prediction."""

    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in output order."""
        return tuple(self.outputs)

    def modules(self) -> dict[str, str]:
        """Return the operation of each set of parameters, by module name, in graph order."""
        return {node.module: node.operation for node in self.nodes}

    def layer_by_layer(self) -> tuple[Node, ...]:
        """Return the nodes breadth first: all of one depth before those of the next, otherwise as they stand.

        For the branched method these are the layers, and the heads after them: the order in which the network is run.
        The graph itself keeps the order in which tasks named its nodes, because parameters are made in it: seeds and
        checkpoints mean the same networks whatever the order of running.
        """
        depths = {IMAGE: 0}
        for node in self.nodes:
            depths[node.name] = 1 + max(depths[name] for name in node.inputs)
        return tuple(sorted(self.nodes, key=lambda node: depths[node.name]))

    def subset(self, tasks: Iterable[str]) -> MergedGraph:
        """Return the graph of what `tasks` need: reachability from their outputs. Names stay as they were."""
        kept = tuple(tasks)
        nodes = tuple(
            Node(n.name, n.operation, n.module, n.inputs, tuple(t for t in n.tasks if t in kept))
            for n in self.nodes
            if any(t in kept for t in n.tasks)
        )
        return MergedGraph(nodes, {t: self.outputs[t] for t in kept})

    def madds(self, cost: Callable[[str], float]) -> float:
        """Return the sum of `cost(operation)` over the nodes: what one pass through the network costs."""
        return sum(cost(node.operation) for node in self.nodes)

    def params(self, cost: Callable[[str], float]) -> float:
        """Return the sum of `cost(operation)` over the distinct sets of parameters."""
        return sum(cost(operation) for operation in self.modules().values())


def merge(expressions: Mapping[str, Expression]) -> MergedGraph:
    """Merge the expressions of all tasks: equal operation with equal weights on equal inputs becomes one node."""
    names: dict[tuple[str, str, tuple[str, ...]], str] = {}
    operations: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    users: dict[str, list[str]] = {}

    def intern(expression: Expression, task: str, seen: dict[int, str]) -> str:
        inputs = tuple(seen[id(e)] for e in expression.inputs) or (IMAGE,)
        key = (expression.operation, expression.weights, inputs)
        if key not in names:
            applied = sum(module == expression.module for _, module, _ in operations.values())
            name = expression.module if not applied else f"{expression.module}@{applied + 1}"
            names[key] = name
            operations[name] = (expression.operation, expression.module, inputs)
            users[name] = []
        name = names[key]
        if task not in users[name]:
            users[name].append(task)
        seen[id(expression)] = name
        return name

    outputs = {}
    for task, expression in expressions.items():
        seen: dict[int, str] = {}
        for part in _inputs_first(expression):
            outputs[task] = intern(part, task, seen)
    nodes = tuple(Node(name, *operations[name], tuple(users[name])) for name in operations)
    return MergedGraph(nodes, outputs)


def _inputs_first(expression: Expression) -> Iterator[Expression]:
    """Yield the parts of an expression, each once and after its inputs, itself last; without recursion, for networks are deep."""
    done: set[int] = set()
    waiting = [(expression, False)]
    while waiting:
        part, ready = waiting.pop()
        if id(part) in done:
            continue
        if ready:
            done.add(id(part))
            yield part
        else:
            waiting.append((part, True))
            waiting.extend((e, False) for e in reversed(part.inputs))


def layer_name(index: int) -> str:
    """Return the name of encoder layer `index`, as it stands in tables, graphs and state dicts."""
    return f"layers.{index:02d}"


def head_name(task: str) -> str:
    """Return the name of a task's head."""
    return f"{HEADS}{task}"
