"""Writes a kit: every operation of a backbone with 1..T copies, and whole networks, as small ONNX files. On the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from bmtas.architecture import Architecture, BranchedArchitecture
from bmtas.errors import UsageError, nearest
from bmtas.extras import own_version, require
from bmtas.files import atomic_folder, file_hash, write_json
from bmtas.graph import head_name, layer_name
from bmtas.networks.backbone import get_backbone
from bmtas.progress import Progress
from bmtas.tasks import Task
from costs.table import CostTable
from export.latency.kit import ANCHOR, MANIFEST, Kit, NetworkEntry, PartEntry, PrecisionName, Role, RuntimeName, file_of
from export.latency.sampling import sample_trees
from export.latency.templates import Templates
from export.latency.untrained import untrained_model
from export.latency.weights import SharedWeights
from export.precision.casts import HALF_PRECISIONS, lower
from export.precision.quantise import Ranges, quantise

RUNTIMES: Final[tuple[RuntimeName, ...]] = get_args(RuntimeName)
_HAND_ON: Final = ("Concat", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Expand")
SEPARATE: Final = "net.separate"
_FIT_NETWORKS: Final = 12
HELD_OUT_NETWORKS: Final = 20


@dataclass(frozen=True)
class KitRequest:
    """What a kit is to hold: `table` is the counted one; `fit` and `held_out` are numbers of whole networks."""

    table: CostTable
    tasks: tuple[Task, ...]
    precisions: tuple[PrecisionName, ...] = ("fp32",)
    runtime: RuntimeName = "onnxruntime"
    data: str = ""
    fit: int = _FIT_NETWORKS
    held_out: int = HELD_OUT_NETWORKS
    seed: int = 0


def prepare_kit(folder: Path, request: KitRequest, progress: Progress) -> Kit:
    """Write a kit into `folder`, which must not hold anything else, and return its manifest.

    Raises UsageError for unknown precisions or runtimes, or a folder that is in use.
    """
    _check(folder, request)
    progress.start("trace", len(request.tasks))
    templates = trace(request.table, request.tasks, progress.advance)
    networks = _networks(request)
    held_out = sum(role == "held_out" for _, role, _ in networks)
    if held_out < request.held_out:
        progress.note(
            f"{request.held_out} networks were to be held out, but there are so few different trees that {held_out} are; the error "
            "of the table is known less well"
        )
    parts = _parts(request, templates)
    models = _models(templates, parts, networks)
    files: dict[str, str] = {}
    with atomic_folder(folder) as building:
        progress.start("write", len(request.precisions) * len(models))
        for precision in request.precisions:
            (building / precision).mkdir()
            weights = SharedWeights()
            for name, make in models.items():
                model = in_precision(make(), precision, request.runtime)
                weights.share(model)
                (building / file_of(precision, name)).write_bytes(model.SerializeToString())
                progress.advance()
            names = [file_of(precision, name) for name in models]
            names += [f"{precision}/{name}" for name in weights.write(building / precision)]
            files |= {name: file_hash(building / name) for name in names}
        kit = Kit(
            written_by=f"bmtas {own_version()}",
            runtime=request.runtime,
            data=request.data,
            precisions=list(request.precisions),
            table=request.table.model_dump(mode="json"),
            parts=parts,
            networks=[NetworkEntry(name=n, role=role, architecture=a.to_json()) for n, role, a in networks],
            files=files,
        )
        write_json(building / MANIFEST, kit.model_dump(mode="json"))
    return kit


def trace(table: CostTable, tasks: Sequence[Task], tick: Callable[[], None] = lambda: None) -> Templates:
    """Export a network of each task by itself and return its operations; the encoder is every time the same."""
    backbone = get_backbone(table.backbone)
    models, architectures = [], []
    for task in tasks:
        alone = BranchedArchitecture.shared(backbone.name, [task.name], backbone.layers)
        models.append(untrained_model(alone, [task], table.input_size))
        architectures.append(alone)
        tick()
    return Templates(models, architectures, backbone.tap)


def in_precision(model: Any, precision: str, runtime: RuntimeName) -> Any:
    """Return the FP32 model in `precision`, as `bmtas export` gives it to `runtime`; 8-bit scales are not calibrated.

    Times do not depend on the scales, so all values get the same range.
    """
    if precision == "fp32":
        return model
    if precision in HALF_PRECISIONS:
        return lower(model, precision)
    ranges = Ranges("assumed", 0, _assumed_ranges(model))
    style, rest = ("tensorrt", "fp16") if runtime == "tensorrt" else ("cpu", "fp32")
    return quantise(model, ranges, style, rest=rest)


def known_runtime(name: str) -> RuntimeName:
    """Return `name` as a runtime. Raises UsageError, with the nearest known one, if it is none."""
    found = next((runtime for runtime in RUNTIMES if runtime == name), None)
    if found is None:
        raise UsageError(f"unknown runtime {name!r}; {nearest(name, RUNTIMES)}")
    return found


def known_precisions(names: Sequence[str]) -> tuple[PrecisionName, ...]:
    """Return `names` as precisions. Raises UsageError, with the nearest known one, for one that is none."""
    known: tuple[PrecisionName, ...] = get_args(PrecisionName)
    for name in names:
        if name not in known:
            raise UsageError(f"unknown precision {name!r}; {nearest(name, known)}")
    if not names:
        raise UsageError(f"no precision is given; name one of {', '.join(known)}, or several with commas")
    return tuple(dict.fromkeys(precision for name in names for precision in known if precision == name))


def _assumed_ranges(model: Any) -> dict[str, tuple[float, float]]:
    """Return a range for every value. What no number below 0 can reach gets none, for runtimes fuse an activation by that."""
    positive: set[str] = set()
    for node in model.graph.node:
        handed_on = node.op_type in _HAND_ON and all(
            name in positive for name in node.input[: 1 if node.op_type != "Concat" else None]
        )
        if node.op_type in ("Clip", "Relu") or handed_on:
            positive.update(node.output)
    values = {name for node in model.graph.node for name in (*node.input, *node.output) if name}
    return {name: (0.0 if name in positive else -4.0, 4.0) for name in values}


def _check(folder: Path, request: KitRequest) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"{folder} is not empty, and measurements may stand in it; give a new or empty folder for the kit"
        )
    if len(request.tasks) < 2:
        raise UsageError("one task: there is nothing to share, and no table to measure; name two tasks at least")
    if request.held_out < 1 or request.fit < 2:
        raise UsageError(
            f"found {request.fit} networks to fit to and {request.held_out} held out; at least 2 and 1 are needed"
        )
    require("onnx", "host")


def _parts(request: KitRequest, templates: Templates) -> list[PartEntry]:
    tasks = [task.name for task in request.tasks]

    def entry(operation: str, copies: int) -> PartEntry:
        elements = sum(templates.elements(operation))
        name = f"{operation}.x{copies}" if operation.startswith("layers.") else operation
        return PartEntry(name=name, operation=operation, copies=copies, elements=elements)

    layers = [layer_name(i) for i in range(len(request.table.layers))]
    return [
        entry("stem", 1),
        *(entry(layer, copies) for layer in layers for copies in range(1, len(tasks) + 1)),
        *(entry(head_name(task), 1) for task in tasks),
    ]


def _networks(request: KitRequest) -> list[tuple[str, Role, Architecture]]:
    """Return the anchor, the separate networks, and sampled trees, of which every third or so is there to be fitted to."""
    table, names = request.table, [task.name for task in request.tasks]
    layers = len(table.layers)
    networks: list[tuple[str, Role, Architecture]] = [
        (ANCHOR, "anchor", BranchedArchitecture.shared(table.backbone, names, layers))
    ]
    networks.append((SEPARATE, "separate", BranchedArchitecture.separate(table.backbone, names, layers)))
    trees = sample_trees(table, request.fit + request.held_out, request.seed)
    fitted = _evenly(len(trees), min(request.fit, len(trees) // 2))
    for number, tree in enumerate(trees):
        networks.append((f"net.{number:02d}", "fit" if number in fitted else "held_out", tree))
    return networks


def _evenly(count: int, wanted: int) -> set[int]:
    """Return `wanted` of the indices below `count`, both ends among them: a fit is not to be asked about what lies outside."""
    return {round(i * (count - 1) / max(wanted - 1, 1)) for i in range(wanted)}


def _models(
    templates: Templates, parts: Sequence[PartEntry], networks: Sequence[tuple[str, Role, Architecture]]
) -> dict[str, Callable[[], Any]]:
    """Return what makes the FP32 model of each item, by its name."""
    made: dict[str, Callable[[], Any]] = {p.name: partial(templates.part, p.operation, p.copies) for p in parts}
    return made | {name: partial(templates.whole, architecture) for name, _, architecture in networks}
