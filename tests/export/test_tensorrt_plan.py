"""The header of a plan, from bytes made by hand, and which version runs what another one built."""

from __future__ import annotations

import json
import struct

import pytest

from bmtas.errors import UsageError
from export.tensorrt.plan import parse_version, read_header, runs_version_compatible, same_version

# Bytes 0..3 the tag, 4..7 the layout, 24..27 the version; what lies between does not matter here.
PLAN = bytes([0x66, 0x74, 0x72, 0x74, 0, 0, 0, 0]) + bytes(range(16)) + bytes([10, 16, 1, 200]) + b"the plan itself"


def test_the_version_is_read_from_the_last_four_bytes() -> None:
    header = read_header(PLAN, "x.engine")
    assert (header.serialisation, header.tensorrt) == (0, (10, 16, 1, 200))  # 200: the bytes have no sign


def test_a_plan_that_was_cut_short_is_refused() -> None:
    assert read_header(PLAN[:28], "x.engine").tensorrt == (10, 16, 1, 200)
    with pytest.raises(UsageError, match=r"x\.engine has 27 bytes.*cut short"):
        read_header(PLAN[:27], "x.engine")


def test_a_length_and_json_before_the_plan_are_explained() -> None:
    about = json.dumps({"names": ["a"]}).encode()
    with pytest.raises(UsageError, match=rf"begins with a length, {len(about)}, and JSON"):
        read_header(struct.pack("<I", len(about)) + about + PLAN, "x.engine")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (bytes([0x02, 0x74, 0x72, 0x74]) + PLAN[4:], "0x74727402.*does not know"),
        (PLAN[:4][::-1] + PLAN[4:], "big-endian"),
        (b"\x08\x0a\x12\x07pytorch" + PLAN, "is no TensorRT plan"),
        (PLAN[:4] + bytes([1, 0, 0, 0]) + PLAN[8:], "layout 1"),
    ],
)
def test_everything_else_is_refused(change: bytes, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        read_header(change, "x.engine")


def test_versions_are_compared_in_what_both_tell() -> None:
    assert parse_version("10.3.0+jetpack6") == (10, 3, 0)
    assert parse_version("11.4.0.106") == (11, 4, 0, 106)
    with pytest.raises(UsageError, match="no version"):
        parse_version("unknown")
    assert same_version((10, 3, 0), (10, 3, 0, 30))
    assert not same_version((10, 3, 0, 26), (10, 3, 0, 30))
    assert not same_version((10, 3, 0), (10, 7, 0, 23))


@pytest.mark.parametrize(
    ("built", "running", "runs"),
    [
        ((10, 3, 0, 30), (10, 7, 0), True),
        ((10, 7, 0, 23), (10, 3, 0), False),  # never backwards
        ((10, 3, 0, 30), (10, 3, 0), True),
        ((10, 16, 1, 11), (11, 4, 0, 106), True),
        ((11, 0, 0, 1), (10, 16, 1, 11), False),
        ((8, 6, 1, 6), (10, 3, 0), True),
        ((8, 6, 1, 6), (11, 4, 0), False),
    ],
)
def test_version_compatible_plans_run_on_later_versions(
    built: tuple[int, ...], running: tuple[int, ...], runs: bool
) -> None:
    assert runs_version_compatible(built, running) is runs
