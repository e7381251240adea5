"""Where search and training run."""

from __future__ import annotations

import torch

from bmtas.errors import EnvironmentProblem, UsageError, nearest

CHOICES = ("auto", "cpu", "cuda")


def pick_device(choice: str) -> torch.device:
    """Return the device called `choice`; `auto` is a CUDA GPU where PyTorch sees one, else the CPU.

    Raises EnvironmentProblem if `cuda` is asked for and there is none: a GPU is never silently replaced.
    """
    if choice not in CHOICES:
        raise UsageError(f"unknown device {choice!r}; {nearest(choice, CHOICES)}")
    if choice == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem(
            "--device cuda: PyTorch sees no CUDA device here; install a CUDA build of PyTorch and a driver, or use --device cpu"
        )
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)
