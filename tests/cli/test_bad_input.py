"""What a user can get wrong about a search and its data, one by one: the message says what was found and what to do, the exit code says whose turn it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

QUICK = ("--batch-size", "2", "--search-size", "32x32", "--warmup-steps", "1", "--search-steps", "1")


@pytest.fixture
def dry(bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Plan a search of the tiny data with some arguments; check that nothing is written."""

    def plan(*arguments: str) -> Any:
        runs = tmp_path / "runs"
        result = bmtas("search", "--data", tiny_data, "--runs", runs, "--dry-run", *arguments)
        assert not runs.exists()
        return result

    return plan


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("9GFlops", "'GFlops' is not a unit"),
        ("9parsecs", "'parsecs' is not a unit"),
        ("nine", "no number found"),
        ("9", "no unit found after 9"),
        ("-3GMAdds", "found -3"),
        ("0MMAdds", "found 0"),
        ("9XMAdds", "'X' before MAdds is not a prefix"),
    ],
)
def test_a_malformed_budget_is_refused_with_an_example(dry: Callable[..., Any], budget: str, told: str) -> None:
    result = dry("--budget", budget)
    assert result.code == 2
    assert told in result.err
    assert "write for example 9GMAdds" in result.err


def test_a_budget_in_a_unit_that_the_table_lacks_is_refused(dry: Callable[..., Any]) -> None:
    result = dry("--budget", "12ms")
    assert result.code == 2
    assert "madds, params, peak_memory_mib, not latency_ms" in result.err
    assert "--costs" in result.err
    assert "bmtas profile --latency" in result.err


def test_two_budgets_on_one_resource_are_refused(dry: Callable[..., Any]) -> None:
    result = dry("--budget", "100MMAdds", "--budget", "0.1GMAdds")
    assert result.code == 2
    assert "100MMAdds, 0.1GMAdds name one twice" in result.err


@pytest.mark.parametrize(("budget", "unit"), [("10MMAdds", "MMAdds"), ("1MParams", "MParams")])
def test_a_budget_below_all_shared_is_answered_with_the_range_that_can_be_reached(
    dry: Callable[..., Any], budget: str, unit: str
) -> None:
    result = dry("--budget", budget)
    assert result.code == 6
    assert budget in result.err
    lowest, highest = re.search(rf"reachable is ([\d.]+) {unit} .* to ([\d.]+) {unit}", result.err).groups()  # type: ignore[union-attr]
    assert float(lowest) < float(highest)
    # What the message offers must be accepted, and what is just below must not.
    assert dry("--budget", f"{lowest}{unit}").code == 0
    assert dry("--budget", f"{float(lowest) * 0.999}{unit}").code == 6


def test_a_budget_above_separate_networks_is_said_to_be_no_constraint(dry: Callable[..., Any]) -> None:
    result = dry("--budget", "9GMAdds")
    assert result.code == 0
    # 146.50 and 148.27 MMAdds; the second is counted by PyTorch in test_pipeline.
    assert "budget 9GMAdds is no constraint" in result.err
    assert "separate networks 148 MMAdds" in result.err
    assert "no constraint" not in dry("--budget", "146MMAdds").err


@pytest.mark.parametrize("size", ["32x32", "64x64", "96x96"])
@pytest.mark.parametrize("tasks", ["semseg", "semseg,edge"])
def test_without_a_budget_there_is_one_that_can_be_met(dry: Callable[..., Any], tasks: str, size: str) -> None:
    result = dry("--tasks", tasks, "--size", size)
    assert (result.code, "no --budget given" in result.err) == (0, True), result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--backbone", "mobilenetv2"), "unknown backbone 'mobilenetv2'; did you mean 'mobilenet_v2'?"),
        (("--preset", "standart"), "unknown --preset 'standart'; did you mean 'standard'?"),
        (("--tasks", "semsek"), "unknown task 'semsek'; did you mean 'semseg'?"),
        (("--tasks", "edge,edge"), "name each task once"),
        (("--size", "64"), "--size '64': expected HEIGHTxWIDTH"),
        (("--size", "0x64"), "--size '0x64': expected HEIGHTxWIDTH"),
        (("--search-size", "64x64x3"), "--search-size '64x64x3': expected HEIGHTxWIDTH"),
        (("--train-size", "a x b"), "--train-size 'a x b': expected HEIGHTxWIDTH"),
        (("--size", "16x64"), "needs at least 32x32"),
        (("--data", "scene"), "did you mean 'scenes'?"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_unknown_names_and_malformed_sizes_are_refused(
    dry: Callable[..., Any], arguments: tuple[str, ...], told: str
) -> None:
    result = dry(*arguments)
    assert result.code == 2
    assert told in result.err


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--batch-size", "0", "2"),
        ("--batch-size", "1", "2"),
        ("--warmup-steps", "-1", "0"),
        ("--search-steps", "0", "1"),
        ("--train-steps", "0", "1"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_rule(
    dry: Callable[..., Any], option: str, value: str, rule: str
) -> None:
    result = dry(option, value)
    assert result.code == 2
    assert value in result.err
    assert rule in result.err
    assert "Traceback" not in result.err


def test_weights_that_do_not_exist_are_refused_before_anything_is_written(
    bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "some-runs"
    result = bmtas("search", "--data", tiny_data, "--weights", "absent.pth", "--runs", runs, *QUICK)
    assert result.code == 2
    assert "absent.pth" in result.err
    assert "neither 'imagenet' nor 'none' nor a file" in result.err
    assert not runs.exists()  # a run that cannot begin would stand in the way of the latest one


def test_weights_of_another_network_are_refused(bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"classifier.weight": np.zeros((2, 2), np.float32)}, str(tmp_path / "other.safetensors"))
    (tmp_path / "text.pth").write_text("no weights")
    for name, told in (("other.safetensors", "no parameters called 'features.0.*'"), ("text.pth", "cannot be read")):
        runs = tmp_path / "some-runs"
        result = bmtas("search", "--data", tiny_data, "--weights", tmp_path / name, "--runs", runs, *QUICK)
        assert result.code == 2
        assert told in result.err


def spoil_folder(root: Path) -> None:
    manifest = root / "tiny.yaml"
    manifest.write_text(manifest.read_text().replace("folder: edge", "folder: edges"))


def spoil_label_size(root: Path) -> None:
    for path in (root / "edge").iterdir():
        Image.fromarray(np.zeros((32, 48), np.uint8)).save(path)


def spoil_class(root: Path) -> None:
    for path in (root / "semseg").iterdir():
        Image.fromarray(np.full((64, 64), 7, np.uint8)).save(path)


def spoil_split(root: Path) -> None:
    manifest = root / "tiny.yaml"
    manifest.write_text(re.sub(r"val: \[.*?\]", "val: []", manifest.read_text()))


def spoil_first_image(root: Path) -> None:
    (root / "images/00.png").write_text("this is no image")


def spoil_other_images(root: Path) -> None:
    for i in range(1, 10):
        (root / f"images/{i:02d}.png").write_text("this is no image")


def spoil_kind(root: Path) -> None:
    manifest = root / "tiny.yaml"
    manifest.write_text(manifest.read_text().replace("kind: segmentation", "kind: segmentatoin"))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_folder, ("tiny.yaml:4", "tasks.edge.folder", "there is no folder", "edges")),
        (spoil_label_size, ("edge/", "32 high and 48 wide", "64 high and 64 wide", "resize the label")),
        (spoil_class, ("semseg/", "7", "semseg")),
        (spoil_split, ("tiny.yaml:6", "splits.val", "'val' is empty")),
        (spoil_first_image, ("images/00.png", "is not an image")),
        (spoil_other_images, ("images/0", "is not an image")),
        (spoil_kind, ("tiny.yaml:3", "'segmentatoin'", "did you mean 'segmentation'?")),
    ],
)
def test_broken_data_are_told_with_place_and_rule(
    bmtas: Callable[..., Any],
    new_data: Callable[[Path], Path],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    told: tuple[str, ...],
) -> None:
    manifest = new_data(tmp_path / "data")
    spoil(manifest.parent)
    result = bmtas("search", "--data", manifest, "--runs", tmp_path / "runs", *QUICK)
    assert result.code == 2
    for part in told:
        assert part in result.err


def test_a_device_that_is_not_there_is_never_replaced_silently(
    bmtas: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    runs = tmp_path / "runs"
    result = bmtas("search", "--data", tiny_data, "--device", "cuda", "--runs", runs, *QUICK)
    assert result.code == 3
    assert "no CUDA device" in result.err
    assert not runs.exists()


def test_a_folder_of_data_is_found_again_from_another_place(
    bmtas: Callable[..., Any],
    new_data: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run names its data by an absolute path, whatever form was typed."""
    manifest = new_data(tmp_path / "mine")
    manifest.rename(manifest.with_name("manifest.yaml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    places = []
    for typed in ("mine", "mine/manifest.yaml", "~/mine/manifest.yaml"):
        result = bmtas("search", "--data", typed, "--dry-run", "--json", "-", "--quiet")
        assert result.code == 0
        places.append(json.loads(result.out)["data"])
    opened = [Path(place) / "manifest.yaml" if Path(place).is_dir() else Path(place) for place in places]
    assert opened == [tmp_path / "mine/manifest.yaml"] * 3
