"""`bmtas export`: from a trained network of a run to a file that has been proved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from bmtas.data.batches import image_tensor
from bmtas.data.protocol import Dataset
from bmtas.errors import UsageError, nearest
from bmtas.files import atomic_path, write_json
from bmtas.runs import Run
from bmtas.summary import network_costs
from bmtas.train import load_network
from export.onnx_file import write_onnx
from export.parity import DEFAULT_TOLERANCE, compare, require_parity
from export.runtime import OnnxSession
from export.tensorrt_engine import ENGINE_TOLERANCE, build_engine, require_tensorrt

FORMATS = ("onnx", "tensorrt")


def export_network(
    run: Run, name: str, dataset: Dataset, *, file_format: str, images: int, tolerance: float | None = None
) -> dict[str, Any]:
    """Export the trained network `name` of `run`, prove it on `images` validation images, and return the report.

    ONNX is always written; `tensorrt` builds an engine from it. The report is also written to `parity.json`. Raises
    ParityError, leaving no file, if the export computes something else.
    """
    check_format(file_format)
    weights = run.require_trained(name)
    config = run.config()
    architecture = run.architecture(name)
    network = load_network(config, architecture, weights)
    folder = run.network(name)
    with atomic_path(folder / "model.onnx") as path:
        write_onnx(
            network,
            path,
            architecture=architecture,
            tasks=config.task_list(),
            size=config.deploy_size,
            costs=network_costs(run, name),
        )
        report = compare(
            network,
            OnnxSession(path),
            validation_images(dataset, config.deploy_size, images),
            DEFAULT_TOLERANCE if tolerance is None else tolerance,
        )
        require_parity(report)
    write_json(folder / "parity.json", report)
    if file_format == "tensorrt":
        report = build_engine(
            folder / "model.onnx",
            folder / "model.engine",
            network,
            list(validation_images(dataset, config.deploy_size, images)),
            ENGINE_TOLERANCE if tolerance is None else tolerance,
        )
    return report


def check_format(file_format: str) -> None:
    """Raise UsageError if the format is unknown, EnvironmentProblem if this machine cannot write it."""
    if file_format not in FORMATS:
        raise UsageError(f"unknown format {file_format!r}; {nearest(file_format, FORMATS)}")
    if file_format == "tensorrt":
        require_tensorrt()


def validation_images(dataset: Dataset, size: tuple[int, int], count: int) -> Iterator[Tensor]:
    """Yield `count` images (3, H, W) spread over the validation split, as the network takes them."""
    total = len(dataset.ids("val"))
    count = min(count, total)
    for i in range(count):
        yield image_tensor(dataset.load("val", i * total // count, size=size, tasks=()).image)
