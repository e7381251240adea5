"""The branching search (paper, section 3 and appendix A), under a budget instead of a resource weight.

    warm-up      candidate t of every layer learns on task t alone, for all tasks
    cycles       architecture steps on 20 % of the images, weight steps on the other 80 %
    decode       the most probable architecture within the budget (`costs.best_architecture`)

The resource term is the exact expected cost; its multiplier follows the gap between expected cost and budget.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmtas.checkpoint import Rhythm, load_checkpoint, require_finite, save_checkpoint
from bmtas.config import RunConfig, SearchSettings
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batch, Batches, Loader, split_indices
from bmtas.data.protocol import Dataset
from bmtas.device import pick_device
from bmtas.errors import DivergedError, UsageError
from bmtas.files import append_line, read_lines, write_text
from bmtas.interrupt import Interrupted, stop_between_steps
from bmtas.losses import task_loss
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.networks.weights import load_weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.progress import Progress
from bmtas.relaxation import annealed, gumbel_softmax
from costs.controller import Multiplier
from costs.expected import expected_cost
from costs.table import CostTable
from costs.units import Budget

WARMUP, ARCH, WEIGHTS = "warm-up", "architecture", "weights"
_ARCH_WEIGHT_DECAY = 5e-5  # paper, appendix A


@dataclass(frozen=True)
class Step:
    """One step of the schedule: its phase, its index among the steps of that kind, whether the phase begins here."""

    phase: str
    index: int
    first: bool


def schedule(settings: SearchSettings) -> list[Step]:
    """Return all steps in order: the warm-up, then cycles until the weights have had their number of steps."""
    steps = [Step(WARMUP, i, i == 0) for i in range(settings.warmup_steps)]
    arch = weights = 0
    while weights < settings.weight_steps:
        for i in range(settings.arch_steps_per_cycle):
            steps.append(Step(ARCH, arch, i == 0))
            arch += 1
        for i in range(min(settings.weight_steps_per_cycle, settings.weight_steps - weights)):
            steps.append(Step(WEIGHTS, weights, i == 0))
            weights += 1
    return steps


@dataclass
class SearchState:
    """All that a search has learned so far; the checkpoint holds exactly this."""

    supergraph: Supergraph
    logits: Tensor  # (L, T, C), the architecture parameters
    multiplier: Multiplier
    optimiser: torch.optim.Optimizer | None = None  # of the phase under way
    done: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Search:
    """One search: builds the supergraph, runs the schedule, survives being stopped, returns the probabilities."""

    checkpoint_every_s = 30.0

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        table: CostTable,
        budgets: Sequence[Budget],
        folder: Path,
        device: str,
    ) -> None:
        """Prepare everything that does not change. Raises what loading weights and data raise."""
        self.config, self.table, self.budgets, self.folder = config, table, tuple(budgets), folder
        self.settings = config.search
        self.device = pick_device(device)
        self.tasks = config.task_list()
        self.steps = schedule(self.settings)
        self._step_counts = Counter(step.phase for step in self.steps)
        loader = Loader(dataset, "train", self.tasks, config.search_size)
        arch, weights = split_indices(loader.count, self.settings.arch_share, config.seed)
        augmentation = Augmentation(scales=self.settings.scales)
        self.batches = {
            ARCH: Batches(loader, arch, self.settings.batch_size, config.seed + 1, augmentation),
            WEIGHTS: Batches(loader, weights, self.settings.batch_size, config.seed + 2, augmentation),
        }

    def run(self, progress: Progress) -> np.ndarray:
        """Search to the end and return the probabilities (L, T, C), float64.

        Continues from the checkpoint in the folder if there is one. Raises Interrupted after a signal (the checkpoint
        is written), DivergedError if a loss is not finite (the last checkpoint stays).
        """
        state = self._begin()
        rhythm = Rhythm(self.checkpoint_every_s)
        progress.start("search", len(self.steps), state.done)
        if state.done:
            progress.note(f"continuing at step {state.done} of {len(self.steps)}")
        try:
            with stop_between_steps() as stop:
                for step in self.steps[state.done :]:
                    record = self._take(step, state)
                    state.done += 1
                    state.history.append(record)
                    if rhythm.due() or stop.requested or state.done == len(self.steps):
                        self._save(state)
                    if stop.requested and state.done < len(self.steps):
                        raise Interrupted
                    progress.advance(**{k: v for k, v in record.items() if isinstance(v, float)})
        finally:
            for batches in self.batches.values():
                batches.close()
        return torch.softmax(state.logits.detach().double(), dim=-1).numpy()

    def _begin(self) -> SearchState:
        torch.manual_seed(self.config.seed)
        backbone = get_backbone(self.config.backbone)
        checkpoint = self._checkpoint_path if self._checkpoint_path.exists() else None
        # What a checkpoint replaces anyway is not fetched again.
        weights = None if checkpoint else load_weights(self.config.weights, backbone)
        supergraph = Supergraph(backbone, self.tasks, weights)
        channels_last(supergraph.train().to(self.device))
        state = SearchState(
            supergraph=supergraph,
            logits=torch.zeros(supergraph.shape, requires_grad=True),  # paper: zeros
            multiplier=Multiplier(self.table, self.budgets),
        )
        if checkpoint:
            self._restore(state, load_checkpoint(checkpoint))
        return state

    @property
    def _checkpoint_path(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def _history_path(self) -> Path:
        return self.folder / "history.jsonl"

    def _save(self, state: SearchState) -> None:
        # Before the checkpoint: lines that a kill leaves behind it are dropped when the run goes on.
        for record in state.history:
            append_line(self._history_path, record)
        state.history.clear()
        require_finite(state.supergraph.state_dict(), f"search, step {state.done}", self._checkpoint_path)
        save_checkpoint(
            self._checkpoint_path,
            {
                "done": state.done,
                "supergraph": state.supergraph.state_dict(),
                "logits": state.logits.detach(),
                "multiplier": state.multiplier.state_dict(),
                "optimiser": state.optimiser.state_dict() if state.optimiser else None,
            },
        )

    def _restore(self, state: SearchState, saved: dict[str, Any]) -> None:
        state.done = saved["done"]
        if not 0 <= state.done <= len(self.steps):
            raise UsageError(f"{self._checkpoint_path} is at step {state.done} of a search of {len(self.steps)} steps")
        state.supergraph.load_state_dict(saved["supergraph"])
        state.logits = saved["logits"].requires_grad_()
        state.multiplier.load_state_dict(saved["multiplier"])
        if saved["optimiser"] is not None:
            state.optimiser = self._optimiser(self.steps[state.done - 1].phase, state)
            state.optimiser.load_state_dict(saved["optimiser"])
        kept = [r for r in read_lines(self._history_path) if r["step"] < state.done]
        write_text(self._history_path, "".join(json.dumps(r) + "\n" for r in kept))

    def _optimiser(self, phase: str, state: SearchState) -> torch.optim.Optimizer:
        if phase == ARCH:
            rate = self.settings.arch_learning_rate
            return torch.optim.Adam([state.logits], lr=rate, weight_decay=_ARCH_WEIGHT_DECAY)
        return weight_optimiser(self.settings.optimiser, state.supergraph.parameters(), self.settings.learning_rate)

    def _take(self, step: Step, state: SearchState) -> dict[str, Any]:
        if step.first:
            # Paper: the optimiser's momentum is reset after every change to the architecture, and so are the
            # normalisations' statistics before weights are trained again.
            state.optimiser = self._optimiser(step.phase, state)
            if step.phase == WEIGHTS:
                state.supergraph.reset_statistics()
        # Noise depends on the seed and the step alone, so that a resumed search draws what it would have drawn.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + state.done)
        temperature = annealed(self.settings.temperature_start, self.settings.temperature_end, self._progress(step))
        record: dict[str, Any] = {"step": state.done, "phase": step.phase}
        if step.phase == ARCH:
            record |= {"temperature": temperature, **self._arch_step(step, state, temperature, generator)}
        else:
            record |= self._weight_step(step, state, temperature, generator)
        return record

    def _progress(self, step: Step) -> float:
        """Share of the search after the warm-up that is done."""
        if step.phase == WARMUP:
            return 0.0
        return step.index / max(self._step_counts[step.phase] - 1, 1)

    def _weight_step(
        self, step: Step, state: SearchState, temperature: float, generator: torch.Generator
    ) -> dict[str, Any]:
        """Update the weights for each task in turn (paper: the supergraph is updated sequentially for each task)."""
        assert state.optimiser is not None
        offset = 0 if step.phase == WARMUP else self.settings.warmup_steps
        batch = self.batches[WEIGHTS][offset + step.index].to(self.device)
        set_poly_rate(
            state.optimiser, (offset + step.index) / (self.settings.warmup_steps + self.settings.weight_steps)
        )
        layers, _, candidates = state.supergraph.shape
        losses = {}
        for t, task in enumerate(self.tasks):
            if step.phase == WARMUP:
                mix = own_candidates(layers, candidates, t)
            else:
                mix = gumbel_softmax(state.logits.detach()[:, t], temperature, generator)
            loss = self._loss(state, batch, t, mix, step)
            state.optimiser.zero_grad(set_to_none=True)
            (task.loss_weight * loss).backward()  # type: ignore[no-untyped-call]
            state.optimiser.step()
            losses[f"loss.{task.name}"] = loss.item()
        return losses

    def _arch_step(
        self, step: Step, state: SearchState, temperature: float, generator: torch.Generator
    ) -> dict[str, Any]:
        """Update the architecture parameters on all tasks and the resource term together (paper, Eq. 4)."""
        assert state.optimiser is not None
        batch = self.batches[ARCH][step.index].to(self.device)
        state.optimiser.zero_grad(set_to_none=True)
        record: dict[str, Any] = {}
        total = 0.0
        with state.supergraph.batch_statistics():
            for t, task in enumerate(self.tasks):
                mix = gumbel_softmax(state.logits[:, t], temperature, generator)
                loss = task.loss_weight * self._loss(state, batch, t, mix, step)
                loss.backward()  # type: ignore[no-untyped-call] # task by task: one task's activations at a time
                total += loss.item()
                record[f"loss.{task.name}"] = loss.item() / task.loss_weight
        self._resource_term(state, total, record).backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        self._resource_steps(state, total, record)
        return record

    def _resource_steps(self, state: SearchState, task_loss_sum: float, record: dict[str, Any]) -> None:
        """Follow the resource term alone for some steps, until the expected costs are within the budgets.

        Going on below the budget would share what the tasks have not been asked about.
        """
        # Each burst has an optimiser of its own: its gradients have nothing to do with those of the tasks.
        alone = torch.optim.Adam([state.logits], lr=self.settings.resource_learning_rate)
        for _ in range(self.settings.resource_steps):
            alone.zero_grad(set_to_none=True)
            term = self._resource_term(state, task_loss_sum, record)
            if all(record[f"expected.{b.resource.value}"] <= b.value for b in self.budgets):
                return
            term.backward()  # type: ignore[no-untyped-call]
            alone.step()

    def _resource_term(self, state: SearchState, task_loss_sum: float, record: dict[str, Any]) -> Tensor:
        """Return sum over budgets of multiplier * expected cost / budget, in units of the task losses.

        The task losses' own size is what makes one multiplier mean the same for any set of tasks.
        """
        probabilities = torch.softmax(state.logits, dim=-1)
        expected = {b.resource: expected_cost(probabilities, self.table, b.resource) for b in self.budgets}
        multipliers = state.multiplier.update({r: float(v.detach()) for r, v in expected.items()})
        term = torch.zeros((), dtype=torch.float64)
        for budget in self.budgets:
            term = term + multipliers[budget.resource] * expected[budget.resource] / budget.value
            record[f"expected.{budget.resource.value}"] = float(expected[budget.resource].detach())
            record[f"multiplier.{budget.resource.value}"] = float(multipliers[budget.resource])
        return task_loss_sum * term

    def _loss(self, state: SearchState, batch: Batch, t: int, mix: Tensor, step: Step) -> Tensor:
        task = self.tasks[t]
        loss = task_loss(task, state.supergraph(batch.images, t, mix.to(self.device)), batch.labels[task.name])
        if not torch.isfinite(loss):
            raise DivergedError(
                f"search: the loss of {task.name!r} is {loss.item()} at step {state.done} ({step.phase}); the last good checkpoint "
                f"stands in {self._checkpoint_path}. A lower learning rate or loss weight usually helps"
            )
        return loss
