"""Fifteen faults that engines and the code around them really have, and honest arithmetic that must not be taken for one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from jetlens.bench.taps import with_logits
from jetlens.data.samples import orange_line_samples
from jetlens.deviation import DARKER
from jetlens.precision.fp16 import to_half
from jetlens.predictor import model_path
from jetlens.spec import read_model
from jetlens.tasks import TASKS

Arrays = dict[str, Any]
MODELS = {"classification": "orange-grade", "detection": "orange-detect", "segmentation": "orange-segment"}
SIZE_HW = (432, 768)  # unlike every network's input, so that each resizes


class Engines:
    """One shipped model: its reference, and what runs it honestly or with a fault."""

    def __init__(self, task: str, count: int) -> None:
        path = model_path(MODELS[task])
        content, self.spec = read_model(path)
        self.content = with_logits(content) or content
        self.task_name = task
        self.images = [sample.image for sample, _ in zip(orange_line_samples(self.spec.task, count, SIZE_HW), range(count), strict=False)]
        self.batch = self.prepared(self.images)
        self.reference = self.run(self.content, self.batch)
        self.darker = self.run(self.content, self.prepared([np.round(image * DARKER).astype(np.uint8) for image in self.images]))

    def prepared(self, images: list[Any], **changed: Any) -> Any:
        spec = dataclasses.replace(self.spec, preprocess=dataclasses.replace(self.spec.preprocess, **changed))
        return TASKS.load(spec.task)(spec).preprocess(images).array.copy()

    def run(self, content: bytes, batch: Any, size: int = 1) -> Arrays:
        session = _session(content)
        parts = [session.run(None, {"images": batch[i : i + size]}) for i in range(0, len(batch), size)]
        return {row.name: np.concatenate([part[k] for part in parts]) for k, row in enumerate(session.get_outputs())}

    def half(self, batch: Any = None, **constants: Callable[[Any], Any]) -> Arrays:
        """In fp16, with constants of the normalisation changed."""
        return self.run(to_half(_changed(self.content, constants)), self.batch if batch is None else batch)


@cache
def _session(content: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    # Otherwise the casts to half and back are taken out again, and nothing is rounded.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _changed(content: bytes, changes: Mapping[str, Callable[[Any], Any]]) -> bytes:
    model = onnx.load_model_from_string(content)
    names = {f"jetlens.{name}": change for name, change in changes.items()}
    for row in model.graph.initializer:
        if row.name in names:
            row.CopyFrom(numpy_helper.from_array(np.float32(names[row.name](numpy_helper.to_array(row))), row.name))
    return model.SerializeToString()


def _rounded_weights(content: bytes, bits: int) -> bytes:
    """With every weight rounded to so many bits, as tensor cores read them."""
    model = onnx.load_model_from_string(content)
    for row in model.graph.initializer:
        values = numpy_helper.to_array(row)
        if values.dtype == np.float32 and values.ndim >= 2:
            fraction, exponent = np.frexp(values)
            row.CopyFrom(numpy_helper.from_array(np.ldexp(np.round(fraction * 2**bits) / 2**bits, exponent).astype(np.float32), row.name))
    return model.SerializeToString()


HONEST: dict[str, Callable[[Engines], Arrays]] = {
    "fp16": lambda e: e.half(),
    "fp16, other batch": lambda e: e.run(to_half(e.content), e.batch, 4),
    "tf32 weights": lambda e: e.run(_rounded_weights(e.content, 11), e.batch),
    "fp32, other batch": lambda e: e.run(e.content, e.batch, 8),
}


def _ids(engines: Engines, change: Callable[[Any], Any]) -> Arrays:
    """A change of the class ids, or of the order of the scores."""
    got = engines.half()
    if engines.task_name == "segmentation":
        return {"mask": change(got["mask"]).astype(got["mask"].dtype), "logits": got["logits"]}
    if engines.task_name == "detection":
        boxes = got["detections"].copy()
        boxes[..., 5] = change(boxes[..., 5])
        return {**got, "detections": boxes}
    order = change(np.arange(got["logits"].shape[1])) % got["logits"].shape[1]
    return {"logits": got["logits"][:, order.astype(int)]}


def _scaled(engines: Engines) -> Arrays:
    got = {name: array.copy() for name, array in engines.half().items()}
    got["logits"] *= 1.1
    if "detections" in got:
        got["detections"][..., 4] *= 0.9
    return got


def _one_value(engines: Engines, value: float) -> Arrays:
    got = {name: array.copy() for name, array in engines.half().items()}
    array = next(array for array in got.values() if array.dtype.kind == "f")
    array.reshape(len(array), -1)[:, 3] = value
    return got


def _moved(batch: Any, rows: int, columns: int) -> Any:
    return np.ascontiguousarray(np.roll(batch, (rows, columns), axis=(1, 2)))


def _zeroed(batch: Any) -> Any:
    changed = batch.copy()
    changed[..., 0] = 0
    return changed


def _stale(engines: Engines) -> Arrays:
    return {name: np.roll(array, 1, axis=0) for name, array in engines.half().items()}


FAULTS: dict[str, Callable[[Engines], Arrays]] = {
    "channel order": lambda e: e.half(np.ascontiguousarray(e.batch[..., ::-1])),
    "256 for 255": lambda e: e.half(mean=lambda m: m * 256 / 255, inverse_std=lambda s: s * 255 / 256),
    "missing mean": lambda e: e.half(mean=lambda m: m * 0),
    "wrong std": lambda e: e.half(inverse_std=lambda s: s * 0.9),
    "crop shifted": lambda e: e.half(_moved(e.batch, 0, 2)),
    "swapped classes": lambda e: _ids(e, lambda ids: np.where(ids == 0, 1, np.where(ids == 1, 0, ids))),
    "one Inf": lambda e: _one_value(e, np.inf),
    "one NaN": lambda e: _one_value(e, np.nan),
    "scaled logits": _scaled,
    "transposed": lambda e: e.half(e.prepared([np.ascontiguousarray(image.transpose(1, 0, 2)) for image in e.images])),
    "resize filter": lambda e: e.half(e.prepared(e.images, filter="linear")),
    "letterbox offset": lambda e: e.half(_moved(e.batch, 3, 0)),
    "label offset": lambda e: _ids(e, lambda ids: ids + 1),
    "zeroed channel": lambda e: e.half(_zeroed(e.batch)),
    "stale output": _stale,
}


def taken(arrays: Mapping[str, Any], numbers: Any) -> Arrays:
    return {name: array[numbers] for name, array in arrays.items()}
