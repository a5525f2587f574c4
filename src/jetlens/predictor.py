"""Predictor: a task and a session; load() is the only place where the two meet."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from jetlens.backends import BACKENDS
from jetlens.backends.base import Device, Precision, RunFacts, Session, SessionOptions
from jetlens.backends.choice import open_session
from jetlens.choice import Choice, read_choice
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import SUFFIXES
from jetlens.errors import ModelError, SidecarError, UnknownNameError, UsageError
from jetlens.frame import Frame, Image
from jetlens.graph import GraphFacts, read_graph
from jetlens.imagefile import load_image
from jetlens.registry import resolve
from jetlens.results import Prediction
from jetlens.spec import METADATA_KEY, ModelSpec, TensorSpec, read_model
from jetlens.tasks import TASKS
from jetlens.tasks.base import Arrays, Batch, Task, TaskOptions

__all__ = ["Predictor", "Timings", "check_contract", "load", "model_names", "model_path", "precision_path", "shipped_names"]

_SHIPPED = Path(__file__).parent / "assets" / "models"
_CHECKPOINT = "is a checkpoint and no deployable graph; export it first: jetlens export {path}"
_NOT_MODELS = {
    **dict.fromkeys((".pth", ".pt", ".th", ".ckpt", ".safetensors"), _CHECKPOINT),
    ".json": "is JSON; give the .onnx file that the sidecar belongs to",
    **dict.fromkeys((".xml", ".bin", ".tflite", ".pb", ".h5", ".keras"), "is another framework's model; convert it to .onnx first"),
}
# Of the spec that stands in the graph, what a sidecar may not contradict: the rest (labels, thresholds, accuracy) is the user's.
_CONTRACT = ("task", "preprocess", "decoder", "decoder_options", "label_offset")

Twin: TypeAlias = Callable[[Callable[[bytes], bytes | None]], Session | None]


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time of the three steps of one call, in milliseconds."""

    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float

    @property
    def total_ms(self) -> float:
        """All three steps."""
        return self.preprocess_ms + self.infer_ms + self.postprocess_ms


class Predictor:
    """Answers pictures with predictions; a context manager.

    One thread at a time may call it, since it writes its pictures into one buffer. To overlap the steps, give each thread its own
    buffers and call ``task.preprocess``, ``infer`` and ``task.postprocess``.

    Attributes:
        spec: what the model is.
        facts: what really runs.
        chosen: the backend and, where it was chosen by ``auto``, the reason.
        twin: opens a changed copy of the graph on the same runtime, if the change gives one; None where that would build an engine.
    """

    def __init__(self, task: Task[Prediction], session: Session, *, chosen: str = "", twin: Twin | None = None) -> None:
        _check_tensors(task.spec, session)
        self.task = task
        self.session = session
        self.spec: ModelSpec = task.spec
        self.facts: RunFacts = session.facts
        self.chosen = chosen or session.facts.backend
        self.twin = twin
        tensor = session.inputs[0]
        self._input = tensor.name
        self._fixed_batch = tensor.shape[0] if isinstance(tensor.shape[0], int) else None
        self._largest_batch = session.facts.largest_batch
        self._buffer: NDArray[Any] = np.empty((0, *_picture_shape(self.spec)), _input_type(self.spec))

    def __call__(self, image: Image | str | Path) -> Prediction:
        """The prediction for one picture: uint8 RGB [height, width, 3], or the path of an image file."""
        return self.timed(image)[0]

    def timed(self, image: Image | str | Path) -> tuple[Prediction, Timings]:
        """The prediction for one picture and how long each step took; reading a file is not counted."""
        images = [_as_image(image)]
        start = perf_counter()
        batch = self._preprocess(images)
        ready = perf_counter()
        outputs = self.infer(batch)
        inferred = perf_counter()
        prediction = self.task.postprocess(outputs, batch)[0]
        end = perf_counter()
        return prediction, Timings((ready - start) * 1e3, (inferred - ready) * 1e3, (end - inferred) * 1e3)

    def batch(self, images: Sequence[Image | str | Path]) -> list[Prediction]:
        """The predictions for several pictures of any sizes, in their order; one run where the graph's batch axis is dynamic."""
        if not images:
            return []
        batch = self._preprocess([_as_image(image) for image in images])
        return list(self.task.postprocess(self.infer(batch), batch))

    def infer(self, batch: Batch) -> Arrays:
        """Runs the graph on a batch; one whose batch axis is fixed runs in pieces, the last one filled up."""
        count = len(batch.placements)
        array = batch.array[:count]
        size = self._fixed_batch or self._largest_batch or count
        if size == count or (self._fixed_batch is None and count < size):
            return self.session.run({self._input: array})
        pieces = [self.session.run({self._input: self._piece(array[i : i + size], size)}) for i in range(0, count, size)]
        return {name: np.concatenate([piece[name] for piece in pieces])[:count] for name in pieces[0]}

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        """Each frame with its prediction, one after the other, as they are asked for."""
        for frame in frames:
            yield frame, self(frame.image_rgb)

    def close(self) -> None:
        """Frees the session; closing twice is allowed."""
        self.session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Predictor({self.spec.name!r}, {self.spec.task}, {self.facts.backend}, {self.facts.precision})"

    def _piece(self, array: NDArray[Any], size: int) -> NDArray[Any]:
        return array if self._fixed_batch is None else _filled(array, size)

    def _preprocess(self, images: Sequence[Image]) -> Batch:
        if len(self._buffer) < len(images):
            self._buffer = np.empty((len(images), *self._buffer.shape[1:]), self._buffer.dtype)
        return self.task.preprocess(images, out=self._buffer[: len(images)])


def load(
    model: str | Path,
    backend: str = "auto",
    device: Device = "auto",
    *,
    precision: Precision | None = None,
    threads: int | None = None,
    options: TaskOptions | None = None,
    weights: Path | None = None,
    lanes: int = 1,
    build: BuildOptions | None = None,
    isolate: bool = False,
) -> Predictor:
    """Opens a model, a file or a name, on a runtime.

    Args:
        precision: fp32 and bf16 are arithmetic that the runtime is asked for; for fp16 and int8, which are graphs of their own, the file
            ``NAME.fp16.onnx`` or ``NAME.int8.onnx`` beside the model is opened.
        lanes: runs that may be in flight at once.
        build: how TensorRT builds its engine.
        isolate: run the model in a process of its own, which is started anew when it dies.

    Raises:
        UnknownNameError: nothing has that name.
        ModelError: the file is missing, damaged or not what its sidecar says; its hash is checked before anything parses it.
        BackendError: the runtime, device or precision cannot be had here, or nobody vouched for a TensorRT engine.
    """
    path = model_path(model, weights)
    choice = _choice(path) if (backend, device, precision, lanes) == ("auto", "auto", None, 1) else None
    if choice is None:
        path = precision_path(path, precision)
    else:
        path, backend, lanes = Path(choice.file), choice.backend, choice.lanes
        precision, device = cast("Precision | None", choice.precision), cast(Device, choice.device)
    if is_plan := path.suffix.lower() in SUFFIXES:
        backend = _plan_backend(path, backend)
    content, spec = read_model(path)
    if not is_plan:
        check_contract(read_graph(content, str(path)), spec, path.name)
    task: Task[Prediction] = TASKS.load(spec.task)(spec, options or TaskOptions())
    opened = resolve("jetlens.backends.isolated:open_isolated") if isolate else open_session
    asked = SessionOptions(device, precision, threads, lanes, build=build or BuildOptions())
    session, chosen = opened(content, backend, asked)
    if choice is not None:
        chosen = f"{chosen} (chosen by jetlens bench: {choice.why})"

    def twin(change: Callable[[bytes], bytes | None]) -> Session | None:
        changed = change(path.read_bytes())
        return None if changed is None else open_session(changed, session.facts.backend, asked)[0]

    try:
        return Predictor(task, session, chosen=chosen, twin=None if session.facts.backend == "tensorrt" else twin)
    except BaseException:
        session.close()
        raise


def _choice(path: Path) -> Choice | None:
    """What `jetlens bench --choose` found best for a model here, if its runtime and its file are still there."""
    choice = read_choice(path)
    if choice is None or choice.backend not in BACKENDS or choice.device not in get_args(Device):
        return None
    known = choice.precision in (None, *get_args(Precision)) and Path(choice.file).is_file()
    return choice if known and BACKENDS.load(choice.backend).unavailable() is None else None


def _plan_backend(path: Path, backend: str) -> str:
    """The one backend that runs a plan, after the user's trust in it was checked: a plan is code, and nothing reads it before."""
    from jetlens.engines.trust import trusted

    if backend not in ("auto", "tensorrt"):
        raise UsageError(f"{path.name} is a TensorRT engine, which backend {backend} does not run; leave --backend away or give tensorrt")
    trusted(path.read_bytes(), str(path))
    return "tensorrt"


def precision_path(path: Path, precision: Precision | None) -> Path:
    """The file whose graph asks for a precision: the model itself, or the fp16 or int8 file beside it.

    Raises:
        ModelError: there is none.
    """
    if (
        precision not in ("fp16", "int8")
        or path.suffix.lower() in SUFFIXES
        or read_graph(path.read_bytes(), str(path)).precision == precision
    ):
        return path
    beside = path.with_name(f"{path.stem}.{precision}.onnx")
    if not beside.is_file():
        raise ModelError(
            f"{path.name} is no {precision} graph and {beside.name} is not beside it; make it: jetlens export {path} --precision {precision}"
        )
    return beside


def shipped_names() -> list[str]:
    """The models that ship with jetlens."""
    return sorted(path.stem for path in _SHIPPED.glob("*.onnx"))


def model_names() -> dict[str, str]:
    """Every model that has a name, with what it is: those that ship with jetlens, then torchvision's."""
    shipped = dict.fromkeys(shipped_names(), "ships with jetlens")
    return {**shipped, **dict.fromkeys(resolve("jetlens.export.zoo:ZOO"), "torchvision network, pretrained weights")}


def model_path(name_or_path: str | Path, weights: Path | None = None) -> Path:
    """The file of a model: an existing file (ONNX or a TensorRT engine), a shipped model's name, or a torchvision network's name (exported once into the cache).

    Raises:
        ModelError: there is no such file, or it is no ONNX model.
        UnknownNameError: nothing has that name.
        UsageError: weights are given for something that has its own.
    """
    text = str(name_or_path)
    path = Path(text)
    is_path = isinstance(name_or_path, Path) or path.suffix.lower() in {".onnx", *SUFFIXES, *_NOT_MODELS} or "/" in text or os.sep in text
    if not is_path and text in resolve("jetlens.export.zoo:ZOO"):
        exported: Path = resolve("jetlens.export.zoo:ensure")(text, weights)
        return exported
    if weights is not None:
        raise UsageError(f"{text} has its own weights; --weights goes with the name of a torchvision network")
    if not is_path and text in shipped_names():
        return _SHIPPED / f"{text}.onnx"
    # os.path and not Path: a name that no file can have is absent there, and an OSError here.
    if is_path or (text and os.path.exists(text)):
        return _checked_file(path)
    raise UnknownNameError("model name or .onnx file", text, model_names())


def check_contract(graph: GraphFacts, spec: ModelSpec, name: str) -> None:
    """Refuses a sidecar that contradicts the spec which stands in the graph's own metadata.

    Raises:
        SidecarError: the two disagree on how to feed or to decode the graph.
    """
    text = graph.metadata.get(METADATA_KEY)
    if text is None:
        return
    written = ModelSpec.from_json(text, origin=f"the metadata in {name}")
    for key in _CONTRACT:
        first, second = getattr(written, key), getattr(spec, key)
        if first != second:
            if dataclasses.is_dataclass(first):
                key, first, second = _first_difference(key, first, second)
            raise SidecarError(
                f"{name}: the sidecar says {key} {_short(second)}, the graph was exported with {_short(first)}; "
                "restore the sidecar, or export the model again"
            )


def _first_difference(key: str, first: Any, second: Any) -> tuple[str, Any, Any]:
    pairs = ((f.name, getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(first))
    return next((f"{key}.{name}", a, b) for name, a, b in pairs if a != b)


def _short(value: Any) -> str:
    text = json.dumps(dict(value) if isinstance(value, Mapping) else value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _checked_file(path: Path) -> Path:
    if os.path.isdir(path):
        raise ModelError(f"{path} is a folder; give an .onnx file in it, or a model's name")
    if not os.path.exists(path):
        raise ModelError(f"{str(path)[-150:]}: no such model file; give an .onnx file or a model's name")
    if path.suffix.lower() not in (".onnx", *SUFFIXES):
        why = _NOT_MODELS.get(path.suffix.lower(), "is not an .onnx file; a model is an .onnx file or a name")
        raise ModelError(f"{path} {why.format(path=path)}")
    return path


def _check_tensors(spec: ModelSpec, session: Session) -> None:
    """Refuses a graph that does not take and give what its spec says."""
    if len(session.inputs) != 1:
        names = [row.name for row in session.inputs]
        raise ModelError(f"{spec.name}: the graph takes {len(names)} inputs {names[:6]}; jetlens feeds exactly one picture input")
    tensor = session.inputs[0]
    wanted = TensorSpec(tensor.name, _input_type(spec), ("N", *_picture_shape(spec)))
    if not _agree(wanted, tensor):
        raise SidecarError(
            f"{spec.name}: the sidecar feeds {wanted.dtype} {_axes(wanted)}, the graph takes {tensor.dtype} {_axes(tensor)}; "
            "write a sidecar that fits with jetlens adopt"
        )
    for kind, declared, real in (("input", spec.inputs, session.inputs), ("output", spec.outputs, session.outputs)):
        present = {row.name: row for row in real}
        for row in declared:
            if row.name not in present or not _agree(row, present[row.name]):
                found = present.get(row.name)
                has = f"{found.dtype} {_axes(found)}" if found else f"none of that name (it has {', '.join(present)})"[:90]
                raise SidecarError(
                    f"{spec.name}: the sidecar names an {kind} {row.name!r} of {row.dtype} {_axes(row)}, the graph has {has}; "
                    "write a new sidecar with jetlens adopt"
                )


def _agree(first: TensorSpec, second: TensorSpec) -> bool:
    """Whether types are equal and shapes too, where both are fixed."""
    if first.dtype != second.dtype or (first.shape and second.shape and len(first.shape) != len(second.shape)):
        return False
    pairs = zip(first.shape, second.shape, strict=False)
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in pairs)


def _axes(tensor: TensorSpec) -> str:
    return "[" + ", ".join(str(axis) for axis in tensor.shape) + "]"


def _input_type(spec: ModelSpec) -> str:
    return "uint8" if spec.preprocess.baked else spec.preprocess.dtype


def _picture_shape(spec: ModelSpec) -> tuple[int, ...]:
    """The shape of one picture as the graph takes it."""
    rule = spec.preprocess
    if rule.baked:
        return (*(rule.frame_hw or rule.size_hw), 3)
    channels = 1 if rule.channel_order == "gray" else 3
    return (channels, *rule.size_hw) if rule.layout == "nchw" else (*rule.size_hw, channels)


def _as_image(image: Image | str | Path) -> Image:
    if isinstance(image, (str, Path)):
        return load_image(image)
    if not isinstance(image, np.ndarray):
        raise UsageError(f"an image is a uint8 RGB array [height, width, 3] or the path of a file, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UsageError(f"an image is a uint8 RGB array [height, width, 3]; this one is {image.dtype} {list(image.shape)}")
    return np.ascontiguousarray(image)


def _filled(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The array with rows of zeros after it up to ``size``."""
    if len(array) == size:
        return array
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])
