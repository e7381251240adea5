"""OpenVINO's own form of a network: model.xml and model.bin in one folder, with the metadata of the ONNX file. Needs no torch."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from bmtas.errors import BuildError
from bmtas.extras import require
from export.metadata import read_metadata
from export.sessions.openvino import MODEL, RT_INFO


def write_openvino(model: Any, folder: Path) -> None:
    """Convert the ONNX `model` (ModelProto: FP32, or INT8 by Q/DQ) into `folder`, with its metadata, whose precision it will run in.

    The 16-bit precisions are a matter of how OpenVINO runs it: the weights are stored in FP32, for FP16 in FP16.
    Raises BuildError if OpenVINO cannot read the graph.
    """
    openvino = require("openvino", "openvino")
    metadata = read_metadata({entry.key: entry.value for entry in model.metadata_props}, "the ONNX model")
    try:
        converted = openvino.Core().read_model(io.BytesIO(model.SerializeToString()))
        for key, value in metadata.items():
            converted.set_rt_info(json.dumps(value), [RT_INFO, key])
        openvino.save_model(converted, str(folder / MODEL), compress_to_fp16=metadata["precision"] == "fp16")
    except RuntimeError as error:
        raise BuildError(f"OpenVINO cannot convert the network: {error}") from error
