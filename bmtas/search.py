"""The branching search (paper, section 3 and appendix A), under a budget instead of a resource weight.

    warm-up      candidate t of every layer learns on task t alone, for all tasks
    cycles       architecture steps on 20 % of the images, weight steps on the other 80 %
    decode       the most probable architecture within the budget (`costs.best_architecture`)

The resource term is the exact expected cost; its multiplier follows the gap between expected cost and budget. For a
peak, which is no sum, a lower bound of the expected one stands in for it (`expected_in`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmtas.board import Board
from bmtas.checkpoint import belongs, load_latest, require_finite, save_checkpoint
from bmtas.config import Estimator, ResourceTermKind, RunConfig
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batch, Batches, Loader, split_indices
from bmtas.data.protocol import Dataset
from bmtas.losses import NotFiniteError, diverged
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.norms import use_joint_norms
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.networks.weights import Weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.parallel import How, check_shares
from bmtas.progress import Progress
from bmtas.relaxation import gumbel_softmax
from bmtas.resource_term import ResourceTerm
from bmtas.schedule import ARCH, WARMUP, WEIGHTS, Schedule, Step
from bmtas.stepping import CHECKPOINT_EVERY_S, History, run_steps, trustworthy
from bmtas.updates import Updates, choose_updates
from bmtas.view import current_tree, grouping_entropy
from bmtas.watch import ExplodedError, LossWatch
from costs.table import CostTable
from costs.units import Budget, format_quantity

_ARCH_WEIGHT_DECAY = 5e-5  # paper, appendix A
_DIGITS = 4
"""Of the probabilities in the history, which are there to be looked at."""


@dataclass
class SearchState:
    """All that a search has learned so far; the checkpoint holds exactly this."""

    supergraph: Supergraph
    logits: Tensor  # (L, T, C), the architecture parameters
    resource_term: ResourceTerm
    watch: LossWatch
    optimiser: torch.optim.Optimizer | None = None  # of the phase under way
    done: int = 0

    def to_checkpoint(self) -> dict[str, Any]:
        """Return tensors and plain values from which the search can go on."""
        assert self.optimiser is not None
        return {
            "done": self.done,
            "supergraph": self.supergraph.state_dict(),
            "forms": list(self.supergraph.forms),
            "logits": self.logits.detach(),
            "multiplier": self.resource_term.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "watch": self.watch.state_dict(),
        }


class Search:
    """One search: builds the supergraph, runs the schedule, survives being stopped, returns the probabilities."""

    checkpoint_every_s = CHECKPOINT_EVERY_S

    def __init__(
        self, config: RunConfig, dataset: Dataset, table: CostTable, budgets: Sequence[Budget], how: How
    ) -> None:
        """Prepare everything that does not change. Raises what the data raise, and UsageError for batches not to be shared."""
        self.config, self.table, self.budgets = config, table, tuple(budgets)
        self.settings = config.search
        self.how, self.parallel, self.device = how, how.parallel, how.parallel.device
        check_shares(self.settings.batch_size, self.settings.accumulate, self.parallel.size)
        how.check()
        self.backbone = get_backbone(config.backbone)
        self.tasks = config.task_list()
        self.steps = Schedule(self.settings)
        loader = Loader(dataset, "train", self.tasks, config.search_size)
        arch, weights = split_indices(loader.count, self.settings.arch_share, config.seed)
        augmentation, size = Augmentation(scales=self.settings.scales), self.settings.batch_size
        share = (self.parallel.rank, self.parallel.size)
        self.batches = {
            ARCH: Batches(loader, arch, size, config.seed + 1, augmentation, share),
            WEIGHTS: Batches(loader, weights, size, config.seed + 2, augmentation, share),
        }

    def run(self, folder: Path, weights: Weights | None, progress: Progress) -> np.ndarray:
        """Search to the end and return the probabilities (L, T, C), float64.

        Starts the candidates from `weights` (None: random), or continues from the checkpoint in `folder` if there is one.
        Raises Interrupted after a signal (the checkpoint is written), DivergedError if a loss is not finite (the last
        checkpoint stays).
        """
        checkpoint = folder / "checkpoint.pt"
        history = History(folder / "history.jsonl", writes=self.parallel.first)
        state = self._begin(weights, checkpoint, progress)
        self.parallel.decided(lambda: history.cut(state.done))
        boards = [Board(folder / "tensorboard", state.done)] if self.how.tensorboard and self.parallel.first else []

        def take(step: int) -> dict[str, float]:
            record = self._take(self.steps[step], state, checkpoint)
            state.done = step + 1
            history.add(record)
            if step + 1 == len(self.steps) or self.steps[step + 1].phase != self.steps[step].phase == ARCH:
                self._tell(state, record, progress)
            for board in boards:
                board.add(record)
            return {k: v for k, v in record.items() if k.startswith("loss.")}

        def save(done: int) -> bool:
            where = f"search, step {done}"
            if not trustworthy(state.watch, where, checkpoint, last=done == len(self.steps)):
                return False
            if self.parallel.first:
                learned = {"architecture parameters": state.logits, **state.supergraph.state_dict()}
                require_finite(learned, where, checkpoint)
                history.write()
                save_checkpoint(checkpoint, state.to_checkpoint(), rotate=True)
            return True

        try:
            run_steps(
                "search",
                total=len(self.steps),
                done=state.done,
                take=take,
                save=save,
                finish=lambda: None,
                progress=progress,
                checkpoint_every_s=self.checkpoint_every_s,
                parallel=self.parallel,
                waited_s=lambda: sum(batches.waited_s for batches in self.batches.values()),
            )
        finally:
            for batches in self.batches.values():
                batches.close()
            for board in boards:
                board.close()
        return torch.softmax(state.logits.detach().double(), dim=-1).numpy()

    def _tell(self, state: SearchState, record: dict[str, Any], progress: Progress) -> None:
        """Say after each cycle what the tasks would share now, and keep it in the history."""
        probabilities = torch.softmax(state.logits.detach().double(), dim=-1).numpy()
        record["probabilities"] = probabilities.round(_DIGITS).tolist()
        record["tree"] = current_tree(probabilities, [task.name for task in self.tasks])
        entropy = grouping_entropy(probabilities)
        texts = {"tree of the most probable candidates": record["tree"]}
        if entropy is not None:
            record["entropy"] = entropy
            texts["entropy of the groupings"] = f"{entropy:.2f} nats"
        for budget in self.budgets:
            expected = record.get(f"expected.{budget.resource.value}")
            if expected is not None:
                texts[f"expected {budget.resource.label}"] = (
                    f"{format_quantity(expected, budget.resource)}, budget {budget.text}"
                )
        if "temperature" in record:
            texts["temperature"] = f"{record['temperature']:.2f}"
        progress.state(**texts)

    def _begin(self, weights: Weights | None, checkpoint: Path, progress: Progress) -> SearchState:
        """Return the state of a new search, or of the one whose checkpoint there is."""
        saved = self.parallel.decided(lambda: load_latest(checkpoint, progress.note))
        torch.manual_seed(self.config.seed)
        supergraph = Supergraph(self.backbone, self.tasks, weights)
        supergraph.checkpointing = self.settings.activation_checkpointing
        channels_last(supergraph.train().to(self.device))
        state = SearchState(
            supergraph=supergraph,
            logits=torch.zeros(supergraph.shape, requires_grad=True),  # paper: zeros
            resource_term=ResourceTerm(self.table, self.budgets, self.settings),
            watch=LossWatch([task.name for task in self.tasks]),
        )
        if saved is not None:
            self._restore(state, *saved)
        elif self.settings.estimator is Estimator.SOFT:
            images = self.batches[WEIGHTS][0].parts(self.settings.accumulate)[0].to(self.device).images
            supergraph.forms = self.parallel.decided(lambda: supergraph.choose_forms(images))
        if self.parallel.size > 1:
            use_joint_norms(supergraph)
        if self.how.compile:
            progress.note("layers are compiled as they are met: the first steps take long")
            supergraph.compile_layers()
        return state

    def _restore(self, state: SearchState, saved: dict[str, Any], path: Path) -> None:
        """Continue from what stood in the checkpoint `path`. Raises UsageError if it is of another search."""
        with belongs(path, "this search"):
            state.done = saved["done"]
            if not 0 < state.done <= len(self.steps):
                raise ValueError(f"it is at step {state.done} of a search of {len(self.steps)} steps")
            state.supergraph.load_state_dict(saved["supergraph"])
            state.supergraph.forms = tuple(saved["forms"])
            state.logits = saved["logits"].requires_grad_()
            state.resource_term.load_state_dict(saved["multiplier"])
            state.watch.load_state_dict(saved["watch"])
            state.optimiser = self._optimiser(self.steps[state.done - 1].phase, state)
            state.optimiser.load_state_dict(saved["optimiser"])

    def _optimiser(self, phase: str, state: SearchState) -> torch.optim.Optimizer:
        if phase == ARCH:
            rate = self.settings.arch_learning_rate
            return torch.optim.Adam([state.logits], lr=rate, weight_decay=_ARCH_WEIGHT_DECAY)
        return weight_optimiser(self.settings.optimiser, state.supergraph.parameters(), self.settings.learning_rate)

    def _take(self, step: Step, state: SearchState, checkpoint: Path) -> dict[str, Any]:
        # First of all, because a file that cannot be read must be met before anything has changed.
        kind = ARCH if step.phase == ARCH else WEIGHTS
        batch = self.batches[kind][self.steps.batch(step)].to(self.device)
        if step.first:
            # Paper: the optimiser's momentum is reset after every change to the architecture, and so are the
            # normalisations' statistics before weights are trained again.
            state.optimiser = self._optimiser(step.phase, state)
            if step.phase == WEIGHTS:
                state.supergraph.reset_statistics()
        # Noise depends on the seed and the step alone, so that a resumed search draws what it would have drawn.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + state.done)  # below 2^63
        temperature = self.steps.temperature(step)
        record: dict[str, Any] = {"step": state.done, "phase": step.phase}
        try:
            if step.phase == ARCH:
                record |= {"temperature": temperature, **self._arch_step(batch, state, temperature, generator)}
            else:
                record |= self._weight_step(step, batch, state, temperature, generator)
            state.watch.see({task.name: record[f"loss.{task.name}"] for task in self.tasks})
        except (NotFiniteError, ExplodedError) as error:
            raise diverged(f"search, step {state.done} ({step.phase}): {error}", checkpoint) from None
        return record

    def _weight_step(
        self, step: Step, batch: Batch, state: SearchState, temperature: float, generator: torch.Generator
    ) -> dict[str, Any]:
        """Update the weights on one batch, in the warm-up each task by itself on its own candidates."""
        assert state.optimiser is not None
        set_poly_rate(state.optimiser, self.steps.weight_progress(step))
        layers, _, candidates = state.supergraph.shape
        if step.phase == WARMUP:
            mixes = [own_candidates(layers, candidates, t) for t in range(len(self.tasks))]
        else:
            mixes = self._samples(state.logits.detach(), temperature, generator)
        return _named(self._updates(state).learn_weights(batch, mixes, state.optimiser))

    def _arch_step(
        self, batch: Batch, state: SearchState, temperature: float, generator: torch.Generator
    ) -> dict[str, Any]:
        """Update the architecture parameters on all tasks and the resource term together (paper, Eq. 4)."""
        assert state.optimiser is not None
        state.optimiser.zero_grad(set_to_none=True)
        losses = self._updates(state).add_gradients(batch, self._samples(state.logits, temperature, generator))
        self.parallel.sum_gradients([state.logits])
        record: dict[str, Any] = _named(losses)
        total = sum(task.loss_weight * losses[task.name] for task in self.tasks)
        term = state.resource_term(state.resource_term.expected(state.logits), total, record)
        if term.requires_grad:
            term.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        self._resource_steps(state, total, record)
        self.parallel.agree([state.logits])  # other processors may round otherwise, and draws depend on it
        return record

    def _updates(self, state: SearchState) -> Updates:
        return choose_updates(self.settings, state.supergraph, self.tasks, self.parallel)

    def _samples(self, logits: Tensor, temperature: float, generator: torch.Generator) -> list[Tensor]:
        """Return a softened sample for each task, (L, C) each."""
        return [gumbel_softmax(logits[:, t], temperature, generator) for t in range(len(self.tasks))]

    def _resource_steps(self, state: SearchState, task_losses: float, record: dict[str, Any]) -> None:
        """Follow the resource term alone for some steps, until the expected costs are within the budgets.

        Going on below the budget would share what the tasks have not been asked about.
        """
        if state.resource_term.kind is not ResourceTermKind.BUDGET:
            return
        # Each burst has an optimiser of its own: its gradients have nothing to do with those of the tasks.
        alone = torch.optim.Adam([state.logits], lr=self.settings.resource_learning_rate)
        for _ in range(self.settings.resource_steps):
            expected = state.resource_term.expected(state.logits)
            if state.resource_term.within(expected):
                return
            alone.zero_grad(set_to_none=True)
            state.resource_term(expected, task_losses, record).backward()  # type: ignore[no-untyped-call]
            alone.step()


def _named(losses: dict[str, float]) -> dict[str, Any]:
    return {f"loss.{name}": value for name, value in losses.items()}
