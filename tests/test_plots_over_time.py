"""The picture of a search over time: its numbers by hand, and that a file comes out."""

from pathlib import Path

import numpy as np
import pytest

from bmtas.plots_over_time import draw_sharing, sharing_over_time

HISTORY = [
    {"step": 0, "phase": "warm-up"},
    {"step": 4, "phase": "architecture", "probabilities": [[[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.8, 0.2]]]},
    {"step": 9, "phase": "architecture", "probabilities": [[[0.9, 0.1], [0.1, 0.9]], [[1.0, 0.0], [0.0, 1.0]]]},
]


def test_sharing_by_hand() -> None:
    steps, sharing = sharing_over_time(HISTORY)
    assert steps == [4, 9]
    np.testing.assert_allclose(sharing[:, :, 0, 1], [[0.5, 0.5 * 0.8], [0.18, 0.0]], atol=1e-15)


def test_a_picture_comes_out_or_nothing_is_claimed(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    assert draw_sharing(HISTORY, ["a", "b"], tmp_path / "sharing.png")
    with image.open(tmp_path / "sharing.png") as picture:
        assert min(picture.size) > 100
        assert len(picture.convert("L").getcolors()) > 20  # not blank
    assert not draw_sharing(HISTORY[:1], ["a", "b"], tmp_path / "none.png")
    assert not draw_sharing(HISTORY, ["a"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
