"""Mixed precision: convolutions in half precision, everything else in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from bmtas.config import Precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute convolutions in bfloat16 where asked for; losses, weights and statistics stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.BF16)


def widened(prediction: Tensor) -> Tensor:
    """Return what autocast left in half precision as float32, for the loss."""
    return prediction.float() if prediction.dtype is torch.bfloat16 else prediction
