"""The branching search (paper, section 3 and appendix A), under a budget instead of a resource weight.

    warm-up      candidate t of every layer learns on task t alone, for all tasks
    cycles       architecture steps on 20 % of the images, weight steps on the other 80 %
    decode       the most probable architecture within the budget (`costs.best_architecture`)

The resource term is the exact expected cost; its multiplier follows the gap between expected cost and budget. For a
peak, which is no sum, a lower bound of the expected one stands in for it (`expected_in`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmtas.checkpoint import belongs, load_checkpoint, require_finite, save_checkpoint
from bmtas.config import RunConfig, SearchSettings
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batches, Loader, split_indices
from bmtas.data.protocol import Dataset
from bmtas.device import pick_device
from bmtas.losses import NotFiniteError, finite_loss
from bmtas.networks.backbone import channels_last, get_backbone
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.networks.weights import Weights
from bmtas.optim import set_poly_rate, weight_optimiser
from bmtas.progress import Progress
from bmtas.relaxation import annealed, gumbel_softmax
from bmtas.stepping import CHECKPOINT_EVERY_S, History, run_steps
from costs.controller import Multiplier
from costs.expected import expected_cost, expected_layer_costs
from costs.table import CostTable
from costs.units import Budget, Resource

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

    def to_checkpoint(self) -> dict[str, Any]:
        """Return tensors and plain values from which the search can go on."""
        assert self.optimiser is not None
        return {
            "done": self.done,
            "supergraph": self.supergraph.state_dict(),
            "logits": self.logits.detach(),
            "multiplier": self.multiplier.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }


def expected_in(probabilities: Tensor, table: CostTable, resource: Resource) -> Tensor:
    """Return what stands for the cost in the loss, a scalar in base units, differentiable in `probabilities` (L, T, C).

    For sums it is the exact expected cost. For a peak it is the greatest of the layers' expected costs and the fixed
    cost. That is a lower bound of the expected peak (Jensen: the maximum of means is at most the mean of maxima), equal
    to it once the probabilities are certain. The architecture that is handed over keeps its exact peak within the
    budget all the same: the decoder sees to that.

    Raises CostError as `costs.expected.expected_layer_costs` does.
    """
    if not resource.is_peak:
        return expected_cost(probabilities, table, resource)
    layers = expected_layer_costs(probabilities, table, resource)
    return torch.cat([layers, layers.new_tensor([table.fixed_cost(resource)])]).max()


class Search:
    """One search: builds the supergraph, runs the schedule, survives being stopped, returns the probabilities."""

    checkpoint_every_s = CHECKPOINT_EVERY_S

    def __init__(
        self, config: RunConfig, dataset: Dataset, table: CostTable, budgets: Sequence[Budget], device: str
    ) -> None:
        """Prepare everything that does not change. Raises what device and data raise."""
        self.config, self.table, self.budgets = config, table, tuple(budgets)
        self.settings = config.search
        self.device = pick_device(device)
        self.backbone = get_backbone(config.backbone)
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

    def run(self, folder: Path, weights: Weights | None, progress: Progress) -> np.ndarray:
        """Search to the end and return the probabilities (L, T, C), float64.

        Starts the candidates from `weights` (None: random), or continues from the checkpoint in `folder` if there is one.
        Raises Interrupted after a signal (the checkpoint is written), DivergedError if a loss is not finite (the last
        checkpoint stays).
        """
        checkpoint = folder / "checkpoint.pt"
        history = History(folder / "history.jsonl")
        state = self._begin(weights)
        if checkpoint.exists():
            self._restore(state, checkpoint)
        history.cut(state.done)

        def take(step: int) -> dict[str, float]:
            record = self._take(self.steps[step], state, checkpoint)
            state.done = step + 1
            history.add(record)
            return {k: v for k, v in record.items() if isinstance(v, float)}

        def save(done: int) -> None:
            learned = {"architecture parameters": state.logits, **state.supergraph.state_dict()}
            require_finite(learned, f"search, step {done}", checkpoint)
            history.write()
            save_checkpoint(checkpoint, state.to_checkpoint())

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
            )
        finally:
            for batches in self.batches.values():
                batches.close()
        return torch.softmax(state.logits.detach().double(), dim=-1).numpy()

    def _begin(self, weights: Weights | None) -> SearchState:
        torch.manual_seed(self.config.seed)
        supergraph = Supergraph(self.backbone, self.tasks, weights)
        channels_last(supergraph.train().to(self.device))
        return SearchState(
            supergraph=supergraph,
            logits=torch.zeros(supergraph.shape, requires_grad=True),  # paper: zeros
            multiplier=Multiplier(self.table, self.budgets),
        )

    def _restore(self, state: SearchState, path: Path) -> None:
        saved = load_checkpoint(path)
        with belongs(path, "this search"):
            state.done = saved["done"]
            if not 0 < state.done <= len(self.steps):
                raise ValueError(f"it is at step {state.done} of a search of {len(self.steps)} steps")
            state.supergraph.load_state_dict(saved["supergraph"])
            state.logits = saved["logits"].requires_grad_()
            state.multiplier.load_state_dict(saved["multiplier"])
            state.optimiser = self._optimiser(self.steps[state.done - 1].phase, state)
            state.optimiser.load_state_dict(saved["optimiser"])

    def _optimiser(self, phase: str, state: SearchState) -> torch.optim.Optimizer:
        if phase == ARCH:
            rate = self.settings.arch_learning_rate
            return torch.optim.Adam([state.logits], lr=rate, weight_decay=_ARCH_WEIGHT_DECAY)
        return weight_optimiser(self.settings.optimiser, state.supergraph.parameters(), self.settings.learning_rate)

    def _take(self, step: Step, state: SearchState, checkpoint: Path) -> dict[str, Any]:
        if step.first:
            # Paper: the optimiser's momentum is reset after every change to the architecture, and so are the
            # normalisations' statistics before weights are trained again.
            state.optimiser = self._optimiser(step.phase, state)
            if step.phase == WEIGHTS:
                state.supergraph.reset_statistics()
        # Noise depends on the seed and the step alone, so that a resumed search draws what it would have drawn.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + state.done)  # below 2^63
        temperature = annealed(self.settings.temperature_start, self.settings.temperature_end, self._progress(step))
        record: dict[str, Any] = {"step": state.done, "phase": step.phase}
        try:
            if step.phase == ARCH:
                record |= {"temperature": temperature, **self._arch_step(step, state, temperature, generator)}
            else:
                record |= self._weight_step(step, state, temperature, generator)
        except NotFiniteError as error:
            raise error.explained(f"search, step {state.done} ({step.phase})", checkpoint) from None
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
            loss = finite_loss(task, state.supergraph(batch.images, t, mix.to(self.device)), batch)
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
                prediction = state.supergraph(batch.images, t, mix.to(self.device))
                loss = task.loss_weight * finite_loss(task, prediction, batch)
                loss.backward()  # type: ignore[no-untyped-call] # task by task: one task's activations at a time
                total += loss.item()
                record[f"loss.{task.name}"] = loss.item() / task.loss_weight
        self._resource_term(state, self._expected_costs(state), total, record).backward()  # type: ignore[no-untyped-call]
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
            expected = self._expected_costs(state)
            if all(float(expected[b.resource].detach()) <= b.value for b in self.budgets):
                return
            alone.zero_grad(set_to_none=True)
            self._resource_term(state, expected, task_loss_sum, record).backward()  # type: ignore[no-untyped-call]
            alone.step()

    def _expected_costs(self, state: SearchState) -> dict[Resource, Tensor]:
        """Return the expected cost in each budget's resource as `expected_in` has it, scalars in base units."""
        probabilities = torch.softmax(state.logits, dim=-1)
        return {b.resource: expected_in(probabilities, self.table, b.resource) for b in self.budgets}

    def _resource_term(
        self, state: SearchState, expected: dict[Resource, Tensor], task_loss_sum: float, record: dict[str, Any]
    ) -> Tensor:
        """Return sum over budgets of multiplier * expected cost / budget, in units of the task losses.

        The task losses' own size is what makes one multiplier mean the same for any set of tasks.
        """
        multipliers = state.multiplier.update({r: float(v.detach()) for r, v in expected.items()})
        term = torch.zeros((), dtype=torch.float64)
        for budget in self.budgets:
            term = term + multipliers[budget.resource] * expected[budget.resource] / budget.value
            record[f"expected.{budget.resource.value}"] = float(expected[budget.resource].detach())
            record[f"multiplier.{budget.resource.value}"] = float(multipliers[budget.resource])
        return task_loss_sum * term
