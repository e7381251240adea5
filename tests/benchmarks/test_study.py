"""The studies' statistics and tables by hand, and what they keep on disk, on images made here."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from _study import (
    Remembered,
    Study,
    _searched,
    add_options,
    interval,
    madds_budget,
    markdown,
    mean_and_spread,
    with_spread,
)
from PIL import Image
from scipy import stats

from bmtas.config import RunConfig
from bmtas.data.protocol import Sample
from bmtas.errors import UsageError
from bmtas.planning import Plan
from bmtas.tasks import Task, TaskKind
from bmtas.training import Training
from costs.parts import LayerCost
from costs.table import CostTable
from costs.units import Resource, parse_budget

TASKS = [Task(name=name, kind=TaskKind.BINARY) for name in "abc"]


class Blank:
    """Black images without labels, counted as they are loaded."""

    name, tasks, size, loaded = "blank", tuple(TASKS), (16, 16), 0

    def ids(self, split: str) -> Sequence[str]:
        return [split] * 5

    def load(self, split: str, index: int, *, size: tuple[int, int], tasks: Sequence[str]) -> Sample:
        Blank.loaded += 1
        return Sample(f"{split}{index}", np.zeros((*size, 3), np.uint8), {})

    def fingerprint(self) -> str:
        return "blank"


def test_mean_and_spread_by_hand() -> None:
    mean, spread = mean_and_spread([1.0, 2.0, 3.0, 4.0])
    assert (mean, spread) == (2.5, pytest.approx(math.sqrt(5 / 3)))
    assert with_spread([1.0, 2.0, 3.0, 4.0], 2, "+") == "+2.50 ± 1.29"
    assert with_spread([-2.0], 1) == "-2.0"
    assert with_spread([1.0, math.nan], 1) == "undefined"


@pytest.mark.parametrize("count", range(2, 11))
def test_interval_against_scipy(count: int) -> None:
    values = [0.0] * (count - 1) + [float(count)]  # mean 1, sum of squares n (n - 1), standard error 1
    assert interval(values) == f"± {stats.t.ppf(0.975, count - 1):.2f}"
    assert interval([1.0]) == ""


def test_markdown() -> None:
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_budgets_are_in_madds() -> None:
    assert madds_budget("2GMAdds").value == 2e9
    with pytest.raises(UsageError, match="equal MAdds"):
        madds_budget("2MParams")


def test_remembered_samples_are_loaded_once_for_each_size() -> None:
    data = Remembered(Blank())
    first = data.load("train", 3, size=(16, 16), tasks=["a"])
    assert data.load("train", 3, size=(16, 16), tasks=["a"]) is first
    assert data.load("train", 3, size=(32, 32), tasks=["a"]).image.shape == (32, 32, 3)
    assert Blank.loaded == 2
    assert data.fingerprint() == "blank"


def test_costs_of_a_search_by_hand(run_config: Callable[[Sequence[Task], str], RunConfig]) -> None:
    table = CostTable(
        backbone="toy",
        tasks=["a", "b", "c"],
        input_size=(8, 8),
        batch=1,
        layers=[LayerCost(name=f"layers.{i}", per_group={Resource.MADDS: cost}) for i, cost in enumerate((10.0, 20.0))],
        fixed=[],
        provenance={},
    )
    # In the first layer the third task joins the others with probability 0.6; in the second all draw the same.
    probabilities = np.zeros((2, 3, 3))
    probabilities[:, :, 0] = 1.0
    probabilities[0, 2] = 0.6, 0.4, 0.0
    plan = Plan(run_config(TASKS, "45MAdds"), table, (parse_budget("45MAdds"),), Blank(), ())
    searched = _searched(probabilities, plan, 1.0)
    assert searched.tree == (((0, 1, 2),),) * 2
    assert (searched.cost, searched.argmax) == (30.0, 30.0)
    assert searched.exact == pytest.approx(10 * 1.4 + 20 * 1.4)
    # Both layers: all together with 0.6, the third task apart with 0.4.
    assert searched.entropy == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4))
    # Of the second layer the 0.4 are charged as three groups: the draw "all together" does not refine two groups.
    assert searched.published == pytest.approx(10 * 1.4 + 20 * (0.6 * 1 + 0.4 * 3))


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    """A study of two tasks on six small images, of one step."""
    data, rng = tmp_path / "data", np.random.default_rng(0)
    for folder in ("images", "a", "b"):
        (data / folder).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3)) if folder == "images" else rng.integers(0, 2, (32, 32))
            Image.fromarray(pixels.astype(np.uint8)).save(data / folder / f"{i}.png")
    (data / "train.txt").write_text("0\n1\n2\n3\n")
    (data / "val.txt").write_text("4\n5\n")
    manifest = data / "manifest.yaml"
    manifest.write_text(
        "size: [32, 32]\nimages: {folder: images, suffix: .png}\n"
        "tasks:\n  a: {kind: binary, folder: a}\n  b: {kind: edge, folder: b, ignore: null}\n"
        "splits: {train: train.txt, val: val.txt}\n"
    )
    parser = argparse.ArgumentParser()
    add_options(parser, seeds=[0, 1])
    scale = "--steps 1 --batch 2 --size 32x32 --search-size 32x32 --search-batch 2 --search-warmup 1 --search-steps 1"
    return parser.parse_args([*scale.split(), "--data", str(manifest), "--folder", str(tmp_path / "study")])


@pytest.mark.slow
def test_a_study_trains_once_and_goes_on(options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(options)
    budget = f"{study.table.split_total(Resource.MADDS):.0f}MAdds"
    searched, metrics = study.search(budget, 0), study.metrics(study.separate, 0)
    assert set(metrics) == {"a", "b"}
    assert study.gain(study.separate, 0) == 0.0
    assert "1 weight steps" in study.scale()

    def fail(*_: object) -> None:
        raise AssertionError("done before")

    monkeypatch.setattr(Training, "run", fail)
    monkeypatch.setattr("_study.Search", fail)
    again = Study(options)
    assert again.search(budget, 0) == searched
    assert again.metrics(again.separate, 0) == metrics
    with pytest.raises(AssertionError, match="done before"):  # another seed is another network
        again.metrics(again.separate, 1)
