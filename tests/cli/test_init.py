"""`bmtas train --init search`: the network that begins with what the search has learned, beside the one that does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bmtas.runs import Run

RATE = 1e-9  # a step of AdamW changes no weight by much more


@pytest.fixture(scope="module")
def run(bmtas_: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose network was trained for a step at hardly any rate, once from scratch and once from the search."""
    root = tmp_path_factory.mktemp("init")
    steps = ("--warmup-steps", 2, "--search-steps", 3, "--train-steps", 1, "--batch-size", 4)
    data = ("--data", "planted", "--backbone", "tiny", "--budget", "4.3MMAdds")
    for command in (
        ("search", *data, *steps, "--train-learning-rate", RATE),
        ("train", "--init", "search"),
        ("train",),
    ):
        result = bmtas_(*command, "--runs", root)
        assert result.code == 0, result.err
    (path,) = root.iterdir()
    return Run(path)


@pytest.fixture(scope="module")
def bmtas_(bmtas: Callable[..., Any]) -> Any:
    """The command line, without much time spent on the losses of constants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bmtas.training._CONSTANT_IMAGES", 1)
        yield bmtas


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.network(name) / "weights.pt", weights_only=True)["network"]
    return state


def test_inherited_stands_beside_found_with_the_same_tree_and_other_weights(run: Run) -> None:
    assert run.trained() == ["found", "inherited"]
    assert run.architecture("inherited") == run.architecture("found")
    one, other = (json.loads((run.network(name) / "architecture.json").read_text()) for name in ("found", "inherited"))
    assert one == other
    found, inherited = weights(run, "found"), weights(run, "inherited")
    assert list(found) == list(inherited)
    # Of a convolution no two weights are alike; scales and shifts begin as 1 and 0 in both.
    convolutions = [name for name, value in found.items() if value.ndim == 4]
    assert len(convolutions) > 20
    assert all((found[name] - inherited[name]).abs().max() > 1e-3 for name in convolutions)


def test_its_weights_are_those_of_the_candidates_that_its_groups_took(run: Run) -> None:
    """With so small a learning rate training has left all but the running statistics where they were."""
    learned = torch.load(run.search_folder / "checkpoint.pt", weights_only=True)["network"]
    probabilities = np.array(json.loads((run.search_folder / "probabilities.json").read_text())["probabilities"])
    inherited, architecture = weights(run, "inherited"), run.architecture("found")
    compared = 0
    for layer, (named, grouping) in enumerate(zip(architecture.groupings, architecture.task_indices, strict=True)):
        for names, tasks in zip(named, grouping, strict=True):
            joint = [np.prod([probabilities[layer, t, c] for t in tasks]) for c in range(4)]
            chosen = joint.index(max(joint))
            for key in ("conv.0.0.weight", "conv.0.1.weight", "conv.0.1.bias", "conv.1.weight"):
                found = inherited[f"layers.{layer:02d}.{'+'.join(names)}.{key}"]
                torch.testing.assert_close(found, learned[f"layers.{layer}.{chosen}.{key}"], rtol=0, atol=1e-6)
                compared += 1
    assert compared == 4 * sum(architecture.group_counts)
    torch.testing.assert_close(inherited["stem.a1+a2+b1+b2.0.weight"], learned["stem.0.weight"], rtol=0, atol=1e-6)
    for task in architecture.tasks:
        key = f"heads.{task}.predict.weight"
        torch.testing.assert_close(inherited[key], learned[key], rtol=0, atol=1e-6)


def test_show_and_evaluate_know_it(run: Run, bmtas_: Callable[..., Any]) -> None:
    summary = json.loads(bmtas_("show", "--runs", run.path.parent, "--json", "-").out)["networks"]
    assert list(summary) == ["shared", "found", "inherited", "separate"]
    assert summary["inherited"]["costs"] == summary["found"]["costs"]
    metrics = [summary[name]["metrics"]["tasks"]["a1"]["value"] for name in ("found", "inherited")]
    assert metrics[0] != metrics[1]
    again = bmtas_("train", "--init", "search", "--runs", run.path.parent)
    assert again.code == 0
    assert "inherited is trained already" in again.err


def test_it_is_refused_where_nothing_was_searched_or_nothing_can_inherit(
    run: Run, bmtas_: Callable[..., Any], tmp_path: Path
) -> None:
    baseline = ("search", "--data", "planted", "--backbone", "tiny", "--method", "vanilla", "--runs", tmp_path)
    assert bmtas_(*baseline).code == 0
    for arguments, message in (
        (
            ("--init", "search", "--runs", tmp_path),
            "no search whose weights --init search could take over (its method is vanilla)",
        ),
        (("--init", "search", "--network", "shared", "--runs", run.path.parent), "only the network found can inherit"),
        (("--init", "serach", "--runs", run.path.parent), "unknown --init 'serach'; did you mean 'search'?"),
    ):
        result = bmtas_("train", *arguments)
        assert result.code == 2
        assert message in " ".join(result.err.split())
    (folder,) = tmp_path.iterdir()
    assert not (folder / "networks").exists()


def test_a_search_checkpoint_of_another_search_is_refused(run: Run, bmtas_: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path / "runs" / run.name
    (target / "search").mkdir(parents=True)
    for name in ("run.json", "table.json", "architecture.json", "search/probabilities.json"):
        (target / name).write_bytes((run.path / name).read_bytes())
    state = torch.load(run.search_folder / "checkpoint.pt", weights_only=True)
    state["network"] = {k: v for k, v in state["network"].items() if not k.startswith("heads.b1.")}
    torch.save(state, target / "search/checkpoint.pt")
    result = bmtas_("train", "--init", "search", "--runs", target.parent)
    assert result.code == 2
    assert "does not hold the weights of this search" in " ".join(result.err.split())
    assert not (target / "networks/inherited/weights.pt").exists()
