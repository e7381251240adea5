"""The search: its schedule by hand, and that no interruption changes what it finds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from bmtas.checkpoint import load_checkpoint
from bmtas.config import PRESETS, Preset
from bmtas.data.protocol import Dataset, Sample
from bmtas.errors import DivergedError, UsageError
from bmtas.interrupt import Interrupted
from bmtas.memory import peak_activations
from bmtas.methods.branched.finder import branched_search, probabilities_after
from bmtas.methods.branched.losses import expected_in
from bmtas.networks.network import build_network
from bmtas.parallel import How
from bmtas.planning import Plan, Request, plan_search, resolve_budgets
from bmtas.progress import Progress, Silent
from bmtas.schedule import Schedule
from bmtas.workflow import run_search
from costs.parts import FixedCost, LayerCost
from costs.table import CostTable
from costs.units import Resource, parse_budget

TASKS = ("semseg", "depth")


class Collected(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps = 0

    def advance(self, **values: float) -> None:
        self.steps += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclasses.dataclass(frozen=True)
class FarAway:
    """A data set whose depths are so large that no loss is finite."""

    inner: Dataset

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def tasks(self):  # type: ignore[no-untyped-def]
        return self.inner.tasks

    @property
    def size(self) -> tuple[int, int]:
        return self.inner.size

    def ids(self, split: str) -> Sequence[str]:
        return self.inner.ids(split)

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        sample = self.inner.load(split, index, size=size, tasks=tasks)
        labels = dict(sample.labels)
        labels["depth"] = np.full_like(labels["depth"], 3e38)  # two of them are more than a float32 holds
        return Sample(sample.id, sample.image, labels)


@pytest.fixture(scope="module")
def plan() -> Plan:
    overrides = {
        "batch_size": 2,
        "warmup_steps": 1,
        "weight_steps": 2,
        "weight_steps_per_cycle": 1,
        "arch_steps_per_cycle": 1,
        "resource_steps": 1,
    }
    return plan_search(Request(data="scenes", tasks=list(TASKS), size=(32, 32), search_overrides=overrides, seed=3))


def search(plan: Plan, folder: Path, progress: Progress, dataset: Dataset | None = None) -> np.ndarray:
    planned = dataclasses.replace(plan, dataset=dataset or plan.dataset)
    return probabilities_after(branched_search(planned, How.alone("cpu")).run(folder, None, progress))


@pytest.fixture(scope="module")
def straight(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Path]:
    """Probabilities and folder of a search that nothing has interrupted: 5 steps."""
    folder = tmp_path_factory.mktemp("straight")
    return search(plan, folder, Silent()), folder


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]


def test_the_schedule_is_warm_up_then_cycles() -> None:
    settings = PRESETS[Preset.QUICK].search.model_copy(
        update={"warmup_steps": 2, "weight_steps": 5, "weight_steps_per_cycle": 3, "arch_steps_per_cycle": 2}
    )
    told = [(step.phase, step.index, step.first) for step in Schedule(settings)]
    assert told == [
        ("warm-up", 0, True),
        ("warm-up", 1, False),
        ("architecture", 0, True),
        ("architecture", 1, False),
        ("weights", 0, True),
        ("weights", 1, False),
        ("weights", 2, False),
        ("architecture", 2, True),
        ("architecture", 3, False),
        ("weights", 3, True),
        ("weights", 4, False),
    ]


def test_probabilities_are_distributions_over_candidates(straight: tuple[np.ndarray, Path]) -> None:
    probabilities, folder = straight
    assert probabilities.shape == (18, 2, 2)  # layers, tasks, candidates
    assert probabilities.sum(axis=-1) == pytest.approx(1)
    assert probabilities.std() > 0  # something was learnt
    assert steps_of(folder) == [0, 1, 2, 3, 4]


def test_an_interrupted_search_finds_bit_for_bit_the_same(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    for already in (0, 2):  # stopped after steps 2 and 4: the signal comes after one step, the next one is the last
        with pytest.raises(Interrupted, match="the same command goes on") as caught:
            search(plan, tmp_path, signal_after(1))
        assert caught.value.exit_code == 130
        assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == already + 2
    progress = Collected()
    probabilities = search(plan, tmp_path, progress)
    assert progress.notes == ["continuing at step 4 of 5"]
    assert progress.steps == 1
    assert np.array_equal(probabilities, straight[0])
    assert (tmp_path / "history.jsonl").read_text() == (straight[1] / "history.jsonl").read_text()
    ours, theirs = (load_checkpoint(folder / "checkpoint.pt")["network"] for folder in (tmp_path, straight[1]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_lines_of_steps_after_the_last_checkpoint_are_written_once(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    with pytest.raises(Interrupted):
        search(plan, tmp_path, signal_after(1))
    with (tmp_path / "history.jsonl").open("a") as file:  # as a kill leaves it between the lines and the checkpoint
        file.write('{"step": 2, "phase": "weights", "loss.depth": 1.0}\n{"step": 3, "pha')
    search(plan, tmp_path, Silent())
    assert (tmp_path / "history.jsonl").read_text() == (straight[1] / "history.jsonl").read_text()


def test_lines_without_any_checkpoint_are_written_once(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    """Killed before the first checkpoint was complete, or its file was deleted as the message advises."""
    shutil.copy(straight[1] / "history.jsonl", tmp_path)
    search(plan, tmp_path, Silent())
    assert steps_of(tmp_path) == [0, 1, 2, 3, 4]


def test_a_finished_search_gives_its_result_again_without_a_step(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    shutil.copytree(straight[1], tmp_path, dirs_exist_ok=True)
    progress = Collected()
    assert np.array_equal(search(plan, tmp_path, progress), straight[0])
    assert progress.steps == 0


def test_a_loss_that_is_no_number_stops_with_the_last_checkpoint_in_place(
    plan: Plan, tmp_path: Path, signal_after: Callable[..., Progress]
) -> None:
    with pytest.raises(Interrupted):
        search(plan, tmp_path, signal_after(1))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(DivergedError, match=r"step 2 .*'depth' is inf; .* stands in .*checkpoint\.pt"):
        search(plan, tmp_path, Silent(), FarAway(plan.dataset))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == 2
    assert steps_of(tmp_path) == [0, 1]


def test_a_checkpoint_is_not_promised_where_there_is_none(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 0 .*'depth' is inf; no checkpoint"):
        search(plan, tmp_path, Silent(), FarAway(plan.dataset))
    assert list(tmp_path.glob("*.pt")) == []


# --- budgets on peaks

MIB = Resource.PEAK_MEMORY_MIB


def peak_table(costs: list[list[float]], fixed: float) -> CostTable:
    """Return a table of two tasks whose peak memory in each layer is that with one and with two groups."""
    return CostTable(
        backbone="toy",
        tasks=["a", "b"],
        input_size=(8, 8),
        batch=1,
        depends_on="group_count",
        layers=[LayerCost(name=f"l{i}", per_count={MIB: cost}) for i, cost in enumerate(costs)],
        fixed=[FixedCost(name="stem", shared=True, tasks=[], cost={MIB: fixed})],
        provenance={},
    )


def test_for_a_peak_the_greatest_expected_layer_stands_in_and_has_a_gradient() -> None:
    table = peak_table([[1.0, 3.0], [2.0, 6.0], [1.0, 1.0]], fixed=2.5)
    logits = torch.zeros(3, 2, 2, dtype=torch.float64)
    logits[0, 0, 0] = 1.0
    logits.requires_grad_()
    probs = torch.softmax(logits, dim=-1)
    # The tasks are together with probability 0.5 in each layer alone, whatever one of them prefers: in the second
    # layer with 0.25, and its expected cost is 0.25 * 2 + 0.75 * 6.
    found = expected_in(probs, table, MIB)
    assert found.item() == pytest.approx(5.0, rel=1e-12)
    found.backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0
    # Where the layers need little, the fixed part is the peak.
    assert expected_in(probs.detach(), peak_table([[1.0, 1.0]] * 3, fixed=2.5), MIB).item() == 2.5


def test_what_stands_in_for_a_peak_is_a_lower_bound_and_exact_where_draws_are_certain() -> None:
    table = peak_table([[1.0, 3.0], [2.0, 2.5], [0.5, 4.0]], fixed=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        probs = torch.softmax(3 * torch.randn(3, 2, 2, generator=generator, dtype=torch.float64), dim=-1)
        together = (probs[:, 0] * probs[:, 1]).sum(-1)
        # By the layer in which the tasks part, if any: they are then apart in all layers after it.
        mean, before = 0.0, 1.0
        for layer in range(3):
            counts = [1] * layer + [2] * (3 - layer)
            mean += before * (1 - float(together[layer])) * table.architecture_cost(counts, MIB)
            before *= float(together[layer])
        mean += before * table.architecture_cost([1, 1, 1], MIB)
        assert expected_in(probs, table, MIB).item() <= mean + 1e-12
    certain = torch.zeros(3, 2, 2, dtype=torch.float64)
    certain[:, :, 0] = 1.0
    assert expected_in(certain, table, MIB).item() == table.architecture_cost([1, 1, 1], MIB)
    certain[1:, 1] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert expected_in(certain, table, MIB).item() == table.architecture_cost([1, 2, 2], MIB)


def test_for_sums_it_is_the_exact_expected_cost(plan: Plan) -> None:
    probs = torch.full((18, 2, 2), 0.5, dtype=torch.float64)
    groups = np.array([2 - 0.5**n for n in range(1, 19)])  # together with 0.5 to the number of layers
    exact = groups @ plan.table.layer_costs(Resource.MADDS) + plan.table.fixed_cost(Resource.MADDS)
    assert expected_in(probs, plan.table, Resource.MADDS).item() == pytest.approx(exact, rel=1e-12)


def test_a_search_under_a_budget_of_memory_finds_a_network_within_it(tmp_path: Path) -> None:
    overrides = {"batch_size": 2, "warmup_steps": 1, "weight_steps": 1, "weight_steps_per_cycle": 1}
    overrides |= {"arch_steps_per_cycle": 2, "resource_steps": 1}
    request = Request(
        data="scenes",
        tasks=["semseg", "edge", "depth"],
        size=(64, 96),
        search_size=(32, 32),
        search_overrides=overrides,
    )
    table = plan_search(request).table
    shared, split = table.shared_total(MIB), table.split_total(MIB)
    limit = f"{(shared + split) / 2:.4f}MiB"
    planned = plan_search(dataclasses.replace(request, budgets=(limit,)))
    assert planned.config.budgets == [limit]
    run = run_search(planned, tmp_path, Silent(), How.alone("cpu"))
    found = json.loads(run.architecture_path.read_text())
    assert shared <= found["costs"]["peak_memory_mib"] <= float(limit.removesuffix("MiB")) < split
    assert found["measured"]["peak_memory_mib"] <= found["costs"]["peak_memory_mib"]
    assert found["measured"]["madds"] == found["costs"]["madds"]
    # The network itself, built and traced anew.
    network = build_network(run.architecture("found"), planned.config.task_list())
    traced = peak_activations(network, [torch.zeros(1, 3, 64, 96)]) / 2**20
    assert traced == found["measured"]["peak_memory_mib"]
    # Without a budget nearly all draws of so short a search part at once: the budget was what kept tasks together.
    steps = [json.loads(line) for line in (run.search_folder / "history.jsonl").read_text().splitlines()]
    expected = [step["expected.peak_memory_mib"] for step in steps if step["phase"] == "architecture"]
    assert len(expected) == 2
    assert all(shared <= value <= split for value in expected)
    assert (run.search_folder / "budget.png").exists()


def test_a_budget_on_what_depends_on_groupings_is_refused_for_too_many_tasks() -> None:
    tasks = 11
    table = CostTable(
        backbone="toy",
        tasks=[f"t{i}" for i in range(tasks)],
        input_size=(8, 8),
        batch=1,
        depends_on="group_count",
        layers=[LayerCost(name="l", per_count={MIB: [float(n) for n in range(1, tasks + 1)]})],
        fixed=[],
        provenance={},
    )
    with pytest.raises(UsageError, match=r"5MiB: peak_memory_mib depends on group_count.*11 tasks.*up to 10 tasks"):
        resolve_budgets([parse_budget("5MiB")], table)


def test_a_checkpoint_of_a_longer_search_is_refused(
    plan: Plan, straight: tuple[np.ndarray, Path], tmp_path: Path
) -> None:
    shutil.copy(straight[1] / "checkpoint.pt", tmp_path)
    shorter = dataclasses.replace(
        plan,
        config=plan.config.model_copy(
            update={"search": plan.config.search.model_copy(update={"weight_steps": 1})}  # 3 steps in all
        ),
    )
    with pytest.raises(UsageError, match="at step 5 of a search of 3 steps"):
        search(shorter, tmp_path, Silent())
