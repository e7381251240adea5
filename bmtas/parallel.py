"""Several processes that search or train together: started by torchrun, joined by Lightning Fabric.

    torchrun --standalone --nproc-per-node 2 --no-python bmtas search ...

Every process holds all weights and computes its share of each batch. Losses are sums over the whole batch divided by
counts of the whole batch (`bmtas.losses`), so gradients are summed, not averaged, and any number of processes takes the
same steps but for rounding. Only the first process reads and writes the run folder.

No process must decide anything alone: what depends on time, files or signals is agreed on with `decided` and `most`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bmtas.device import pick_device
from bmtas.errors import BmtasError, EnvironmentProblem, UsageError
from bmtas.extras import require
from bmtas.ranks import torchrun_rank
from bmtas.torchvision_remedy import import_torchvision

_Result = TypeVar("_Result")
_LEAST_IMAGES = 2
_PATIENCE = timedelta(hours=6)
"""So long the others wait while the first process reads all labels. If a process dies, torchrun ends them at once."""


class _OfFirstProcess(BmtasError):
    """What the first process has met, raised in the others with the same words and exit code."""

    told = True  # by the first process

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Parallel:
    """This process among those of a run. `fabric` is None where it is alone."""

    device: torch.device
    rank: int = 0
    size: int = 1
    fabric: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes files and talks."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` (any shape) over all processes; no gradient flows."""
        if self.fabric is None:
            return values.detach()
        with self.together():
            result: Tensor = self.fabric.all_reduce(values.detach().clone(), reduce_op="sum")
        return result

    def sum_gradients(self, parameters: Iterable[nn.Parameter | Tensor]) -> None:
        """Replace every gradient by its sum over all processes, in place.

        Parameters without a gradient must be the same ones in all processes.
        """
        if self.fabric is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        for dtype in sorted({g.dtype for g in gradients}, key=str):
            mine = [g for g in gradients if g.dtype == dtype]
            # One long message instead of hundreds of short ones.
            flat = self.total(torch.cat([g.reshape(-1) for g in mine]))
            parts = torch.split(flat, [g.numel() for g in mine])
            for gradient, part in zip(mine, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def most(self, values: Sequence[int]) -> list[int]:
        """Return the greatest of each of `values` over all processes."""
        if self.fabric is None:
            return list(values)
        tensor = torch.tensor(values, device=self.device)
        with self.together():
            return [int(v) for v in self.fabric.all_reduce(tensor, reduce_op="max").tolist()]

    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Give `tensors` the values that they have in the first process, in place; no gradient flows."""
        if self.fabric is None:
            return
        for tensor in tensors:
            with self.together(), torch.no_grad():
                tensor.copy_(self.fabric.broadcast(tensor.detach().clone()))

    def decided(self, make: Callable[[], _Result]) -> _Result:
        """Return in all processes what `make` returns in the first, the only one that runs it.

        Raises in all of them if `make` raises in the first: the error itself there, its words in the others.
        """
        if self.fabric is None:
            return make()
        answer: tuple[Any, str, int] | None = None
        failure: Exception | None = None
        if self.first:
            try:
                answer = (make(), "", 0)
            except Exception as error:  # noqa: BLE001 -- the others wait, whatever it is
                failure = error
                answer = (None, str(error) or type(error).__name__, getattr(error, "exit_code", 1))
        with self.together():
            result, message, code = self.fabric.broadcast(answer)
        if failure is not None:
            raise failure
        if message:
            raise _OfFirstProcess(message, code)
        return result

    def leave(self) -> None:
        """Part from the other processes for good, when all have come here: what follows is this process's own affair."""
        if self.fabric is not None:
            with self.together():
                self.fabric.barrier()
            torch.distributed.destroy_process_group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within this block, what goes wrong between processes is an EnvironmentProblem and no riddle."""
        try:
            yield
        except RuntimeError as error:
            if self.fabric is None or not _is_of_connection(error):
                raise
            raise EnvironmentProblem(
                f"process {self.rank} of {self.size} cannot talk to the others ({str(error).splitlines()[0]}); if one of them has "
                "ended, its own message says why. The same command goes on from the last checkpoint"
            ) from error


def _is_of_connection(error: RuntimeError) -> bool:
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in words for word in ("gloo", "nccl", "tcpstore"))


@dataclass(frozen=True)
class How:
    """What does not decide the results of a search or a training, but how it comes to them.

    `compile` runs layers through torch.compile; `tensorboard` keeps the history for TensorBoard, too.
    """

    parallel: Parallel
    compile: bool = False
    tensorboard: bool = False

    def check(self) -> None:
        """Raise EnvironmentProblem where this machine lacks what was asked for."""
        if self.tensorboard:
            require("tensorboard", "tensorboard")
        if self.compile:
            _check_compiler(self.parallel.device)

    @classmethod
    def alone(cls, device: str) -> How:
        """Return the plain way: this process by itself, on `device` as for `pick_device`."""
        return cls(Parallel(pick_device(device)))


def _check_compiler(device: torch.device) -> None:
    """Raise EnvironmentProblem if torch.compile lacks what it needs for `device`."""
    remedy = "install it, or leave --compile out"
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise EnvironmentProblem(f"--compile needs triton, which is not installed here; {remedy}")
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise EnvironmentProblem(
            f"--compile needs a C++ compiler, and none was found ({type(error).__name__}): g++ for instance; {remedy}"
        ) from error


def check_shares(batch_size: int, accumulate: int, processes: int, *, changeable: bool = True) -> None:
    """Raise UsageError unless every process gets `accumulate` equal parts of at least two images of a batch.

    `changeable` says whether the user can choose another batch size now.
    """

    def fits(number: int) -> bool:
        return batch_size % (number * accumulate) == 0 and batch_size // (number * accumulate) >= _LEAST_IMAGES

    if fits(processes):
        return
    numbers = [str(number) for number in range(1, batch_size + 1) if fits(number)]
    shares = processes * accumulate
    other = f"give a --batch-size that is a multiple of {shares}, from {_LEAST_IMAGES * shares} up"
    fewer = f"start {' or '.join(numbers)} process(es)" if numbers else ""
    fix = (
        ", or ".join(filter(None, [other if changeable else "", fewer])) or "begin a new run with a larger --batch-size"
    )
    raise UsageError(
        f"a batch of {batch_size} images for {processes} process(es) in {accumulate} part(s) each: every part must "
        f"have the same number of images, at least {_LEAST_IMAGES} (what is normalised by a single image learns nothing); {fix}"
    )


def join_processes(device: str) -> Parallel:
    """Return this process's place among those that torchrun has started, or alone; `device` as for `pick_device`.

    Joins once; the backend is nccl on GPUs (one process each) and gloo on the CPU. Raises EnvironmentProblem where
    Lightning Fabric is missing or a machine has fewer GPUs than processes.
    """
    picked = pick_device(device)
    if torchrun_rank() is None:
        return Parallel(picked)
    return _joined(picked.type)


@functools.lru_cache(maxsize=1)
def _joined(kind: str) -> Parallel:
    import_torchvision()  # Fabric imports torchvision where it is installed
    fabric_module = require("lightning_fabric", "host")
    environments = require("lightning_fabric.plugins.environments", "host")
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if kind == "cuda" and torch.cuda.device_count() < here:
        raise EnvironmentProblem(
            f"{here} processes on a machine with {torch.cuda.device_count()} GPUs; start as many as there are GPUs "
            "(--nproc-per-node), or give --device cpu"
        )
    if int(os.environ["WORLD_SIZE"]) % here:
        raise UsageError(
            f"{os.environ['WORLD_SIZE']} processes, {here} of them on this machine: all machines must have the same number of "
            "processes; start torchrun with the same --nproc-per-node on each"
        )
    strategies = require("lightning_fabric.strategies", "host")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run's own first line tells as much
    fabric = fabric_module.Fabric(
        accelerator=kind,
        devices=here,
        num_nodes=int(os.environ["WORLD_SIZE"]) // here,
        strategy=strategies.DDPStrategy(timeout=_PATIENCE),
        plugins=[environments.TorchElasticEnvironment()],
    )
    fabric.launch()
    return Parallel(fabric.device, fabric.global_rank, fabric.world_size, fabric)
