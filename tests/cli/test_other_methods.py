"""The other searches and the fixed sharing networks by the same commands: found within the budget, trained, exported, shown, compared, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from bmtas.runs import Run
from bmtas.training import load_network

SEARCHES = {"mtl-nas": "6MMAdds", "automtl": "4.5MMAdds", "dynamic": "6MMAdds"}
FIXED = ("cross-stitch", "nddr-cnn", "mtan", "sluice")
EACH = [*SEARCHES, *(pytest.param(m, marks=[] if m == "mtan" else pytest.mark.slow) for m in FIXED)]
SCALE = ("--train-steps", 2, "--batch-size", 4)
SHORT = ("--warmup-steps", 2, "--search-steps", 2)
# As tests/networks/test_tiny.py counts them: 576 for a stem, 10,032 for a head and 1,680 for a group, at 64 places.
SEPARATE = 4 * 64 * (576 + 6 * 1680 + 10032)


def search(root: Path, method: str, *arguments: object) -> list[object]:
    short = SHORT if method in SEARCHES else ()
    data = ("--data", "planted", "--backbone", "tiny")
    return ["search", *data, "--method", method, *SCALE, *short, "--runs", root, *arguments]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


class Made(dict[str, Run]):
    """A run of each method that is asked for, in one folder: searched and trained."""

    def __init__(self, bmtas: Callable[..., Any], root: Path) -> None:
        self.bmtas, self.root = bmtas, root

    def __missing__(self, method: str) -> Run:
        budget = ("--budget", SEARCHES[method]) if method in SEARCHES else ()
        result = self.bmtas(*search(self.root, method, *budget))
        assert result.code == 0, result.err
        (path,) = self.root.glob(f"{len(self) + 1:03d}-*")
        result = self.bmtas("train", "--runs", self.root, "--run", path.name)
        assert result.code == 0, result.err
        self[method] = Run(path)
        return self[method]


@pytest.fixture(scope="module")
def runs(bmtas: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(bmtas, tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("method", SEARCHES)
def test_the_network_found_is_within_the_budget_as_counted_on_it(runs: dict[str, Run], method: str) -> None:
    found = read(runs[method].architecture_path)
    budget = float(SEARCHES[method].removesuffix("MMAdds")) * 1e6
    assert found["method"] == method
    assert found["measured"]["madds"] == found["costs"]["madds"] <= budget
    network = load_network(
        runs[method].config(), runs[method].architecture("found"), runs[method].network("found") / "weights.pt"
    )
    assert sum(p.numel() for p in network.parameters()) == found["costs"]["params"]


@pytest.mark.parametrize("method", EACH)
def test_every_network_exports_and_the_file_computes_the_same(
    runs: dict[str, Run], method: str, bmtas: Callable[..., Any]
) -> None:
    run = runs[method]
    result = bmtas("export", "--runs", run.path.parent, "--run", run.name)
    assert result.code == 0, result.err
    network = load_network(run.config(), run.architecture("found"), run.network("found") / "weights.pt")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(run.network("found") / "model.onnx", providers=["CPUExecutionProvider"])
    assert read(run.network("found") / "parity.json")
    with torch.inference_mode():
        expected = network(torch.from_numpy(image))
    fed = {entry.name: entry for entry in session.get_inputs()}["image"]
    names = [entry.name for entry in session.get_outputs()]
    assert names == ["a1", "a2", "b1", "b2"]
    assert fed.shape == [1, 3, 32, 32]
    for name, value in zip(names, session.run(None, {"image": image}), strict=True):
        np.testing.assert_allclose(value, expected[name].numpy(), atol=2e-4)


@pytest.mark.slow
def test_they_stand_in_one_table(runs: dict[str, Run], bmtas: Callable[..., Any], tmp_path: Path) -> None:
    root = {runs[method].path.parent for method in (*SEARCHES, *FIXED)}.pop()
    result = bmtas("compare", "--runs", root, "--json", "-")
    assert result.code == 0, result.err
    networks = {network["method"]: network for network in json.loads(result.out)["networks"]}
    assert set(networks) >= {*SEARCHES, *FIXED}
    assert networks["cross-stitch"]["costs"]["madds"] == SEPARATE  # scalars are no multiply-adds
    assert networks["nddr-cnn"]["costs"]["madds"] > SEPARATE
    # Two steps of training each; before them two of separate networks, or four of a search, or both and none after.
    steps = {method: network["weight_steps"] for method, network in networks.items() if method in (*SEARCHES, *FIXED)}
    assert steps == {
        "automtl": 2,
        "mtan": 2,
        "cross-stitch": 4,
        "nddr-cnn": 4,
        "sluice": 4,
        "mtl-nas": 6,
        "dynamic": 6,
    }
    assert "not trained equally long" in " ".join(json.loads(result.out)["notes"])


@pytest.mark.parametrize("method", EACH)
def test_they_are_shown_without_pytorch_being_asked(
    runs: dict[str, Run], method: str, bmtas: Callable[..., Any]
) -> None:
    run = runs[method]
    result = bmtas("show", "--runs", run.path.parent, "--run", run.name)
    assert result.code == 0, result.err
    assert "what is computed for whom" in result.out
    assert f"method: {method}" in result.out


def test_what_a_search_needs_no_training_for_is_trained_already(
    runs: dict[str, Run], bmtas: Callable[..., Any]
) -> None:
    run = runs["mtl-nas"]
    result = bmtas("train", "--runs", run.path.parent, "--run", run.name)
    assert result.code == 0, result.err
    assert "found is trained already" in result.err


def test_the_weights_of_a_policy_search_can_be_inherited(runs: dict[str, Run], bmtas: Callable[..., Any]) -> None:
    run = runs["automtl"]
    result = bmtas("train", "--runs", run.path.parent, "--run", run.name, "--init", "search")
    assert result.code == 0, result.err
    assert "inherited" in run.trained()
    refused = bmtas("train", "--runs", run.path.parent, "--run", runs["dynamic"].name, "--init", "search")
    assert refused.code == 2
    assert "its method is dynamic" in refused.err


@pytest.mark.parametrize(
    ("method", "arguments", "code", "message"),
    [
        ("mtl-nas", ("--budget", "5MMAdds"), 6, "--method mtl-nas reaches from"),
        ("automtl", ("--budget", "1MMAdds"), 6, "--method automtl reaches from"),
        ("dynamic", ("--budget", "1MMAdds"), 6, "--method dynamic reaches from"),
        ("nddr-cnn", ("--budget", "5MMAdds"), 6, "--method nddr-cnn costs 5.460 MMAdds"),
        ("mtl-nas", ("--budget", "3MiB"), 2, "no trees"),
        ("dynamic", ("--budget", "3ms"), 2, "no trees"),
        ("mtl-nas", ("--set", "entropy=3"), 2, "unknown setting of --method mtl-nas"),
        ("mtl-nas", ("--set", "entropy_weight=-3"), 2, "greater than or equal to 0"),
        ("dynamic", ("--set", "flow"), 2, "expected NAME=VALUE"),
        ("random", ("--set", "flow=3"), 2, "no settings of its own"),
        ("automtl", ("--estimator", "sampled"), 2, "searches no trees"),
        ("cross-stitch", ("--search-steps", "3"), 2, "takes no search steps"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    method: str, arguments: tuple[str, ...], code: int, message: str, bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    command = ["search", "--data", "planted", "--backbone", "tiny", "--method", method, "--runs", root, *arguments]
    result = bmtas(*command)
    assert (result.code, list(tmp_path.iterdir())) == (code, [])
    assert message in " ".join(result.err.split())


@pytest.mark.parametrize("method", SEARCHES)
def test_a_dry_run_says_the_reach_and_the_settings(method: str, bmtas: Callable[..., Any], tmp_path: Path) -> None:
    result = bmtas(*search(tmp_path / "runs", method, "--budget", SEARCHES[method], "--dry-run"))
    assert result.code == 0, result.err
    assert f"networks of {method} cost" in " ".join(result.out.split())
    assert f"method: {method}" in result.out
    assert "=" in result.out.split(f"method: {method}")[1].split("search:")[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_where_separate_networks_were_trained_first_training_measures_against_them(runs: dict[str, Run]) -> None:
    made = {method: runs[method] for method in (*SEARCHES, *FIXED)}
    assert {method for method, run in made.items() if (run.network("separate") / "metrics.json").exists()} == {
        "mtl-nas",
        "cross-stitch",
        "nddr-cnn",
        "sluice",
    }


@pytest.mark.parametrize("method", ["automtl", "mtan"])
def test_the_json_of_show_says_what_is_computed_for_whom(
    runs: dict[str, Run], method: str, bmtas: Callable[..., Any]
) -> None:
    run = runs[method]
    result = bmtas("show", "--runs", run.path.parent, "--run", run.name, "--json", "-")
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert (shown["method"], shown["tree"]) == (method, None)
    parts = shown["wired"]["computed_for"]
    assert sum(part["madds"] for part in parts) == shown["networks"]["found"]["costs"]["madds"]
    assert ("policies" in shown["wired"]["derivation"]) == (method == "automtl")


@pytest.mark.parametrize(
    ("file", "message"), [("table.json", "one of the two was changed"), ("architecture.json", "states madds")]
)
def test_a_table_or_network_changed_by_hand_is_told_by_name(
    runs: dict[str, Run], file: str, message: str, bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    copy = tmp_path / runs["mtan"].name
    shutil.copytree(runs["mtan"].path, copy)
    content = read(copy / file)
    if file == "table.json":
        content["layers"][0]["per_group"]["madds"] += 64
    else:
        content["costs"]["madds"] += 64
    (copy / file).write_text(json.dumps(content), encoding="utf-8")
    result = bmtas("show", "--run", copy)
    assert result.code == 2
    assert message in " ".join(result.err.split())


@pytest.mark.parametrize(
    ("method", "first"), [("mtl-nas", True), ("sluice", True), ("mtan", False), ("dynamic", False)]
)
def test_a_dry_run_says_what_is_trained_first_and_what_a_fixed_network_costs(
    method: str, first: bool, bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    result = bmtas(
        "search", "--data", "planted", "--backbone", "tiny", "--method", method, "--dry-run", "--runs", tmp_path
    )
    assert result.code == 0, result.err
    told = " ".join(result.out.split())
    assert ("separate networks are trained first" in told) == first
    assert "None" not in told
    if method == "sluice":
        assert "the network of sluice costs 5.3" in told
    if method == "mtl-nas":
        assert "evaluates alone" in told


def test_training_says_before_it_begins_what_it_would_do(runs: dict[str, Run], bmtas: Callable[..., Any]) -> None:
    run = runs["mtan"]
    result = bmtas("train", "--network", "all", "--dry-run", "--runs", run.path.parent, "--run", run.name)
    assert result.code == 0, result.err
    told = [line.split(": ", 1)[1] for line in result.out.splitlines()[:3]]
    assert told == ["is trained already", "2 steps at 32x32, batch 4", "2 steps at 32x32, batch 4"]
    assert run.trained() == ["found"]
    answered = bmtas("train", "--json", "-", "--quiet", "--runs", run.path.parent, "--run", run.name)
    assert json.loads(answered.out)["networks"]["found"]["metrics"] is not None
