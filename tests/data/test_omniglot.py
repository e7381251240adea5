"""Omniglot in folders and packed: a task per alphabet, a label for one's own alphabet only, the same split everywhere."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bmtas.data.batches import Loader, collate
from bmtas.errors import UsageError
from bmtas.tasks import TaskKind
from tests.data.downloaded import opened, refused, state
from tests.data.mirror import mirrored
from tests.data.trees_omniglot import ALPHABETS, SIDE, drawing, write_omniglot, write_packed

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "omniglot"
NAMES = ("Anglo-Saxon_Futhorc", "Greek", "Japanese_katakana", "Malayalam")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_omniglot(tmp_path / "data")


def test_an_alphabet_is_a_task(root: Path) -> None:
    before = state(root)
    dataset = opened(root)
    assert (dataset.name, dataset.size, dataset.splits) == ("omniglot", (SIDE, SIDE), ("train", "val"))
    assert tuple(task.name for task in dataset.tasks) == NAMES
    assert {task.kind for task in dataset.tasks} == {TaskKind.CLASSIFICATION}
    assert dataset.tasks[1].classes == ("character01", "character02", "character03")
    assert dataset.default_tasks == NAMES  # the first five, of four
    assert dataset.layout.expected == {"train": 1623 * 16, "val": 1623 * 4}
    assert [dataset.label_count(name) for name in NAMES] == [40, 60, 40, 40]
    assert dataset.missing() == []
    for split in dataset.splits:
        for index in (0, len(dataset.ids(split)) - 1):
            sample = dataset.load(split, index, size=dataset.size, tasks=NAMES)
            part, alphabet, character, name = sample.id.split("/")
            assert alphabet in ALPHABETS[part]
            task = alphabet.replace("(", "").replace(")", "")
            assert {k: (v.shape, str(v.dtype), int(v)) for k, v in sample.labels.items()} == {
                task: ((), "int64", int(character[-2:]) - 1)
            }
            row = 10 * (int(character[-2:]) - 1) + int(name[-2:]) - 1
            assert (sample.image == np.where(drawing(row), 255, 0)[:, :, None]).all()  # ink is 0
    assert len(dataset.fingerprint()) == 64
    assert state(root) == before


def test_a_batch_of_several_alphabets(root: Path) -> None:
    """Where an image has no label of a task, its class is -1, which counts nowhere."""
    dataset = opened(root)
    samples = [dataset.load("val", i, size=(32, 32), tasks=NAMES) for i in (0, 8)]
    batch = collate(samples, dataset.tasks)
    assert {name: label.tolist() for name, label in batch.labels.items()} == {
        "Anglo-Saxon_Futhorc": [0, -1],
        "Greek": [-1, 0],
        "Japanese_katakana": [-1, -1],
        "Malayalam": [-1, -1],
    }
    once = mirrored(samples[0], dataset.tasks)
    assert np.array_equal(once.image, samples[0].image[:, ::-1])
    assert once.labels == samples[0].labels  # and a mirrored character keeps its class


def test_each_character_gives_sixteen_drawings_for_training(root: Path) -> None:
    dataset = opened(root)
    folders = {i.rpartition("/")[0] for i in dataset.ids("train")}
    assert len(folders) == 9
    for folder in folders:
        train, val = ([i for i in dataset.ids(split) if i.startswith(folder + "/")] for split in ("train", "val"))
        assert (len(train), len(val)) == (16, 4)
    # The rule, told once more: one generator per alphabet, a permutation per character in the order of their names.
    digest = hashlib.md5(b"Greek").hexdigest()
    generator = np.random.RandomState(int(digest[:8], 16))
    second = [generator.permutation(20) for _ in range(2)][1]
    names = sorted(p.stem for p in (root / "images_background/Greek/character02").iterdir())
    found = [i for i in dataset.ids("val") if "/Greek/character02/" in i]
    assert found == [f"images_background/Greek/character02/{names[i]}" for i in sorted(second[16:])]
    shutil.rmtree(root / "images_evaluation")  # what else is there changes nothing
    assert [i for i in opened(root).ids("val") if "/Greek/character02/" in i] == found
    assert len({tuple(i[-2:] for i in dataset.ids("val") if f"/{a}/" in i) for a in ("Greek", "Malayalam")}) == 2


def test_fifty_alphabets_have_the_order_of_experiments(tmp_path: Path) -> None:
    for number in range(50):
        for character in ("character01", "character02"):
            part = "images_background" if number < 30 else "images_evaluation"
            folder = tmp_path / part / f"A{number:02d}" / character
            folder.mkdir(parents=True)
            for name in "abcde":
                Image.fromarray(drawing(0)).save(folder / f"{name}.png")
    dataset = opened(tmp_path)
    assert [task.name for task in dataset.tasks] == [f"A{i:02d}" for i in np.random.RandomState(666).permutation(50)]
    assert dataset.default_tasks == tuple(task.name for task in dataset.tasks[:5])
    assert (len(dataset.ids("train")), len(dataset.ids("val"))) == (400, 100)
    assert any("100 characters have not 20 drawings" in remark for remark in dataset.layout.remarks)
    assert any("RandomState(666).permutation(50)" in remark for remark in dataset.layout.remarks)


def test_it_is_found_from_above_and_from_inside(root: Path) -> None:
    for place in (root.parent, root / "images_background"):
        assert opened(place).layout.root == root
    shutil.rmtree(root / "images_evaluation")
    dataset = opened(root)
    assert tuple(task.name for task in dataset.tasks) == NAMES[:3]
    assert dataset.layout.expected == {"train": 964 * 16, "val": 964 * 4}
    assert any("3 of 50 alphabets are here" in remark for remark in dataset.layout.remarks)


def test_what_is_half_unpacked_is_refused(root: Path) -> None:
    (root / "images_evaluation/Empty").mkdir()
    assert "Empty holds 0 folders of characters" in refused(root)
    assert "unpack images_evaluation.zip again" in refused(root)
    shutil.rmtree(root / "images_evaluation")
    (root / "images_evaluation").mkdir()
    assert "images_evaluation holds no folder of an alphabet" in refused(root)
    (root / "images_evaluation").rmdir()
    write_packed(root)
    assert "both in folders and packed" in refused(root)


def test_wrong_and_missing_files_are_named(root: Path) -> None:
    dataset = opened(root)
    path = root / f"{dataset.ids('train')[0]}.png"
    Image.fromarray(drawing(0)[:64, :64]).save(path)
    with pytest.raises(UsageError, match="drawings of Omniglot are 105 by 105"):
        dataset.load("train", 0, size=dataset.size, tasks=[])
    path.unlink()
    assert dataset.missing() == [path]


def test_packed_alphabets(tmp_path: Path) -> None:
    root = write_packed(tmp_path / "packed")
    before = state(root)
    dataset = opened(root)
    assert [(t.name, len(t.classes)) for t in dataset.tasks] == [("Greek", 2), ("Japanese_katakana", 2)]
    assert {split: dataset.ids(split) for split in dataset.splits} == {
        "train": tuple(f"{name}/{i}" for name in ("Greek", "Japanese_(katakana)") for i in (0, 1, 4, 5)),
        "val": ("Greek/2", "Greek/6", "Japanese_(katakana)/2", "Japanese_(katakana)/6"),
        "test": ("Greek/3", "Greek/7", "Japanese_(katakana)/3", "Japanese_(katakana)/7"),
    }
    sample = dataset.load("val", 3, size=dataset.size, tasks=["Greek", "Japanese_katakana"])
    assert {k: int(v) for k, v in sample.labels.items()} == {"Japanese_katakana": 1}
    assert (sample.image == np.where(drawing(6), 255, 0)[:, :, None]).all()
    assert dataset.missing() == []
    assert dataset.label_count("Greek") == 8
    assert opened(tmp_path).layout.root == root
    assert state(root) == before


def test_broken_packed_files_are_named(tmp_path: Path) -> None:
    root = write_packed(tmp_path)
    dataset = opened(root)
    (root / "Japanese_(katakana).npz").write_bytes((root / "Greek.npz").read_bytes()[:100])
    with pytest.raises(UsageError, match=r"cannot read 'images_packed' in .*katakana\).npz"):
        dataset.load("val", 3, size=dataset.size, tasks=["Japanese_katakana"])
    assert "cannot read 'label' in" in refused(root)
    with np.load(root / "Greek.npz") as file:
        fields = dict(file)
    np.savez(root / "Greek.npz", **{**fields, "images_packed": fields["images_packed"][:, :9]})
    with pytest.raises(UsageError, match="it has a row of 1379 bytes for each drawing"):
        dataset.load("val", 0, size=dataset.size, tasks=[])
    np.savez(root / "Greek.npz", something=np.zeros(3))
    assert "none of the data sets that are known" in refused(root)


@pytest.mark.parametrize(
    ("field", "content", "told"),
    [
        ("split", np.array([1, 1, 2, 3] * 2), "`split` is from 1 to 3; it has a whole number from 0 to 2"),
        ("split", np.array([0, 0, 1, -1] * 2), "`split` is from -1 to 1"),
        ("split", np.array([0.0, 0, 1, 2] * 2), "`split` is float64 of shape (8,)"),
        ("split", np.array([0, 0, 1, 2]), "8 drawings in `images_packed`, 8 numbers in `label` and 4 in `split`"),
        ("label", np.array([-1, 0] * 4), "`label` is from -1 to 0"),
        ("label", np.array([0.5, 1] * 4), "`label` is float64"),
        ("label", np.array([0, 10**9] * 4), "`label` is from 0 to 1000000000"),
        ("label", np.array([[0, 1]] * 4), "`label` is int64 of shape (4, 2)"),
        ("label", np.array(["a", "b"] * 4), "`label` is <U1"),
        ("images_packed", np.zeros((8, 1378), dtype=np.uint8), "`images_packed` is uint8 of shape (8, 1378)"),
        ("images_packed", np.zeros((8, 1379), dtype=np.int64), "`images_packed` is int64 of shape (8, 1379)"),
        ("images_packed", np.zeros((7, 1379), dtype=np.uint8), "holds 7 drawings in `images_packed`, 8 numbers"),
        ("images_packed", np.zeros((0, 1379), dtype=np.uint8), "`images_packed` is uint8 of shape (0, 1379)"),
        ("images_packed", np.zeros(8, dtype=np.uint8), "`images_packed` is uint8 of shape (8,)"),
    ],
)
def test_fields_of_packed_files_are_checked(tmp_path: Path, field: str, content: np.ndarray, told: str) -> None:
    root = write_packed(tmp_path)
    path = root / "Japanese_(katakana).npz"
    with np.load(path) as file:
        fields = dict(file)
    np.savez(path, **{**fields, field: content})
    assert refused(root).startswith(str(path))
    assert told in refused(root)


def test_only_alphabets_of_the_tasks_are_learnt_from(root: Path, tmp_path: Path) -> None:
    for place, train, val in ((root, 32, 8), (write_packed(tmp_path / "packed"), 4, 2)):
        dataset = opened(place)
        tasks = tuple(task for task in dataset.tasks if task.name == "Japanese_katakana")
        for split, count in (("train", train), ("val", val)):
            loader = Loader(dataset, split, tasks, (32, 32))
            assert loader.count == count
            for batch in loader.in_order(8):
                assert all("Japanese_(katakana)/" in i for i in batch.ids)
                assert (batch.labels["Japanese_katakana"] >= 0).all()
    dataset = opened(root)
    assert dataset.labelled("train", NAMES) == list(range(len(dataset.ids("train"))))
    assert dataset.labelled("val", ["Malayalam", "Greek"]) == [
        n for n, i in enumerate(dataset.ids("val")) if "/Malayalam/" in i or "/Greek/" in i
    ]
    with pytest.raises(UsageError, match="unknown task 'Greece'; did you mean 'Greek'"):
        dataset.labelled("val", ["Greece"])


def test_a_limit_evaluates_on_every_alphabet(root: Path) -> None:
    dataset = opened(root)
    (batch,) = Loader(dataset, "val", dataset.tasks, (32, 32)).in_order(9, limit=9)
    assert {i.split("/")[1] for i in batch.ids} == {name for part in ALPHABETS.values() for name in part}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real drawings in {SHARED}")
def test_real_drawings() -> None:
    dataset = opened(SHARED)
    assert {t.name: len(t.classes) for t in dataset.tasks} == {  # its README
        "Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Japanese_katakana": 47, "Korean": 40, "Latin": 26,
        "Sanskrit": 42, "Tagalog": 17,
    }  # fmt: skip
    assert [len(dataset.ids(split)) for split in dataset.splits] == [3388, 726, 726]  # 14, 3 and 3 of 242 characters
    images = [dataset.load("train", i, size=dataset.size, tasks=[]).image for i in range(336)]
    assert 0.08 < np.mean([image == 0 for image in images]) < 0.11  # 0.0929 of Balinese is ink
