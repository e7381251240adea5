"""The search loop of all methods that learn architecture parameters (paper of BMTAS, section 3 and appendix A), under a budget.

    warm-up      weight steps before the architecture is asked about
    cycles       architecture steps on one part of the images, weight steps on the other

What a step does is the method's own (`bmtas.methods.relaxed.Relaxed`). To its loss of the architecture parameters comes the resource
term: the exact expected cost, whose multiplier follows the gap between expected cost and budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bmtas.board import Board
from bmtas.checkpoint import belongs, load_latest, require_finite, save_checkpoint
from bmtas.config import ResourceTermKind, RunConfig
from bmtas.data.augment import Augmentation
from bmtas.data.batches import Batches, Loader, split_indices
from bmtas.data.protocol import Dataset
from bmtas.losses import NotFiniteError, diverged
from bmtas.methods.relaxed import Losses, Moment, Relaxed
from bmtas.networks.backbone import channels_last
from bmtas.networks.norms import use_joint_norms
from bmtas.networks.weights import Weights
from bmtas.parallel import How, check_shares
from bmtas.progress import Progress
from bmtas.resource_term import ResourceTerm
from bmtas.schedule import ARCH, WARMUP, WEIGHTS, Schedule
from bmtas.stepping import CHECKPOINT_EVERY_S, History, run_steps, seed_step, trustworthy
from bmtas.watch import ExplodedError, LossWatch
from costs.units import Budget, Resource, format_quantity


@dataclass
class SearchState:
    """All that a search has learned so far; the checkpoint holds exactly this."""

    relaxed: Relaxed
    resource_term: ResourceTerm
    watch: LossWatch
    optimisers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)  # by phase
    done: int = 0

    def to_checkpoint(self) -> dict[str, Any]:
        """Return tensors and plain values from which the search can go on."""
        return {
            "done": self.done,
            "network": self.relaxed.network.state_dict(),
            "architecture": {name: value.detach() for name, value in self.relaxed.architecture.items()},
            "relaxed": self.relaxed.state_dict(),
            "multiplier": self.resource_term.state_dict(),
            "optimisers": {phase: optimiser.state_dict() for phase, optimiser in self.optimisers.items()},
            "watch": self.watch.state_dict(),
        }


class Search:
    """One search: builds the relaxed network, runs the schedule, survives being stopped, returns what was learned."""

    checkpoint_every_s = CHECKPOINT_EVERY_S

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        budgets: Sequence[Budget],
        reaches: Mapping[Resource, float],
        how: How,
        make: Callable[[Weights | None], Relaxed],
    ) -> None:
        """Prepare everything that does not change. Raises what the data raise, and UsageError for batches not to be shared.

        `make` builds the method's relaxed network from pretrained weights (None: random); `reaches` are, for each budget's resource,
        by how much the dearest network of the method's space costs more than the cheapest.
        """
        self.config, self.budgets, self.reaches, self.make = config, tuple(budgets), dict(reaches), make
        self.settings = config.search
        self.how, self.parallel, self.device = how, how.parallel, how.parallel.device
        check_shares(self.settings.batch_size, self.settings.accumulate, self.parallel.size)
        how.check()
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

    def run(self, folder: Path, weights: Weights | None, progress: Progress) -> Relaxed:
        """Search to the end and return the relaxed network with all that it has learned.

        Starts from `weights` (None: random), or continues from the checkpoint in `folder` if there is one. Raises Interrupted
        after a signal (the checkpoint is written), DivergedError if a loss is not finite (the last checkpoint stays).
        """
        checkpoint = folder / "checkpoint.pt"
        history = History(folder / "history.jsonl", writes=self.parallel.first)
        state = self._begin(weights, checkpoint, progress)
        self.parallel.decided(lambda: history.cut(state.done))
        boards = [Board(folder / "tensorboard", state.done)] if self.how.tensorboard and self.parallel.first else []

        def take(step: int) -> dict[str, float]:
            record = self._take(step, state, checkpoint)
            state.done = step + 1
            history.add(record)
            if step + 1 == len(self.steps) or self._ends_cycle(step):
                self._tell(state, record, progress)
            for board in boards:
                board.add(record)
            return {k: v for k, v in record.items() if k.startswith("loss.")}

        def save(done: int) -> bool:
            where = f"search, step {done}"
            if not trustworthy(state.watch, where, checkpoint, last=done == len(self.steps)):
                return False
            if self.parallel.first:
                learned = {f"architecture parameters {k}": v for k, v in state.relaxed.architecture.items()}
                require_finite(learned | state.relaxed.network.state_dict(), where, checkpoint)
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
        return state.relaxed

    def _ends_cycle(self, step: int) -> bool:
        """Say whether architecture steps end with `step`, and, where cycles are short, whether it is one of about twenty to be told."""
        if not self.steps[step + 1].phase != self.steps[step].phase == ARCH:
            return False
        cycles = max(1, self.steps.count(ARCH) // self.settings.arch_steps_per_cycle)
        cycle = self.steps[step].index // self.settings.arch_steps_per_cycle
        return self.settings.arch_steps_per_cycle > 1 or cycle % max(1, cycles // _TOLD) == 0

    def _tell(self, state: SearchState, record: dict[str, Any], progress: Progress) -> None:
        """Say after a cycle what the architecture would be now, and keep it in the history."""
        shown = state.relaxed.shown()
        record |= shown.record
        texts = dict(shown.texts)
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
        relaxed = self.make(weights)
        channels_last(relaxed.network.train().to(self.device))
        state = SearchState(
            relaxed=relaxed,
            resource_term=ResourceTerm(self.budgets, self.reaches, self.settings),
            watch=LossWatch([task.name for task in self.tasks]),
        )
        if saved is not None:
            self._restore(state, *saved)
        else:
            batches = self.batches[WEIGHTS]
            relaxed.prepare(lambda: batches[0].parts(self.settings.accumulate)[0].to(self.device).images, self.parallel)
        if self.parallel.size > 1:
            use_joint_norms(relaxed.network)
        if self.how.compile:
            progress.note("layers are compiled as they are met: the first steps take long")
            relaxed.compile()
        return state

    def _restore(self, state: SearchState, saved: dict[str, Any], path: Path) -> None:
        """Continue from what stood in the checkpoint `path`. Raises UsageError if it is of another search."""
        with belongs(path, "this search"):
            state.done = saved["done"]
            if not 0 < state.done <= len(self.steps):
                raise ValueError(f"it is at step {state.done} of a search of {len(self.steps)} steps")
            state.relaxed.network.load_state_dict(saved["network"])
            for name, value in state.relaxed.architecture.items():
                with torch.no_grad():
                    value.copy_(saved["architecture"][name])
            state.relaxed.load_state_dict(saved["relaxed"])
            state.resource_term.load_state_dict(saved["multiplier"])
            state.watch.load_state_dict(saved["watch"])
            for phase, optimiser in saved["optimisers"].items():
                state.optimisers[phase] = state.relaxed.optimiser(phase)
                state.optimisers[phase].load_state_dict(optimiser)

    def _take(self, number: int, state: SearchState, checkpoint: Path) -> dict[str, Any]:
        step = self.steps[number]
        # First of all, because a file that cannot be read must be met before anything has changed.
        kind = ARCH if step.phase == ARCH else WEIGHTS
        batch = self.batches[kind][self.steps.batch(step)].to(self.device)
        if step.first:
            if state.relaxed.fresh_optimisers:
                state.optimisers.clear()
            state.relaxed.begin(step.phase)
        if step.phase not in state.optimisers:
            state.optimisers[step.phase] = state.relaxed.optimiser(step.phase)
        # Noise depends on the seed and the step alone, so that a resumed search draws what it would have drawn.
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + state.done)  # below 2^63
        seed_step(self.config.seed, state.done)
        moment = Moment(step, self.steps.progress(step), self.steps.temperature(step), generator)
        optimiser = state.optimisers[step.phase]
        record: dict[str, Any] = {"step": state.done, "phase": step.phase}
        try:
            if step.phase == ARCH:
                record |= {"temperature": state.relaxed.temperature(moment)}
                record |= self._arch_step(state, optimiser, state.relaxed.add_gradients, batch, moment)
            else:
                state.relaxed.set_rate(optimiser, self.steps.weight_progress(step))
                record |= _named(state.relaxed.learn_weights(batch, moment, optimiser))
            state.watch.see({task.name: record[f"loss.{task.name}"] for task in self.tasks})
        except (NotFiniteError, ExplodedError) as error:
            raise diverged(f"search, step {state.done} ({step.phase}): {error}", checkpoint) from None
        if step.phase == WARMUP and self.steps[min(number + 1, len(self.steps) - 1)].phase != WARMUP:
            state.relaxed.end_warmup()
        return record

    def _arch_step(
        self,
        state: SearchState,
        optimiser: torch.optim.Optimizer,
        add_gradients: Callable[..., Losses],
        batch: Any,
        moment: Moment,
    ) -> dict[str, Any]:
        """Update the architecture parameters on all tasks and the resource term together (paper, Eq. 4)."""
        relaxed, parameters = state.relaxed, list(state.relaxed.architecture.values())
        optimiser.zero_grad(set_to_none=True)
        losses = add_gradients(batch, moment)
        self.parallel.sum_gradients(parameters)
        record: dict[str, Any] = _named(losses)
        total = sum(task.loss_weight * losses[task.name] for task in self.tasks)
        term = state.resource_term(relaxed.expected(), total, record)
        regularisation = relaxed.regularisation(moment)
        if regularisation.requires_grad:
            record["regularisation"] = float(regularisation.detach())
        for extra in (term, regularisation):
            if extra.requires_grad:
                extra.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        self._resource_steps(state, total, record)
        self.parallel.agree(parameters)  # other processors may round otherwise, and draws depend on it
        return record

    def _resource_steps(self, state: SearchState, task_losses: float, record: dict[str, Any]) -> None:
        """Follow the resource term alone for some steps, until the expected costs are within the budgets.

        Going on below the budget would share what the tasks have not been asked about.
        """
        if state.resource_term.kind is not ResourceTermKind.BUDGET or not self.settings.resource_steps:
            return
        # Each burst has an optimiser of its own: its gradients have nothing to do with those of the tasks.
        parameters: list[Tensor] = list(state.relaxed.architecture.values())
        alone = torch.optim.Adam(parameters, lr=self.settings.resource_learning_rate)
        for _ in range(self.settings.resource_steps):
            expected = state.relaxed.expected()
            if state.resource_term.within(expected):
                return
            alone.zero_grad(set_to_none=True)
            state.resource_term(expected, task_losses, record).backward()  # type: ignore[no-untyped-call]
            alone.step()


_TOLD = 20


def _named(losses: dict[str, float]) -> dict[str, Any]:
    return {f"loss.{name}": value for name, value in losses.items()}
