"""The two sides of `search_step.py`: the published step of the search and ours, over all tasks, on random images and labels."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bmtas.config import Optimiser
from bmtas.losses import task_loss
from bmtas.networks.backbone import channels_last, fresh_copy, get_backbone
from bmtas.networks.heads import build_head
from bmtas.networks.supergraph import Supergraph, own_candidates
from bmtas.optim import weight_optimiser
from bmtas.relaxation import gumbel_softmax
from bmtas.tasks import TASK_SETS, TaskKind

TASKS = TASK_SETS["pascal-context"]
BACKBONE = get_backbone("mobilenet_v2")
RATE, TEMPERATURE = 0.005, 2.5  # paper: the rate at the start, the temperature halfway
PUBLISHED, OURS = "published", "ours"


class PublishedSupergraph(nn.Module):
    """The supergraph of the paper, section 3.1, in the plainest form. Its state dict has the names of ours."""

    def __init__(self) -> None:
        super().__init__()
        operations = BACKBONE.operations()
        self.stem = operations.pop("stem")
        self.layers = nn.ModuleList(
            nn.ModuleList(fresh_copy(layer, pretrained=False) for _ in TASKS) for layer in operations.values()
        )
        for candidates in self.layers:
            for candidate in candidates:
                parent, _, child = BACKBONE.last_norm(candidate).rpartition(".")
                place = candidate.get_submodule(parent)
                setattr(place, child, nn.BatchNorm2d(getattr(place, child).num_features, affine=False))
        self.heads = nn.ModuleDict({task.name: build_head(task, BACKBONE) for task in TASKS})

    def forward(self, image: Tensor, task: int, mix: Tensor) -> Tensor:
        """Map (N, 3, H, W) to one task's prediction (N, channels, H, W); `mix` is (L, C)."""
        x = tap = self.stem(image)
        for index, candidates in enumerate(self.layers):
            x = torch.stack([w * candidate(x) for w, candidate in zip(mix[index], candidates, strict=True)]).sum(dim=0)
            tap = x if index == BACKBONE.tap else tap
        prediction = self.heads[TASKS[task].name](x, tap)
        return F.interpolate(prediction, size=image.shape[-2:], mode="bilinear", align_corners=False)

    @contextlib.contextmanager
    def batch_statistics(self) -> Iterator[None]:
        """Normalise by the batch within this block; weights go on having gradients."""
        norms = [m for m in self.layers.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats = False
        yield
        for norm in norms:
            norm.track_running_stats = True


class Bench:
    """Both sides with the same weights, one batch, and the steps by name."""

    def __init__(self, arguments: argparse.Namespace, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.device = torch.device(arguments.device)
        self.precision = arguments.precision
        self.published = PublishedSupergraph().to(self.device, dtype)
        self.ours = Supergraph(BACKBONE, TASKS, None)
        self.ours.load_state_dict(self.published.state_dict())
        channels_last(self.ours.to(self.device, dtype))
        batch, size = arguments.batch, arguments.size
        self.images = torch.randn(batch, 3, size, size).to(self.device, dtype)
        self.labels = {task.name: random_label(task.kind, task.channels, batch, size).to(self.device) for task in TASKS}
        count = len(TASKS)
        self.own = [own_candidates(BACKBONE.layers, count, t).to(self.device) for t in range(count)]
        self.logits = torch.zeros(self.ours.shape, device=self.device, requires_grad=True)
        self.arch = torch.optim.Adam([self.logits], lr=0.01, weight_decay=5e-5)
        adam, theirs, mine = arguments.optimiser == "adam", self.published.parameters(), self.ours.parameters()
        self.optimisers = {
            PUBLISHED: torch.optim.Adam(theirs, lr=1e-3, weight_decay=1e-4)
            if adam
            else torch.optim.SGD(theirs, lr=RATE, momentum=0.9, weight_decay=1e-4),
            OURS: weight_optimiser(*((Optimiser.ADAMW, mine, 1e-3) if adam else (Optimiser.SGD, mine, RATE))),
        }
        self.models: dict[str, PublishedSupergraph | Supergraph] = {PUBLISHED: self.published, OURS: self.ours}
        self.ours.checkpointing = arguments.checkpointing
        self.inputs = {PUBLISHED: self.images, OURS: self.images.to(memory_format=torch.channels_last)}

    def step(self, side: str, name: str) -> None:
        """Take one step over all tasks."""
        {
            "warm-up": lambda: self._weights(side, warm_up=True),
            "soft weights": lambda: self._weights(side, warm_up=False),
            "soft architecture": lambda: self._architecture(side),
            "sampled weights": self._sampled_weights,
            "sampled architecture": self._sampled_architecture,
        }[name]()
        self.wait()

    def floor(self) -> None:
        """Pass forward and backward through one candidate per layer, once for every task."""
        for t in range(len(TASKS)):
            self.loss(t, self.forward(OURS, t, self.own[t])).backward()
        self.ours.zero_grad(set_to_none=True)
        self.wait()

    def forward(self, side: str, task: int, mix: Tensor) -> Tensor:
        """Return the prediction of one task."""
        with self.autocast():
            prediction: Tensor = self.models[side](self.inputs[side], task, mix)
        return prediction

    def autocast(self) -> torch.autocast:
        """Return the context of the chosen precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def loss(self, task: int, prediction: Tensor) -> Tensor:
        """Return the weighted loss of one task."""
        precise = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        return TASKS[task].loss_weight * task_loss(TASKS[task], precise, self.labels[TASKS[task].name])

    def soft(self, task: int) -> Tensor:
        """Return a soft sample (L, C) of one task's candidates, through which gradients flow."""
        return gumbel_softmax(self.logits[:, task], TEMPERATURE)

    def wait(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize() if self.device.type == "cuda" else None

    def _weights(self, side: str, *, warm_up: bool) -> None:
        optimiser = self.optimisers[side]
        for t in range(len(TASKS)):
            mix = self.own[t] if warm_up else self.soft(t)
            # The published weight step draws its mix from parameters that ask for gradients, and gets them.
            loss = self.loss(t, self.forward(side, t, mix if side == PUBLISHED else mix.detach()))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            loss.item()

    def _architecture(self, side: str) -> None:
        self.arch.zero_grad(set_to_none=True)
        with self.models[side].batch_statistics():
            for t in range(len(TASKS)):
                loss = self.loss(t, self.forward(side, t, self.soft(t)))
                loss.backward()
                loss.item()
        self.arch.step()

    def _sampled_weights(self) -> None:
        optimiser = self.optimisers[OURS]
        choices = torch.stack([self.soft(t).detach() for t in range(len(TASKS))], dim=1).argmax(dim=-1)
        with self.autocast():
            run = self.ours.forward_sampled(self.inputs[OURS], choices)
        losses = torch.stack([self.loss(t, prediction) for t, prediction in enumerate(run.predictions)])
        optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimiser.step()
        losses.tolist()

    def _sampled_architecture(self) -> None:
        self.arch.zero_grad(set_to_none=True)
        soft = torch.stack([self.soft(t) for t in range(len(TASKS))], dim=1)
        choices = soft.detach().argmax(dim=-1)
        with self.ours.batch_statistics():
            with self.autocast():
                run = self.ours.forward_sampled(self.inputs[OURS], choices)
            losses = [self.loss(t, prediction) for t, prediction in enumerate(run.predictions)]
            gradients = self.ours.mix_gradients(run, losses)
            torch.stack([loss.detach() for loss in losses]).tolist()
        soft.backward(gradients)
        self.arch.step()


def random_label(kind: TaskKind, channels: int, batch: int, size: int) -> Tensor:
    """Return labels as `bmtas.tasks` has them, normals with their channels first."""
    if kind is TaskKind.NORMALS:
        return F.normalize(torch.randn(batch, 3, size, size), dim=1)
    return torch.randint(0, max(channels, 2), (batch, size, size), dtype=torch.uint8)
