"""Peak activation memory: the most bytes of tensors that one pass of a module keeps alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

BYTES_PER_MIB = 2**20


def peak_activations(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Return the bytes of tensors alive at once, at the worst moment of one evaluation pass of `module` on `inputs`.

    Inputs (the caller holds them throughout), intermediates and outputs count, each storage once: a view or an in-place
    operation adds nothing. Parameters and buffers do not count. This is what PyTorch's eager mode holds: a runtime that
    folds normalisations into convolutions needs less, and the workspace of a convolution algorithm comes on top.

    The pass runs on the `meta` device, so only shapes and types of `inputs` matter and nothing is computed; mode and
    values of the module stay as they are. Raises what the module raises.
    """
    held = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in inputs}
    return trace_activations(module, [held[id(tensor)] for tensor in inputs])[0]


def trace_activations(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[int, Any]:
    """Return the peak in bytes, and the outputs, of one evaluation pass on `inputs` that are on the meta device."""
    # Swapped in for the call: a copy of the module would copy weights that nobody reads.
    state = {name: torch.empty_like(p, device="meta") for name, p in module.named_parameters()}
    state |= {name: torch.empty_like(b, device="meta") for name, b in module.named_buffers()}
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    alive = _AliveStorages(state.values())
    try:
        for tensor in inputs:
            alive.add(tensor)
        with torch.no_grad(), alive:
            output = functional_call(module, state, tuple(inputs))
    finally:
        for part, training in modes:
            part.training = training
    return alive.peak, output


class _AliveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call] # PyTorch's own hook is untyped
    """Sums up the bytes of the storages that operations make, each from its first tensor to its end.

    `free` are tensors whose storages do not count.
    """

    def __init__(self, free: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {_address(tensor) for tensor in free}

    def add(self, tensor: Tensor) -> None:
        """Count the storage of `tensor` unless it is known already."""
        address = _address(tensor)
        if address in self._known:
            return
        self._known.add(address)
        storage = tensor.untyped_storage()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        # PyTorch keeps the storage's Python object as long as the storage itself, whichever tensors come and go.
        weakref.finalize(storage, self._drop, address, storage.nbytes())

    def _drop(self, address: int, size: int) -> None:
        self._known.remove(address)  # another storage may come to stand there
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count what it has made."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.add(value)
        return result


def _address(tensor: Tensor) -> int:
    # Not data_ptr, which is 0 for all tensors on the meta device.
    address: int = tensor.untyped_storage()._cdata
    return address
