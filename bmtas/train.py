"""Training of a network built from an architecture (paper, appendix A: retraining from the backbone's weights)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bmtas.architecture import Architecture
from bmtas.checkpoint import belongs, load_checkpoint, require_finite, save_checkpoint
from bmtas.config import RunConfig
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batches, Loader
from bmtas.data.protocol import Dataset
from bmtas.device import pick_device
from bmtas.files import write_json
from bmtas.losses import NotFiniteError, finite_loss
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.weights import load_weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.progress import Progress
from bmtas.stepping import CHECKPOINT_EVERY_S, History, run_steps


def parameter_groups(network: GraphNetwork, learning_rate: float, *, divide: bool) -> list[dict[str, Any]]:
    """Return one parameter group per module of the graph; a module that n tasks share learns at rate / n if `divide`.

    Paper, appendix A: shared operations receive the gradients of all their tasks.
    """
    sharing: dict[str, set[str]] = {}
    for node in network.graph.nodes:
        sharing.setdefault(node.module, set()).update(node.tasks)
    return [
        {
            "params": list(network.get_submodule(module).parameters()),
            "lr": learning_rate / (len(tasks) if divide else 1),
        }
        for module, tasks in sharing.items()
    ]


class Training:
    """Trains one network in its folder; survives being stopped."""

    checkpoint_every_s = CHECKPOINT_EVERY_S

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

    def run(self, progress: Progress) -> None:
        """Train to the end and write `weights.pt`.

        Continues from the checkpoint in the folder if there is one. Raises Interrupted after a signal (the checkpoint
        is written), DivergedError if a loss is not finite (the last checkpoint stays).
        """
        write_json(self.folder / "architecture.json", self.architecture.to_json())
        network, optimiser, done = self._begin()
        history = History(self.folder / "history.jsonl")
        history.cut(done)

        def take(step: int) -> dict[str, float]:
            losses = self._step(network, optimiser, step)
            history.add({"step": step, **losses})
            return losses

        def save(steps: int) -> None:
            require_finite(network.state_dict(), f"training {self.folder.name!r}, step {steps}", self._checkpoint)
            history.write()
            state = {
                "done": steps,
                "architecture": self.architecture.to_json(),
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
            }
            save_checkpoint(self._checkpoint, state)

        try:
            run_steps(
                f"train {self.folder.name}",
                total=self.settings.steps,
                done=done,
                take=take,
                save=save,
                finish=lambda: save_checkpoint(self.folder / "weights.pt", {"network": network.state_dict()}),
                progress=progress,
                checkpoint_every_s=self.checkpoint_every_s,
            )
        finally:
            self.batches.close()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _begin(self) -> tuple[GraphNetwork, torch.optim.Optimizer, int]:
        torch.manual_seed(self.config.seed)
        path = self._checkpoint
        saved = load_checkpoint(path) if path.exists() else None
        # What a checkpoint replaces anyway is not fetched again.
        weights = None if saved else load_weights(self.config.weights, get_backbone(self.config.backbone))
        network = build_network(self.architecture, self.tasks, weights)
        channels_last(network.train().to(self.device))
        groups = parameter_groups(network, self.settings.learning_rate, divide=self.settings.divide_rate_by_sharing)
        optimiser = weight_optimiser(self.settings.optimiser, groups, self.settings.learning_rate)
        if saved is None:
            return network, optimiser, 0
        with belongs(path, "this training"):
            if saved["architecture"] != self.architecture.to_json():
                raise ValueError("it is of another architecture")
            network.load_state_dict(saved["network"])
            optimiser.load_state_dict(saved["optimiser"])
            return network, optimiser, int(saved["done"])

    def _step(self, network: GraphNetwork, optimiser: torch.optim.Optimizer, step: int) -> dict[str, float]:
        batch = self.batches[step].to(self.device)
        set_poly_rate(optimiser, step / self.settings.steps)
        optimiser.zero_grad(set_to_none=True)
        predictions = network(batch.images)
        total = torch.zeros((), device=self.device)
        losses = {}
        for task in self.tasks:
            try:
                loss = finite_loss(task, predictions[task.name], batch)
            except NotFiniteError as error:
                raise error.explained(f"training {self.folder.name!r}, step {step}", self._checkpoint) from None
            total = total + task.loss_weight * loss
            losses[f"loss.{task.name}"] = loss.item()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return losses


def load_network(config: RunConfig, architecture: Architecture, path: Path) -> GraphNetwork:
    """Return the trained network whose weights stand in `path`, in evaluation mode."""
    network = build_network(architecture, config.task_list())
    saved = load_checkpoint(path)
    with belongs(path, f"the network {path.parent.name!r}"):
        network.load_state_dict(saved["network"])
    return network.eval()
