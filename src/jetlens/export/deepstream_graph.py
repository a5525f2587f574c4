"""The graph that DeepStream needs: floats of 0 to 255 planar in, and answers in the form that its stock parsers read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import ModelError
from jetlens.export.bake import bake_preprocessing, graph_input, opset_of
from jetlens.export.frame_size import frame_graph
from jetlens.export.tidy import infer_outputs, keep_outputs
from jetlens.ops.images import place
from jetlens.spec import METADATA_KEY, ModelSpec
from jetlens.tasks.segmentation import segment_labels

__all__ = ["BOX_OUTPUTS", "deepstream_graph"]

BOX_OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
"""What ``NvDsInferParseCustomTfSSD`` of DeepStream's own parser library reads: float32, boxes as y1, x1, y2, x2 from 0 to 1."""

_PREFIX = "jetlens.deepstream"


def deepstream_graph(onnx: Any, model: Any, spec: ModelSpec, *, keep_input: bool) -> tuple[Any, tuple[str, ...]]:
    """A copy of a graph for nvinfer, and the names of its outputs.

    Args:
        model: an ``onnx.ModelProto``; it is left as it was.
        spec: of the graph; with ``preprocess.frame_hw`` set on a graph that does not resize yet, it will.
        keep_input: the graph's float input stays as it is, since nvinfer normalises; otherwise it takes RGB floats of 0 to 255 [N, 3, H, W] and has
            channel order, mean and std inside.

    Raises:
        ModelError: the graph cannot be brought into a form that DeepStream reads; says why.
    """
    opset = opset_of(model)
    if opset < 11:
        raise ModelError(f"{spec.name}: the graph has opset {opset}; DeepStream's outputs need 11 or more: export it again with --opset 17")
    if keep_input:
        graph = onnx.ModelProto()
        graph.CopyFrom(model)
    else:
        pictures = model if spec.preprocess.baked else bake_preprocessing(model, spec.preprocess)
        if spec.preprocess.frame_hw is not None and not _takes(pictures, spec.preprocess.frame_hw):
            pictures = frame_graph(onnx, pictures, spec)
        graph = _float_input(onnx, pictures, spec.name)
    builder = _Outputs(onnx, graph, spec, opset)
    names = _OUTPUTS[spec.task](builder)
    graph = keep_outputs(onnx, graph, names)
    kept = {row.key: row.value for row in graph.metadata_props if row.key != METADATA_KEY}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, kept)
    infer_outputs(onnx, graph)
    onnx.checker.check_model(graph)
    return graph, names


def _takes(model: Any, size_hw: tuple[int, int]) -> bool:
    dims = graph_input(model.graph).type.tensor_type.shape.dim
    return [dim.dim_value for dim in dims][1:3] == list(size_hw)


def _float_input(onnx: Any, model: Any, name: str) -> Any:
    """A copy whose uint8 input [N, H, W, 3] has become float32 [N, 3, H, W] of the same values."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    source = graph_input(graph)
    readers = [node for node in graph.node if source.name in node.input]
    if source.type.tensor_type.elem_type != onnx.TensorProto.UINT8 or any(node.op_type != "Cast" for node in readers) or not readers:
        raise ModelError(f"{name}: input {source.name!r} is not uint8 that goes into a Cast, so nvinfer's floats cannot take its place")
    dims = source.type.tensor_type.shape.dim
    batch, height, width = dims[0].dim_value or dims[0].dim_param or "N", dims[1].dim_value, dims[2].dim_value
    pixels = f"{_PREFIX}.pixels"
    first = onnx.helper.make_node("Transpose", [source.name], [pixels], name=pixels, perm=[0, 2, 3, 1])
    body = []
    for node in graph.node:
        if node in readers and node.attribute[0].i == onnx.TensorProto.FLOAT:
            for other in graph.node:
                for index, text in enumerate(other.input):
                    if text == node.output[0]:
                        other.input[index] = pixels
            continue
        if node in readers:
            node.input[0] = pixels
        body.append(node)
    source.CopyFrom(onnx.helper.make_tensor_value_info(source.name, onnx.TensorProto.FLOAT, [batch, 3, height, width]))
    del graph.node[:], graph.value_info[:]
    graph.node.extend([first, *body])
    return changed


class _Outputs:
    """Adds nodes behind a graph's answer."""

    def __init__(self, onnx: Any, model: Any, spec: ModelSpec, opset: int) -> None:
        self.spec = spec
        self._onnx, self._model, self._opset = onnx, model, opset
        self._constants = 0
        rows = {row.name: row for row in model.graph.output}
        self.answer = str(spec.decoder_options.get("output") or next(iter(rows)))
        if self.answer not in rows:
            raise ModelError(f"{spec.name}: there is no output {self.answer!r}; the graph answers {', '.join(rows)}")
        tensor = rows[self.answer].type.tensor_type
        self.shape = [dim.dim_value for dim in tensor.shape.dim]
        self.kind = tensor.elem_type

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Adds a node and returns its output."""
        name = output or f"{_PREFIX}.{len(self._model.graph.node)}.{op.lower()}"
        self._model.graph.node.append(self._onnx.helper.make_node(op, inputs, [name], name=f"{_PREFIX}:{name}", **attributes))
        return name

    def constant(self, values: Any) -> str:
        name = f"{_PREFIX}.constant.{self._constants}"
        self._constants += 1
        self._model.graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, name: str, output: str = "") -> str:
        return self.node("Cast", [name], output, to=self._onnx.TensorProto.FLOAT)

    def with_axes(self, op: str, name: str, axes: list[int], output: str = "", **attributes: Any) -> str:
        """A node whose axes are an attribute before opset 13 and an input from then on."""
        if self._opset < 13:
            return self.node(op, [name], output, axes=axes, **attributes)
        return self.node(op, [name, self.constant(np.array(axes, np.int64))], output, **attributes)

    def add_output(self, name: str) -> str:
        self._model.graph.output.append(self._onnx.helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, None))
        return name

    def is_float(self) -> bool:
        return bool(self.kind == self._onnx.TensorProto.FLOAT)


def _classification(graph: _Outputs) -> tuple[str, ...]:
    """Probabilities [N, classes] without the classes that have no label."""
    spec = graph.spec
    if len(graph.shape) < 2 or any(side != 1 for side in graph.shape[2:]):
        raise ModelError(f"{spec.name}: output {graph.answer!r} has shape {graph.shape}; DeepStream's classifier reads [N, classes]")
    scores = graph.answer if graph.is_float() else graph.floats(graph.answer)
    if len(graph.shape) > 2:
        scores = graph.node("Flatten", [scores], axis=1)
    last = "probabilities"
    steps: list[Callable[[str, str], str]] = []
    if spec.decoder == "logits":
        steps.append(lambda name, output: graph.node("Softmax", [name], output, axis=1))
    if spec.label_offset > 0:
        index = graph.constant(np.arange(spec.label_offset, graph.shape[1]))
        steps.append(lambda name, output: graph.node("Gather", [name, index], output, axis=1))
    if not steps:
        if scores == graph.answer:
            return (scores,)
        steps.append(lambda name, output: graph.node("Identity", [name], output))
    for position, step in enumerate(steps):
        scores = step(scores, last if position == len(steps) - 1 else "")
    return (graph.add_output(last),)


def _detection(graph: _Outputs) -> tuple[str, ...]:
    """BOX_OUTPUTS from boxes, confidences and class ids [N, K, 6]."""
    spec = graph.spec
    if spec.decoder != "detections" or graph.shape[2:] != [6]:
        raise ModelError(
            f"{spec.name}: its boxes are decoded on the host (decoder {spec.decoder!r}), and DeepStream's stock parsers read finished boxes only: "
            "it needs a graph that answers [N, K, 6], as jetlens export writes; or run it with jetlens run"
        )
    rows = graph.answer if graph.is_float() else graph.floats(graph.answer)
    height, width = spec.preprocess.size_hw
    scale, offset = (1.0, 1.0), (0.0, 0.0)
    if spec.preprocess.frame_hw is not None:
        placement = place(spec.preprocess.frame_hw, spec.preprocess)
        scale, offset = placement.scale_xy, placement.offset_xy
        height, width = spec.preprocess.frame_hw
    boxes = graph.node("Gather", [rows, graph.constant(np.array([1, 0, 3, 2], np.int64))], axis=2)
    if any(offset):
        boxes = graph.node("Sub", [boxes, graph.constant(np.array([offset[1], offset[0]] * 2, np.float32))])
    shares = np.array([1 / (scale[1] * height), 1 / (scale[0] * width)] * 2, np.float64).astype(np.float32)
    graph.node("Mul", [boxes, graph.constant(shares)], BOX_OUTPUTS[1])
    scores = graph.node("Gather", [rows, graph.constant(np.int64(4))], "" if spec.label_offset > 0 else BOX_OUTPUTS[2], axis=2)
    classes = graph.node("Gather", [rows, graph.constant(np.int64(5))], "" if spec.label_offset else BOX_OUTPUTS[3], axis=2)
    if spec.label_offset:
        shifted = graph.node("Sub", [classes, graph.constant(np.float32(spec.label_offset))])
        graph.node("Relu", [shifted], BOX_OUTPUTS[3])
        if spec.label_offset > 0:
            # Below the offset stand backgrounds: without a score no parser takes them.
            named = graph.floats(graph.node("Greater", [shifted, graph.constant(np.float32(-0.5))]))
            scores = graph.node("Mul", [scores, named], BOX_OUTPUTS[2])
    there = graph.floats(graph.node("Greater", [scores, graph.constant(np.float32(-1))]))
    graph.with_axes("ReduceSum", there, [1], BOX_OUTPUTS[0], keepdims=1)
    for name in BOX_OUTPUTS:
        graph.add_output(name)
    return BOX_OUTPUTS


def _segmentation(graph: _Outputs) -> tuple[str, ...]:
    """For every class a plane [N, classes, h, w] that is 1 where the class is and 0 elsewhere: nvinfer takes the largest above its threshold."""
    spec, answer, shape = graph.spec, graph.answer, graph.shape
    classes = len(segment_labels(spec))
    if spec.decoder == "logits":
        axis = 3 if spec.decoder_options.get("layout") == "nhwc" else 1
        classes = shape[axis] if len(shape) == 4 else 0
        if classes == 1:
            threshold = graph.constant(np.array(float(spec.decoder_options.get("threshold", 0.0)), np.float32))
            floats = answer if graph.is_float() else graph.floats(answer)
            mask = graph.with_axes("Squeeze", graph.floats(graph.node("Greater", [floats, threshold])), [axis])
            classes = 2
        else:
            mask = graph.floats(graph.node("ArgMax", [answer], axis=axis, keepdims=0))
        shape = [side for index, side in enumerate(shape) if index != axis]
    else:
        mask = answer if graph.is_float() else graph.floats(answer)
        if len(shape) == 4 and 1 in (shape[1], shape[3]):
            axis = 1 if shape[1] == 1 else 3
            mask, shape = graph.with_axes("Squeeze", mask, [axis]), [side for index, side in enumerate(shape) if index != axis]
    if len(shape) != 3 or not all(shape[1:]) or classes < 2:
        raise ModelError(
            f"{spec.name}: output {answer!r} has shape {graph.shape} and {classes} classes; a mask [N, h, w] of 2 classes or more of a fixed size is needed"
        )
    if spec.preprocess.frame_hw is not None:
        mask = _to_frame(graph, mask, (shape[1], shape[2]), spec.preprocess.frame_hw)
    planes = graph.with_axes("Unsqueeze", mask, [1])
    ids = graph.constant(np.arange(classes, dtype=np.float32)[None, :, None, None])
    graph.floats(graph.node("Equal", [planes, ids]), "class_planes")
    return (graph.add_output("class_planes"),)


def _to_frame(graph: _Outputs, mask: str, mask_hw: tuple[int, int], frame_hw: tuple[int, int]) -> str:
    """The mask at the frame's size: each pixel takes the id at its centre's place on the canvas, as ``ops.masks.resize_mask`` does."""
    placement = place(frame_hw, graph.spec.preprocess)
    inside: list[NDArray[np.float32]] = []
    for axis, (frame, canvas, side, scale, offset) in enumerate(
        zip(frame_hw, placement.canvas_hw, mask_hw, placement.scale_xy[::-1], placement.offset_xy[::-1], strict=True), 1
    ):
        place_on_canvas = (np.arange(frame) + 0.5) * scale + offset
        inside.append(((place_on_canvas >= 0) & (place_on_canvas < canvas)).astype(np.float32))
        index = np.clip((place_on_canvas * (side / canvas)).astype(np.int64), 0, side - 1)
        mask = graph.node("Gather", [mask, graph.constant(index)], axis=axis)
    cut = inside[0][:, None] * inside[1]
    return mask if cut.all() else graph.node("Mul", [mask, graph.constant(cut[None])])


_OUTPUTS: dict[str, Callable[[_Outputs], tuple[str, ...]]] = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
}
