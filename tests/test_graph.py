"""The reader of ONNX bytes agrees with the onnx package, survives damage and sees every tensor that is kept elsewhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from jetlens.errors import ModelError
from jetlens.graph import read_graph
from jetlens.spec import METADATA_KEY, ModelSpec
from tiny_graphs import color_graph, color_spec, with_external_weights

GOOD = color_graph().SerializeToString()


def test_reads_what_the_graph_declares() -> None:
    facts = read_graph(color_graph(spec=color_spec()).SerializeToString())
    assert (facts.producer, dict(facts.opsets), facts.ir_version, facts.precision) == ("tiny 1", {"ai.onnx": 17}, 8, "fp32")
    assert (facts.inputs[0].name, facts.inputs[0].dtype, facts.inputs[0].shape) == ("images", "uint8", ("N", 8, 12, 3))
    assert facts.outputs[0].shape == ("N", 3)
    assert facts.operators["Conv"] == 1
    assert facts.parameters == {"float32": 10}
    assert ModelSpec.from_json(facts.metadata[METADATA_KEY]) == color_spec()


def test_agrees_with_the_onnx_package_on_real_models(shared_data: Path) -> None:
    files = sorted(shared_data.glob("models/**/*.onnx"))
    assert len(files) >= 10
    for file in files:
        content = file.read_bytes()
        facts, model = read_graph(content), onnx.load_from_string(content)
        stored = {tensor.name for tensor in model.graph.initializer}
        assert [row.name for row in facts.inputs] == [row.name for row in model.graph.input if row.name not in stored], file
        assert [row.name for row in facts.outputs] == [row.name for row in model.graph.output], file
        for row, value in zip(facts.outputs, model.graph.output, strict=True):
            axes = value.type.tensor_type.shape.dim
            assert [a for a in row.shape if isinstance(a, int)] == [a.dim_value for a in axes if a.HasField("dim_value")], file
            assert np.dtype(row.dtype) == helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        assert sum(facts.operators.values()) >= len(model.graph.node), file
        assert facts.ir_version == model.ir_version


def test_precision_is_what_the_graph_asks_for() -> None:
    assert read_graph(color_graph(half=True).SerializeToString()).precision == "fp16"
    quantised = color_graph()
    quantised.graph.node.append(helper.make_node("QuantizeLinear", ["maps", "scale"], ["q"]))
    assert read_graph(quantised.SerializeToString()).precision == "int8"


@pytest.mark.parametrize("content", [b"", b"a text file\n", b"{}", b"\x08\x08", GOOD[:100], GOOD[:-7], bytes(64), b"\xff" * 64])
def test_refuses_what_is_no_model(content: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        read_graph(content)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_gives_facts_or_a_model_error(data: st.DataObject) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModelError):
        read_graph(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def _in_a_constant() -> onnx.ModelProto:
    model = color_graph()
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    return model


def _in_a_subgraph() -> onnx.ModelProto:
    model, inner = color_graph(), _in_a_constant().graph
    model.graph.node.append(helper.make_node("If", ["condition"], ["x"], then_branch=inner, else_branch=color_graph().graph))
    return model


def _in_a_function() -> onnx.ModelProto:
    model = color_graph()
    node = _in_a_constant().graph.node[-1]
    model.functions.append(helper.make_function("own", "F", [], ["unused"], [node], [helper.make_opsetid("", 17)]))
    return model


@pytest.mark.parametrize("build", [lambda: with_external_weights(color_graph()), _in_a_constant, _in_a_subgraph, _in_a_function])
def test_values_in_other_files_are_seen_wherever_they_hide(build) -> None:  # type: ignore[no-untyped-def]
    facts = read_graph(build().SerializeToString())
    assert facts.external
    with pytest.raises(ModelError, match="one file"):
        facts.require_whole()
    read_graph(GOOD).require_whole()


def test_a_damaged_file_is_called_by_its_name() -> None:
    with pytest.raises(ModelError, match=r"^net\.onnx is not an ONNX model"):
        read_graph(b"\x0e" * 9, "net.onnx")
