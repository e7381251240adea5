"""A network that begins with what the search has learned, instead of with the backbone's pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from bmtas.graph import head_name
from bmtas.networks.network import GraphNetwork


def chosen_candidate(probabilities: np.ndarray, layer: int, tasks: Sequence[int]) -> int:
    """Return the candidate that a group of tasks most probably takes together: `probabilities` is (L, T, C)."""
    with np.errstate(divide="ignore"):
        return int(np.log(probabilities[layer, list(tasks)]).sum(axis=0).argmax())


def inherit(network: GraphNetwork, supergraph: Mapping[str, Tensor], probabilities: np.ndarray) -> None:
    """Copy the weights of stem, candidates and heads from a supergraph's state into the network that was derived from it.

    Each group of tasks takes over `chosen_candidate`. The last normalisation of a candidate has no affine parameters in the
    supergraph; in the network they begin as what that means, 1 and 0. Raises KeyError, ValueError or RuntimeError if the
    state is of another supergraph.
    """
    names = list(network.graph.tasks)
    for node in network.graph.nodes:
        source = _source(node.operation, [names.index(task) for task in node.tasks], probabilities)
        prefix = f"{source}."
        state: dict[str, Any] = {k[len(prefix) :]: v for k, v in supergraph.items() if k.startswith(prefix)}
        module = network.get_submodule(node.module)
        own = module.state_dict()
        missing, unknown = set(own) - set(state), set(state) - set(own)
        norms = {key.rpartition(".")[0] for key in missing} if source.startswith("layers.") else set()
        affine = {f"{norm}.{key}" for norm in norms for key in ("weight", "bias")} if len(norms) == 1 else set()
        if unknown or missing != affine:
            raise ValueError(f"{source} lacks {sorted(missing)} or has {sorted(unknown)} beyond {node.module}")
        neutral = {k: own[k].new_ones(()).expand_as(own[k]) * float(k.endswith("weight")) for k in affine}
        module.load_state_dict({**state, **neutral})


def _source(operation: str, tasks: Sequence[int], probabilities: np.ndarray) -> str:
    """Return where in the supergraph's state the parameters of a node stand."""
    if operation == "stem" or operation.startswith(head_name("")):
        return operation
    layer = int(operation.split(".")[1])
    return f"layers.{layer}.{chosen_candidate(probabilities, layer, tasks)}"
