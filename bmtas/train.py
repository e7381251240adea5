"""Training of a network built from an architecture (paper, appendix A: retraining from the backbone's weights)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bmtas.architecture import Architecture
from bmtas.checkpoint import Rhythm, load_checkpoint, require_finite, save_checkpoint
from bmtas.config import RunConfig
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batch, Batches, Loader
from bmtas.data.protocol import Dataset
from bmtas.device import pick_device
from bmtas.errors import DivergedError, UsageError
from bmtas.files import append_line, read_lines, write_json, write_text
from bmtas.interrupt import Interrupted, stop_between_steps
from bmtas.losses import task_loss
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.weights import load_weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.progress import Progress
from bmtas.tasks import Task


def parameter_groups(network: GraphNetwork, learning_rate: float, *, divide: bool) -> list[dict[str, Any]]:
    """Return one parameter group per module of the graph; a module that n tasks share learns at rate / n if `divide`.

    Paper, appendix A: shared operations receive the gradients of all their tasks.
    """
    sharing = {node.module: len(node.tasks) for node in network.graph.nodes}
    return [
        {
            "params": list(network.get_submodule(module).parameters()),
            "lr": learning_rate / (tasks if divide else 1),
        }
        for module, tasks in sharing.items()
    ]


class Training:
    """Trains one network in its folder; survives being stopped."""

    checkpoint_every_s = 30.0

    def __init__(
        self, config: RunConfig, architecture: Architecture, dataset: Dataset, folder: Path, device: str
    ) -> None:
        """Prepare everything that does not change. Raises UsageError if there are fewer images than a batch."""
        self.config, self.architecture, self.folder = config, architecture, folder
        self.settings = config.train
        self.device = pick_device(device)
        self.tasks = config.task_list()
        loader = Loader(dataset, "train", self.tasks, config.train_size)
        self.batches = Batches(
            loader,
            range(loader.count),
            self.settings.batch_size,
            config.seed + 3,
            Augmentation(scales=self.settings.scales),
        )

    def run(self, progress: Progress) -> GraphNetwork:
        """Train to the end, write `weights.pt`, and return the network.

        Continues from the checkpoint in the folder if there is one. Raises Interrupted after a signal (the checkpoint
        is written), DivergedError if a loss is not finite (the last checkpoint stays).
        """
        write_json(self.folder / "architecture.json", self.architecture.to_json())
        network, optimiser, done = self._begin()
        progress.start(f"train {self.folder.name}", self.settings.steps, done)
        if done:
            progress.note(f"continuing at step {done} of {self.settings.steps}")
        rhythm = Rhythm(self.checkpoint_every_s)
        history: list[dict[str, Any]] = []
        try:
            with stop_between_steps() as stop:
                for step in range(done, self.settings.steps):
                    losses = self._step(network, optimiser, step)
                    history.append({"step": step, **losses})
                    if rhythm.due() or stop.requested or step + 1 == self.settings.steps:
                        self._save(network, optimiser, step + 1, history)
                    if stop.requested and step + 1 < self.settings.steps:
                        raise Interrupted
                    progress.advance(**losses)
        finally:
            self.batches.close()
        save_checkpoint(self.folder / "weights.pt", {"network": network.state_dict()})
        return network

    def _begin(self) -> tuple[GraphNetwork, torch.optim.Optimizer, int]:
        torch.manual_seed(self.config.seed)
        path = self.folder / "checkpoint.pt"
        saved = load_checkpoint(path) if path.exists() else None
        weights = None if saved else load_weights(self.config.weights, get_backbone(self.config.backbone))
        network = build_network(self.architecture, self.tasks, weights)
        channels_last(network.train().to(self.device))
        groups = parameter_groups(network, self.settings.learning_rate, divide=self.settings.divide_rate_by_sharing)
        optimiser = weight_optimiser(self.settings.optimiser, groups, self.settings.learning_rate)
        if saved is None:
            return network, optimiser, 0
        if saved["architecture"] != self.architecture.to_json():
            raise UsageError(f"{path} belongs to another architecture; delete {self.folder} to train this one")
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        history = self.folder / "history.jsonl"
        kept = [r for r in read_lines(history) if r["step"] < saved["done"]]
        write_text(history, "".join(json.dumps(r) + "\n" for r in kept))
        return network, optimiser, saved["done"]

    def _save(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, done: int, history: list[dict[str, Any]]
    ) -> None:
        for record in history:
            append_line(self.folder / "history.jsonl", record)
        history.clear()
        path = self.folder / "checkpoint.pt"
        require_finite(network.state_dict(), f"training {self.folder.name!r}, step {done}", path)
        state = {
            "done": done,
            "architecture": self.architecture.to_json(),
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        save_checkpoint(path, state)

    def _step(self, network: GraphNetwork, optimiser: torch.optim.Optimizer, step: int) -> dict[str, float]:
        batch = self.batches[step].to(self.device)
        set_poly_rate(optimiser, step / self.settings.steps)
        optimiser.zero_grad(set_to_none=True)
        predictions = network(batch.images)
        total = torch.zeros((), device=self.device)
        losses = {}
        for task in self.tasks:
            loss = self._loss(task, predictions[task.name], batch, step)
            total = total + task.loss_weight * loss
            losses[f"loss.{task.name}"] = loss.item()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return losses

    def _loss(self, task: Task, prediction: torch.Tensor, batch: Batch, step: int) -> torch.Tensor:
        loss = task_loss(task, prediction, batch.labels[task.name])
        if not torch.isfinite(loss):
            raise DivergedError(
                f"training {self.folder.name!r}: the loss of {task.name!r} is {loss.item()} at step {step}; the last good "
                f"checkpoint stands in {self.folder / 'checkpoint.pt'}. A lower learning rate or loss weight usually helps"
            )
        return loss


def load_network(config: RunConfig, architecture: Architecture, path: Path) -> GraphNetwork:
    """Return the trained network whose weights stand in `path`, in evaluation mode."""
    network = build_network(architecture, config.task_list())
    try:
        network.load_state_dict(load_checkpoint(path)["network"])
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"{path} does not hold the weights of this architecture: {error}") from None
    return network.eval()
