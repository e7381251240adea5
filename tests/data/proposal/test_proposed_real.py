"""Real photographs: what is proposed equals the manifests that were written by hand, and what the data's own README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmtas.data.folder import open_folder
from bmtas.data.manifest import TaskSpec
from bmtas.data.proposal import propose, write_proposal
from bmtas.errors import UsageError
from bmtas.tasks import TaskKind

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images in {SHARED}")
NAMED = {"ccp": ["semseg", "parts"], "pothole": [], "nyu_fixture": []}
"""The tasks whose class names stand in the folder."""


def meaning(spec: TaskSpec) -> dict[str, object]:
    """Return what decides how a file is read."""
    found: dict[str, object] = {
        "kind": spec.kind,
        "folder": spec.folder,
        "read_as": spec.read_as,
        "classes": len(spec.classes),
        "scale": spec.scale,
        "invalid": spec.invalid,
        "normalise": spec.normalise,
        "map": spec.map,
    }
    if spec.kind in (TaskKind.BINARY, TaskKind.EDGE):
        found["ignore"] = spec.ignore
    if spec.kind is TaskKind.NORMALS:
        found["axes"] = spec.channel_axes
    return found


@needs_shared
@pytest.mark.parametrize("name", list(NAMED))
def test_proposals_equal_the_manifests_written_by_hand(name: str, tmp_path: Path) -> None:
    hand = open_folder(ROOT / "examples" / f"{name}.yaml")
    own = write_proposal(propose(SHARED / name), tmp_path / "own.yaml")
    assert own.size == hand.size
    proposed, written = own.manifest.spec.tasks, hand.manifest.spec.tasks
    assert set(proposed) == set(written)
    for task, spec in written.items():
        expected = meaning(spec)
        if name == "pothole" and task == "edge":
            expected["ignore"] = ()  # the hand-written one ignores a 255 that no file holds
        assert meaning(proposed[task]) == expected, task
        if task in NAMED[name]:
            assert proposed[task].classes == spec.classes
    if name != "nyu_fixture":  # which has no lists
        assert {split: own.ids(split) for split in own.splits} == {split: hand.ids(split) for split in hand.splits}
    first = own.load("train", 0, size=own.size, tasks=list(written))
    split = next(s for s in hand.splits if first.id in hand.ids(s))
    same = hand.load(split, hand.ids(split).index(first.id), size=own.size, tasks=list(written))
    for task in written:
        assert (first.labels[task] == same.labels[task]).mean() > 0.99 or written[task].kind in (
            TaskKind.DEPTH,
            TaskKind.REGRESSION,
        ), task


@needs_shared
def test_a_download_needs_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is omniglot .*no manifest is needed(.|\n)*bmtas data check"):
        propose(SHARED / "omniglot")
