"""Frame size: the resizing of a camera's frames becomes part of a deployable graph, so that the host does nothing but copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.atomic import write_atomic
from jetlens.backends.base import SessionOptions
from jetlens.backends.onnxruntime import OnnxRuntime
from jetlens.data.orange_line import still
from jetlens.errors import BackendError, ModelError, VerificationError
from jetlens.export.bake import graph_input
from jetlens.export.resampling import resize_steps
from jetlens.export.tidy import keep_outputs
from jetlens.export.verify import BOX_TOLERANCE_PX, MASK_AGREEMENT, RAW_TOLERANCE, box_deviation, raw_deviation
from jetlens.graph import read_graph
from jetlens.ops.images import resize_into
from jetlens.registry import require
from jetlens.spec import METADATA_KEY, ModelSpec, read_model, write_sidecar

__all__ = ["FrameCheck", "add_frame_size", "frame_graph"]

_CANVAS = "jetlens.frame.canvas"
_LEVELS = 1


@dataclass(frozen=True, slots=True)
class FrameCheck:
    """How far a graph that resizes frames itself is from the host's resizing and the graph behind it.

    Attributes:
        levels: largest difference of a canvas, in grey levels.
        equal: share of the canvas's values that are the same.
        apart: largest difference of an answer on the same canvas: in pixels for boxes, as a part of the pixels for masks, else as a part of the largest value.
        frames: frames compared.
    """

    levels: int
    equal: float
    apart: float
    frames: int

    def __str__(self) -> str:
        return (
            f"resized as on the host within {self.levels} grey levels (allowed {_LEVELS}; {self.equal:.2%} of the values are equal), "
            f"answers off by {self.apart:.1e}, {self.frames} frames"
        )


def add_frame_size(model: Path, frame_hw: tuple[int, int], output: Path) -> tuple[ModelSpec, FrameCheck]:
    """Writes a deployable graph that takes raw frames uint8 [N, h, w, 3] of one size, and its sidecar.

    Args:
        model: a graph that takes uint8 pictures, with its sidecar; of any precision.

    Raises:
        ModelError: the graph does not take uint8 pictures, or takes frames already.
        VerificationError: the graph resizes or answers otherwise than the host and the given graph do; nothing was written.
    """
    onnx = require("onnx", extra="export", why="--frame-size")
    content, spec = read_model(model)
    if not spec.preprocess.baked or spec.preprocess.frame_hw is not None:
        takes = "frames of one size already" if spec.preprocess.baked else "floats"
        raise ModelError(f"{model.name} takes {takes}; --frame-size needs a graph that takes uint8 pictures, as jetlens export writes it")
    framed = replace(spec, preprocess=replace(spec.preprocess, frame_hw=frame_hw))
    graph = frame_graph(onnx, onnx.load_model_from_string(content), framed)
    facts = read_graph(graph.SerializeToString())
    framed = replace(framed, inputs=facts.inputs, outputs=facts.outputs, sha256="")
    kept = {row.key: row.value for row in graph.metadata_props if row.key != METADATA_KEY}
    onnx.helper.set_model_props(graph, {**kept, METADATA_KEY: framed.to_json()})
    check = _verify(onnx, graph, content, framed)
    write_atomic(output, graph.SerializeToString())
    return write_sidecar(output, framed), check


def frame_graph(onnx: Any, model: Any, spec: ModelSpec) -> Any:
    """A copy of a graph with uint8 pictures [N, H, W, 3] that takes frames of ``spec.preprocess.frame_hw`` and resizes them itself.

    Nodes and constants of the resizing have names that begin with ``jetlens.frame.``; they compute in float32 whatever the rest does.

    Raises:
        ModelError: the pictures go elsewhere than into a Cast.
    """
    frame_hw = spec.preprocess.frame_hw
    assert frame_hw is not None
    framed = onnx.ModelProto()
    framed.CopyFrom(model)
    graph = framed.graph
    source = graph_input(graph)
    readers = [node for node in graph.node if source.name in node.input]
    kind = source.type.tensor_type.elem_type
    if kind != onnx.TensorProto.UINT8 or not readers or any(node.op_type != "Cast" for node in readers):
        raise ModelError(f"{spec.name}: input {source.name!r} is not uint8 that goes into a Cast; export the model with jetlens export")
    for axis, side in zip(source.type.tensor_type.shape.dim[1:3], frame_hw, strict=True):
        axis.dim_value = side
    chain = _chain(onnx, graph, source.name, spec)
    body = []
    for node in graph.node:
        if node in readers and node.attribute[0].i == onnx.TensorProto.FLOAT:
            _read_instead(graph, node.output[0], _CANVAS)
            continue
        if node in readers:
            node.input[0] = _CANVAS
        body.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*chain, *body])
    return framed


def _chain(onnx: Any, graph: Any, source: str, spec: ModelSpec) -> list[Any]:
    """The nodes from the frames to the canvas in float32; their constants are added to the graph."""
    assert spec.preprocess.frame_hw is not None
    before = "jetlens.frame.cast"
    nodes = [onnx.helper.make_node("Cast", [source], [before], name=before, to=onnx.TensorProto.FLOAT)]
    known: set[str] = set()
    for index, step in enumerate(resize_steps(spec.preprocess, spec.preprocess.frame_hw)):
        names = [f"jetlens.frame.{name}" for name, _ in step.constants]
        for name, (_, values) in zip(names, step.constants, strict=True):
            if name not in known:
                graph.initializer.append(onnx.numpy_helper.from_array(values, name))
                known.add(name)
        inputs = [*names, before] if step.first else [before, *names]
        before = f"jetlens.frame.{index}.{step.op.lower()}"
        nodes.append(onnx.helper.make_node(step.op, inputs, [before], name=before, **step.attributes))
    nodes[-1].output[0] = _CANVAS
    return nodes


def _read_instead(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _verify(onnx: Any, graph: Any, original: bytes, spec: ModelSpec) -> FrameCheck:
    """The canvas beside the host's, and the answers beside those of the original graph on the very same canvas."""
    name, batch = graph.graph.input[0].name, spec.inputs[0].shape[0]
    resizing = onnx.ModelProto()
    resizing.CopyFrom(graph)
    canvas = onnx.helper.make_tensor_value_info(_CANVAS, onnx.TensorProto.FLOAT, [batch, *spec.preprocess.size_hw, 3])
    resizing.graph.output.append(canvas)
    resizing = keep_outputs(onnx, resizing, (_CANVAS,))
    options = SessionOptions(device="cpu")
    levels, equal, apart = [], [], []
    try:
        with (
            OnnxRuntime.open(resizing.SerializeToString(), options) as front,
            OnnxRuntime.open(graph.SerializeToString(), options) as whole,
            OnnxRuntime.open(original, options) as behind,
        ):
            for frames in _frames(spec, batch):
                made = front.run({name: frames})[_CANVAS]
                host = np.empty(made.shape, np.uint8)
                for frame, one in zip(frames, host, strict=True):
                    resize_into(frame, spec.preprocess, one)
                difference = np.abs(made - host)
                levels.append(float(difference.max()))
                equal.append(float((difference == 0).mean()))
                wanted = behind.run({behind.inputs[0].name: made.astype(np.uint8)})
                apart.append(_apart(spec, wanted, whole.run({name: frames})))
    except BackendError as error:
        raise VerificationError(f"{spec.name}: the graph for frames does not run ({error}); nothing was kept") from None
    check = FrameCheck(round(max(levels)), float(np.mean(equal)), max(apart), sum(len(frames) for frames in _frames(spec, batch)))
    allowed = {"detections": BOX_TOLERANCE_PX, "mask": 1 - MASK_AGREEMENT}.get(spec.decoder, RAW_TOLERANCE)
    if not (max(levels) <= _LEVELS and check.apart <= allowed):
        raise VerificationError(
            f"{spec.name}: frames do not come to the same as on the host: {check} (allowed {allowed:g}); nothing was kept"
        )
    return check


def _frames(spec: ModelSpec, batch: int | str) -> Sequence[NDArray[np.uint8]]:
    """Pictures at the camera's size, and noise: one alone and two together where the batch axis is dynamic."""
    assert spec.preprocess.frame_hw is not None
    height, width = spec.preprocess.frame_hw
    noise = np.random.default_rng(4200).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = np.empty((height, width, 3), np.uint8)
    resize_into(still(4200, (240, 320))[0], replace(spec.preprocess, size_hw=(height, width), resize="stretch", frame_hw=None), picture)
    both = np.stack([picture, noise])
    return (both[:1], both) if isinstance(batch, str) else (both[np.arange(batch) % 2], both[(np.arange(batch) + 1) % 2])


def _apart(spec: ModelSpec, wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> float:
    worst = 0.0
    for name, want in wanted.items():
        if spec.decoder == "detections" and want.ndim == 3 and want.shape[2] == 6:
            worst = max(worst, *(box_deviation(*pair) for pair in zip(want, got[name], strict=True)))
        elif want.dtype.kind == "f":
            worst = max(worst, raw_deviation(want, got[name]))
        else:
            worst = max(worst, float((want != got[name]).mean()) if want.shape == got[name].shape else float("inf"))
    return worst
