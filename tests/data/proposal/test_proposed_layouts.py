"""Every layout that people have ends in a manifest that loads, with the same three tasks and the same images in each split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bmtas.data.folder import FolderDataset, open_folder
from bmtas.data.proposal import Proposal, propose, write_proposal
from bmtas.data.proposal.write import companion_of
from bmtas.data.report import inspect
from bmtas.errors import UsageError
from tests.data.proposal.trees_own import SIZE, classes, millimetres, photograph, save, write_standard

KINDS = {"depth": "depth", "edge": "edge", "semseg": "segmentation"}


def made(root: Path, output: Path, *, force: bool = False) -> tuple[Proposal, FolderDataset]:
    proposal = propose(root)
    dataset = write_proposal(proposal, output, force=force)
    assert inspect(dataset, per_split=None).ok
    return proposal, dataset


def kinds(dataset: FolderDataset) -> dict[str, str]:
    return {task.name: task.kind.value for task in dataset.tasks}


def stems(dataset: FolderDataset, split: str) -> set[str]:
    return {name.split("/")[-1] for name in dataset.ids(split)}


TRAIN, VAL = {f"{i:04d}" for i in range(8)}, {"0008", "0009"}


@pytest.mark.parametrize(
    "place",
    [
        "{split}/{role}/{i:04d}.png",
        "{role}/{split}/{i:04d}.png",
        "data/{split}/{role}/oslo/{i:04d}.png",
        "{role}/{split}/oslo/{i:04d}.png",
        "{split}/{i:04d}_{role}.png",
        "{role}_all/{role}/{split}/oslo/{i:04d}_{role}.png",
    ],
)
def test_folders_of_splits(tmp_path: Path, place: str) -> None:
    write_standard(tmp_path / "own", place)
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert kinds(dataset) == KINDS
    assert (stems(dataset, "train"), stems(dataset, "val")) == (TRAIN, VAL)
    assert dataset.size == SIZE
    assert proposal.splits.why == "by the folders train, val"
    assert [dataset.label_count(name) for name in KINDS] == [10, 10, 10]
    first = dataset.load("train", 0, size=SIZE, tasks=["semseg"])
    number = int(first.id[-4:])
    assert np.array_equal(first.labels["semseg"], classes(number))
    assert np.array_equal(first.image, photograph(number))


@pytest.mark.parametrize("splits", [("train", "val"), ("2023", "2024")])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("image", "label"), [("{split}/images/{i}", "{split}/semseg/{i}"), ("{split}/{i}", "{split}/{i}_mask")]
)
def test_folders_that_repeat_the_names(
    tmp_path: Path, image: str, label: str, suffix: str, splits: tuple[str, str]
) -> None:
    """Image `0` of one folder never gets the label `0` of another: each label here was drawn with the number of its image."""
    for number in range(10):
        at = {"split": splits[number // 5], "i": number % 5}
        save(tmp_path / "own" / f"{image.format(**at)}.{suffix}", photograph(number))
        save(tmp_path / "own" / f"{label.format(**at)}.png", classes(number, 6))
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert [(task.meaning.kind.value, task.labels) for task in proposal.tasks] == [("segmentation", 10)]
    assert (proposal.refused, proposal.remarks) == ((), ())
    named = splits == ("train", "val")
    assert (len(dataset.ids("train")), len(dataset.ids("val"))) == ((5, 5) if named else (8, 2))
    for split in ("train", "val"):
        for index, name in enumerate(dataset.ids(split)):
            folder, stem = name.split("/")
            assert folder == split or not named
            task = proposal.tasks[0].name
            found = dataset.load(split, index, size=SIZE, tasks=[task]).labels[task]
            assert np.array_equal(found, classes(5 * splits.index(folder) + int(stem), 6))


def test_labels_of_one_split_alone(tmp_path: Path) -> None:
    """The labels of `train` are not those of images of the same names in `test`."""
    for i in range(4):
        save(tmp_path / f"own/train/images/{i}.jpg", photograph(i))
        save(tmp_path / f"own/train/semseg/{i}.png", classes(i))
        save(tmp_path / f"own/test/images/{i}.jpg", photograph(10 + i))
    proposal, _ = made(tmp_path / "own", tmp_path / "my.yaml")
    assert proposal.usable == tuple(f"train/{i}" for i in range(4))
    assert [task.labels for task in proposal.tasks] == [4]


@pytest.mark.parametrize(
    "place",
    [
        "{role}/{i:04d}.png",
        "{i:04d}_{role}.png",
        "{i:04d}.{role}.png",
        "oslo/{i:04d}_{role}.png",
        "labels/{role}/{i:04d}.png",
        "a/b/{role}/c/{i:04d}.png",
        "{role}/cam_{i:04d}_left.png",
        "{role}/{i:04d}_{role}.png",
    ],
)
def test_folders_without_splits(tmp_path: Path, place: str) -> None:
    write_standard(tmp_path / "own", place)
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert kinds(dataset) == KINDS
    assert (len(dataset.ids("train")), len(dataset.ids("val"))) == (8, 2)  # a fifth
    assert proposal.splits.fraction == 0.2
    assert not companion_of(tmp_path / "my.yaml").exists()


def test_a_label_beside_its_jpeg_under_the_same_name(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"own/{i}.jpg", photograph(i))
        save(tmp_path / f"own/{i}.png", classes(i))
    _, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert kinds(dataset) == {"segmentation": "segmentation"}
    assert {*dataset.ids("train"), *dataset.ids("val")} == {"0", "1", "2", "3"}


def test_images_without_a_word_among_their_labels(tmp_path: Path) -> None:
    """The images' name is the whole name, which their labels only begin with."""
    for i in range(5):
        save(tmp_path / f"own/{i:03d}.png", photograph(i))
        save(tmp_path / f"own/{i:03d}_mask.png", classes(i, 2))
    _, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert kinds(dataset) == {"mask": "binary"}
    assert {*dataset.ids("train"), *dataset.ids("val")} == {f"{i:03d}" for i in range(5)}


@pytest.mark.parametrize(
    "place",
    [
        "{role}_{i:04d}.png",
        "{role}/{role}_{i:04d}.png",
        "oslo/sync_{role}_{i:04d}.png",
        "{split}/{role}/{role}{i:04d}.png",
    ],
)
def test_words_before_numbers(tmp_path: Path, place: str) -> None:
    write_standard(tmp_path / "own", place)
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert set(kinds(dataset).values()) == set(KINDS.values())
    head = place.rpartition("/")[2].partition("{i")[0]
    spec = dataset.manifest.spec
    assert spec.images.prefix == proposal.images.head == head.format(role="rgb")
    assert {task.prefix for task in spec.tasks.values()} == {head.format(role=role) for role in KINDS}
    assert stems(dataset, "train") | stems(dataset, "val") == TRAIN | VAL
    for task in kinds(dataset):
        assert dataset.label_count(task) == 10
    first = dataset.load("train", 0, size=SIZE, tasks=[name for name in kinds(dataset) if name.endswith("semseg")])
    assert np.array_equal(*first.labels.values(), classes(int(first.id[-4:])))
    assert np.array_equal(first.image, photograph(int(first.id[-4:])))


def test_words_before_numbers_that_all_files_have_are_left_in_the_ids(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/frame_{i:04d}.png")
    _, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert dataset.manifest.spec.images.prefix is None
    assert stems(dataset, "train") | stems(dataset, "val") == {f"frame_{i:04d}" for i in range(10)}


def test_a_table_that_names_files_with_words_before_their_numbers_is_refused_with_the_rule(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/{role}_{i:04d}.png")
    rows = "".join(f"rgb_{name}.png,{'even' if int(name) % 2 else 'odd'}\n" for name in sorted(TRAIN | VAL))
    (tmp_path / "own/scene.csv").write_text("id,label\n" + rows)
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    (table,) = proposal.refused
    assert (table.title, table.found) == ("scene.csv", "ids such as 'rgb_0000.png'")
    assert "without prefix and suffix, here such as '0000'" in table.remedy
    assert "scene" not in kinds(dataset)


def test_lists_of_files_with_words_before_their_numbers(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/{role}_{i:04d}.png")
    for split, names in {"train": TRAIN, "val": VAL}.items():
        (tmp_path / f"own/{split}.txt").write_text("".join(f"rgb_{name}.png\n" for name in sorted(names)))
    _, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert dataset.manifest.spec.splits == {"train": "train.txt", "val": "val.txt"}
    assert (stems(dataset, "train"), stems(dataset, "val")) == (TRAIN, VAL)


def test_folders_with_names_of_their_own(tmp_path: Path) -> None:
    """Nothing is called images: what looks like photographs is taken for them."""
    for i in range(4):
        save(tmp_path / f"own/street/{i}.jpg", photograph(i))
        save(tmp_path / f"own/what/{i}.png", classes(i))
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert kinds(dataset) == {"what": "segmentation"}
    assert proposal.images.title == "street"


def test_lists_of_names(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/{i:04d}.png")
    (tmp_path / "own/splits").mkdir()
    for split, names in {"train": TRAIN, "val": VAL}.items():
        (tmp_path / f"own/splits/{split}.txt").write_text("\n".join(sorted(names)) + "\n")
    _, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert dataset.manifest.spec.splits == {"train": "splits/train.txt", "val": "splits/val.txt"}
    assert (stems(dataset, "train"), stems(dataset, "val")) == (TRAIN, VAL)


def test_lists_that_cannot_be_used_as_they_are(tmp_path: Path) -> None:
    """Two columns, a test list in place of one for validation, an image in both, and one that is not there."""
    write_standard(tmp_path / "own", "{role}/{i:04d}.png")
    train = [f"rgb/{name}.png semseg/{name}.png" for name in sorted(TRAIN)] + ["rgb/0008.png semseg/0008.png"] * 1
    (tmp_path / "own/train.txt").write_text("\n".join(train))
    (tmp_path / "own/test.txt").write_text("\n".join(sorted(VAL)))
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert (stems(dataset, "train"), stems(dataset, "val")) == (TRAIN, VAL)
    assert any("1 images stand in another list" in doubt for doubt in proposal.splits.doubts)
    assert any("the test split serves as val" in doubt for doubt in proposal.splits.doubts)
    assert (companion_of(tmp_path / "my.yaml") / "train.txt").read_text().split() == sorted(TRAIN)


def test_missing_labels_and_files_that_pair_with_nothing(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/{i:04d}.png")
    for i in (1, 2):
        (tmp_path / f"own/depth/{i:04d}.png").unlink()
    save(tmp_path / "own/depth/9999.png", millimetres(0))
    save(tmp_path / "own/rgb/lonely.png", photograph(77))
    (tmp_path / "own/other.mat").write_bytes(b"")
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    told = " ".join(proposal.remarks)
    assert "depth: 1 of its files pair with no image: 9999.png" in told
    assert "1 of 11 images have no label of any task and are left out: lonely" in told
    assert "not read: 1 .mat" in told
    assert {task.name: task.labels for task in proposal.tasks} == {"depth": 8, "edge": 10, "semseg": 10}
    assert "lonely" not in {*dataset.ids("train"), *dataset.ids("val")}
    assert "8 of 11 images have a label" in (tmp_path / "my.yaml").read_text()


def test_images_of_several_sizes(tmp_path: Path) -> None:
    for i, size in enumerate([(96, 128), (96, 128), (192, 256), (128, 128)]):
        save(tmp_path / f"own/images/{i}.png", photograph(i, size))
        save(tmp_path / f"own/semseg/{i}.png", classes(i, size=size))
    proposal, dataset = made(tmp_path / "own", tmp_path / "my.yaml")
    assert dataset.size == (96, 128)  # the aspect of three, the pixels of the smallest
    assert "1 of 4 images have another aspect" in proposal.size_why


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{split}/{role}/{i:04d}.png")
    output = tmp_path / "my.yaml"
    output.write_text("mine\n")
    proposal = propose(tmp_path / "own")
    with pytest.raises(UsageError, match=r"my\.yaml exists and is not overwritten"):
        write_proposal(proposal, output)
    assert output.read_text() == "mine\n"
    write_proposal(proposal, output, force=True)
    write_proposal(proposal, output, force=True)  # over what it wrote itself
    assert stems(open_folder(output), "val") == VAL
    assert len(list((tmp_path / "own/train/rgb").iterdir())) == 8  # links were replaced, not what they lead to


@pytest.mark.parametrize(
    "strange", ["thesis.tex", "notes.txt", "sub/train.txt", "rgb/train.txt", "sub/", "file", "link"]
)
def test_a_folder_with_files_of_ones_own_is_not_replaced(tmp_path: Path, strange: str) -> None:
    write_standard(tmp_path / "own", "{split}/{role}/{i:04d}.png", count=4)
    output = tmp_path / "my.yaml"
    output.write_text("mine\n")
    place = companion_of(output)
    if strange == "file":
        place.write_text("mine\n")
    elif strange == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    elif strange.endswith("/"):
        (place / strange).mkdir(parents=True)
    else:
        (place / strange).parent.mkdir(parents=True)
        (place / strange).write_text("mine\n")
    before = sorted(tmp_path.rglob("*"))
    told = "my-files" if strange in ("file", "link") else strange.strip("/")
    with pytest.raises(UsageError, match=rf"/{told} was not written by bmtas init"):
        write_proposal(propose(tmp_path / "own"), output, force=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert output.read_text() == "mine\n"


def test_a_manifest_is_not_written_over_a_folder(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/{i:04d}.png", count=4)
    (tmp_path / "my.yaml").mkdir()
    with pytest.raises(UsageError, match=r"my\.yaml is a folder; name a file"):
        write_proposal(propose(tmp_path / "own"), tmp_path / "my.yaml", force=True)


def test_a_file_that_cannot_be_read_is_named_and_nothing_written(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{role}/{i:04d}.png")
    broken = tmp_path / "own/depth/0003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"no manifest was written(.|\n)*0003\.png"):
        made(tmp_path / "own", tmp_path / "my.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


def test_the_folder_itself_may_hold_the_manifest(tmp_path: Path) -> None:
    write_standard(tmp_path / "own", "{split}/{role}/{i:04d}.png")
    write_proposal(propose(tmp_path / "own"), tmp_path / "own/manifest.yaml")
    again = propose(tmp_path / "own")  # the links beside it are not taken for more images
    assert len(again.images.files) == 10
    moved = (tmp_path / "own").rename(tmp_path / "moved")
    assert stems(open_folder(moved / "manifest.yaml"), "val") == VAL
