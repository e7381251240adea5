"""What the studies on the data set `planted` share: a short training of a network on all its tasks, and its losses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bmtas.config import Optimiser
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batch, Batches, Loader
from bmtas.data.planted import TASKS
from bmtas.data.protocol import Dataset
from bmtas.losses import task_loss
from bmtas.networks.network import GraphNetwork
from bmtas.optim import set_poly_rate, weight_optimiser

EVALUATION_BATCH = 64


def fit(network: GraphNetwork, data: Dataset, *, seed: int, steps: int, batch: int, rate: float) -> None:
    """Train a network as it stands by AdamW for `steps` steps on all tasks, with the batches of `seed`."""
    loader = Loader(data, "train", TASKS, data.size)
    batches = Batches(loader, range(loader.count), batch, seed, Augmentation())
    optimiser = weight_optimiser(Optimiser.ADAMW, network.train().parameters(), rate)
    for step in range(steps):
        set_poly_rate(optimiser, step / steps)
        total = sum(losses(network, batches[step]).values(), torch.zeros(()))
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    batches.close()


def losses(network: GraphNetwork, batch: Batch) -> dict[str, Tensor]:
    """Return the unweighted loss of each task on one batch, scalars."""
    predictions = network(batch.images)
    return {task.name: task_loss(task, predictions[task.name], batch.labels[task.name]) for task in TASKS}


@torch.no_grad()
def validation_losses(network: GraphNetwork, data: Dataset) -> dict[str, float]:
    """Return the mean loss of each task on the validation images."""
    network.eval()
    found = [losses(network, batch) for batch in Loader(data, "val", TASKS, data.size).in_order(EVALUATION_BATCH)]
    return {task.name: float(np.mean([part[task.name].item() for part in found])) for task in TASKS}


def seeds_of(text: str) -> range:
    """Return the seeds of `first-last`, or of one number."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
