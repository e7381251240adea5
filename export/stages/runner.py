"""Runs a split network: for each frame only the stages that the tasks asked for need, each once. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bmtas.errors import UsageError
from export.sessions.onnx import OnnxSession
from export.sessions.protocol import Array, Session, TensorSpec
from export.stages.manifest import Manifest, Port, StageEntry, read_manifest, verified
from export.stages.schedule import Schedule

# NumPy's own types alone: ONNX Runtime makes no arrays of others, whatever packages bring to NumPy.
_HANDED_OVER = frozenset(np.dtype(kind).name for kind in "?bBhHiIlLefd")


class Sessions(Protocol):
    """Loads the file of one stage."""

    def __call__(self, source: Path, provider: str, threads: int) -> Session:
        """Return a session for `source`."""


@dataclass(frozen=True)
class FrameResult:
    """What is known after one frame.

    `fresh` holds the outputs computed in this frame, `latest` the last output of every task that has run so far, `age` how many
    frames old each of those is (0: fresh).
    """

    index: int
    fresh: dict[str, Array]
    latest: dict[str, Array]
    age: dict[str, int]


class StageRunner:
    """A split network, loaded."""

    def __init__(
        self, folder: Path, provider: str = "cpu", threads: int = 0, *, sessions: Sessions = OnnxSession
    ) -> None:
        """Check the manifest and every file of `folder`, then load the stages by `sessions`.

        Raises UsageError if something is missing, changed or does not fit together, and what loading a stage raises.
        """
        self._manifest = read_manifest(folder)
        paths = [verified(folder, stage) for stage in self._manifest.stages]
        if sessions is OnnxSession:
            _require_numpy_types(self._manifest, folder)
        self._sessions: dict[str, Session] = {}
        for stage, path in zip(self._manifest.stages, paths, strict=True):
            session = sessions(path, provider, threads)
            _require_ports(stage, session, path)
            self._sessions[stage.file] = session
        first = self._sessions[self._manifest.stages[0].file]
        self.runtime, self.provider = first.runtime, first.provider

    @property
    def manifest(self) -> Manifest:
        """The stages and what flows between them."""
        return self._manifest

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in output order."""
        return tuple(self._manifest.tasks)

    @property
    def outputs(self) -> list[str]:
        """The tasks, as a session names its outputs."""
        return list(self._manifest.tasks)

    @property
    def image_spec(self) -> TensorSpec:
        """The image that the network takes."""
        return self._manifest.image.spec()

    def __call__(self, image: Array) -> dict[str, Array]:
        """Return the outputs of all tasks for one image. Raises UsageError for an image of another shape or type."""
        return self.run(image)

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the file that was split; empty for a file of other origin."""
        return dict(self._manifest.metadata)

    def run(self, image: Array, tasks: Iterable[str] | None = None) -> dict[str, Array]:
        """Return the outputs of `tasks` (None: all) for one image, in that order; only the stages that they need run.

        Raises UsageError for an unknown task or an image of another shape or type.
        """
        wanted = list(self._manifest.tasks if tasks is None else tasks)
        stages = self._manifest.needed(wanted)
        _require_image(image, self._manifest.image)
        values = {self._manifest.image.name: image}
        reads = {stage.file: {value.name for value in stage.inputs} for stage in stages}
        for stage in stages:
            values.update(self._sessions[stage.file].run({name: values[name] for name in reads.pop(stage.file)}))
            # A boundary may be the largest thing in memory; it goes when its last reader has run.
            kept = set(wanted).union(*reads.values())
            values = {name: value for name, value in values.items() if name in kept}
        return {task: values[task] for task in wanted}

    def frames(self, images: Iterable[Array], schedule: Schedule) -> Iterator[FrameResult]:
        """Yield the result of each image of a stream, running in each frame the tasks that `schedule` has due.

        A frame in which no task is due runs nothing. Raises UsageError if the schedule names an unknown task.
        """
        self._manifest.needed(schedule.tasks)
        latest: dict[str, Array] = {}
        computed: dict[str, int] = {}
        for index, image in enumerate(images):
            due = schedule.due(index)
            fresh = self.run(image, due) if due else {}
            latest |= fresh
            computed |= dict.fromkeys(fresh, index)
            yield FrameResult(index, fresh, dict(latest), {task: index - i for task, i in computed.items()})


def _require_image(image: Array, port: Port) -> None:
    if list(image.shape) != port.shape or image.dtype.name != port.dtype:
        raise UsageError(
            f"the image is {image.dtype.name} {list(image.shape)}, but the network takes {port.name!r} as {port.dtype} {port.shape}"
        )


def _require_ports(stage: StageEntry, session: Session, path: Path) -> None:
    found = set(session.inputs), set(session.outputs)
    named = {value.name for value in stage.inputs}, {value.name for value in stage.outputs}
    if found != named:
        raise UsageError(
            f"{path}: the file takes {', '.join(sorted(found[0]))} and gives {', '.join(sorted(found[1]))}, but the manifest says "
            f"{', '.join(sorted(named[0]))} and {', '.join(sorted(named[1]))}; split the network again"
        )


def _require_numpy_types(manifest: Manifest, folder: Path) -> None:
    for stage in manifest.stages:
        for port in (*stage.inputs, *stage.outputs):
            if port.dtype not in _HANDED_OVER:
                raise UsageError(
                    f"{folder}: {port.name!r} crosses between stages as {port.dtype}, which ONNX Runtime cannot hand over to NumPy; "
                    "split the FP32 or FP16 network for it"
                )
