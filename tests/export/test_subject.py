"""What an export is proved on: as many images as it says, in the form that the network takes."""

from __future__ import annotations

import pytest

from bmtas.architecture import Architecture
from bmtas.data.source import open_dataset
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task
from export.interface import Interface
from export.subject import Subject


@pytest.mark.parametrize(
    ("interface", "shapes"),
    [
        (Interface(), [(1, 3, 32, 48)] * 3),
        (Interface("uint8", dynamic=("batch",)), [(1, 32, 48, 3)] * 3 + [(3, 32, 48, 3)]),
        (Interface(dynamic=("size",)), [(1, 3, 32, 48)] * 3 + [(1, 3, 64, 112)] * 2 + [(1, 3, 32, 32)] * 2),
    ],
    ids=str,
)
def test_feeds_have_the_form_of_the_interface_and_are_as_many_as_told(
    interface: Interface,
    shapes: list[tuple[int, ...]],
    tiny_network: GraphNetwork,
    tree: Architecture,
    every_kind: tuple[Task, ...],
) -> None:
    data = open_dataset("scenes")
    subject = Subject(tiny_network, tree, every_kind, tree, every_kind, (32, 48), {}, data, interface)
    assert [feed.shape for feed in subject.feeds(3)] == shapes
    assert subject.feed_count(3) == len(shapes)
