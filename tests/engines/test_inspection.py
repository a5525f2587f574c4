"""The engine inspector's JSON of several versions: layers by type, heavy layers by what they multiply in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.engines.inspection import inspect_layers


def layer(kind: str, first: str, last: str, **more: Any) -> dict[str, Any]:
    tensors = [[{"Name": "t", "Dimensions": [1, 3, 8, 8], "Format/Datatype": text}] for text in (first, last)]
    return {"Name": "layer", "LayerType": kind, "Inputs": tensors[0], "Outputs": tensors[1], **more}


def text(*rows: Any) -> str:
    return json.dumps({"Layers": rows, "Bindings": []})


# The words for types and layouts as TensorRT 8 and 10 print them.
WORDS = {
    "Row major linear FP32": "fp32",
    "Float": "fp32",
    "Row major linear FP16 format": "fp16",
    "Two wide channel vectorized row major FP16 format": "fp16",
    "Channel major FP16 format where channel % 8 == 0": "fp16",
    "Half": "fp16",
    "Thirty-two wide channel vectorized row major Int8 format.": "int8",
    "Int8": "int8",
    "BFloat16": "bf16",
    "FP8": "fp8",
    "Row major linear INT32": "int32",
    "Bool": "bool",
    "UInt8": "uint8",
    "Channel major UINT8": "uint8",
}


@pytest.mark.parametrize(("words", "name"), WORDS.items())
def test_the_words_for_types(words: str, name: str) -> None:
    assert inspect_layers(text(layer("ElementWise", words, words))).layers == {name: 1}


def test_heavy_layers_are_counted_by_what_they_multiply_in() -> None:
    seen = inspect_layers(
        text(
            layer("CaskConvolution", "Int8", "Float", ParameterType="Convolution"),
            layer("kgen", "Half", "Half", Name="__myl_ConvAdd_myl0_3"),
            layer("gemm", "Half", "Half"),
            layer("CaskGemmConvolution", "Float", "Float", TacticName="sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32"),
            layer("PointWiseV2", "Half", "Half"),
            layer("Reformat", "Half", "Int8"),
            layer("NoOp", "Half", "Half"),
        )
    )
    assert seen.heavy == {"int8": 1, "fp16": 2, "fp32": 1}
    assert seen.layers == {"fp32": 2, "fp16": 3}
    assert seen.tf32 == 1
    assert seen.precision() == "int8"
    assert seen.runs_in("fp16")
    assert seen.summary() == "convolutions and products: 2 fp16, 1 fp32, 1 int8"


def test_most_heavy_layers_name_the_precision() -> None:
    seen = inspect_layers(text(*[layer("Convolution", "Half", "Half")] * 3, layer("Convolution", "Float", "Float")))
    assert seen.precision() == "fp16"
    tie = inspect_layers(text(layer("Convolution", "Float", "Half"), layer("Convolution", "Half", "Half")))
    assert tie.precision() == "fp16"
    # A quantize layer alone makes no int8 engine: what multiplies decides.
    assert not inspect_layers(text(layer("Scale", "Float", "Int8"), layer("Convolution", "Float", "Float"))).runs_in("int8")


def test_without_heavy_layers_all_layers_count() -> None:
    """As where one fused block holds the whole network and its name tells nothing."""
    seen = inspect_layers(text(layer("Myelin", "UInt8", "Half"), layer("Shape", "Int32", "Int32")))
    assert (seen.precision(), seen.runs_in("fp16"), seen.runs_in("int8")) == ("fp16", True, False)


def test_control_characters_and_names_alone() -> None:
    broken = text(layer("Convolution", "Half", "Half")).replace("layer", "lay\x01er\n")
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)
    assert inspect_layers(broken).precision() == "fp16"
    assert inspect_layers('{"Layers": ["conv1", "relu1"]}').precision() == ""


@given(st.one_of(st.text(), st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))))
def test_no_answer_of_the_inspector_crashes(content: Any) -> None:
    for shape in (content, {"Layers": content}, {"Layers": [content, {"LayerType": content, "Inputs": content, "Outputs": [content]}]}):
        inspect_layers(shape if isinstance(shape, str) else json.dumps(shape))
