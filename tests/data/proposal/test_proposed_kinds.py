"""What labels are taken for: by their values, and by their names where values leave a choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bmtas.data.proposal import propose, write_proposal
from bmtas.data.proposal.found import Proposal
from bmtas.errors import UsageError
from tests.data.proposal.trees_own import SIZE, blob, classes, edges, millimetres, photograph, room_normals, save

COUNT = 6
Draw = Callable[[int], Any]


def write(root: Path, folder: str, draw: Draw, suffix: str = ".png") -> Path:
    for i in range(COUNT):
        save(root / f"images/{i}.png", photograph(i))
        save(root / f"{folder}/{i}{suffix}", draw(i))
    return root


def one(root: Path) -> tuple[str, dict[str, str], str]:
    """Return the kind, the keys and the evidence with doubts of the only task, which is written and read, too."""
    proposal = propose(root)
    write_proposal(proposal, root.parent / f"{root.name}.yaml")
    (task,) = proposal.tasks
    keys = {line.key: line.value for line in task.meaning.lines if not line.alternative}
    return task.meaning.kind.value, keys, " ".join([task.meaning.evidence, *task.meaning.doubts])


def refusal(root: Path) -> tuple[str, str]:
    """Return what was found and what to do about the only other files, beside which a task is put."""
    for i in range(COUNT):
        save(root / f"semseg/{i}.png", classes(i))
    proposal = propose(root)
    write_proposal(proposal, root.parent / f"{root.name}.yaml")
    assert [task.name for task in proposal.tasks] == ["semseg"]
    (refused,) = proposal.refused
    return refused.found, refused.remedy


def with_255(array: Any) -> Any:
    array = array.copy()
    array[:2] = 255
    return array


def test_classes_are_counted_over_all_files(tmp_path: Path) -> None:
    """The last of 120 files alone holds class 7: a sample of 50 would miss it."""
    root = tmp_path / "own"
    for i in range(120):
        save(root / f"images/{i:03d}.png", photograph(i, (16, 16)))
        ids = classes(i, 4, (16, 16))
        ids[0, 0] = 7 if i == 118 else ids[0, 0]
        save(root / f"semseg/{i:03d}.png", with_255(ids) if i % 4 == 1 else ids)
    kind, keys, why = one(root)
    assert (kind, keys["classes"], keys["ignore"]) == ("segmentation", "8", "255")
    assert "5 distinct values 0..7 in 120 files, 255 in 30 of them" in why
    assert "3 of the ids 0..7 are in no file: 4, 5, 6" in why
    assert "found in one file only: 7" in why


@pytest.mark.parametrize(
    ("folder", "draw", "kind", "ignore"),
    [
        ("mask", blob, "binary", "null"),
        ("mask", lambda i: blob(i) * 255, "binary", "null"),
        ("whatever", lambda i: with_255(blob(i)), "binary", "255"),
        ("saliency", lambda i: blob(i).astype(bool), "binary", "null"),
        ("semseg", blob, "segmentation", None),
        ("edge", edges, "edge", "null"),
        ("contour", lambda i: edges(i) * 255, "edge", "null"),
        ("whatever", edges, "edge", "null"),
        ("edge", lambda i: with_255(edges(i)), "edge", "255"),
    ],
)
def test_two_values(tmp_path: Path, folder: str, draw: Draw, kind: str, ignore: str | None) -> None:
    found, keys, _ = one(write(tmp_path / "own", folder, draw))
    assert (found, keys.get("ignore")) == (kind, ignore)


def test_edges_that_are_thick_are_doubted(tmp_path: Path) -> None:
    kind, _, why = one(write(tmp_path / "own", "edge", blob))
    assert kind == "edge"
    assert "the lines are thick" in why


@pytest.mark.parametrize("number", [np.uint8, np.uint16, np.int64])
def test_whole_numbers_of_any_type_are_classes(tmp_path: Path, number: Any) -> None:
    suffix = ".npy" if number is np.int64 else ".png"
    kind, keys, _ = one(write(tmp_path / "own", "semseg", lambda i: classes(i).astype(number), suffix))
    assert (kind, keys["classes"]) == ("segmentation", "4")


def test_palette_files_hold_ids(tmp_path: Path) -> None:
    root = write(tmp_path / "own", "semseg", classes)
    for path in (root / "semseg").iterdir():
        indexed = Image.new("P", (SIZE[1], SIZE[0]))
        indexed.frombytes(classes(int(path.stem)).tobytes())
        indexed.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 90, 90, 90])
        indexed.save(path)
    with Image.open(root / "semseg/0.png") as picture:
        assert picture.mode == "P"
    kind, keys, _ = one(root)
    assert (kind, keys["classes"]) == ("segmentation", "4")


def test_ids_that_were_stretched_to_be_seen_are_mapped_back(tmp_path: Path) -> None:
    kind, keys, why = one(write(tmp_path / "own", "semseg", lambda i: classes(i) * 85))
    assert (kind, keys["classes"], keys["map"]) == ("segmentation", "4", "{0: 0, 85: 1, 170: 2, 255: 3}")
    assert keys["ignore"] == "null"
    assert "multiples of 85" in why


@pytest.mark.parametrize(
    ("unit", "draw"),
    [
        ("0.001", millimetres),
        ("0.0002", lambda i: millimetres(i) * 5),
        ("0.00390625", lambda i: np.where(np.arange(SIZE[1]) % 4 == 0, millimetres(i) * 2.56, 0).astype(np.uint16)),
        ("0.01", lambda i: (millimetres(i) / 37).astype(np.uint16)),  # median 0.8 m in centimetres, 8 cm in millimetres
    ],
)
def test_the_scale_of_depth(tmp_path: Path, unit: str, draw: Draw) -> None:
    kind, keys, _ = one(write(tmp_path / "own", "depth", draw))
    assert (kind, keys["encoding"], keys["scale"]) == ("depth", "uint16", unit)


def test_the_top_of_the_range_is_no_depth(tmp_path: Path) -> None:
    kind, keys, _ = one(
        write(tmp_path / "own", "depth", lambda i: np.where(blob(i) > 0, np.uint16(65535), millimetres(i)))
    )
    assert (kind, keys["scale"], keys["invalid"]) == ("depth", "0.001", "65535")


@pytest.mark.parametrize(("factor", "scale"), [(0.001, "1"), (1.0, "0.001")])
def test_depth_in_arrays(tmp_path: Path, factor: float, scale: str) -> None:
    draw = lambda i: (millimetres(i) * factor).astype(np.float32)  # noqa: E731
    kind, keys, _ = one(write(tmp_path / "own", "depth", draw, ".npy"))
    assert (kind, keys["encoding"], keys["scale"]) == ("depth", "npy", scale)


def test_other_measures(tmp_path: Path) -> None:
    kind, keys, _ = one(write(tmp_path / "a", "roughness", lambda i: millimetres(i).astype(np.float32), ".npy"))
    assert (kind, keys["encoding"]) == ("regression", "npy")
    grey = lambda i: (millimetres(i) // 20).astype(np.uint8)  # noqa: E731
    kind, keys, _ = one(write(tmp_path / "b", "shading", grey))
    assert (kind, keys["encoding"], keys["scale"]) == ("regression", "uint8", "0.00392157")
    kind, _, why = one(write(tmp_path / "c", "depth", grey))
    assert kind == "regression"
    assert "8 bits hold no depth in metres" in why


def test_files_that_fill_their_range_have_a_scale_each(tmp_path: Path) -> None:
    draw = lambda i: (millimetres(i) * (65535 / millimetres(i).max())).astype(np.uint16)  # noqa: E731
    kind, keys, _ = one(write(tmp_path / "own", "disparity", draw))
    assert (kind, keys["normalise"]) == ("regression", "median_mad")


@pytest.mark.parametrize(
    ("axes", "order", "signs"),
    [
        ("[x, y, z]", (0, 1, 2), (1, 1, 1)),
        ("[x, -y, -z]", (0, 1, 2), (1, -1, -1)),
        ("[x, z, -y]", (0, 2, 1), (1, 1, -1)),
        ("[z, y, x]", (2, 1, 0), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_the_axes_of_normals(
    tmp_path: Path, axes: str, order: tuple[int, ...], signs: tuple[int, ...], suffix: str
) -> None:
    """`order` says which of our axes a channel of the file holds, and `signs` which way it points."""

    def draw(i: int) -> Any:
        turned = room_normals(i)[..., list(order)] * signs
        return turned.astype(np.float32) if suffix == ".npy" else np.rint((turned + 1) * 127.5).astype(np.uint8)

    kind, keys, _ = one(write(tmp_path / "own", "normals", draw, suffix))
    assert (kind, keys["axes"], keys["encoding"]) == ("normals", axes, "npy" if suffix == ".npy" else "rgb")


@pytest.mark.parametrize("suffix", [".png", ".npy"])
@pytest.mark.parametrize("sparse", [{0}, set(range(COUNT))])
def test_normals_with_hardly_a_valid_pixel(tmp_path: Path, sparse: set[int], suffix: str) -> None:
    """Where all but 30 pixels have none, the axes come from the other files, or are left to the user."""

    def draw(i: int) -> Any:
        vectors = room_normals(i)
        if i in sparse:
            vectors[1:], vectors[0, 30:] = 0, 0
        return vectors.astype(np.float32) if suffix == ".npy" else np.floor((vectors + 1) * 127.5).astype(np.uint8)

    root = write(tmp_path / "own", "normals", draw, suffix)
    for i in range(COUNT):
        save(root / f"semseg/{i}.png", classes(i))
    proposal = propose(root)
    assert write_proposal(proposal, tmp_path / "own.yaml").label_count("semseg") == COUNT
    normals = next(task for task in proposal.tasks if task.name == "normals")
    told = " ".join(normals.meaning.doubts)
    assert normals.meaning.kind.value == "normals"
    assert normals.meaning.value("axes") == (None if len(sparse) == COUNT else "[x, y, z]")
    assert ("hardly a pixel is valid" in told) == (len(sparse) == COUNT)


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (np.zeros((*SIZE, 3), dtype=np.float32), "arrays of one channel and arrays of three"),
        (np.zeros((*SIZE, 2), dtype=np.float32), r"arrays of shape (48, 64, 2)"),
    ],
)
@pytest.mark.parametrize("place", [0, COUNT - 1])
def test_arrays_of_several_shapes(tmp_path: Path, place: int, first: Any, found: str) -> None:
    other = np.ones(SIZE, dtype=np.float32)
    root = write(tmp_path / "own", "extra", lambda i: first if i == place else other, ".npy")
    assert refusal(root)[0] == found


def test_classes_drawn_as_colours_are_refused_with_the_way_out(tmp_path: Path) -> None:
    palette = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [9, 9, 200]], dtype=np.uint8)
    found, remedy = refusal(write(tmp_path / "own", "coloured", lambda i: palette[classes(i)]))
    assert "classes drawn as colours, up to 4 colours" in found
    assert "8-bit grey PNG" in remedy


@pytest.mark.parametrize(
    ("draw", "suffix", "found"),
    [
        (lambda i: np.repeat(classes(i)[..., None], 3, axis=2), ".png", "grey pictures written as colours"),
        (classes, ".jpg", "grey JPEG"),
        (lambda i: np.zeros(SIZE, dtype=np.uint8), ".png", "nothing but the value 0 in 6 files"),
        (lambda i: photograph(i + 99), ".png", "colour pictures"),
        (lambda i: millimetres(i).astype(np.float32), ".tif", "32-bit floating point"),
        (lambda i: np.zeros((3, *SIZE), dtype=np.float32), ".npy", r"arrays of shape (3, 48, 64)"),
        (lambda i: classes(i)[::2, ::2], ".png", "24x32 (height x width), its image 48x64"),
    ],
)
def test_what_cannot_be_a_task(tmp_path: Path, draw: Draw, suffix: str, found: str) -> None:
    assert found in refusal(write(tmp_path / "own", "extra", draw, suffix))[0]


def named(root: Path, file: str, text: str) -> Proposal:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text, encoding="utf-8")
    return propose(root)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.txt", "road\ncar\nperson\nsky\n"),
        ("labels.json", '["road", "car", "person", "sky"]'),
        ("id2label.json", '{"0": "road", "1": "car", "2": "person", "3": "sky"}'),
        ("label_map.json", '{"road": 0, "car": 1, "sky": 3, "person": 2}'),
        ("semseg_classes.txt", "0: road\n1: car\n2: person\n3: sky\n"),
        ("names.csv", "id,name\n0,road\n1,car\n2,person\n3,sky\n"),
        ("semseg/classes.json", '{"classes": ["road", "car", "person", "sky"]}'),
    ],
)
def test_names_of_classes(tmp_path: Path, file: str, text: str) -> None:
    proposal = named(write(tmp_path / "own", "semseg", classes), file, text)
    dataset = write_proposal(proposal, tmp_path / "own.yaml")
    assert dataset.tasks[0].classes == ("road", "car", "person", "sky")


def test_names_that_do_not_fit_are_doubted(tmp_path: Path) -> None:
    proposal = named(write(tmp_path / "own", "semseg", classes), "classes.txt", "road\ncar\n")
    assert proposal.tasks[0].meaning.value("classes") == "4"
    assert "classes.txt names 2 classes, the ids go to 3" in " ".join(proposal.tasks[0].meaning.doubts)


def test_odd_names_survive_the_yaml(tmp_path: Path) -> None:
    odd = ["null", "door: open", 'say "x"', "#1", "äöü, ß"]
    text = "\n".join(odd[1:3] + odd[4:]) + "\nnull\n"
    proposal = named(write(tmp_path / "own", "semseg", classes), "classes.txt", text)
    assert write_proposal(proposal, tmp_path / "own.yaml").tasks[0].classes == (odd[1], odd[2], odd[4], "null")


def test_a_table_of_classes(tmp_path: Path) -> None:
    root = write(tmp_path / "own", "semseg", classes)
    (root / "scene.csv").write_text("id,label\n" + "".join(f"{i},{'in' if i % 2 else 'out'}\n" for i in range(5)))
    (root / "speed.csv").write_text("file,speed\n0.png,3.5\n1.png,4.5\n")
    proposal = propose(root)
    dataset = write_proposal(proposal, tmp_path / "own.yaml")
    scene = next(task for task in dataset.tasks if task.name == "scene")
    assert (scene.kind.value, scene.classes) == ("classification", ("in", "out"))
    assert dataset.label_count("scene") == 5
    assert [refused.title for refused in proposal.refused] == ["speed.csv"]


def test_only_a_table(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for i in range(COUNT):
        save(root / f"images/{i}.jpg", photograph(i))
    (root / "kind.csv").write_text("id,label\n" + "".join(f"{i},{i % 3}\n" for i in range(COUNT)))
    kind, keys, _ = one(root)
    assert (kind, keys["classes"]) == ("classification", "[0, 1, 2]")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no files at all"),
        ({"notes.docx": None}, r"no files that could be images .* but 1 \.docx"),
        ({"cats/1.jpg": photograph, "dogs/2.jpg": photograph}, "no labels pair with them by name"),
        ({"images/1.jpg": photograph, "depth/other.png": millimetres}, "no labels pair with them by name"),
        ({"images/1.jpg": photograph, "semseg/1.png": classes}, "1 image has a label"),
    ],
)
def test_unusual_folders_are_refused_with_what_would_do(
    tmp_path: Path, files: dict[str, Draw | None], message: str
) -> None:
    (tmp_path / "own").mkdir()
    for name, draw in files.items():
        if draw is None:
            (tmp_path / "own" / name).write_text("x")
        else:
            save(tmp_path / "own" / name, draw(0))
    with pytest.raises(UsageError, match=message):
        propose(tmp_path / "own")
