"""Predictions beside labels, as one picture per network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from bmtas.data.batches import Batch
from bmtas.files import atomic_path
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import IGNORE, Task, TaskKind

_HEADER = 14  # pixels for the column titles
_GOLDEN = 0.618033988749895  # hues that are far apart however many classes there are


def prediction_sheet(network: GraphNetwork, batch: Batch, tasks: tuple[Task, ...], path: Path) -> None:
    """Write a picture: a row per image of `batch`, the image and then label and prediction of every dense task."""
    with torch.inference_mode():
        predictions = network(batch.images)
    shown = [task for task in tasks if task.dense]
    titles = ["image"] + [title for task in shown for title in (f"{task.name} label", "predicted")]
    height, width = batch.images.shape[-2:]
    sheet = Image.new("RGB", (width * len(titles), _HEADER + height * len(batch.images)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * width + 2, 1), title, fill="black")
    for row in range(len(batch.images)):
        tiles = [((batch.images[row] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()]
        for task in shown:
            label = batch.labels[task.name][row]
            valid = label[torch.isfinite(label)] if label.is_floating_point() else label
            limits = (float(valid.min()), float(valid.max())) if valid.numel() else (0.0, 1.0)
            tiles += [colour_label(task, label, limits), colour_prediction(task, predictions[task.name][row], limits)]
        for column, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (column * width, _HEADER + row * height))
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def colour_label(task: Task, label: Tensor, limits: tuple[float, float]) -> np.ndarray:
    """Return a label as (H, W, 3) uint8; invalid pixels are grey. `limits` span the greys of depth and regression."""
    if task.kind is TaskKind.SEGMENTATION:
        ids = label.numpy()
        return np.where(
            (ids == IGNORE)[..., None], np.uint8(128), _palette(task.channels)[np.minimum(ids, task.channels - 1)]
        )
    if task.kind is TaskKind.NORMALS:
        return _normals(label)
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return _greys(label, limits)
    values = torch.where(label == IGNORE, 0.5, label.float())
    return _greys(values, (0.0, 1.0))


def colour_prediction(task: Task, prediction: Tensor, limits: tuple[float, float]) -> np.ndarray:
    """Return a raw prediction (channels, H, W) as (H, W, 3) uint8, in the colours of its label."""
    if task.kind is TaskKind.SEGMENTATION:
        return _palette(task.channels)[prediction.argmax(dim=0).numpy()]
    if task.kind is TaskKind.NORMALS:
        return _normals(torch.nn.functional.normalize(prediction, dim=0))
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return _greys(prediction[0], limits)
    return _greys(prediction[0].sigmoid(), (0.0, 1.0))


def _normals(vectors: Tensor) -> np.ndarray:
    return ((vectors.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def _greys(values: Tensor, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    scaled = torch.nan_to_num((values - low) / max(high - low, 1e-9), nan=0.5).clamp(0, 1)
    return (scaled * 255).round().byte().unsqueeze(-1).expand(-1, -1, 3).numpy()


def _palette(classes: int) -> np.ndarray:
    """Return (classes, 3) uint8 colours; class 0 is dark, as it is background nearly everywhere."""
    import colorsys

    colours = [(30, 30, 30)]
    for i in range(1, classes):
        r, g, b = colorsys.hsv_to_rgb((i * _GOLDEN) % 1.0, 0.65, 0.95 if i % 2 else 0.7)
        colours.append((round(r * 255), round(g * 255), round(b * 255)))
    return np.array(colours, dtype=np.uint8)
