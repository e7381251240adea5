"""An export that is not proved leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("old", [b"the file of an earlier export", None])
def test_an_export_that_differs_is_not_written(
    copied_run: Callable[..., Path], bmtas: Callable[..., Any], old: bytes | None
) -> None:
    # PyTorch and ONNX Runtime sum in another order: bit for bit equal outputs would be news.
    path = copied_run("run.json", "table.json", "architecture.json", "networks/shared/weights.pt")
    target = path / "networks/shared/model.onnx"
    if old is not None:
        target.write_bytes(old)
    before = {p.name for p in target.parent.iterdir()}
    result = bmtas("export", "--network", "shared", "--tolerance", "0", "--images", "1", "--runs", path.parent)
    assert result.code == 5
    assert "semseg" in result.err
    assert "tolerance 0" in result.err
    assert {p.name for p in target.parent.iterdir()} == before
    if old is not None:
        assert target.read_bytes() == old
