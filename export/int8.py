"""INT8 from calibration to verdict: ranges from real images, the loss in each task's own metric, and the speed that it buys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bmtas.errors import BuildError
from bmtas.progress import Progress
from export.precision.guard import against, decide, drops
from export.precision.quantise import Ranges, calibrate, quantise, quantised_share
from export.precision.ranges import overflowing
from export.precision.sensitivity import Mixed, Sensitivity, mixed, sensitivities
from export.request import ExportRequest, pictures
from export.sessions.onnx import OnnxSession
from export.sessions.openvino import OpenVinoSession
from export.sessions.protocol import Array, Session
from export.stopwatch import measure, ratio, summarise, timed
from export.subject import Subject

SCHEMA_VERSION = 1
_SENSITIVITY_IMAGES = 4
_WARMUP = 5


@dataclass(frozen=True)
class Int8:
    """The INT8 model (None if it is not to be written), the report, the reasons in words, and the ranges it was made by."""

    model: Any | None
    report: dict[str, Any]
    reasons: tuple[str, ...]
    ranges: Ranges


def int8_model(
    base: Any, subject: Subject, runtime: str, request: ExportRequest, progress: Progress, known: Ranges | None = None
) -> Int8:
    """Quantise the FP32 ModelProto `base` for `runtime`: `onnx`, `openvino` or `tensorrt`, and judge the result.

    Where all layers in 8 bits lose more than `request.drop` allows, the most sensitive parts of the network are kept in higher
    precision until they do not. For `onnx` and `openvino` it is then measured against FP32 on that runtime, in turn; for
    `tensorrt` the loss alone is judged here, in ONNX Runtime, and the speed on the GPU. `known` are ranges of the same images
    and network, which serve every runtime. Raises UsageError without images.
    """
    return _Quantising(base, subject, runtime, request, progress, known).verdict()


class _Quantising:
    """One network for one runtime."""

    def __init__(
        self,
        base: Any,
        subject: Subject,
        runtime: str,
        request: ExportRequest,
        progress: Progress,
        known: Ranges | None,
    ) -> None:
        self.base, self.subject, self.runtime, self.request, self.progress = base, subject, runtime, request, progress
        self.known = known
        self.style, self.rest = ("tensorrt", "fp16") if runtime == "tensorrt" else ("cpu", "fp32")
        self.input = base.graph.input[0].name
        self.out_of_range: tuple[str, ...] = ()

    def verdict(self) -> Int8:
        """Quantise, measure, decide."""
        request = self.request
        self.ranges = self.known or calibrate(self.base, self._counted(), request.calibration_method)
        if self.rest == "fp16":
            feeds = ({self.input: feed} for feed in self.subject.feeds(request.images))
            self.out_of_range = tuple(overflowing(self.base, feeds, "fp16"))
        self.reference = self._score(self.base, "fp32")
        model = self._quantise()
        kept: tuple[str, ...] = ()
        lost = first = self._lost(model)
        order = None
        judged = None not in lost.values()  # what has no metric gets none by being kept in higher precision
        if request.sensitivity or (judged and against(lost, request.drop)):
            order = sensitivities(self.base, self.ranges, self.style, list(self._few()), progress=self.progress)
        tried = None
        if order is not None and judged and against(lost, request.drop):
            tried = self._mixed(order)
            if tried.model is not None:
                model, kept, lost = tried.model, tried.kept, self.accepted
                self.progress.note(f"int8: {len(kept)} of {tried.parts} parts stay in {self.rest}: {', '.join(kept)}")
        speed = None if self.runtime == "tensorrt" else self._speed(model)
        decision = decide(None if speed is None else speed["fp32_over_int8"], lost, request.drop, forced=request.force)
        report = {
            "schema_version": SCHEMA_VERSION,
            "runtime": self.runtime,
            "style": self.style,
            "calibration": {
                "images": self.ranges.images,
                "method": self.ranges.method,
                "source": str(request.calibration),
            },
            "score_images": self.subject.scored(request.score_images),
            "metrics_fp32": self.reference,
            "all_layers_in_8_bits": first,
            "kept_in_higher_precision": list(kept),
            "trials": [] if tried is None else [{"kept": kept, "accepted": passed} for kept, passed in tried.trail],
            "sensitivity": None if order is None else [asdict(entry) for entry in order],
            "speed": speed,
            "decision": decision.to_json(),
        }
        return Int8(model if decision.keep else None, report, decision.reasons, self.ranges)

    def _mixed(self, order: Sequence[Sensitivity]) -> Mixed:
        """Keep sensitive parts in higher precision until no task loses more than allowed; none kept is known to lose too much."""
        tried = 0

        def accept(model: Any) -> bool:
            nonlocal tried
            tried += 1
            if tried == 1:  # none kept, which is why we are here
                return False
            try:
                lost = self._lost(model)
            except BuildError:  # the runtime does not take this mixture
                return False
            within = not against(lost, self.request.drop)
            if within:
                self.accepted = lost
            return within

        return mixed(
            self.base,
            self.ranges,
            self.style,
            order,
            accept,
            rest=self.rest,
            keep_fp32=self.out_of_range,
            progress=self.progress,
        )

    def _counted(self) -> Iterable[Mapping[str, Array]]:
        source = self.request.calibration
        self.progress.start("calibrate", source if isinstance(source, int) else len(pictures(source)))
        for feed in self.subject.calibration(source):
            yield {self.input: feed}
            self.progress.advance()

    def _few(self) -> Iterable[Mapping[str, Array]]:
        return ({self.input: feed} for feed in self.subject.feeds(_SENSITIVITY_IMAGES))

    def _quantise(self) -> Any:
        return quantise(self.base, self.ranges, self.style, rest=self.rest, keep_fp32=self.out_of_range)

    def _session(self, model: Any, precision: str) -> Session:
        content = model.SerializeToString()
        if self.runtime == "openvino":
            share = quantised_share(model) if precision == "int8" else None
            return OpenVinoSession(content, precision, self.request.threads, int8_share=share)
        return OnnxSession(content, threads=self.request.threads)

    def _score(self, model: Any, precision: str) -> dict[str, float]:
        self.progress.note(f"measuring each task's metric of {precision} on {self.request.score_images} images")
        return self.subject.score(self._session(model, precision), self.request.score_images)

    def _lost(self, model: Any) -> dict[str, float | None]:
        return drops(self.reference, self._score(model, "int8"), self.subject.tasks)

    def _speed(self, model: Any) -> dict[str, Any]:
        """Measure INT8 against FP32 on the runtime, in turn."""
        feed = next(iter(self.subject.feeds(1)))
        sessions = {"fp32": self._session(self.base, "fp32"), "int8": self._session(model, "int8")}
        self.progress.start("measure", self.request.samples + _WARMUP)
        times = measure(
            {name: timed(partial(session, feed)) for name, session in sessions.items()},
            samples=self.request.samples,
            warmup=_WARMUP,
            tick=self.progress.advance,
        )
        return {
            "runtime": sessions["int8"].runtime,
            "threads": self.request.threads,
            "fp32_over_int8": ratio(times["fp32"], times["int8"]),
            **{name: summarise(values) for name, values in times.items()},
        }
