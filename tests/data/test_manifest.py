"""The manifest by itself: keys, defaults, and a message with file, line, rule and fix for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmtas.data.manifest import ENCODINGS, Manifest, read_manifest
from bmtas.data.source import open_dataset
from bmtas.errors import EnvironmentProblem, UsageError
from bmtas.extras import require
from bmtas.tasks import LOSS_WEIGHTS, TaskKind

HEAD = "images: {folder: images}\nsplits: {train: train.txt, val: val.txt}\ntasks:\n"
SEMSEG = "  semseg: {kind: segmentation, folder: semseg, classes: [road, car]}\n"


def read(folder: Path, text: str, name: str = "own.yaml") -> Manifest:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_manifest(path)


def failure(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(folder, text)
    assert caught.value.exit_code == 2
    return str(caught.value)


def task_failure(folder: Path, entry: str) -> str:
    return failure(folder, f"{HEAD}  t: {{{entry}}}\n")


def test_defaults_are_those_of_the_documentation(tmp_path: Path) -> None:
    manifest = read(
        tmp_path,
        HEAD
        + SEMSEG
        + "  e: {kind: edge, folder: e}\n  b: {kind: binary, folder: b}\n  n: {kind: normals, folder: n}\n"
        + "  d: {kind: depth, folder: d, scale: 0.001}\n  r: {kind: regression, folder: r}\n",
    )
    assert manifest.name == "own"
    assert manifest.root == tmp_path.resolve()
    assert manifest.spec.size is None
    tasks = {t.name: t for t in manifest.tasks()}
    assert list(tasks) == ["semseg", "e", "b", "n", "d", "r"]
    # The paper's weights, appendix A; 1 for what it does not have.
    assert [t.loss_weight for t in tasks.values()] == [1, 50, 5, 10, 1, 1]
    assert (tasks["e"].edge_positive_weight, tasks["e"].edge_tolerance) == (0.95, 0.0075)
    assert [s.read_as for s in manifest.spec.tasks.values()] == [
        "ids",
        "mask",
        "mask",
        "rgb",
        "uint16",
        "uint8",
    ]
    assert manifest.spec.tasks["semseg"].suffixes == (".png", ".npy", ".tif", ".tiff")
    assert manifest.spec.tasks["d"].suffixes == (".png", ".tif", ".tiff")


def test_what_only_edges_have_reaches_the_task(tmp_path: Path) -> None:
    entry = "  e: {kind: edge, folder: e, edge_positive_weight: 0.8, edge_tolerance: 0.011}\n"
    (task,) = read(tmp_path, HEAD + entry).tasks()
    assert (task.edge_positive_weight, task.edge_tolerance) == (0.8, 0.011)


def test_every_kind_has_an_encoding() -> None:
    assert set(ENCODINGS) == set(TaskKind)
    assert set(LOSS_WEIGHTS) <= set(TaskKind)


def test_a_manifest_yaml_is_called_after_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my street photos"
    folder.mkdir()
    assert read(folder, HEAD + SEMSEG, "manifest.yaml").name == "my-street-photos"
    assert read(folder, "name: streets\n" + HEAD + SEMSEG, "manifest.yaml").name == "streets"


def test_texts_stay_what_they_look_like(tmp_path: Path) -> None:
    manifest = read(
        tmp_path,
        "images: {folder: images}\nsplits: {train: [0061, 1e3, no], val: [yes]}\n"
        "tasks: {semseg: {kind: segmentation, folder: s, classes: [null, on, 007, ~]}}\n",
    )
    assert manifest.spec.splits["train"] == ("0061", "1e3", "no")
    assert manifest.spec.tasks["semseg"].classes == ("null", "on", "007", "~")


def test_classes_may_be_a_count(tmp_path: Path) -> None:
    manifest = read(tmp_path, HEAD + "  t: {kind: segmentation, folder: s, classes: 3}\n")
    assert manifest.tasks()[0].classes == ("0", "1", "2")


@pytest.mark.parametrize(("written", "ignored"), [("null", ()), ("~", ()), ("0", (0,)), ("[0, 255, -1]", (0, 255, -1))])
def test_ignore_is_none_one_or_several(tmp_path: Path, written: str, ignored: tuple[int, ...]) -> None:
    manifest = read(tmp_path, HEAD + f"  t: {{kind: segmentation, folder: s, classes: 3, ignore: {written}}}\n")
    assert manifest.spec.tasks["t"].ignore == ignored


def test_yaml_mistakes_name_the_line(tmp_path: Path) -> None:
    message = failure(tmp_path, "images: {folder: images}\ntasks:\n  a: {kind: edge\nsplits: 3\n")
    assert "own.yaml:4: this is not YAML:" in message
    assert "own.yaml:2: this is not YAML" in failure(tmp_path, "root: a\n\tb: c\n")
    assert "not YAML" in failure(tmp_path, "a: \x07\n")
    assert "own.yaml: here stands a mapping with the keys name, root" in failure(tmp_path, "")
    assert "here stands a mapping" in failure(tmp_path, "- a\n- b\n")
    assert "here stands a mapping with the keys folder, prefix, suffix (found 'x')" in failure(tmp_path, "images: x\n")
    with pytest.raises(UsageError, match=r"cannot read the manifest .*none\.yaml"):
        read_manifest(tmp_path / "none.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    message = failure(tmp_path, HEAD + SEMSEG + SEMSEG)
    assert "own.yaml:5: the key 'semseg' stands twice, first in line 4; remove one" in message


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("rooot: x\n" + HEAD + SEMSEG, "own.yaml:1: rooot: unknown key 'rooot'", "did you mean 'root'?"),
        (HEAD.replace("folder", "foldr") + SEMSEG, "own.yaml:1: images.foldr", "did you mean 'folder'?"),
        (
            HEAD + "  t:\n    kind: edge\n    folder: e\n    ignor: 0\n",
            "own.yaml:7: tasks.t.ignor",
            "did you mean 'ignore'?",
        ),
    ],
)
def test_unknown_keys_get_the_nearest_name(tmp_path: Path, text: str, where: str, hint: str) -> None:
    message = failure(tmp_path, text)
    assert where in message
    assert hint in message


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "kind: segmentatoin, folder: s",
            "tasks.t.kind: unknown task kind 'segmentatoin'; did you mean 'segmentation'?",
        ),
        ("folder: s", "tasks.t: the key 'kind' is missing; add it"),
        ("kind: edge", "tasks.t: the key 'folder' is missing"),
        ("kind: classification, classes: 2", "tasks.t: the key 'file' is missing"),
        (
            "kind: classification, folder: c, classes: 2",
            "the key 'folder' means nothing for kind classification",
        ),
        ("kind: edge, folder: s, scale: 2", "the key 'scale' means nothing for kind edge; its keys: kind,"),
        (
            "kind: normals, folder: n, encoding: rbg",
            "unknown encoding 'rbg' for kind normals; did you mean 'rgb'? known: bgr, npy, rgb",
        ),
        (
            "kind: depth, folder: d",
            "the key 'scale' is missing: metres per unit of the files, 0.001 for millimetres",
        ),
        ("kind: depth, folder: d, scale: -1", "tasks.t.scale: Input should be greater than 0 (found '-1')"),
        ("kind: depth, folder: d, scale: mm", "tasks.t.scale: Input should be a valid number"),
        ("kind: depth, folder: d, scale: .inf", "tasks.t.scale: Input should be a valid number"),
        (
            "kind: edge, folder: e, edge_positive_weight: 1",
            "tasks.t.edge_positive_weight: Input should be less than 1",
        ),
        ("kind: edge, folder: e, edge_tolerance: 0", "tasks.t.edge_tolerance: Input should be greater than 0"),
        ("kind: edge, folder: e, edge_tolerance: 3", "tasks.t.edge_tolerance: Input should be less than 0.5"),
        (
            "kind: binary, folder: b, edge_tolerance: 0.011",
            "the key 'edge_tolerance' means nothing for kind binary",
        ),
        ("kind: edge, folder: e, loss_weight: 0", "tasks.t.loss_weight: Input should be greater than 0"),
        (
            "kind: edge, folder: e, suffix: png",
            "tasks.t.suffix: this must be the end of a file name, such as .png",
        ),
        (
            "kind: edge, folder: e, prefix: a/b",
            "tasks.t.prefix: this must be the beginning of a file name, such as rgb_",
        ),
        ("kind: edge, folder: e, ignore: a", "tasks.t.ignore: give a whole number, a list of them, or null"),
        ("kind: segmentation, folder: s", "task 't' of kind segmentation has 0 classes; it needs at least 2"),
        ("kind: segmentation, folder: s, classes: 300", "at most 255 fit beside the ignore value"),
        ("kind: segmentation, folder: s, classes: 999999999", "give a list of names, or how many classes"),
        (
            "kind: segmentation, folder: s, classes: 2, map: {7: 2}",
            "'map' sends 7 to 2; it must be a class, 0 to 1",
        ),
        (
            "kind: segmentation, folder: s, classes: 2, map: {7: 1}, ignore: [7]",
            "the value 7 stands both in 'map' and in 'ignore'",
        ),
        ("kind: classification, file: c.csv, classes: [a, a]", "two classes have the same name"),
        (
            "kind: normals, folder: n, axes: [x, y]",
            "such as [x, z, -y]: x, y, z once each (found ['x', 'y'])",
        ),
        (
            "kind: normals, folder: n, axes: [x, z, -y], flip_y: true",
            "'axes' and 'flip_y' say the same thing",
        ),
        (
            "kind: regression, folder: r, normalise: mean",
            "tasks.t.normalise: Input should be 'median_mad' (found 'mean')",
        ),
    ],
)
def test_what_does_not_fit_a_task_is_refused(tmp_path: Path, entry: str, message: str) -> None:
    found = task_failure(tmp_path, entry)
    assert found.startswith(f"{tmp_path / 'own.yaml'}:4: ")
    assert message in found


def test_a_task_needs_a_name_fit_for_files(tmp_path: Path) -> None:
    message = failure(tmp_path, HEAD + "  a b: {kind: edge, folder: e}\n")
    assert "own.yaml:4: tasks.a b: task name 'a b': only letters" in message


@pytest.mark.parametrize("size", ["384", "[384]", "[384, 0]", "[1, 2, 3]", "[3.5, 4]"])
def test_the_size_is_two_whole_numbers(tmp_path: Path, size: str) -> None:
    message = failure(tmp_path, f"size: {size}\n{HEAD}{SEMSEG}")
    assert "own.yaml:1: size: the size is [height, width], two whole numbers above 0" in message


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("{train: train.txt}", "'splits' needs 'train' and 'val'"),
        ("{val: val.txt}", "'splits' needs 'train' and 'val'"),
        (
            "{train: t.txt, val: 1.5}",
            "splits.val: a fraction of the images lies between 0 and 1, such as 0.2",
        ),
        (
            "{train: t.txt, val: }",
            "splits.val: give a text file with one id per line, a list of ids, or a fraction",
        ),
        ("{train: 0.8, val: 0.3}", "the fractions of 'splits' come to 1.1"),
        ("{val: 0.6, test: 0.4}", "the fractions of 'splits' come to 1, which leaves no image for the rest"),
    ],
)
def test_splits_that_cannot_be_are_refused(tmp_path: Path, splits: str, message: str) -> None:
    assert message in failure(tmp_path, f"images: {{folder: i}}\nsplits: {splits}\ntasks:\n{SEMSEG}")


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    message = failure(tmp_path, f"size: 3\n{HEAD}  a: {{kind: egde, folder: e}}\n  b: {{kind: edge, foldr: e}}\n")
    assert len(message.splitlines()) == 3
    assert "at least 1 item" in failure(tmp_path, HEAD.replace("tasks:", "tasks: {}"))


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    message = failure(tmp_path, f"root: nowhere\n{HEAD}{SEMSEG}")
    assert f"own.yaml:1: root: there is no folder {tmp_path.resolve() / 'nowhere'}" in message
    assert "relative to the manifest's own folder" in message


def test_open_dataset_knows_names_manifests_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown data 'scene'; did you mean 'scenes'.*or a folder$"):
        open_dataset("scene")
    with pytest.raises(UsageError, match=r"(?s)unknown data 'photographs'.*examples/own-data\.yaml"):
        open_dataset("photographs")
    with pytest.raises(
        UsageError,
        match=r"(?s)holds no manifest\.yaml[^\n]*`bmtas init [^\n]*` proposes a manifest.*images: \{folder.*examples/own-data\.yaml",
    ):
        open_dataset(str(tmp_path))
    with pytest.raises(UsageError, match="cannot read the manifest"):
        open_dataset(str(tmp_path / "none.yml"))


def test_the_manifest_in_the_message_is_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        open_dataset(str(tmp_path))
    lines = str(caught.value).splitlines()
    manifest = read(tmp_path, "\n".join(line for line in lines if line.startswith("  ")))
    assert [t.name for t in manifest.tasks()] == ["semseg"]


def test_scenes_need_no_file() -> None:
    dataset = open_dataset("scenes")
    assert {"semseg", "depth", "normals"} <= {t.name for t in dataset.tasks}


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentProblem, match=r"'no_such_module'.*pip install 'bmtas\[host\]'"):
        require("no_such_module", "host")

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(EnvironmentProblem, match=r"'yaml'.*bmtas\[host\]") as caught:
        read(tmp_path, HEAD + SEMSEG)
    assert caught.value.exit_code == 3
