"""Whatever is written loads: random layouts, tasks and gaps end in a manifest that reads every image, or in a message."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmtas.data.folder import open_folder
from bmtas.data.proposal import propose, write_proposal
from bmtas.data.report import inspect
from bmtas.errors import UsageError
from tests.data.proposal.trees_own import Array, blob, classes, edges, millimetres, photograph, room_normals, save

SIZE = (24, 32)
PLACES = (
    "{split}/{role}/{i}.png",
    "{role}/{split}/{i}.png",
    "{role}/{i}.png",
    "{i}_{role}.png",
    "{split}/{i}-{role}.png",
    "x y/{role}/a/{i}.png",
)
ROLES = ("depth", "normals", "semseg", "mask", "edge", "1st", "type", "ünïcode", "a b", "gt")


def draw(kind: int, seed: int) -> Array:
    """One of the kinds of labels that people have, some of which are no task."""
    normals = np.rint((room_normals(seed, SIZE) + 1) * 127.5).astype(np.uint8)
    return [
        classes(seed, 4, SIZE),
        blob(seed, SIZE) * 255,
        edges(seed, SIZE),
        millimetres(seed, SIZE),
        normals,
        classes(seed, 3, SIZE) * 120,
        np.zeros(SIZE, dtype=np.uint8),
        photograph(seed + 1000, SIZE),
    ][kind]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    place=st.sampled_from(PLACES),
    kinds=st.dictionaries(st.sampled_from(ROLES), st.integers(0, 7), min_size=1, max_size=3),
    count=st.integers(2, 6),
    gaps=st.sets(st.tuples(st.sampled_from(ROLES), st.integers(0, 5)), max_size=4),
)
def test_what_is_written_loads(place: str, kinds: dict[str, int], count: int, gaps: set[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, output = Path(folder) / "my data", Path(folder) / "out.yaml"
        for i in range(count):
            split = "train" if i < count - 1 else "val"
            save(root / place.format(role="rgb", i=i, split=split), photograph(i, SIZE))
            for role, kind in kinds.items():
                if (role, i) not in gaps:
                    save(root / place.format(role=role, i=i, split=split), draw(kind, i))
        failure = ""
        try:
            proposal = propose(root)
            write_proposal(proposal, output)
        except UsageError as error:
            failure = str(error)
        if failure:
            assert not output.exists()
            assert str(root) in failure or f"{output}:" in failure
            return
        report = inspect(open_folder(output), per_split=None)
        assert report.ok, report.problems
        assert {task.task.kind for task in report.tasks} == {task.meaning.kind for task in proposal.tasks}
        assert report.read == sum(len(ids) for ids in proposal.splits.lists.values()) or proposal.splits.fraction
