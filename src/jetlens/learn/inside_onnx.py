"""Inside an ONNX model: intermediate values exposed as outputs, and class activation maps without backpropagation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import Session, SessionOptions
from jetlens.backends.choice import open_session
from jetlens.errors import ModelError, UnknownNameError, UsageError
from jetlens.frame import Image
from jetlens.learn.inside import CAM, ClassActivation, Shape, softmax
from jetlens.learn.onnx_graph import OnnxGraph
from jetlens.predictor import model_path
from jetlens.spec import read_model
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

__all__ = ["InsideOnnx", "channel_gradients"]

ACTIVATIONS = frozenset(("Relu", "Clip", "LeakyRelu", "Elu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "PRelu", "Gelu"))
_POOLS = frozenset(("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean"))
_NO_LAYERS = frozenset(("Cast", "Transpose", "Reshape", "Slice", "Unsqueeze", "Squeeze", "Shape", "Gather", "Identity"))
_CAM_HEAD = frozenset(("GlobalAveragePool", "ReduceMean", "Flatten", "Reshape", "Squeeze", "Identity", "Gemm", "MatMul", "Add"))
_ROWS = 32
_NUDGE = 0.05
"""How far a channel is moved for its gradient, in standard deviations of the maps: far above rounding, too little to cross many kinks."""


class InsideOnnx:
    """An .onnx file or a shipped model; see ``Inside``.

    Raises:
        ModelError: the file cannot be read or has no sidecar.
        MissingDependencyError: onnx is not installed.
    """

    def __init__(self, model: str) -> None:
        path = model_path(model)
        content, self.spec = read_model(path)
        self._graph = OnnxGraph(content, path.name, self.spec.preprocess.size_hw)
        self._task: Any = TASKS.load(self.spec.task)(self.spec, TaskOptions())
        self._fixed_batch = isinstance(self._graph.input.shape[0], int)
        self._values: dict[str, str] = {}
        self.layers: dict[str, Shape] = {}
        self.activations: list[str] = []
        self._unpooled: list[str] = []
        for node, name in zip(self._graph.nodes, self._graph.names, strict=True):
            shape = self._graph.shapes.get(node.output[0], ())
            if len(shape) != 4 or node.op_type in _NO_LAYERS or name.startswith("jetlens."):
                continue
            self._values[name] = node.output[0]
            self.layers[name] = (shape[1], shape[2], shape[3])
            if node.op_type in ACTIVATIONS:
                self.activations.append(name)
            if node.op_type not in _POOLS and min(shape[2:]) > 1:
                self._unpooled.append(name)

    def maps(self, images: Sequence[Image], layer: str) -> NDArray[np.float32]:
        """What a layer gives for pictures: [N, channels, height, width]."""
        array = self._task.preprocess(images).array
        value = self._values[layer]
        parts = [array[i : i + 1] for i in range(len(array))] if self._fixed_batch else [array]
        return np.concatenate([self._graph.run(part, [value])[value] for part in parts]).astype(np.float32)

    def class_activation(self, image: Image, class_id: int | None, layer: str | None) -> ClassActivation:
        """See ``Inside``; the gradient of each channel's mean comes from moving the whole channel up and down."""
        logits_name = self._logits()
        name, tail = self._start(layer, logits_name)
        value = self._values[name]
        found = self._graph.run(self._task.preprocess([image]).array, [value, logits_name])
        maps, logits = found[value], np.asarray(found[logits_name], np.float32).reshape(-1)
        wanted = int(logits.argmax()) if class_id is None else class_id
        if not 0 <= wanted < len(logits):
            raise UsageError(f"class id is {wanted}; allowed: 0 to {len(logits) - 1}")
        with open_session(tail, "onnxruntime", SessionOptions(device="cpu"))[0] as session:
            gradients = channel_gradients(session, maps, wanted, 1 if self._fixed_batch else _ROWS)
        heat = np.maximum((gradients[:, None, None] * maps[0]).sum(axis=0), 0)
        most = float(heat.max())
        scaled: NDArray[np.float32] = (heat / most if most > 0 else heat).astype(np.float32)
        return ClassActivation(scaled, wanted, float(softmax(logits)[wanted]), name, self._method(value, logits_name))

    def _logits(self) -> str:
        """The value that holds the scores before a softmax."""
        name = str(self._graph.model.graph.output[0].name)
        while True:
            node = next((node for node in self._graph.nodes if name in node.output), None)
            if node is None or node.op_type not in ("Softmax", "Identity", "Cast"):
                return name
            name = str(node.input[0])

    def _start(self, layer: str | None, end: str) -> tuple[str, bytes]:
        """The layer to begin at, and the graph from there to the scores."""
        if layer is not None and layer not in self.layers:
            raise UnknownNameError("layer with feature maps", layer, self.layers)
        for name in [layer] if layer is not None else reversed(self._unpooled):
            tail = self._graph.tail(self._values[name], end)
            if tail is not None:
                return name, tail
        if layer is not None:
            raise UsageError(
                f"layer {layer!r} is passed by a shortcut: the class depends on more than its maps; choose one after the shortcut joins"
            )
        raise ModelError(f"{self.spec.name} has no layer through which everything goes; export it again, or give its checkpoint")

    def _method(self, start: str, end: str) -> str:
        """What the map is called: with averaging and one linear layer after it, it is Zhou's, else Selvaraju's."""
        between, wanted = set(), {end}
        for node in reversed(self._graph.nodes):
            if wanted & set(node.output) and start not in node.output:
                between.add(node.op_type)
                wanted.update(node.input)
        linear = between & {"Gemm", "MatMul"}
        if between <= _CAM_HEAD and len(linear) == 1 and between & {"GlobalAveragePool", "ReduceMean"}:
            return CAM
        return "Grad-CAM (Selvaraju et al. 2017), the gradients by central differences: the graph runs forward only"


def channel_gradients(session: Session, maps: NDArray[np.float32], class_id: int, rows: int) -> NDArray[np.float64]:
    """The gradient of a class's score averaged over each map [channels], from running the rest of the network alone.

    Adding t to a whole map changes the score at the rate of the sum of the map's gradients, so two runs a channel give the mean that Grad-CAM
    takes by backpropagation.

    Args:
        maps: [1, channels, height, width], the input of the session.
        rows: how many go into one run.
    """
    channels = maps.shape[1]
    step = np.float32(max(1e-3, _NUDGE * float(maps.std())))
    scores = np.empty((2, channels))
    name = session.inputs[0].name
    for side, sign in enumerate((-1, 1)):
        for first in range(0, channels, rows):
            chosen = np.arange(first, min(first + rows, channels))
            moved = np.repeat(maps, len(chosen), axis=0)
            moved[np.arange(len(chosen)), chosen] += sign * step
            answer = next(iter(session.run({name: moved}).values()))
            scores[side, chosen] = answer.reshape(len(chosen), -1)[:, class_id]
    gradients: NDArray[np.float64] = (scores[1] - scores[0]) / (2 * float(step)) / (maps.shape[2] * maps.shape[3])
    return gradients
