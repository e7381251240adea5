"""Training of a network built from an architecture (paper, appendix A: retraining from the backbone's weights)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bmtas.architecture import Architecture
from bmtas.checkpoint import belongs, load_checkpoint, load_latest, require_finite, save_checkpoint
from bmtas.config import RunConfig
from bmtas.constants import constant_losses
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batches, Loader
from bmtas.data.protocol import Dataset
from bmtas.extras import own_version
from bmtas.files import write_json
from bmtas.half import autocast, widened
from bmtas.learning import LearningWatch
from bmtas.losses import NotFiniteError, batch_loss, checked_finite, counted, diverged
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.network import GraphNetwork, build_network
from bmtas.networks.norms import use_joint_norms
from bmtas.networks.weights import load_weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.parallel import How, check_shares
from bmtas.progress import Progress
from bmtas.stepping import CHECKPOINT_EVERY_S, History, run_steps, seed_step, trustworthy
from bmtas.watch import ExplodedError, LossWatch

_CONSTANT_IMAGES = 32
"""On so many training images the best constant prediction is found."""


def parameter_groups(network: GraphNetwork, learning_rate: float, *, divide: bool) -> list[dict[str, Any]]:
    """Return one parameter group per module of the graph; a module that n tasks share learns at rate / n if `divide`.

    Paper, appendix A: shared operations receive the gradients of all their tasks. Where features are joined, other tasks need a task's
    own network, too, which is no sharing of its weights: then those count whom the weights are named after.
    """
    sharing: dict[str, set[str]] = {}
    for node in network.graph.nodes:
        named = set(node.weights.rpartition(".")[2].split("+"))  # a unit's weights are called layers.02.semseg
        sharing.setdefault(node.module, set()).update(named if named <= set(network.graph.tasks) else node.tasks)
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
        self,
        config: RunConfig,
        architecture: Architecture,
        dataset: Dataset,
        folder: Path,
        how: How,
        start: Callable[[GraphNetwork], None] | None = None,
    ) -> None:
        """Prepare everything that does not change. Raises what the data raise, and UsageError for batches not to be shared.

        `start` gives a new network its first weights, instead of the backbone's pretrained ones.
        """
        self._start = start
        self.config, self.architecture, self.folder = config, architecture, folder
        self.settings = config.train
        self.how, self.parallel, self.device = how, how.parallel, how.parallel.device
        check_shares(self.settings.batch_size, self.settings.accumulate, self.parallel.size, changeable=False)
        how.check()
        self.tasks = config.task_list()
        loader = Loader(dataset, "train", self.tasks, config.train_size)
        self.batches = Batches(
            loader,
            range(loader.count),
            self.settings.batch_size,
            config.seed + 3,
            Augmentation(scales=self.settings.scales),
            (self.parallel.rank, self.parallel.size),
        )
        self.watch = LossWatch([task.name for task in self.tasks])
        self.learning = LearningWatch(self.settings.steps, {task.name: float("nan") for task in self.tasks})

    def run(self, progress: Progress) -> None:
        """Train to the end and write `weights.pt`.

        Continues from the checkpoint in the folder if there is one. Raises Interrupted after a signal (the checkpoint
        is written), DivergedError if a loss is not finite (the last checkpoint stays).
        """
        made = {**self.architecture.to_json(), "trained_by": own_version()}
        self.parallel.decided(lambda: write_json(self.folder / "architecture.json", made))
        network, optimiser, done = self._begin(progress)
        history = History(self.folder / "history.jsonl", writes=self.parallel.first)
        self.parallel.decided(lambda: history.cut(done))

        def take(step: int) -> dict[str, float]:
            losses = self._step(network, optimiser, step)
            for text in self.learning.see(step + 1, losses):
                progress.note(text)
            record = {f"loss.{name}": value for name, value in losses.items()}
            history.add({"step": step, **record})
            return record

        def save(steps: int) -> bool:
            where = f"training {self.folder.name!r}, step {steps}"
            if not trustworthy(self.watch, where, self._checkpoint, last=steps == self.settings.steps):
                return False
            if not self.parallel.first:
                return True
            require_finite(network.state_dict(), where, self._checkpoint)
            history.write()
            state = {
                "done": steps,
                "architecture": self.architecture.to_json(),
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "watch": self.watch.state_dict(),
                "learning": self.learning.state_dict(),
            }
            save_checkpoint(self._checkpoint, state, rotate=True)
            return True

        def finish() -> None:
            if self.parallel.first:
                save_checkpoint(self.folder / "weights.pt", {"network": network.state_dict()})

        try:
            run_steps(
                f"train {self.folder.name}",
                total=self.settings.steps,
                done=done,
                take=take,
                save=save,
                finish=finish,
                progress=progress,
                checkpoint_every_s=self.checkpoint_every_s,
                parallel=self.parallel,
                waited_s=lambda: self.batches.waited_s,
            )
        finally:
            self.batches.close()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _begin(self, progress: Progress) -> tuple[GraphNetwork, torch.optim.Optimizer, int]:
        path = self._checkpoint
        saved = self.parallel.decided(lambda: load_latest(path, progress.note))
        torch.manual_seed(self.config.seed)
        # What a checkpoint replaces anyway is not fetched again.
        new = saved is None and self._start is None
        weights = load_weights(self.config.weights, get_backbone(self.config.backbone)) if new else None
        network = build_network(self.architecture, self.tasks, weights)
        if saved is None and self._start is not None:
            self._start(network)
        channels_last(network.train().to(self.device))
        groups = parameter_groups(network, self.settings.learning_rate, divide=self.settings.divide_rate_by_sharing)
        optimiser = weight_optimiser(self.settings.optimiser, groups, self.settings.learning_rate)
        done = 0
        if saved is not None:
            state, stood = saved
            with belongs(stood, "this training"):
                if state["architecture"] != self.architecture.to_json():
                    raise ValueError("it is of another architecture")
                network.load_state_dict(state["network"])
                optimiser.load_state_dict(state["optimiser"])
                self.watch.load_state_dict(state["watch"])
                self.learning.load_state_dict(state["learning"])
                done = int(state["done"])
        else:
            self.learning.constants = self._constants()
        if self.parallel.size > 1:
            use_joint_norms(network)
        if self.how.compile:
            progress.note("the network is compiled: the first step takes long")
            network.compile(dynamic=False)
        return network, optimiser, done

    def _constants(self) -> dict[str, float]:
        """Return the loss of each task's best constant prediction on the first batches, the mean over processes with labels."""
        images = max(1, self.settings.batch_size // self.parallel.size)
        batches = [self.batches[i] for i in range(max(1, min(_CONSTANT_IMAGES // images, self.batches.per_epoch)))]
        found = constant_losses(batches, self.tasks)
        values = torch.tensor([found[task.name] for task in self.tasks], dtype=torch.float64, device=self.device)
        known = torch.isfinite(values)
        sums = self.parallel.total(torch.stack([torch.where(known, values, 0.0), known.double()]))
        mean = (sums[0] / sums[1]).tolist()  # 0 / 0, where nobody has a label, is NaN
        return {task.name: value for task, value in zip(self.tasks, mean, strict=True)}

    def _step(self, network: GraphNetwork, optimiser: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """Take one step on a batch, computed in as many parts as the settings say; return the tasks' losses."""
        batch = counted(self.batches[step].to(self.device), self.tasks, self.parallel.total)
        seed_step(self.config.seed, step)
        set_poly_rate(optimiser, step / self.settings.steps)
        optimiser.zero_grad(set_to_none=True)
        shares = []
        for part in batch.parts(self.settings.accumulate):
            with autocast(self.settings.precision, self.device):
                predictions = network(part.images)
            losses = torch.stack([batch_loss(task, widened(predictions[task.name]), part) for task in self.tasks])
            weights = losses.new_tensor([task.loss_weight for task in self.tasks])
            (weights * losses).sum().backward()  # type: ignore[no-untyped-call]
            shares.append(losses.detach())
        values = self.parallel.total(torch.stack(shares).sum(dim=0)).tolist()
        try:
            whole = {t.name: checked_finite(t, value) for t, value in zip(self.tasks, values, strict=True)}
            self.watch.see(whole)
        except (NotFiniteError, ExplodedError) as error:
            raise diverged(f"training {self.folder.name!r}, step {step}: {error}", self._checkpoint) from None
        self.parallel.sum_gradients(network.parameters())
        optimiser.step()
        return whole


def load_network(config: RunConfig, architecture: Architecture, path: Path) -> GraphNetwork:
    """Return the trained network whose weights stand in `path`, in evaluation mode."""
    network = build_network(architecture, config.task_list())
    saved = load_checkpoint(path)
    with belongs(path, f"the network {path.parent.name!r}"):
        network.load_state_dict(saved["network"])
    return network.eval()
