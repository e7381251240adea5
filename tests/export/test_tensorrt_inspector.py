"""The precision that an inspector tells, in texts written after NVIDIA's documentation of both generations."""

from __future__ import annotations

import json

import pytest

from bmtas.errors import BuildError, UsageError
from export.tensorrt.inspector import check_precision, found_precision, layer_formats, number_type


def ten(*layers: tuple[list[str], list[str]]) -> str:
    """The text of TensorRT 10: formats and types in one field, I/O as names."""
    told = [
        {
            "Name": f"layer {i}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "a", "Dimensions": [1, 3, 8, 8], "Format/Datatype": f} for f in inputs],
            "Outputs": [{"Name": "b", "Dimensions": [1, 3, 8, 8], "Format/Datatype": f} for f in outputs],
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16",
        }
        for i, (inputs, outputs) in enumerate(layers)
    ]
    return json.dumps({"Layers": told, "Bindings": ["image", "depth"]})


# TensorRT 11: the field is split, and the I/O are objects of their own, which are no layers.
ELEVEN = """{
  "Layers": [
    {"Name": "r", "LayerType": "Reformat",
     "Inputs": [{"Name": "image", "DataType": "Float", "Format": "Row major linear FP32 format (kLINEAR)"}],
     "Outputs": [{"Name": "c", "DataType": "Half", "Format": "Channel major FP16 format where C % 8 == 0 (kHWC8)"}]},
    {"Name": "g", "LayerType": "CaskConvolution",
     "Inputs": [{"Name": "c", "DataType": "Half", "Format": "Channel major FP16 format where C % 8 == 0 (kHWC8)"}],
     "Outputs": [{"Name": "depth", "DataType": "Half", "Format": "Row major linear FP16 format (kLINEAR)"}]}
  ],
  "I/O Tensors": [
    {"Name": "image", "IOMode": "Input", "DataType": "Float", "Dimensions": [1, 3, 8, 8], "Location": "Device"},
    {"Name": "depth", "IOMode": "Output", "DataType": "Float", "Dimensions": [1, 1, 8, 8], "Location": "Device"}
  ]
}"""


def test_formats_of_ten_are_counted() -> None:
    text = ten(
        (["Row major linear FP32"], ["Channel major FP16 format where channel % 8 == 0"]),
        (["Channel major FP16 format where channel % 8 == 0", "Half"], ["Row major linear FP32"]),
    )
    assert layer_formats(text) == {
        "Channel major FP16 format where channel % 8 == 0": 2,
        "Half": 1,
        "Row major linear FP32": 2,
    }
    assert found_precision(layer_formats(text)) == {"fp16": 3 / 5, "fp32": 2 / 5}


def test_formats_of_eleven_are_counted() -> None:
    formats = layer_formats(ELEVEN)
    assert sum(formats.values()) == 4  # the I/O tensors are not counted a second time
    assert found_precision(formats) == {"fp16": 3 / 4, "fp32": 1 / 4}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Row major linear FP32", "fp32"),
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("Float16", "fp16"),
        ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"),
        ("UInt8", "uint8"),
        ("Int32", "int32"),
        ("FP8", "fp8"),
        ("Unknown format", None),
    ],
)
def test_number_types_are_told_apart(text: str, kind: str | None) -> None:
    assert number_type(text) == kind


def test_an_engine_that_silently_is_fp32_is_refused() -> None:
    formats = layer_formats(ten((["Float"], ["Float"]), (["Float"], ["Float"])))
    check_precision("fp32", formats)
    for asked in ("fp16", "bf16", "int8"):
        with pytest.raises(BuildError, match=rf"not {asked}: 100% fp32"):
            check_precision(asked, formats)


def test_half_of_the_tensors_must_be_half() -> None:
    check_precision("fp16", {"Half": 5, "Float": 5})
    with pytest.raises(BuildError, match="49% fp16"):
        check_precision("fp16", {"Half": 49, "Float": 51})
    check_precision("fp16", {"Half": 49, "Float": 51}, least=0.4)
    with pytest.raises(BuildError, match="not bf16"):
        check_precision("bf16", {"Half": 90, "Float": 10})
    check_precision("int8", {"Int8": 25, "Half": 75})
    with pytest.raises(BuildError, match="24% int8"):
        check_precision("int8", {"Int8": 24, "Half": 76})


def test_fp32_allows_nothing_reduced_but_bytes_of_images_and_class_ids() -> None:
    check_precision("fp32", {"UInt8": 2, "Int32": 3, "Row major linear FP32": 40})
    with pytest.raises(BuildError, match=r"reduced precision where fp32.*--precision fp16"):
        check_precision("fp32", {"Half": 1, "Float": 999})


def test_an_engine_that_tells_nothing_proves_nothing() -> None:
    names = json.dumps({"Layers": ["conv1", "conv2"], "Bindings": []})  # built without DETAILED
    assert layer_formats(names) == {}
    with pytest.raises(BuildError, match="does not tell"):
        check_precision("fp32", layer_formats(names))
    with pytest.raises(BuildError, match="does not tell"):
        check_precision("fp16", layer_formats('{"Layers": [{"Name": "x", "Inputs": [{"Name": "y"}]}]}'))
    for text in ("not json", "{}", '{"Layers": [3]}'):
        with pytest.raises(BuildError, match="does not know"):
            layer_formats(text)


def test_unknown_precisions_and_shares_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        check_precision("fp61", {"Half": 1})
    with pytest.raises(UsageError, match="0 to 1"):
        check_precision("fp16", {"Half": 1}, least=40)
