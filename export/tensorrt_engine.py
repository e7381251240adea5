"""TensorRT engines from the master ONNX file, FP32, proved on the GPU on which they were built.

One code path serves TensorRT 10.3 to 11: strongly typed networks, precision expressed in the ONNX graph.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bmtas.errors import BuildError, EnvironmentProblem
from bmtas.files import atomic_path, write_json
from export.parity import compare, require_parity

ENGINE_TOLERANCE = 1e-3
"""Default of the parity gate: convolutions sum in another order on the GPU; with TF32 off the sums stay in FP32."""
_REDUCED = re.compile(r"half|fp16|bf16|bfloat|int8|fp8|int4|fp4", re.IGNORECASE)
_ADVICE = (
    "TensorRT engines are built on the machine that runs them: install TensorRT there (pip install 'bmtas[gpu]' on a "
    "PC with an NVIDIA GPU; on Jetson it comes with JetPack, so make the virtual environment with "
    "--system-site-packages) and run `bmtas export --format tensorrt` again. `--format onnx` works here, and its file is "
    "what the engine is built from"
)


def require_tensorrt() -> Any:
    """Return the module `tensorrt`. Raises EnvironmentProblem with the remedy if it, or a CUDA device, is missing."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: the bindings are there, the libraries are not
        raise EnvironmentProblem(f"TensorRT is not available here ({error}). {_ADVICE}") from None
    if not torch.cuda.is_available():
        raise EnvironmentProblem(f"TensorRT is here, but PyTorch sees no CUDA device. {_ADVICE}")
    return tensorrt


def build_engine(
    onnx_path: Path, path: Path, network: nn.Module, images: Sequence[Tensor], tolerance: float
) -> dict[str, Any]:
    """Build an FP32 engine at `path`, prove it equal to `network` on `images` (3, H, W), and return the parity report.

    The plan is left as TensorRT made it; what it is stands in `path` + `.json`. Raises BuildError or ParityError; no file
    is left then.
    """
    trt = require_tensorrt()
    plan = _build(trt, onnx_path)
    runner = _Engine(trt, plan)
    formats = runner.layer_formats()
    reduced = sorted(f for f in formats if _REDUCED.search(f))
    if reduced:
        raise BuildError(f"TensorRT built layers in reduced precision ({', '.join(reduced)}) where FP32 was asked for")
    with atomic_path(path) as temporary:
        temporary.write_bytes(plan)
        report = compare(network, runner, images, tolerance)
        require_parity(report)
        # Before the plan gets its name: a plan is never there without what it is.
        sidecar = {
            "schema_version": 1,
            "tensorrt": trt.__version__,
            "device": torch.cuda.get_device_name(),
            "compute_capability": list(torch.cuda.get_device_capability()),
            "precision": "fp32",
            "layer_formats": formats,
            "onnx_sha256": hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
            "plan_sha256": hashlib.sha256(plan).hexdigest(),
            "parity": report,
        }
        write_json(path.with_name(path.name + ".json"), sidecar)
    return report


def _build(trt: Any, onnx_path: Path) -> bytes:
    logger = trt.Logger(trt.Logger.WARNING)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # the bindings' way to say that the GPU cannot be used
        raise EnvironmentProblem(f"TensorRT cannot use a GPU here ({error}). {_ADVICE}") from None
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(flags)
    parser = trt.OnnxParser(definition, logger)
    if not parser.parse_from_file(str(onnx_path)):
        problems = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BuildError(f"TensorRT {trt.__version__} cannot parse {onnx_path}: {problems}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and not FP32
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector does not tell formats
    plan = builder.build_serialized_network(definition, config)
    if plan is None:
        raise BuildError(f"TensorRT {trt.__version__} could not build an engine from {onnx_path}; its log is above")
    return bytes(plan)


class _Engine:
    """Runs a plan that this process has just built, with PyTorch's CUDA memory."""

    def __init__(self, trt: Any, plan: bytes) -> None:
        self._trt = trt
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BuildError("TensorRT cannot load the engine that it has just built; its log is above")
        self._context = self._engine.create_execution_context()

    def layer_formats(self) -> dict[str, int]:
        """Return how many layer inputs and outputs the built engine has in each data format, as its inspector tells."""
        inspector = self._engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        tensors = [
            tensor
            for layer in told.get("Layers", [])
            if isinstance(layer, dict)
            for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]
        ]
        return dict(Counter(str(tensor.get("Format/Datatype", "not told")) for tensor in tensors))

    def __call__(self, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        values: dict[str, Tensor] = {}
        outputs = []
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT:
                values[name] = torch.from_numpy(image).cuda()
            else:
                values[name] = torch.empty(tuple(self._engine.get_tensor_shape(name)), device="cuda")
                outputs.append(name)
            self._context.set_tensor_address(name, values[name].data_ptr())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise BuildError("the TensorRT engine failed to run; its log is above")
        stream.synchronize()
        return {name: values[name].cpu().numpy() for name in outputs}
