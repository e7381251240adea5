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
    supergraph; in the network they begin as what that means, 1 and 0. Raises KeyError or ValueError if the state is of
    another supergraph.
    """
    names = list(network.graph.tasks)
    for node in network.graph.nodes:
        source = _source(node.operation, [names.index(task) for task in node.tasks], probabilities)
        prefix = f"{source}."
        state: dict[str, Any] = {k[len(prefix) :]: v for k, v in supergraph.items() if k.startswith(prefix)}
        module = network.get_submodule(node.module)
        own = module.state_dict()
        missing, unknown = set(own) - set(state), set(state) - set(own)
        affine = {key for key in missing if key.rsplit(".", 1)[-1] in ("weight", "bias") and own[key].ndim == 1}
        if unknown or missing != affine or (missing and not source.startswith("layers.")):
            raise ValueError(f"{source} lacks {sorted(missing - affine)} or has {sorted(unknown)} beyond {node.module}")
        neutral = {k: own[k].new_ones(()).expand_as(own[k]) * float(k.endswith("weight")) for k in affine}
        module.load_state_dict({**state, **neutral})


def _source(operation: str, tasks: Sequence[int], probabilities: np.ndarray) -> str:
    """Return where in the supergraph's state the parameters of a node stand."""
    if operation == "stem" or operation.startswith(head_name("")):
        return operation
    layer = int(operation.split(".")[1])
    return f"layers.{layer}.{chosen_candidate(probabilities, layer, tasks)}"
