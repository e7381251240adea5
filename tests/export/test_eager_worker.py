"""PyTorch eager for `bmtas bench`: the worker's inference goes from host memory to host memory."""

from __future__ import annotations

import pytest
import torch

from export.eager_worker import host_to_host


def test_an_inference_copies_the_image_in_and_the_outputs_back() -> None:
    seen: list[str] = []

    def network(image: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(image.device.type)
        return {"semseg": image * 2, "depth": image + 1}

    image = torch.ones(1, 3, 4, 4)
    found = host_to_host(network, image, torch.device("cpu"))
    assert found["semseg"].eq(2).all()
    assert list(found) == ["semseg", "depth"]
    # The one other device that every machine has keeps no data: what is copied in runs, what is copied back is refused.
    with pytest.raises(NotImplementedError, match="copy out of meta tensor"):
        host_to_host(network, image, torch.device("meta"))
    assert seen == ["cpu", "meta"]
