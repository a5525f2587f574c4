"""Tiny ONNX graphs with known answers: a classifier whose logits are the mean red, green and blue of the picture, times ten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jetlens.spec import METADATA_KEY, ModelSpec, PreprocessSpec, write_sidecar

SIZE_HW = (8, 12)
LABELS = ("red", "green", "blue")
RED, GREEN, BLUE = (np.broadcast_to(np.array(c, np.uint8), (20, 30, 3)) for c in ((250, 10, 20), (10, 250, 20), (10, 20, 250)))


def color_graph(*, batch: int | str = "N", baked: bool = True, half: bool = False, spec: ModelSpec | None = None) -> onnx.ModelProto:
    """The classifier; ``batch`` fixes the batch axis, ``half`` computes in float16, ``spec`` goes into the metadata."""
    real, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    weights = numpy_helper.from_array(np.eye(3, dtype=real).reshape(3, 3, 1, 1) * real(10), "weights")
    scale = numpy_helper.from_array(np.array(1 / 255, real), "scale")
    height, width = SIZE_HW
    nodes = [
        helper.make_node("Conv", ["planes", "weights"], ["maps"], "conv"),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["flat"], "flatten"),
        helper.make_node("Cast", ["flat"], ["logits"], "to_float", to=TensorProto.FLOAT),
    ]
    if baked:
        taken = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, height, width, 3])
        nodes = [
            helper.make_node("Cast", ["images"], ["real"], "cast", to=kind),
            helper.make_node("Mul", ["real", "scale"], ["scaled"], "scale_levels"),
            helper.make_node("Transpose", ["scaled"], ["planes"], "to_planes", perm=[0, 3, 1, 2]),
            *nodes,
        ]
    else:
        taken = helper.make_tensor_value_info("planes", kind, [batch, 3, height, width])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])
    graph = helper.make_graph(nodes, "colors", [taken], [given], [weights, scale] if baked else [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tiny", producer_version="1")
    if spec is not None:
        helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    return model


def color_spec(*, baked: bool = True) -> ModelSpec:
    """The spec that fits ``color_graph``."""
    rule = PreprocessSpec(SIZE_HW, baked=baked, std=(1.0, 1.0, 1.0) if baked else (255.0, 255.0, 255.0))
    return ModelSpec("colors", "classification", LABELS, rule, "logits")


def write_pair(folder: Path, model: onnx.ModelProto | bytes, spec: ModelSpec | None = None, name: str = "colors.onnx") -> Path:
    """The graph with its sidecar."""
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    write_sidecar(path, spec or color_spec())
    return path


def with_external_weights(model: onnx.ModelProto, location: str = "weights.bin") -> onnx.ModelProto:
    """The graph with its first initializer moved out to a file that it names."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model
