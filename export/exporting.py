"""One export in progress: the FP32 ONNX model from which everything is made, and what every artefact has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bmtas.errors import BmtasError, BuildError, ParityError
from bmtas.files import write_json
from bmtas.progress import Progress
from export.artefacts import WEIGHTS, digest, record
from export.formats import Format, artefact_stem
from export.int8 import Int8, int8_model
from export.lint import lint, summary
from export.merging.choose import choose, in_turn
from export.metadata import describe, set_metadata
from export.onnx_file import master_model
from export.precision.casts import HALF_PRECISIONS
from export.precision.quantise import Ranges, quantised_share
from export.precision.ranges import lowered
from export.precision.simulate import simulated
from export.predictions import with_predictions
from export.proof.compare import Runs, compare, pairs, require_parity, worst_text
from export.proof.limits import limits_for
from export.request import ExportRequest
from export.sessions.onnx import OnnxSession
from export.sessions.openvino import OpenVinoSession
from export.sessions.protocol import Array, Session
from export.stages.cut import prune
from export.subject import Subject

_WARMUP = 5


@dataclass(frozen=True)
class Artefact:
    """One written file or folder with the report of its proof."""

    path: Path
    precision: str
    report: dict[str, Any]


@dataclass
class Delivery:
    """What an export wrote, what it could not write, and the commands for another machine."""

    artefacts: list[Artefact] = field(default_factory=list)
    failures: list[BmtasError] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


class Exporting:
    """The network of a subject on its way to files in `folder`.

    `base` is its FP32 ModelProto with raw outputs, pruned to the tasks wanted and with branches merged where that won.
    """

    base: Any

    def __init__(self, subject: Subject, folder: Path, request: ExportRequest, progress: Progress) -> None:
        self.subject, self.folder, self.request, self.progress = subject, folder, request, progress
        self.delivery = Delivery()
        self.ranges: Ranges | None = None
        self._merged = False
        self._weights = digest(folder / WEIGHTS)

    def make_base(self) -> None:
        """Export the network to ONNX, prove it, and merge branches if that was asked for and wins.

        Raises BuildError or ParityError if the model is not what was trained.
        """
        subject, request = self.subject, self.request
        self.progress.note(f"{self.folder.name}: tracing the network for ONNX")
        self.base = master_model(
            subject.network,
            architecture=subject.whole,
            tasks=subject.every_task,
            size=subject.size,
            costs=subject.costs,
            # Final predictions are made behind each precision, in FP32; what comes before them can be compared closely.
            interface=replace(subject.interface, outputs="logits"),
        )
        if request.tasks is not None:
            self.base = prune(self.base, [task.name for task in subject.tasks])
            set_metadata(self.base, {"costs": dict(subject.costs)})
        self.prove(self._session(self.base), "fp32", final=False)
        if request.merge:
            self._merge()

    def _merge(self) -> None:
        """Join equal branches where that is faster on the runtime of the format that was asked for."""
        try:
            result = choose(
                self.base,
                list(self.named_feeds(2)),
                in_turn(self.request.samples, _WARMUP),
                self.progress,
                sessions=self._session_of_format,
            )
            if result.merged:
                self.prove(self._session(result.model), "fp32", final=False)
        except (BuildError, ParityError) as error:
            self.progress.note(f"branch merging is left out: {error}")
            return
        write_json(self.folder / f"{self.stem('fp32')}.merging.json", {"schema_version": 1, **result.to_json()})
        whole = "" if result.whole is None else f"; all of these together: {result.whole['median']:.2f} times as fast"
        self.progress.note(
            f"branch merging: {len(result.chosen)} of {len(result.verdicts)} places are faster merged{whole}; "
            + ("taken" if result.merged else "left as it was")
        )
        if result.merged:
            self.base, self._merged = result.model, True

    def _session(self, model: Any) -> OnnxSession:
        return OnnxSession(model.SerializeToString(), threads=self.request.threads)

    def _session_of_format(self, content: bytes) -> Session:
        if self.request.formats[0].name == "openvino":
            return OpenVinoSession(content, "fp32", self.request.threads)
        return OnnxSession(content, threads=self.request.threads)

    def typed(self, precision: str) -> tuple[Any, dict[str, Any]]:
        """Return the base with `precision` (fp32 or 16 bits) in its graph, and what the range check found."""
        if precision == "fp32":
            return self.base, {}
        model, checked = lowered(self.base, precision, self.named_feeds(self.request.images))
        for node in checked["out_of_range"]:
            self.progress.note(
                f"{precision}: {node['node']} stays in FP32: its numbers, the largest {node['largest']:.3g}, do not fit"
            )
        return model, {"range_check": checked}

    def int8(self, runtime: str) -> Int8:
        """Return the INT8 form of the base for `runtime` with its verdict; calibrated once for all runtimes."""
        found = int8_model(self.base, self.subject, runtime, self.request, self.progress, self.ranges)
        self.ranges = found.ranges
        return found

    def finished(self, model: Any, precision: str) -> Any:
        """Return a copy of a typed model with the outputs asked for and metadata that are true of it; linted.

        Raises BuildError if it is not what every runtime takes; bf16 alone may have a newer opset, which convolutions in it need.
        """
        subject = self.subject
        result = type(model)()
        result.CopyFrom(model)
        if subject.interface.final:
            result = with_predictions(result, subject.tasks)
        opset = {entry.domain or "ai.onnx": entry.version for entry in result.opset_import}
        share = {"int8_share": quantised_share(result)} if precision == "int8" else {}
        set_metadata(result, {**self.metadata(), "precision": precision, "opset": opset, **share})
        fatal = [f for f in lint(result, dynamic=bool(subject.interface.dynamic)) if f.fatal]
        if precision == "bf16":
            fatal = [f for f in fatal if not f.text.startswith("opset")]
        if fatal:
            raise BuildError(f"{precision}: the graph would not run everywhere: {'; '.join(summary(fatal))}")
        return result

    def prove(self, runner: Runs, precision: str, *, final: bool | None = None) -> dict[str, Any]:
        """Return the parity report of what `runner` computes. Raises ParityError if it is not what the network computes.

        `final` says that it gives final predictions; None: what was asked for.
        """
        subject, request = self.subject, self.request
        final = subject.interface.final if final is None else final
        overrides = request.tolerances
        if precision not in request.precisions:  # the model that others are made from keeps its own limits
            overrides = {name: limit for name, limit in overrides.items() if ":" in name}
        limits = limits_for(precision, subject.tasks, overrides, request.scaled)
        reference = partial(subject.reference, final=final)
        self.progress.start(f"prove {precision}", subject.feed_count(request.images))

        def told() -> Iterator[Array]:
            for feed in subject.feeds(request.images):
                yield feed
                self.progress.advance()

        report = compare(pairs(reference, runner, told()), subject.tasks, limits, final=final)
        require_parity(report)
        return report

    def prove_session(self, session: Session, precision: str) -> dict[str, Any]:
        """Return the parity report of a loaded artefact, with the runtime that computed it. Raises as `prove` does."""
        return {**self.prove(session, precision), "runtime": f"{session.runtime}, {session.provider}"}

    def rounded(self, model: Any, precision: str, as_run: dict[str, Any]) -> dict[str, Any]:
        """Return the proof of a typed model with every value rounded to 16 bits, and beside it that of the file as it was run.

        Runtimes on CPUs compute FP16 in FP32 and drop the casts between layers, so they show neither rounding nor overflow.
        For models without 16-bit values it is `as_run`. Raises as `prove` does.
        """
        if precision not in HALF_PRECISIONS and not has_half(model):
            return as_run
        report = self.prove(self._session(simulated(model)), precision, final=False)
        return {**report, "runtime": "every value rounded to 16 bits, computed in FP32", "as_run": as_run}

    def wrote(self, path: Path, precision: str, known: Format, entry: dict[str, Any], *, recorded: bool = True) -> None:
        """Add an artefact to the delivery and record its proof; not `recorded` where the artefact brings its own."""
        if recorded:
            interface = self.subject.interface.to_json(self.subject.size, self.subject.tasks)
            about = {"format": known.name, "precision": precision, "weights_sha256": self._weights}
            told = {"input": interface["input"], "outputs": interface["outputs"]}
            record(path, {**about, **told, "task_order": [t.name for t in self.subject.tasks], **entry})
        self.delivery.artefacts.append(Artefact(path, precision, entry))
        self.progress.note(f"{path.name}: {worst_text(entry)}, on {entry['images']} images")

    def failed(self, error: BmtasError) -> None:
        """Remember what could not be written, and say it at once: others may take minutes yet."""
        self.delivery.failures.append(error)
        self.progress.note(str(error))

    def named_feeds(self, count: int) -> Iterator[Mapping[str, Array]]:
        """Yield validation images by the input's name."""
        name = self.base.graph.input[0].name
        return ({name: feed} for feed in self.subject.feeds(count))

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of what is exported, in FP32."""
        subject = self.subject
        return describe(subject.architecture, subject.tasks, subject.size, subject.costs, subject.interface)

    def stem(self, precision: str, *, merged: bool | None = None) -> str:
        """Return the name without suffix of an artefact made from the base; `merged` False for one that is not."""
        merged = self._merged if merged is None else merged
        return artefact_stem(self.request.tasks, self.subject.interface, precision, merged=merged)


def has_half(model: Any) -> bool:
    """Say whether a graph holds weights in 16 bits."""
    from onnx import TensorProto

    return any(i.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for i in model.graph.initializer)
