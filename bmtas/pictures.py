"""Predictions beside labels, as one picture per network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bmtas.colours import Picture, colour, greys, limits_of, write_sheet
from bmtas.data.batches import Batch
from bmtas.networks.network import GraphNetwork
from bmtas.tasks import Task, TaskKind


def prediction_sheet(network: GraphNetwork, batch: Batch, tasks: tuple[Task, ...], path: Path) -> None:
    """Write a picture: a row per image of `batch`, the image and then label and prediction of every dense task."""
    with torch.inference_mode():
        predictions = network(batch.images)
    shown = [task for task in tasks if task.dense]
    titles = ["image"] + [title for task in shown for title in (f"{task.name} label", "predicted")]
    rows = []
    for row in range(len(batch.images)):
        tiles: list[Picture] = [((batch.images[row] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()]
        for task in shown:
            label = batch.labels[task.name][row]
            values = (label.permute(1, 2, 0) if task.kind is TaskKind.NORMALS else label).numpy()
            limits = limits_of(values)
            tiles += [colour(task, values, limits), colour_prediction(task, predictions[task.name][row], limits)]
        rows.append(tiles)
    write_sheet(rows, titles, path)


def colour_prediction(task: Task, prediction: Tensor, limits: tuple[float, float]) -> Picture:
    """Return a raw prediction (channels, H, W) as (H, W, 3) colours, those of its label."""
    if task.kind is TaskKind.SEGMENTATION:
        return colour(task, prediction.argmax(dim=0).numpy(), limits)
    if task.kind is TaskKind.NORMALS:
        return colour(task, torch.nn.functional.normalize(prediction, dim=0).permute(1, 2, 0).numpy(), limits)
    if task.kind in (TaskKind.DEPTH, TaskKind.REGRESSION):
        return greys(prediction[0].numpy(), limits)
    return greys(prediction[0].sigmoid().numpy(), (0.0, 1.0))
