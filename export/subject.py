"""What is exported: one trained network, or some of its tasks, with the images on which every file is proved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bmtas.architecture import Architecture
from bmtas.data.batches import Loader, image_tensor
from bmtas.data.chosen import spread
from bmtas.data.protocol import Dataset
from bmtas.errors import ParityError, UsageError
from bmtas.evaluation import evaluate_network
from bmtas.networks.network import GraphNetwork
from bmtas.runs import Run
from bmtas.summary import network_costs
from bmtas.tasks import Task, select_tasks
from bmtas.training import load_network
from costs.units import Resource
from export.interface import OFFSET, SCALE, Interface
from export.predict import read_image
from export.proof.units import final_prediction
from export.request import pictures
from export.sessions.protocol import Array, Session


@dataclass(frozen=True)
class Subject:
    """A trained network in evaluation mode, and the tasks of it that are exported, in output order.

    `network`, `whole` and `every_task` are the network as it was trained, its architecture and its tasks; every file is proved against
    it, those of some tasks too. `architecture`, `tasks` and `costs` are of what is exported; `size` is (height, width).
    """

    network: GraphNetwork
    whole: Architecture
    every_task: tuple[Task, ...]
    architecture: Architecture
    tasks: tuple[Task, ...]
    size: tuple[int, int]
    costs: Mapping[str, float]
    dataset: Dataset
    interface: Interface

    def reference(self, feed: Array, final: bool | None = None) -> dict[str, Array]:
        """Return what PyTorch's network gives for what the exported one is fed, by task.

        `final`: final predictions rather than raw ones; None: as the interface has it. Raises ParityError if the network itself gives
        NaN or infinite numbers, which final predictions could hide.
        """
        with torch.inference_mode():
            values = self.network(self._tensor(feed))
        raw = {task: values[task.name].numpy() for task in self.tasks}
        for task, value in raw.items():
            if not np.isfinite(value).all():
                raise ParityError(f"the trained network gives NaN or infinite numbers for {task.name}: train it again")
        final = self.interface.final if final is None else final
        return {t.name: final_prediction(t.kind, value) if final else value for t, value in raw.items()}

    def _tensor(self, feed: Array) -> Tensor:
        if self.interface.input_type == "uint8":
            return torch.stack([image_tensor(image) for image in feed])
        return torch.from_numpy(feed)

    def feeds(self, count: int) -> Iterator[Array]:
        """Yield `count` validation images, spread over the split, as the exported network takes them."""
        for image in self._images("val", count, self.size):
            yield self.interface.feed(image)
        # Free dimensions are proved to be free: three images at once, a larger and a smaller size.
        if "batch" in self.interface.dynamic:
            several = [self.interface.feed(image) for image in self._images("val", 3, self.size)]
            yield np.concatenate((several * 3)[:3])
        if "size" in self.interface.dynamic:
            height, width = self.size
            for other in ((height + 32, width + 64), (max(height // 2, 32), max(width // 2, 32))):
                yield from (self.interface.feed(image) for image in self._images("val", 2, other))

    def feed_count(self, count: int) -> int:
        """Return how many `feeds` yields."""
        total = len(self.dataset.ids("val"))
        sizes = 2 * min(2, total) if "size" in self.interface.dynamic else 0
        return min(count, total) + ("batch" in self.interface.dynamic) + sizes

    def calibration(self, source: int | Path) -> Iterator[Array]:
        """Yield training images, or the pictures in a folder, as the exported network takes them.

        Raises UsageError if there are none: numbers made up would calibrate for what the camera never shows.
        """
        if isinstance(source, int):
            yield from (self.interface.feed(image) for image in self._images("train", source, self.size))
            return
        yield from (self.interface.feed(read_image(path, self.size)) for path in pictures(source))

    def _images(self, split: str, count: int, size: tuple[int, int]) -> Iterator[Array]:
        total = len(self.dataset.ids(split))
        if not total:
            raise UsageError(
                f"the split {split!r} of {self.dataset.name} has no image; exports are proved and calibrated on real ones"
            )
        for index in spread(total, count):
            yield self.dataset.load(split, index, size=size, tasks=()).image

    def score(self, session: Session, limit: int) -> dict[str, float]:
        """Return each task's own metric of `session`, which gives raw outputs, on at most `limit` validation images at the exported size."""
        loader = Loader(self.dataset, "val", self.tasks, self.size)
        adapter = _SessionNetwork(session, self.tasks, self.interface)
        values = evaluate_network(adapter, loader.in_order(1, limit), self.tasks)
        return {task.name: values[task.name][task.metric] for task in self.tasks}

    def scored(self, limit: int) -> int:
        """Return on how many images `score` measures."""
        return min(limit, Loader(self.dataset, "val", self.tasks, self.size).count)


def open_subject(run: Run, name: str, dataset: Dataset, tasks: tuple[str, ...] | None, interface: Interface) -> Subject:
    """Return the trained network `name` of `run`, of which `tasks` are to be exported (None: all).

    Raises UsageError if it is not trained or a task is unknown.
    """
    config, whole = run.config(), run.architecture(name)
    network = load_network(config, whole, run.require_trained(name))
    every_task, costs, architecture = config.task_list(), network_costs(run, name), whole
    kept = select_tasks(every_task, list(tasks) if tasks is not None else None)
    if tasks is not None:
        names, table = [task.name for task in kept], run.table()
        architecture, graph = whole.subset(names), network.graph.subset(names)
        costs = {
            r.value: counted(lambda operation, r=r: table.operation_cost(operation, r))  # type: ignore[misc]
            for r, counted in ((Resource.MADDS, graph.madds), (Resource.PARAMS, graph.params))
        }
    return Subject(network.eval(), whole, every_task, architecture, kept, config.deploy_size, costs, dataset, interface)


class _SessionNetwork(nn.Module):
    """An exported file where a network is expected: images in [-1, 1] in, raw predictions out."""

    def __init__(self, session: Session, tasks: tuple[Task, ...], interface: Interface) -> None:
        super().__init__()
        self._session, self._tasks, self._interface = session, tasks, interface
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # tells where it runs: here

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Map (1, 3, H, W) to the raw predictions by task."""
        feed = images.numpy()
        if self._interface.input_type == "uint8":
            feed = np.rint((feed.transpose(0, 2, 3, 1) - OFFSET) / SCALE).astype(np.uint8)
        outputs = self._session(feed)
        return {task.name: torch.from_numpy(np.array(outputs[task.name])).float() for task in self._tasks}
