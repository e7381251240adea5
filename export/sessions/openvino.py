"""OpenVINO sessions that compute in the precision asked for, or say that they do not. Needs no torch."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmtas.errors import BuildError, EnvironmentProblem, UsageError, nearest
from bmtas.extras import require
from export.metadata import PREFIX, read_metadata
from export.sessions.protocol import Array, OneImage, TensorSpec

MODEL = "model.xml"
RT_INFO = "bmtas"
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_EXECUTED = {"fp32": {"f32"}, "fp16": {"f16"}, "bf16": {"bf16"}, "int8": {"u8", "i8"}}
_HEAVY = ("Convolution", "FullyConnected", "MatMul")
INT8_SHARE = 0.5
"""Share of the convolutions that the file has in 8 bits which must run so for a network to be called INT8."""


class OpenVinoSession(OneImage):
    """A loaded OpenVINO model, or an ONNX file in OpenVINO, on one device."""

    def __init__(
        self,
        source: Path | bytes,
        precision: str | None = None,
        threads: int = 0,
        device: str = "CPU",
        *,
        int8_share: float | None = None,
    ) -> None:
        """Load `source`: a folder `*.openvino`, its model.xml, an ONNX file, or the content of one.

        `precision` is what it must compute in (None: what its metadata say). OpenVINO's default on CPUs with 16-bit units is
        not FP32, and FP16 asked of a CPU that has BF16 alone silently becomes BF16, so what runs is read back. `int8_share` is
        the share of convolutions that an INT8 file has in 8 bits, for sensitive ones may be kept above (None: what its metadata
        say, or all). Raises UsageError if the source is no model, EnvironmentProblem if OpenVINO is missing, BuildError if
        another precision runs or none can be told.
        """
        openvino = require("openvino", "openvino")
        core = openvino.Core()
        if device not in core.available_devices:
            raise EnvironmentProblem(
                f"OpenVINO has no device {device!r} here; {nearest(device, core.available_devices or ['none'])}"
            )
        self.where = str(source) if isinstance(source, Path) else "the ONNX model in memory"
        model = _read(core, source, self.where)
        self._entries = _entries(model)
        self.precision = precision or str(self.metadata().get("precision", "fp32"))
        if self.precision not in _EXECUTED:
            raise UsageError(f"unknown precision {self.precision!r}; {nearest(self.precision, _EXECUTED)}")
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # The rest of an INT8 network: never lower than asked for without a word.
            "INFERENCE_PRECISION_HINT": _HINTS.get(self.precision, "f32"),
        }
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            self._compiled = core.compile_model(model, device, settings)
        except RuntimeError as error:
            raise BuildError(
                f"{self.where} cannot be compiled by OpenVINO: {_first_line(error)}; "
                "if it was cut short or changed, export it again"
            ) from None
        self.runtime = f"openvino {openvino.__version__.split('-')[0]}"
        self.provider = device
        self.executed = _executed(self._compiled)
        self._require_precision(int8_share)
        self.inputs = {i.get_any_name(): _spec(i) for i in model.inputs}
        # Compiling joins nodes, and outputs then answer to the names of all that were joined.
        names = [o.get_any_name() for o in model.outputs]
        self._ports = dict(zip(names, self._compiled.outputs, strict=True))
        self.outputs = list(self._ports)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name for inputs by name."""
        values = self._compiled(dict(feeds))
        return {name: values[port] for name, port in self._ports.items()}

    def metadata(self) -> dict[str, Any]:
        """Return what `bmtas export` wrote into the file; empty for a file of other origin."""
        return read_metadata(self._entries, self.where)

    def _require_precision(self, int8_share: float | None) -> None:
        total = sum(self.executed.values())
        if not total:
            raise BuildError(
                f"{self.where}: OpenVINO on {self.provider} names no convolution or matrix product in the compiled network, so whether it "
                f"runs in {self.precision} cannot be told; run it in ONNX Runtime"
            )
        asked = self._int8_share(int8_share) * total if self.precision == "int8" else float(total)
        right = sum(n for name, n in self.executed.items() if name in _EXECUTED[self.precision])
        if right < asked * (INT8_SHARE if self.precision == "int8" else 1.0):
            found = ", ".join(f"{n} in {name}" for name, n in sorted(self.executed.items()))
            why = "" if right else " This device has no fast units for it."
            raise BuildError(
                f"{self.where}: {self.precision} was asked of OpenVINO on {self.provider} for {round(asked)} of {total} convolutions, but "
                f"{right} run so (it runs {found}).{why} Choose another precision or device"
            )

    def _int8_share(self, given: float | None) -> float:
        share = self.metadata().get("int8_share", 1.0) if given is None else given
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise UsageError(
                f"{self.where}: {share!r} is no share of convolutions in 8 bits, above 0 and at most 1; export it again"
            )
        return float(share)


def openvino_metadata(path: Path) -> dict[str, Any]:
    """Return what `bmtas export` wrote into an OpenVINO folder or its model.xml, which is read but not compiled.

    Raises UsageError if it is damaged, EnvironmentProblem if OpenVINO is missing.
    """
    openvino = require("openvino", "openvino")
    return read_metadata(_entries(_read(openvino.Core(), path, str(path))), str(path))


def _read(core: Any, source: Path | bytes, where: str) -> Any:
    path = source / MODEL if isinstance(source, Path) and source.is_dir() else source
    if isinstance(path, Path):
        if not path.is_file():
            raise UsageError(f"{path} does not exist; `bmtas export --format openvino` writes OpenVINO models")
        if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
            raise UsageError(f"{path.with_suffix('.bin')}, which holds the weights of {path.name}, is missing")
    try:
        return core.read_model(str(path)) if isinstance(path, Path) else core.read_model(io.BytesIO(path))
    except RuntimeError as error:
        raise UsageError(f"{where} cannot be read by OpenVINO: {_first_line(error)}") from None


def _entries(model: Any) -> dict[str, str]:
    """Return the text metadata: of an OpenVINO model under our name, of an ONNX file where its frontend keeps them."""
    if model.has_rt_info([RT_INFO]):
        return {f"{PREFIX}{key}": str(value) for key, value in model.get_rt_info([RT_INFO]).value.items()}
    if model.has_rt_info(["framework"]):
        return {key: value.astype(str) for key, value in model.get_rt_info()["framework"].items()}
    return {}


def _executed(compiled: Any) -> dict[str, int]:
    """Return how many convolutions and matrix products run in each precision, as the runtime tells."""
    counted: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = operation.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _HEAVY:
            counted[info["runtimePrecision"].astype(str)] += 1
    return dict(counted)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(int(d.get_length()) if d.is_static else "?" for d in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), shape, str(port.get_element_type().to_dtype()))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
