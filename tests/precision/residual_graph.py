"""A small residual classifier in ONNX, random but for its seed: stem, a block with an identity shortcut, one with a downsampling one, a fully connected layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jetlens.spec import ModelSpec, PreprocessSpec, write_sidecar

SIZE_HW = (16, 16)
LABELS = ("a", "b", "c", "d")
WIDTH = 8


class Builder:
    """Collects nodes and constants."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[onnx.TensorProto] = []

    def value(self, name: str, array: np.ndarray) -> str:
        self.values.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def conv(self, source: str, name: str, into: int, out: int, side: int = 3, stride: int = 1, gain: float = 1.0) -> str:
        spread = gain * np.sqrt(2 / (into * side * side))
        weights = self.random.normal(0, spread, (out, into, side, side)).astype(np.float32)
        inputs = [source, self.value(f"{name}.w", weights), self.value(f"{name}.b", self.random.normal(0, 0.1, out).astype(np.float32))]
        return self.add("Conv", inputs, name, kernel_shape=[side, side], strides=[stride] * 2, pads=[side // 2] * 4)


def residual_graph(*, seed: int = 0, batch: int | str = "N", gain: float = 1.0, opset: int = 17) -> onnx.ModelProto:
    """``gain`` multiplies the weights of the second block's first convolution, and divides those after it: the same answers from larger numbers."""
    build = Builder(seed)
    build.add("Cast", ["images"], "real", to=TensorProto.FLOAT)
    build.add("Mul", ["real", build.value("inverse", np.full(3, 1 / 255, np.float32))], "scaled")
    build.add("Transpose", ["scaled"], "planes", perm=[0, 3, 1, 2])
    x = build.add("Relu", [build.conv("planes", "stem", 3, WIDTH)], "stem.relu")
    branch = build.conv(build.add("Relu", [build.conv(x, "one.first", WIDTH, WIDTH)], "one.relu"), "one.second", WIDTH, WIDTH)
    x = build.add("Relu", [build.add("Add", [branch, x], "one.add")], "one.out")
    inner = build.add("Relu", [build.conv(x, "two.first", WIDTH, 2 * WIDTH, stride=2, gain=gain)], "two.relu")
    branch = build.conv(inner, "two.second", 2 * WIDTH, 2 * WIDTH, gain=1 / gain)
    shortcut = build.conv(x, "two.down", WIDTH, 2 * WIDTH, side=1, stride=2)
    x = build.add("Relu", [build.add("Add", [branch, shortcut], "two.add")], "two.out")
    build.add("Flatten", [build.add("GlobalAveragePool", [x], "pool")], "flat")
    weights = build.random.normal(0, 1, (len(LABELS), 2 * WIDTH)).astype(np.float32)
    bias = np.zeros(len(LABELS), np.float32)
    build.add("Gemm", ["flat", build.value("fc.w", weights), build.value("fc.b", bias)], "logits", transB=1)
    taken = helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *SIZE_HW, 3])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(LABELS)])
    graph = helper.make_graph(build.nodes, "residual", [taken], [given], build.values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def centered(model: onnx.ModelProto, pixels: np.ndarray) -> onnx.ModelProto:
    """The model with a last bias that makes every class as probable on these pictures: so that small errors change answers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": pixels})
    bias = next(row for row in model.graph.initializer if row.name == "fc.b")
    bias.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(bias) - logits.mean(axis=0)).astype(np.float32), bias.name))
    return model


def residual_spec(name: str = "residual") -> ModelSpec:
    """The spec that fits."""
    return ModelSpec(
        name, "classification", LABELS, PreprocessSpec(SIZE_HW, std=(255.0, 255.0, 255.0)), "logits", weights={"source": "random"}
    )


def write_residual(folder: Path, **options: object) -> Path:
    """The graph with its sidecar."""
    path = folder / "residual.onnx"
    path.write_bytes(residual_graph(**options).SerializeToString())  # type: ignore[arg-type]
    write_sidecar(path, residual_spec())
    return path


def batches(count: int = 4, size: int = 3, seed: int = 5) -> list[np.ndarray]:
    """Noise pictures uint8 [size, 16, 16, 3]."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (size, *SIZE_HW, 3), dtype=np.uint8) for _ in range(count)]
