"""A backbone and a kind of task of one's own, from Python files, through the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bmtas import kinds
from bmtas.adapters import register_backbone, register_kind
from bmtas.data.batches import Loader
from bmtas.data.source import open_dataset
from bmtas.errors import UsageError
from bmtas.networks import backbone as backbones
from bmtas.networks.backbone import get_backbone
from bmtas.runs import Run
from bmtas.training import load_network

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKBONE, KIND = EXAMPLES / "own_backbone.py", EXAMPLES / "own_kind.py"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test brings is not known to the next."""
    monkeypatch.setattr(kinds, "_KINDS", {})
    monkeypatch.setattr(backbones, "_OWN", {})
    yield
    for name in [n for n in sys.modules if n.startswith("bmtas_plugin_")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, new_data: Callable[[Path], Path]) -> Path:
    """The tiny folder, its depth read as disparity: 4000 / (1000 + ...) as 8 bits would have it, 40 to 160."""
    manifest = new_data(tmp_path_factory.mktemp("own") / "data")
    for path in (manifest.parent / "depth").glob("*.png"):
        depth = np.asarray(Image.open(path)).astype(np.float64)
        Image.fromarray((160_000 / depth).astype(np.uint8)).save(path)
    text = manifest.read_text(encoding="utf-8")
    depth_line = "depth: {kind: depth, folder: depth, scale: 0.001}"
    assert depth_line in text
    manifest.write_text(text.replace(depth_line, "depth: {kind: disparity, folder: depth}"), encoding="utf-8")
    return manifest


def search(data: Path, *more: object) -> list[object]:
    sizes = ("--size", "64x64", "--search-size", "32x32", "--train-size", "64x64")
    steps = ("--warmup-steps", 1, "--search-steps", 1, "--train-steps", 3, "--batch-size", 2)
    return ["search", "--data", data, "--tasks", "semseg,depth", *sizes, *steps, *more]


def test_both_together_from_search_to_export(data: Path, bmtas: Callable[..., Any], tmp_path: Path) -> None:
    plugins = ("--plugin", BACKBONE, "--plugin", KIND)
    runs = ("--runs", tmp_path / "runs")
    result = bmtas(*plugins, *search(data, "--backbone", "small_net", *runs))
    assert result.code == 0, result.err
    for command in (["train"], ["export"], ["bench", "--samples", 4, "--warmup", 0], ["show", "--json", "-"]):
        result = bmtas(*plugins, *command, *runs)
        assert result.code == 0, result.err
    scored = json.loads(result.out)["networks"]["found"]["metrics"]["tasks"]["depth"]
    assert (scored["metric"], scored["higher_is_better"]) == ("abs_rel", False)
    # The metric again, by numpy: the mean of |p - y| / y over all validation pixels.
    (path,) = (tmp_path / "runs").iterdir()
    run = Run(path)
    tasks = run.config().task_list()
    network = load_network(run.config(), run.architecture("found"), run.network("found") / "weights.pt").eval()
    batch = Loader(open_dataset(str(data)), "val", tasks, (64, 64)).batch([0, 1])
    with torch.no_grad():
        predicted = network(batch.images)["depth"][:, 0].numpy()
    label = batch.labels["depth"].numpy()
    assert scored["value"] == pytest.approx(np.mean(np.abs(predicted - label) / label), rel=1e-5)
    shared = json.loads(result.out)["networks"]["shared"]["costs"]["madds"]
    # Stem 3 to 16 at stride 2, then 24 at 4, 24, 48 at 8, 48 and 96 at 16 of a 64 x 64 image; context and heads come to it.
    encoder = 9 * (3 * 16 * 32**2 + (16 * 24 + 24 * 24) * 16**2 + (24 * 48 + 48 * 48) * 8**2 + 48 * 96 * 4**2)
    table = {layer.name: dict(layer.per_group or {}) for layer in run.table().layers}
    layers = [values for name, values in sorted(table.items()) if name != f"layers.{len(table) - 1:02d}"]
    stem = next(part.cost for part in run.table().fixed if part.name == "stem")
    counted = sum(float(values[key]) for values in layers for key in values if key.value == "madds")
    assert counted + sum(v for k, v in stem.items() if k.value == "madds") == encoder < shared


def test_a_run_does_not_run_code_by_itself(data: Path, bmtas: Callable[..., Any], tmp_path: Path) -> None:
    runs = ("--runs", tmp_path / "runs")
    assert bmtas("--plugin", KIND, *search(data, *runs)).code == 0
    kinds._KINDS.clear()
    result = bmtas("train", *runs)
    assert result.code == 2
    assert "--plugin" in result.err
    for command in ("show", "report"):
        assert bmtas(command, *runs).code == 0  # what is known of the kind stands in the run


def test_plugins_of_the_settings_file_are_loaded(
    data: Path, bmtas: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bmtas.toml").write_text(f"plugins = [{str(KIND)!r}]\n", encoding="utf-8")
    result = bmtas(*search(data, "--dry-run", "--json", "-"))
    assert result.code == 0, result.err
    (task,) = (task for task in json.loads(result.out)["tasks"] if task["name"] == "depth")
    assert task["kind"] == "regression"
    assert task["own"] == {"name": "disparity", "metric": "abs_rel", "higher_is_better": False}


def test_commands_of_the_device_run_no_plugin_that_only_the_file_names(
    bmtas: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')", encoding="utf-8")
    (tmp_path / "bmtas.toml").write_text("plugins = ['mine.py']\n", encoding="utf-8")
    for command in ("show", "compare", "bench", "report"):
        assert "no run under" in bmtas(command).err
    for asked in (("profile", "run", "kit"), ("profile", "show", "table.json"), ("predict", "m.onnx", "a.png")):
        assert "it was run" not in bmtas(*asked).err
    for asked in (("profile", "--backbone", "tiny"), ("profile", "prepare", "kit")):
        assert "it was run" in bmtas(*asked).err
    assert "it was run" in bmtas("train").err
    assert "it was run" in bmtas("--plugin", "mine.py", "show").err
    (tmp_path / "mine.py").unlink()  # as where the settings were copied to a device
    assert "no run under" in bmtas("show").err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such Python file"),
        ("raise SystemExit(0)", "failed with SystemExit"),
        ("1 / 0", "failed with ZeroDivisionError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_named(
    content: str | None, message: str, bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = bmtas("--plugin", path, "show")
    assert result.code == 2
    assert message in " ".join(result.err.split())


def test_names_of_the_house_are_not_taken() -> None:
    with pytest.raises(UsageError, match="is a backbone 'tiny' already"):
        register_backbone("tiny", get_backbone("tiny"))
    with pytest.raises(UsageError, match="has a kind 'depth' already"):
        register_kind("depth", like="depth", metric="x", higher_is_better=True, loss=mean, score=Score)
    with pytest.raises(UsageError, match="unknown task kind 'deth'; did you mean 'depth'"):
        register_kind("mine", like="deth", metric="x", higher_is_better=True, loss=mean, score=Score)


def test_a_kind_that_is_not_known_is_told_with_those_that_are(data: Path, bmtas: Callable[..., Any]) -> None:
    result = bmtas(*search(data, "--dry-run"))
    assert result.code == 2
    assert "unknown task kind 'disparity'" in " ".join(result.err.split())


def test_a_plugin_may_import_what_lies_beside_it_and_says_what_is_not_installed(
    bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "beside_the_plugin.py").write_text("VALUE = 3\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text("from beside_the_plugin import VALUE\nassert VALUE == 3\n", encoding="utf-8")
    assert "no run under" in bmtas("--plugin", tmp_path / "mine.py", "show", "--runs", tmp_path).err
    (tmp_path / "other.py").write_text("import nothing_of_the_kind\n", encoding="utf-8")
    result = bmtas("--plugin", tmp_path / "other.py", "show")
    assert result.code == 3
    assert "needs the module 'nothing_of_the_kind'" in " ".join(result.err.split())


def test_a_kind_s_plugin_needs_no_torch_before_its_code_does() -> None:
    code = (
        "import sys\nfrom bmtas.adapters import register_kind\n"
        "register_kind('mine', like='depth', metric='m', higher_is_better=True, loss=print, score=print)\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


GOOD = {"like": "regression", "metric": "m", "higher_is_better": True}


class Score:
    """A metric that gives whatever a test wants."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def update(self, prediction: Any, label: Any) -> None: ...

    def compute(self) -> Any:
        return self.found

    def close(self) -> None: ...


def mean(task: Any, prediction: Any, label: Any, counts: Any) -> Any:
    return prediction.mean()


@pytest.mark.parametrize(
    ("loss", "found", "message"),
    [
        (mean, {"acc": 1.0}, "compute() must give a dict with 'm'"),
        (mean, None, "compute() must give a dict with 'm'"),
        (mean, {"m": torch.ones(())}, "must be a plain number"),
        (lambda *a: a[1].flatten(), {"m": 1.0}, "its loss gave a tensor of shape (512,)"),
        (lambda *a: 3.0, {"m": 1.0}, "its loss gave float"),
        (lambda *a: a[1].detach().mean(), {"m": 1.0}, "that depends on the prediction"),
        (lambda *a: 1 / 0, {"m": 1.0}, "fails with ZeroDivisionError"),
        (lambda *a: torch.zeros((), requires_grad=True), {"m": 1.0}, "that depends on the prediction"),
        (lambda *a: ((a[1][:, 0] - a[2]) ** 2).sum() / a[3][0], {"m": 1.0}, "leave invalid ones out"),
        (lambda *a: sys.exit(3), {"m": 1.0}, "fails with SystemExit"),
    ],
)
def test_a_kind_that_would_break_later_is_told_before_a_run_begins(
    loss: Any, found: Any, message: str, data: Path, bmtas: Callable[..., Any], tmp_path: Path
) -> None:
    register_kind("disparity", loss=loss, score=lambda task: Score(found), **GOOD)  # type: ignore[arg-type]
    result = bmtas(*search(data, "--runs", tmp_path / "runs"))
    assert (result.code, list(tmp_path.iterdir())) == (2, [])
    assert message in " ".join(result.err.split())
    assert "disparity" in result.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"higher_is_better": "no"}, "give True or False"),
        ({"metric": ""}, "metric is of letters"),
        ({"loss": None}, "cannot be called"),
    ],
)
def test_a_kind_is_checked_where_it_is_registered(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {**GOOD, "loss": mean, "score": Score, **change}
    with pytest.raises(UsageError, match=message):
        register_kind("mine", **arguments)


class Twice(torch.nn.Module):
    """A block that is used in two layers, or a parameter outside of all blocks."""

    def __init__(self, *, loose: bool = False) -> None:
        super().__init__()
        layer, norm, relu = torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        stem = torch.nn.Conv2d(3, 16, 4, stride=4)
        self.stem = Named(stem, torch.nn.BatchNorm2d(16))
        self.block, self.other = (
            Named(layer, norm),
            Named(torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.BatchNorm2d(16), relu),
        )
        self.scale = torch.nn.Parameter(torch.ones(1, 16, 1, 1)) if loose else None
        self.head = torch.nn.Linear(16, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.block(self.stem(image))
        x = self.other(x) * self.scale if self.scale is not None else self.block(self.other(x))
        return self.head(x.mean((2, 3)))


class Named(torch.nn.Module):
    def __init__(self, *parts: torch.nn.Module) -> None:
        super().__init__()
        self.parts = torch.nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts(x)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("resnet18", Twice, "of bmtas or of torchvision"),
        ("twice", Twice, "is used in two layers"),
        ("loose", lambda: Twice(loose=True), "parameters of its own outside of its modules"),
        ("instance", torch.nn.Linear(3, 3), "not Linear; write lambda"),
        ("nothing", lambda: None, "gave NoneType, not a torch module"),
        ("a name", lambda: Twice(), "of letters, digits"),
    ],
)
def test_a_backbone_that_would_break_later_is_refused(name: str, make: Any, message: str) -> None:
    if name in ("resnet18", "a name"):
        make = replace(get_backbone("tiny"), name=name)
    with pytest.raises(UsageError, match=message):
        register_backbone(name, make)
