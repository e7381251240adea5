"""What the studies on real images share: searches and trained networks that are kept on disk, and tables of them.

A study's folder holds `searches/KEY/` and `networks/KEY/`, the key being a digest of all that decides the result but the
code. So a study that was stopped goes on with the same command, the studies share what they have in common, and a folder
belongs to one version of the code: begin another one after a change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.config import CostEstimate, RunConfig
from bmtas.data.batches import Loader
from bmtas.data.protocol import Dataset, Sample
from bmtas.device import pick_device
from bmtas.errors import BmtasError, UsageError
from bmtas.evaluation import evaluate_network
from bmtas.files import read_json, write_json
from bmtas.methods.branched.finder import branched_search, probabilities_after
from bmtas.methods.branched.losses import expected_costs
from bmtas.networks.backbone import get_backbone
from bmtas.networks.weights import load_weights
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search
from bmtas.progress import Silent
from bmtas.summary import delta_m
from bmtas.tasks import Task
from bmtas.training import Training, load_network
from bmtas.view import grouping_entropy
from costs.decode import argmax_architecture, best_architecture
from costs.errors import CostError
from costs.partitions import Grouping
from costs.table import CostTable
from costs.units import Budget, Resource, format_quantity, parse_budget

CCP = Path(__file__).resolve().parent.parent / "examples" / "ccp.yaml"
Metrics = dict[str, float]
"""The metric of each task, by the task's name."""


# 97.5 % quantile of Student's t for so many values, n - 1 degrees of freedom.
_T95 = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764, 6: 2.5706, 7: 2.4469, 8: 2.3646, 9: 2.3060, 10: 2.2622}


class Remembered:
    """A data set that keeps every sample it has loaded, so that many networks decode the images once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._samples: dict[tuple[Any, ...], Sample] = {}
        self.name, self.tasks, self.size = dataset.name, dataset.tasks, dataset.size

    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of a split."""
        return self._dataset.ids(split)

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        """Return a sample, loading it the first time."""
        key = (split, index, size, tuple(tasks))
        if key not in self._samples:
            self._samples[key] = self._dataset.load(split, index, size=size, tasks=tasks)
        return self._samples[key]

    def fingerprint(self) -> str:
        """Return the fingerprint of the data themselves."""
        return self._dataset.fingerprint()


@dataclass(frozen=True)
class Searched:
    """What one search came to. Costs in MAdds: of the tree, and expected by the probabilities at the end.

    `exact` is the exact expected cost, `published` what the paper's estimator takes for it, `argmax` the cost of the
    tree of every task's most probable candidates, which keeps no budget. `entropy` is that of the groupings in nats, mean
    over layers: 0 once the search is sure.
    """

    tree: tuple[Grouping, ...]
    cost: float
    argmax: float
    exact: float
    published: float
    entropy: float
    seconds: float


class Study:
    """Searches and trains on one data set at one scale; whatever it has done before is read from its folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take the options of `add_options`. Raises what planning a search raises."""
        self._options = options
        self.folder: Path = options.folder
        plan = self.plan(None, 0)
        self.table: CostTable = plan.table
        self.tasks: tuple[Task, ...] = plan.config.task_list()
        self.config: RunConfig = plan.config
        self._data = Remembered(plan.dataset)

    def plan(self, budget: str | None, seed: int, estimate: CostEstimate = CostEstimate.EXACT) -> Plan:
        """Return a search by the options. None takes the budget halfway between all shared and separate networks."""
        asked = self._options
        return plan_search(
            Request(
                data=str(asked.data),
                tasks=asked.tasks,
                budgets=(budget,) if budget else (),
                weights=asked.weights,
                seed=seed,
                search_size=asked.search_size,
                train_size=asked.size,
                search_overrides={
                    "batch_size": asked.search_batch,
                    "warmup_steps": asked.search_warmup,
                    "weight_steps": asked.search_steps,
                    "weight_steps_per_cycle": asked.search_cycle,
                    "arch_steps_per_cycle": asked.search_cycle,
                    "arch_learning_rate": asked.search_arch_rate,
                    "resource_steps": asked.search_resource_steps,
                    "cost_estimate": estimate,
                },
                train_overrides={"steps": asked.steps, "batch_size": asked.batch, "learning_rate": asked.rate},
            )
        )

    def search(self, budget: str, seed: int, estimate: CostEstimate = CostEstimate.EXACT) -> Searched:
        """Search once, or read what the same search came to before."""
        plan = self.plan(budget, seed, estimate)
        config = plan.config
        folder = self.folder / "searches" / _key(config.model_dump(mode="json", exclude=_NOT_OF_SEARCH))
        path = folder / "probabilities.json"
        if not path.exists():
            start = time.perf_counter()
            search = branched_search(replace(plan, dataset=self._data), How.alone(self._options.device))
            weights = load_weights(config.weights, get_backbone(config.backbone))
            probabilities = probabilities_after(search.run(folder, weights, Silent()))
            seconds = time.perf_counter() - start
            write_json(path, {"schema_version": 1, "probabilities": probabilities.tolist(), "seconds": seconds})
            _tidy(folder)
            tell(f"searched: {budget}, seed {seed}, {estimate.value} cost, {seconds:.0f} s")
        saved = read_json(path, 1)
        return _searched(np.array(saved["probabilities"]), plan, saved["seconds"])

    def architecture(self, tree: Sequence[Grouping]) -> Architecture:
        """Return a tree of task indices as an architecture of this study."""
        names = [task.name for task in self.tasks]
        groupings = tuple(tuple(tuple(names[t] for t in block) for block in grouping) for grouping in tree)
        return BranchedArchitecture(backbone=self.config.backbone, tasks=tuple(names), groupings=groupings)

    @property
    def separate(self) -> Architecture:
        """One network per task."""
        return BranchedArchitecture.separate(self.config.backbone, self.table.tasks, len(self.table.layers))

    def metrics(self, architecture: Architecture, seed: int) -> Metrics:
        """Train a network from the backbone's weights and measure it on the validation split, or read what it came to.

        Equal architectures and seeds are one network, wherever the architecture came from.
        """
        config = self.config.model_copy(update={"seed": seed})
        decides = config.model_dump(mode="json", exclude=_NOT_OF_TRAINING)
        folder = self.folder / "networks" / _key({**decides, "architecture": architecture.to_json()})
        path = folder / "metrics.json"
        if not path.exists():
            start = time.perf_counter()
            if not (folder / "weights.pt").exists():
                Training(config, architecture, self._data, folder, How.alone(self._options.device)).run(Silent())
                _tidy(folder)
            network = load_network(config, architecture, folder / "weights.pt").to(pick_device(self._options.device))
            found = evaluate_network(network, self._validation().in_order(self._options.batch), self.tasks)
            values = {task.name: found[task.name][task.metric] for task in self.tasks}
            write_json(path, {"schema_version": 1, "seed": seed, "values": values})
            tell(f"trained: {folder.name}, seed {seed}, {time.perf_counter() - start:.0f} s, {values}")
        values = read_json(path, 1)["values"]
        return {name: float(value) for name, value in values.items()}

    def gain(self, architecture: Architecture, seed: int) -> float:
        """Return Delta_m in percent (paper, Eq. 7) over the single-task networks of the same seed; NaN if undefined."""
        gain = delta_m(self.metrics(architecture, seed), self.metrics(self.separate, seed), self.tasks)
        return math.nan if gain is None else gain

    def _validation(self) -> Loader:
        return Loader(self._data, "val", self.tasks, self.config.train_size)

    def scale(self) -> str:
        """Say in words at what scale the study is done."""
        search, train, config = self.config.search, self.config.train, self.config
        deploy, small, size = (
            f"{height}x{width}" for height, width in (config.deploy_size, config.search_size, config.train_size)
        )
        images = {split: len(self._data.ids(split)) for split in ("train", "val")}
        weights = "random weights (none pretrained)" if config.weights == "none" else f"{config.weights} weights"
        return (
            f"Scale: {config.backbone} from {weights}; costs of the deployed size {deploy}. A search takes "
            f"{search.warmup_steps} warm-up steps, {search.weight_steps} weight steps and as many architecture steps of "
            f"{search.batch_size} images at {small}; a network is trained for {train.steps} steps of {train.batch_size} "
            f"images at {size} ({train.steps * train.batch_size / images['train']:.1f} passes over {images['train']} "
            f"images) with {train.optimiser.value}, and measured on {images['val']} images at that size. "
            f"Device: {pick_device(self._options.device).type}, {torch.get_num_threads()} thread(s)."
        )


_NOT_OF_SEARCH = {"data", "preset", "train", "train_size"}
_NOT_OF_TRAINING = {"data", "preset", "search", "search_size", "budgets", "decode", "table_digest", "deploy_size"}


def _tidy(folder: Path) -> None:
    """Remove checkpoints, which take far more room than results, once the result is there."""
    for path in folder.glob("checkpoint*"):
        path.unlink()


def _key(decides: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _searched(probabilities: np.ndarray, plan: Plan, seconds: float) -> Searched:
    """Decode within the budget and compute both expected costs of the same probabilities."""
    found = best_architecture(probabilities, plan.table, plan.budgets)
    entropy = grouping_entropy(probabilities)
    logits = torch.from_numpy(np.log(np.maximum(probabilities, 1e-300)))
    expected = {
        estimate: float(expected_costs(logits, plan.table, [Resource.MADDS], estimate)[Resource.MADDS])
        for estimate in CostEstimate
    }
    return Searched(
        tree=found.groupings,
        cost=found.cost[Resource.MADDS],
        argmax=plan.table.architecture_cost(argmax_architecture(probabilities), Resource.MADDS),
        exact=expected[CostEstimate.EXACT],
        published=expected[CostEstimate.PUBLISHED],
        entropy=math.nan if entropy is None else entropy,
        seconds=seconds,
    )


def tell(text: str) -> None:
    """Say where the study stands, apart from its tables."""
    print(text, file=sys.stderr, flush=True)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1); of one value the spread is NaN."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def interval(values: Sequence[float]) -> str:
    """Return the half width of the 95 % confidence interval of the mean, as `± 1.31`; empty for one value.

    Student's t; beyond ten values that of ten, which is a little wide. An interval of differences that holds 0 says that
    they may be chance.
    """
    if len(values) < 2:
        return ""
    half = _T95[min(len(values), max(_T95))] * mean_and_spread(values)[1] / math.sqrt(len(values))
    return "undefined" if math.isnan(half) else f"± {half:.2f}"


def with_spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Return `mean ± standard deviation`, the mean alone where there is one value; `sign` + writes it always."""
    mean, spread = mean_and_spread(values)
    if math.isnan(mean):
        return "undefined"
    text = f"{mean:{sign}.{digits}f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def madds_budget(text: str) -> Budget:
    """Return a budget. Raises UsageError if it is not in MAdds, which is what the tables of the studies are in."""
    budget = parse_budget(text)
    if budget.resource is not Resource.MADDS:
        raise UsageError(f"budget {text}: the studies compare networks of equal MAdds; give it in MAdds")
    return budget


def madds(value: float) -> str:
    """Return a cost as `3.38 GMAdds`."""
    return format_quantity(value, Resource.MADDS)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def add_options(parser: argparse.ArgumentParser, seeds: list[int]) -> None:
    """Add what the studies have in common. The defaults are a reduced scale: about an hour on one core for both."""
    parser.add_argument("--data", type=Path, default=CCP, help="a manifest; default: ccp")
    parser.add_argument("--tasks", type=lambda text: text.split(","), help="default: all of the data")
    parser.add_argument("--weights", default="none", help="imagenet, none, or a file")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=seeds)
    parser.add_argument("--steps", type=int, default=150, help="of a network's training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of a network's training")
    parser.add_argument("--size", type=_size, default=(96, 64), help="HxW of training and evaluation")
    parser.add_argument("--search-size", type=_size, default=(96, 64))
    parser.add_argument("--search-batch", type=int, default=4)
    parser.add_argument("--search-warmup", type=int, default=150, help="steps per task")
    parser.add_argument("--search-steps", type=int, default=60, help="weight steps, and architecture steps")
    parser.add_argument("--search-cycle", type=int, default=5, help="steps of each kind in turn")
    parser.add_argument("--search-arch-rate", type=float, default=0.3)
    parser.add_argument("--search-resource-steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, default=Path("runs/study"), help="goes on with what is there")


def run_study(study: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Do a study. What a user can cause ends it with one message and the exit code of `bmtas.errors`."""
    try:
        study(options)
    except BmtasError as error:  # Ctrl-C between two steps is one, too
        tell(f"error: {error}")
        sys.exit(error.exit_code)
    except CostError as error:
        tell(f"error: {error}")
        sys.exit(UsageError.exit_code)
