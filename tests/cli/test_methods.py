"""Baselines by the same commands as the search: within the budget, trained, exported, refused, and gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import bmtas.training
from bmtas.methods import bmn, fafs
from bmtas.runs import Run
from bmtas.training import load_network

METHODS = ("single", "shared", "vanilla", "random", "permuted", "fafs", "bmn")
BUDGET = "4.3MMAdds"
TASKS = ("a1", "a2", "b1", "b2")
# As tests/networks/test_tiny.py counts them: 576 for a stem, 10,032 for a head and 1,680 for a group, at 64 places.
STEM, HEAD, GROUP = 64 * 576, 64 * 10032, 64 * 1680


@pytest.fixture(scope="module", autouse=True)
def _few_images() -> Iterator[None]:
    """Affinities of forty images are as good as those of thousands for what is asked here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fafs, "MOST_SAMPLES", 40)
        patch.setattr(bmn, "IMAGES", 12)
        patch.setattr(bmtas.training, "_CONSTANT_IMAGES", 1)
        yield


def search(root: Path, method: str, *arguments: object) -> list[object]:
    size = ("--train-steps", 2, "--batch-size", 8)
    return ["search", "--data", "planted", "--backbone", "tiny", "--method", method, *size, "--runs", root, *arguments]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@dataclass(frozen=True)
class Baselines:
    """A run of each method in one folder of runs, and the commands that made them."""

    root: Path
    paths: dict[str, Path]
    commands: dict[str, list[object]]


@pytest.fixture(scope="module")
def baselines(bmtas: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Baselines:
    root = tmp_path_factory.mktemp("baselines")
    paths: dict[str, Path] = {}
    commands: dict[str, list[object]] = {}
    for number, method in enumerate(METHODS, start=1):
        more: tuple[object, ...] = ("--budget", BUDGET)
        if method == "permuted":
            more = ("--from", paths["random"].name)
        commands[method] = search(root, method, *(() if method == "single" else more))
        result = bmtas(*commands[method])
        assert result.code == 0, result.err
        (paths[method],) = root.glob(f"{number:03d}-*")
    return Baselines(root, paths, commands)


@pytest.fixture(scope="module")
def trained(baselines: Baselines, bmtas: Callable[..., Any]) -> Baselines:
    """The same with some networks trained and evaluated, of the random tree the others beside it as well."""
    for method in ("single", "shared", "random"):
        train(baselines, bmtas, method, "all" if method == "random" else "found")
    return baselines


def train(baselines: Baselines, bmtas: Callable[..., Any], method: str, network: str = "found") -> None:
    result = bmtas("train", "--network", network, "--run", baselines.paths[method].name, "--runs", baselines.root)
    assert result.code == 0, result.err


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_budget_and_says_who_found_the_tree(baselines: Baselines, method: str) -> None:
    path = baselines.paths[method]
    found = read(path / "architecture.json")
    assert found["method"] == method
    groups = sum(map(len, found["groupings"]))
    stems = 4 if method == "single" else 1
    assert found["costs"]["madds"] == found["measured"]["madds"] == stems * STEM + 4 * HEAD + groups * GROUP
    assert found["shared_stem"] == (method != "single")
    config = read(path / "run.json")
    assert config["method"] == method
    assert config["budgets"] == ([] if method == "single" else [BUDGET])
    if method != "single":
        assert found["costs"]["madds"] <= 4.3e6
    assert path.name.split("-")[1:3] == ["planted", method]
    assert (path / "search/tree.png").stat().st_size > 1000
    assert (path / "search/affinity.png").exists() == (method in ("fafs", "bmn"))


def test_what_is_particular_to_each_method(baselines: Baselines) -> None:
    found = {method: read(path / "architecture.json") for method, path in baselines.paths.items()}
    together, apart = [list(TASKS)], [[task] for task in TASKS]
    assert found["single"]["groupings"] == [apart] * 6
    assert found["shared"]["groupings"] == [together] * 6
    # Parting at layer 3 takes 15 groups, 4.22 MMAdds; at layer 2 it would be 18, 4.54 MMAdds.
    assert found["vanilla"]["groupings"] == [together] * 3 + [apart] * 3
    share = found["random"]["costs"]["madds"] / 4.3e6
    assert found["random"]["share_of_budget"] == pytest.approx(share, rel=1e-12)
    sizes = {
        method: [sorted(map(len, grouping)) for grouping in found[method]["groupings"]]
        for method in ("random", "permuted")
    }
    assert sizes["permuted"] == sizes["random"]
    assert found["permuted"]["groupings"] != found["random"]["groupings"]
    reference = read(baselines.paths["permuted"] / "run.json")["reference"]
    assert reference["groupings"] == found["random"]["groupings"]


@pytest.mark.parametrize("method", METHODS)
def test_show_tells_the_tree_and_the_method(baselines: Baselines, bmtas: Callable[..., Any], method: str) -> None:
    path = baselines.paths[method]
    shown = bmtas("show", "--run", path.name, "--runs", baselines.root)
    assert shown.code == 0, shown.err
    assert f"method: {method}, no search" in shown.out
    assert f"budget {'none' if method == 'single' else BUDGET}" in shown.out
    assert ("a stem per task" in shown.out) == (method == "single")
    summary = json.loads(bmtas("show", "--run", path.name, "--runs", baselines.root, "--json", "-").out)
    found = read(path / "architecture.json")
    assert summary["tree"]["groupings"] == found["groupings"]
    assert summary["networks"]["found"]["costs"]["madds"] == found["costs"]["madds"]
    expected = bmtas("show", "--expected", "--run", path.name, "--runs", baselines.root)
    assert expected.code == 2
    assert f"its method is {method}, which takes no search" in " ".join(expected.err.split())


@pytest.mark.parametrize(
    "method",
    ["single", "shared", "random", *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[2:] if m != "random")],
)
def test_what_a_method_has_found_is_trained_and_measured(
    trained: Baselines, bmtas: Callable[..., Any], method: str
) -> None:
    run = Run(trained.paths[method])
    if not (run.network("found") / "metrics.json").exists():
        train(trained, bmtas, method)
    network = load_network(run.config(), run.architecture("found"), run.network("found") / "weights.pt")
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == read(run.architecture_path)["costs"]["params"]
    metrics = read(run.network("found") / "metrics.json")
    assert list(metrics["tasks"]) == list(TASKS)
    assert all(0 < entry["value"] < 180 for entry in metrics["tasks"].values())  # degrees
    steps = [json.loads(line)["step"] for line in (run.network("found") / "history.jsonl").read_text().splitlines()]
    assert steps == [0, 1]


def test_networks_that_are_the_same_are_trained_once(trained: Baselines) -> None:
    """What `single` and `shared` have found is what a run has beside its tree, and what FAFS and BMN have trained."""
    weights = {
        name: (trained.paths[method] / "networks" / network / "weights.pt").read_bytes()
        for name, method, network in (
            ("single", "single", "found"),
            ("separate", "random", "separate"),
            ("of bmn", "bmn", "separate"),
            ("shared", "shared", "found"),
            ("beside", "random", "shared"),
            ("of fafs", "fafs", "shared"),
        )
    }
    assert weights["single"] == weights["separate"] == weights["of bmn"]
    assert weights["shared"] == weights["beside"] == weights["of fafs"]
    assert weights["single"] != weights["shared"]


@pytest.mark.parametrize("method", ["single", pytest.param("random", marks=pytest.mark.slow)])
def test_what_a_method_has_found_is_exported(trained: Baselines, bmtas: Callable[..., Any], method: str) -> None:
    run = Run(trained.paths[method])
    result = bmtas("export", "--run", run.name, "--runs", trained.root)
    assert result.code == 0, result.err
    model = run.network("found") / "model.onnx"
    onnx.checker.check_model(onnx.load(str(model)), full_check=True)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    outputs = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, {"image": image})
    network = load_network(run.config(), run.architecture("found"), run.network("found") / "weights.pt")
    with torch.inference_mode():
        expected = network(torch.from_numpy(image))
    for output, task in zip(outputs, TASKS, strict=True):
        np.testing.assert_allclose(output, expected[task].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["fafs", "bmn"])
def test_a_baseline_that_was_killed_before_its_tree_goes_on_and_trains_nothing_twice(
    baselines: Baselines, bmtas: Callable[..., Any], tmp_path: Path, method: str
) -> None:
    run = tmp_path / "runs" / baselines.paths[method].name
    shutil.copytree(baselines.paths[method], run)
    before = (run / "architecture.json").read_bytes()
    (run / "architecture.json").unlink()
    trained = "shared" if method == "fafs" else "separate"
    weights = run / "networks" / trained / "weights.pt"
    content, written = weights.read_bytes(), weights.stat().st_mtime_ns
    refused = bmtas("show", "--runs", run.parent)
    assert refused.code == 2
    assert "the same `bmtas search` again" in refused.err
    result = bmtas(*search(run.parent, method, "--budget", BUDGET))
    assert result.code == 0, result.err
    assert f"{trained} is trained already" in result.err
    assert "begins from the start" not in result.err
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert (run / "architecture.json").read_bytes() == before
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == (content, written)


@pytest.mark.parametrize(
    ("method", "arguments", "code", "message"),
    [
        ("randm", (), 2, "unknown --method 'randm'; did you mean 'random'?"),
        ("shared", ("--search-steps", 3), 2, "--search-steps: means nothing to --method shared"),
        ("single", ("--warmup-steps", 3), 2, "--warmup-steps: means nothing to --method single"),
        ("vanilla", ("--resource-weight", 1), 2, "--resource-weight or --no-resource-term: means nothing"),
        ("random", ("--decode", "argmax"), 2, "--decode: means nothing to --method random"),
        ("fafs", ("--no-resizing",), 2, "--no-resizing: means nothing to --method fafs"),
        ("bmn", ("--estimator", "soft"), 2, "--estimator: means nothing to --method bmn"),
        ("random", ("--from", "RANDOM"), 2, "name the run with --from, which no other method takes"),
        ("branched", ("--from", "RANDOM"), 2, "name the run with --from, which no other method takes"),
        ("permuted", (), 2, "name the run with --from"),
        ("permuted", ("--from", "077"), 2, "no run called '077'"),
        ("permuted", ("--from", "RANDOM", "--tasks", "a1,a2,b1"), 2, "permute a tree of the same backbone and tasks"),
        ("permuted", ("--from", "RANDOM", "--backbone", "mobilenet_v2"), 2, "is of tiny with the tasks a1, a2, b1, b2"),
        ("permuted", ("--from", "SHARED"), 2, "this tree stays the same"),
        ("permuted", ("--from", "RANDOM", "--budget", "4.1MMAdds"), 6, "the permuted tree costs 4.218 MMAdds"),
        ("single", ("--budget", "5.2MMAdds"), 6, "a network per task costs 5.296 MMAdds in all"),
        ("vanilla", ("--budget", "3.2MMAdds"), 6, "reachable is 3.251 MMAdds"),
        ("bmn", ("--budget", "3.2MMAdds"), 6, "reachable is 3.251 MMAdds"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_folder_is_made(
    baselines: Baselines, bmtas: Callable[..., Any], method: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    names = {"RANDOM": baselines.paths["random"].name, "SHARED": baselines.paths["shared"].name}
    before = sorted(baselines.root.iterdir())
    result = bmtas(*search(baselines.root, method, *(names.get(str(a), a) for a in arguments)))
    assert result.code == code
    assert message in " ".join(result.err.split())
    assert sorted(baselines.root.iterdir()) == before


def test_a_dry_run_says_what_is_trained_first(bmtas: Callable[..., Any], tmp_path: Path) -> None:
    told = {}
    for method in ("fafs", "bmn", "random"):
        result = bmtas(*search(tmp_path / "runs", method, "--dry-run"))
        assert result.code == 0, result.err
        (told[method],) = (line for line in result.out.splitlines() if line.startswith("method:"))
    assert told == {
        "fafs": "method: fafs, for which the shared network is trained first",
        "bmn": "method: bmn, for which the separate networks are trained first",
        "random": "method: random",
    }
    assert not (tmp_path / "runs").exists()
