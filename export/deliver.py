"""`bmtas export`: from a trained network of a run to files that have been proved, each before it gets its name."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bmtas.data.protocol import Dataset
from bmtas.extras import require
from bmtas.files import atomic_folder, atomic_path, write_json
from bmtas.progress import Progress
from bmtas.runs import Run
from export.artefacts import record
from export.formats import Format, artefact_stem
from export.int8 import Int8, int8_model
from export.lint import lint, summary
from export.merging.choose import TOLERANCE, choose, in_turn
from export.metadata import describe, set_metadata
from export.onnx_file import master_model
from export.openvino_file import write_openvino
from export.precision.casts import HALF_PRECISIONS
from export.precision.quantise import Ranges
from export.precision.ranges import lowered
from export.precision.simulate import simulated
from export.program import ProgramSession, write_program
from export.proof.compare import Runs, compare, pairs, require_parity, worst_text
from export.proof.limits import limits_for
from export.proof.references import collect
from export.request import ExportRequest
from export.sessions.files import open_onnx
from export.sessions.onnx import OnnxSession
from export.sessions.openvino import OpenVinoSession
from export.sessions.protocol import Array
from export.stages.cut import prune
from export.stages.runner import StageRunner
from export.stages.write import write_split
from export.subject import Subject, open_subject
from export.tensorrt.kit import prepare_kit
from export.tensorrt.on_device import build_kit
from export.tensorrt.preflight import this_machine

MERGING = "merging.report.json"
_WARMUP = 5


@dataclass(frozen=True)
class Artefact:
    """One written file or folder with the report of its proof."""

    path: Path
    precision: str
    report: dict[str, Any]


@dataclass
class Delivery:
    """What an export wrote, the INT8 networks that it did not write and why, and the commands for another machine."""

    artefacts: list[Artefact] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def check_formats(formats: Iterable[Format], *, remote: bool) -> None:
    """Raise EnvironmentProblem if this machine lacks what one of the formats needs."""
    for known in formats:
        if known.name == "tensorrt" and not remote:
            this_machine()
        elif known.needs is not None and known.name != "tensorrt":
            require(known.needs, known.extra)


def export_network(run: Run, name: str, dataset: Dataset, request: ExportRequest, progress: Progress) -> Delivery:
    """Export the trained network `name` of `run` in all formats and precisions asked for, each proved on validation images.

    Each proof is recorded in `parity.json` beside the files. Raises ParityError or BuildError, leaving no file of that
    format and precision, if one computes something else or is not what was asked for; what was proved before it stays.
    """
    check_formats(request.formats, remote=request.remote is not None)
    subject = open_subject(run, name, dataset, request.tasks, request.interface)
    request.drop.require_known(subject.tasks)
    limits_for("fp32", subject.tasks, request.tolerances, request.scaled)  # a wrong one is told before minutes of work
    return _Export(subject, run.network(name), request, progress).all()


class _Export:
    """One export: the master model, and what is made from it."""

    def __init__(self, subject: Subject, folder: Path, request: ExportRequest, progress: Progress) -> None:
        self.subject, self.folder, self.request, self.progress = subject, folder, request, progress
        self.delivery = Delivery()
        self.merged: Any = None
        self.ranges: Ranges | None = None

    def all(self) -> Delivery:
        """Make everything that was asked for."""
        subject = self.subject
        self.master = master_model(
            subject.network,
            architecture=subject.whole,
            tasks=subject.every_task,
            size=subject.size,
            costs=subject.costs,
            interface=subject.interface,
        )
        if self.request.tasks is not None:
            self.master = prune(self.master, [task.name for task in subject.tasks])
            set_metadata(self.master, {"costs": dict(subject.costs)})
        for told in summary(lint(self.master, dynamic=bool(subject.interface.dynamic))):
            self.progress.note(told)
        # Whatever is made from the master, its own proof comes first: what fails later is then the precision's fault.
        self._prove(OnnxSession(self.master.SerializeToString(), threads=self.request.threads), "fp32")
        if self.request.merge:
            self._merge()
        formats = {known.name: known for known in self.request.formats}
        for precision in self.request.precisions:
            if {"onnx", "openvino"} & set(formats):
                self._files(precision, formats)
            if "pt2" in formats:
                self._program(formats["pt2"])
        if "tensorrt" in formats:
            self._engines(formats["tensorrt"])
        return self.delivery

    def _merge(self) -> None:
        # Class ids have no distance; of final outputs the proof below decides alone.
        tolerance = math.inf if self.subject.interface.final else TOLERANCE
        result = choose(
            self.master,
            list(self._named_feeds(2)),
            in_turn(self.request.samples, _WARMUP),
            self.progress,
            sessions=lambda content: OnnxSession(content, threads=self.request.threads),
            tolerance=tolerance,
        )
        write_json(self.folder / MERGING, {"schema_version": 1, **result.to_json()})
        whole = "" if result.whole is None else f"; all of these together: {result.whole['median']:.2f} times"
        self.progress.note(
            f"branch merging: {len(result.chosen)} of {len(result.verdicts)} places are faster merged{whole}; "
            + ("taken" if result.merged else "left as it was")
        )
        if result.merged:
            self.merged = result.model
            self._prove(OnnxSession(self.merged.SerializeToString(), threads=self.request.threads), "fp32")

    @property
    def _base(self) -> Any:
        """The FP32 model that all precisions are made from: the master, or it with branches merged where that won."""
        return self.master if self.merged is None else self.merged

    def _files(self, precision: str, formats: Mapping[str, Format]) -> None:
        """Write the ONNX file and the OpenVINO folder of one precision."""
        for kind in (k for k in ("onnx", "openvino") if k in formats):
            if precision == "int8":
                int8 = self._int8(kind)
                if int8.model is None:
                    continue
                model, about = int8.model, {"int8": int8.report}
            else:
                model, about = self._typed("fp32" if kind == "openvino" else precision)
            set_metadata(model, {"precision": precision})
            if kind == "onnx":
                self._onnx(model, precision, formats[kind], about)
            else:
                self._openvino(model, precision, formats[kind], about)

    def _typed(self, precision: str) -> tuple[Any, dict[str, Any]]:
        """Return the model with `precision` in its graph, and what the range check found."""
        if precision == "fp32":
            return self._base, {}
        model, kept = lowered(self._base, precision, self._named_feeds(self.request.images))
        for node in kept["out_of_range"]:
            self.progress.note(
                f"{precision}: {node['node']} stays in FP32: it holds values up to {node['largest']:.3g}"
            )
        return model, {"range_check": kept}

    def _onnx(self, model: Any, precision: str, known: Format, about: dict[str, Any]) -> None:
        onnx = require("onnx", "host")
        path = self.folder / f"{self._stem(precision)}{known.suffix}"
        with atomic_path(path) as temporary:
            onnx.save(model, str(temporary))
            session = open_onnx(temporary, threads=self.request.threads)
            report = {**self._prove(session, precision), "runtime": session.runtime}
            if precision in HALF_PRECISIONS:
                report = self._rounded(model, precision, report)
        self._wrote(path, precision, known, {**about, **report})
        if self.request.split:
            self._stages(model, precision)

    def _rounded(self, model: Any, precision: str, as_run: dict[str, Any]) -> dict[str, Any]:
        """Return the proof with every value rounded to 16 bits, and beside it that of the file as the runtime here ran it.

        Runtimes on CPUs compute FP16 in FP32 and drop the casts between layers, so they show neither rounding nor overflow.
        """
        exact = OnnxSession(simulated(model).SerializeToString(), threads=self.request.threads)
        return {
            **self._prove(exact, precision),
            "runtime": "every value rounded to 16 bits, computed in FP32",
            "as_run": as_run,
        }

    def _stages(self, model: Any, precision: str) -> None:
        folder = self.folder / f"{self._stem(precision)}.stages"
        with atomic_folder(folder) as temporary:
            write_split(model, temporary)
            runner = StageRunner(temporary, threads=self.request.threads)
            report = self._prove(runner.run, precision)
        self._wrote(folder, precision, self.request.formats[0], {"stages": len(runner.manifest.stages), **report})

    def _openvino(self, model: Any, precision: str, known: Format, about: dict[str, Any]) -> None:
        folder = self.folder / f"{self._stem(precision)}{known.suffix.rstrip('/')}"
        metadata = {**self._metadata(), "precision": precision}
        with atomic_folder(folder) as temporary:
            write_openvino(model, temporary, metadata)
            session = OpenVinoSession(temporary, precision, self.request.threads)
            report = self._prove(session, precision)
        self._wrote(folder, precision, known, {"executed": session.executed, **about, **report})

    def _program(self, known: Format) -> None:
        path = self.folder / f"{self._stem('fp32')}{known.suffix}"
        subject = self.subject
        with atomic_path(path) as temporary:
            write_program(
                subject.network.subset([task.name for task in subject.tasks]),
                temporary,
                tasks=subject.tasks,
                size=subject.size,
                interface=subject.interface,
                metadata=self._metadata(),
            )
            report = self._prove(ProgramSession(temporary), "fp32")
        self._wrote(path, "fp32", known, report)

    def _int8(self, runtime: str) -> Int8:
        """Return the INT8 model for one runtime, or why there is none; the report is written either way."""
        int8 = int8_model(self._base, self.subject, runtime, self.request, self.progress, self.ranges)
        self.ranges = int8.ranges
        suffix = "" if runtime == "onnx" else f".{runtime}"
        path = self.folder / f"{self._stem('int8')}{suffix}.report.json"
        write_json(path, int8.report)
        for reason in int8.reasons:
            self.progress.note(f"int8 for {runtime}: {reason}")
        if int8.model is None:
            self.delivery.refused.append(
                f"int8 for {runtime} was not written ({'; '.join(int8.reasons)}); {path} has the figures"
            )
        return int8

    def _prove(self, runner: Runs, precision: str) -> dict[str, Any]:
        """Return the parity report of what `runner` computes. Raises ParityError if it is not what the network computes."""
        subject, request = self.subject, self.request
        limits = limits_for(precision, subject.tasks, request.tolerances, request.scaled)
        feeds = subject.feeds(request.images)
        report = compare(pairs(subject.reference, runner, feeds), subject.tasks, limits, final=subject.interface.final)
        require_parity(report)
        return report

    def _wrote(self, path: Path, precision: str, known: Format, entry: dict[str, Any]) -> None:
        about = {"format": known.name, "precision": precision, **self.subject.interface.to_json(self.subject.size, ())}
        record(path, {**about, "task_order": [t.name for t in self.subject.tasks], **entry})
        self.delivery.artefacts.append(Artefact(path, precision, entry))
        self.progress.note(f"{path.name}: {worst_text(entry)}, on {entry['images']} images")

    def _named_feeds(self, count: int) -> Iterator[dict[str, Array]]:
        name = self.master.graph.input[0].name
        return ({name: feed} for feed in self.subject.feeds(count))

    def _metadata(self) -> dict[str, Any]:
        subject = self.subject
        return describe(subject.architecture, subject.tasks, subject.size, subject.costs, subject.interface)

    def _stem(self, precision: str) -> str:
        return artefact_stem(self.request.tasks, self.subject.interface, precision, merged=self.merged is not None)

    def _engines(self, known: Format) -> None:
        """Write the kit for the engines, and build it here or say how it is built on the other machine."""
        request, subject = self.request, self.subject
        folder = self.folder / f"{artefact_stem(request.tasks, subject.interface, 'fp32')}.{known.name}"
        references = collect(
            subject.reference,
            subject.feeds(request.images),
            subject.tasks,
            final=subject.interface.final,
            made_by=f"PyTorch {torch.__version__}",
        )
        with tempfile.TemporaryDirectory() as place:
            networks = self._typed_for_engines(Path(place))
            if not networks:
                return
            commands = prepare_kit(
                folder,
                networks,
                references,
                options=request.engine,
                remote=request.remote or "localhost",
                tolerances=request.tolerances,
                scaled=request.scaled,
                samples=request.samples,
                keep_slow_int8=request.force,
            )
        if request.remote is not None:
            self.delivery.commands += [commands.copy, commands.build]
            return
        report = build_kit(folder, self.progress)
        for precision, entry in report["engines"].items():
            if entry.get("kept", True):
                self._wrote(folder / entry["file"], precision, known, entry["parity"])

    def _typed_for_engines(self, place: Path) -> dict[str, Path]:
        """Write the ONNX files that engines are built from, by precision, each proved in what runs it here."""
        onnx = require("onnx", "host")
        networks = {}
        precisions = list(self.request.precisions)
        if "int8" in precisions and "fp16" not in precisions:
            precisions.insert(0, "fp16")  # what INT8 has to beat on the GPU
        for precision in precisions:
            if precision == "int8":
                int8 = self._int8("tensorrt")
                if int8.model is None:
                    continue
                model = int8.model
            else:
                model = self._typed(precision)[0]
            set_metadata(model, {"precision": precision})
            networks[precision] = place / f"model{'' if precision == 'fp32' else '.' + precision}.onnx"
            onnx.save(model, str(networks[precision]))
            report = self._prove(open_onnx(networks[precision], threads=self.request.threads), precision)
            if precision in HALF_PRECISIONS:
                self._rounded(model, precision, report)
        return networks
