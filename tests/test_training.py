"""Training: who learns at which rate, and that no interruption changes the weights."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from bmtas.architecture import BranchedArchitecture
from bmtas.checkpoint import load_checkpoint
from bmtas.config import Optimiser, RunConfig
from bmtas.data.protocol import Dataset, Sample
from bmtas.data.scenes import Scenes
from bmtas.data.source import open_dataset
from bmtas.errors import DivergedError, UsageError
from bmtas.interrupt import Interrupted
from bmtas.losses import task_loss
from bmtas.networks.network import build_network
from bmtas.parallel import How
from bmtas.planning import Request, plan_search
from bmtas.progress import Progress, Silent
from bmtas.training import Training, load_network, parameter_groups

TASKS = ("semseg", "depth", "edge")
TREE = BranchedArchitecture(
    backbone="mobilenet_v2",
    tasks=TASKS,
    groupings=((TASKS,),) * 4 + ((("semseg",), ("depth", "edge")),) * 13 + ((("semseg",), ("depth",), ("edge",)),),
)
STEPS = 4


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return plan_search(
        Request(
            data="scenes",
            tasks=list(TASKS),
            size=(32, 32),
            train_overrides={"batch_size": 2, "steps": STEPS},
        )
    ).config


def training(config: RunConfig, folder: Path, dataset: Dataset | None = None) -> Training:
    return Training(config, TREE, dataset or open_dataset("scenes"), folder, How.alone("cpu"))


def diverging(config: RunConfig) -> RunConfig:
    settings = config.train.model_copy(update={"optimiser": Optimiser.SGD, "learning_rate": 1e30})
    return config.model_copy(update={"train": settings})


@pytest.fixture(scope="module")
def straight(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    training(config, folder).run(Silent())
    return folder


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def same_weights(a: Path, b: Path) -> bool:
    ours, theirs = (load_checkpoint(folder / "weights.pt")["network"] for folder in (a, b))
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("divide", [True, False])
def test_a_layer_learns_at_the_rate_over_the_tasks_that_share_it(config: RunConfig, divide: bool) -> None:
    network = build_network(TREE, config.task_list())
    rates = {}
    for group in parameter_groups(network, 0.6, divide=divide):
        rates |= {id(p): group["lr"] for p in group["params"]}
    expected = {
        "stem.semseg+depth+edge.": 0.2,
        "layers.00.semseg+depth+edge.": 0.2,
        "layers.03.semseg+depth+edge.": 0.2,
        "layers.04.semseg.": 0.6,
        "layers.04.depth+edge.": 0.3,
        "layers.16.depth+edge.": 0.3,
        "layers.17.depth.": 0.6,
        "layers.17.edge.": 0.6,
        "heads.depth.": 0.6,
    }
    seen = dict.fromkeys(expected, 0)
    for name, parameter in network.named_parameters():
        assert id(parameter) in rates, name  # nothing is forgotten
        for prefix, rate in expected.items():
            if name.startswith(prefix):
                seen[prefix] += 1
                assert rates[id(parameter)] == pytest.approx(rate if divide else 0.6), name
    assert min(seen.values()) > 0
    assert len(rates) == len(list(network.parameters()))


def test_interrupted_training_ends_with_bit_for_bit_the_same_weights(
    config: RunConfig, straight: Path, tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        training(config, tmp_path).run(signal_after(1, signal.SIGTERM))
    assert caught.value.exit_code == 143  # 128 and SIGTERM
    assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == 2
    assert not (tmp_path / "weights.pt").exists()
    training(config, tmp_path).run(Silent())
    assert same_weights(tmp_path, straight)
    assert (tmp_path / "history.jsonl").read_text() == (straight / "history.jsonl").read_text()
    assert steps_of(tmp_path) == list(range(STEPS))


def test_training_changes_every_parameter_of_every_task(config: RunConfig, straight: Path) -> None:
    torch.manual_seed(config.seed)  # the same start as the training's own
    before = dict(build_network(TREE, config.task_list()).named_parameters())
    after = load_checkpoint(straight / "weights.pt")["network"]
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


def test_training_killed_between_its_last_checkpoint_and_the_weights_only_writes_them(
    config: RunConfig, straight: Path, tmp_path: Path
) -> None:
    for name in ("checkpoint.pt", "history.jsonl"):
        shutil.copy(straight / name, tmp_path)
    training(config, tmp_path).run(Silent())
    assert same_weights(tmp_path, straight)
    assert steps_of(tmp_path) == list(range(STEPS))


def test_lines_without_any_checkpoint_are_written_once(config: RunConfig, straight: Path, tmp_path: Path) -> None:
    """Killed before the first checkpoint was complete, or its file was deleted as the message advises."""
    shutil.copy(straight / "history.jsonl", tmp_path)
    training(config, tmp_path).run(Silent())
    assert steps_of(tmp_path) == list(range(STEPS))


def test_training_that_diverges_stops_with_the_last_checkpoint_in_place(
    config: RunConfig, tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    with pytest.raises(Interrupted):
        training(config, tmp_path).run(signal_after(1, signal.SIGTERM))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    broken = load_checkpoint(tmp_path / "checkpoint.pt")
    for group in broken["optimiser"]["param_groups"]:
        group["base_lr"] = 1e30  # the checkpoint's own rate is what goes on
    torch.save(broken, tmp_path / "checkpoint.pt")
    spoilt = (tmp_path / "checkpoint.pt").read_bytes()
    assert spoilt != before
    with pytest.raises(DivergedError, match=r"step 3|no longer finite") as caught:
        training(config, tmp_path).run(Silent())
    assert "checkpoint.pt" in str(caught.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == spoilt
    assert not (tmp_path / "weights.pt").exists()


def test_a_loss_that_is_no_number_names_task_and_step(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(
        DivergedError, match=rf"training '{tmp_path.name}', step 1: the loss of '(semseg|depth|edge)' is"
    ):
        training(diverging(config), tmp_path).run(Silent())
    assert not (tmp_path / "weights.pt").exists()


@pytest.mark.parametrize("every_s", [0.0, 1e9])
def test_no_state_that_is_not_finite_is_ever_saved(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float
) -> None:
    monkeypatch.setattr(Training, "checkpoint_every_s", every_s)
    with pytest.raises(DivergedError):
        training(diverging(config), tmp_path).run(Silent())
    for path in tmp_path.glob("*.pt"):
        state = load_checkpoint(path)["network"]
        assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()), path


def test_a_checkpoint_of_another_architecture_is_refused(config: RunConfig, straight: Path, tmp_path: Path) -> None:
    shutil.copy(straight / "checkpoint.pt", tmp_path)
    other = Training(
        config,
        BranchedArchitecture.shared("mobilenet_v2", TASKS, 18),
        open_dataset("scenes"),
        tmp_path,
        How.alone("cpu"),
    )
    with pytest.raises(UsageError, match="another architecture"):
        other.run(Silent())


def test_weights_of_another_architecture_are_refused(config: RunConfig, straight: Path) -> None:
    with pytest.raises(UsageError, match=r"weights\.pt does not belong to the network"):
        load_network(config, BranchedArchitecture.separate("mobilenet_v2", TASKS, 18), straight / "weights.pt")


class Broken(Scenes):
    """Scenes whose depth is a million times too large from the 25th image on, as with a sensor that breaks."""

    loaded = 0

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        sample = super().load(split, index, size=size, tasks=tasks)
        self.loaded += 1
        if self.loaded > 24:
            sample.labels["depth"] = sample.labels["depth"] * np.float32(1e6)
        return sample


def test_a_loss_that_explodes_stops_the_training_and_the_checkpoint_from_before_stays(
    config: RunConfig, tmp_path: Path
) -> None:
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 40})})
    doomed = training(longer, tmp_path, Broken())
    doomed.checkpoint_every_s = 0.0
    with pytest.raises(
        DivergedError, match=r"step 1\d: the loss of 'depth' has exploded.*last good checkpoint"
    ) as caught:
        doomed.run(Silent())
    at = int(re.search(r"step (\d+)", str(caught.value)).group(1))
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["done"] == at  # the step at which it exploded is not in it
    assert all(torch.isfinite(value).all() for value in saved["network"].values())


class Sudden(Scenes):
    """Scenes whose depth is ten thousand times too large in the last two batches of fourteen, of two images each."""

    order: ClassVar[dict[int, int]] = {}

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        sample = super().load(split, index, size=size, tasks=tasks)
        if self.order[index] >= 24:
            sample.labels["depth"] = sample.labels["depth"] * np.float32(2e3)
        return sample


def test_weights_that_end_in_a_doubtful_state_are_not_handed_over(config: RunConfig, tmp_path: Path) -> None:
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 14})})
    data = Sudden()
    doomed = training(longer, tmp_path, data)
    drawn = np.random.default_rng([config.seed + 3, 0]).permutation(np.arange(len(data.ids("train"))))
    Sudden.order = {int(index): place for place, index in enumerate(drawn)}
    with pytest.raises(DivergedError, match=r"step 14: the loss of 'depth' is more than 100 times that of its first"):
        doomed.run(Silent())
    assert not (tmp_path / "weights.pt").exists()


@pytest.fixture
def _float64() -> Iterator[None]:
    """Untrained networks enlarge rounding: where two ways of computing are compared, in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
def test_training_in_parts_sums_the_gradients_of_the_parts(config: RunConfig, tmp_path: Path) -> None:
    """By hand: every part normalised by itself, its losses weighed by its share of the valid labels."""
    parts = config.train.model_copy(
        update={"accumulate": 2, "batch_size": 4, "steps": 1, "optimiser": Optimiser.SGD, "learning_rate": 1e-3}
    )
    config = config.model_copy(update={"train": parts})
    trained = training(config, tmp_path)
    batch = trained.batches[0]
    trained.run(Silent())
    found = load_checkpoint(tmp_path / "weights.pt")["network"]

    torch.manual_seed(config.seed)
    network = build_network(TREE, config.task_list(), None).train()
    halves = [slice(0, 2), slice(2, 4)]
    valid = {"semseg": lambda y: y != 255, "edge": lambda y: y != 255, "depth": torch.isfinite}
    for half in halves:
        predictions, losses = network(batch.images[half]), []
        for task in config.task_list():
            labels, ok = batch.labels[task.name], valid[task.name]
            share = ok(labels[half]).sum() / ok(labels).sum()
            losses.append(task.loss_weight * share * task_loss(task, predictions[task.name], labels[half]))
        torch.stack(losses).sum().backward()
    groups = parameter_groups(network, 1e-3, divide=parts.divide_rate_by_sharing)
    optimiser = torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=1e-4)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimiser.step()
    for name, value in network.named_parameters():
        moved, expected = found[name] - before[name], value.detach() - before[name]
        assert (moved - expected).norm() <= 1e-6 * expected.norm() + 1e-9, name
