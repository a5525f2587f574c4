"""ModelSpec, the sidecar: all that a runtime must know to feed a model and to read its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from jetlens.atomic import write_atomic
from jetlens.errors import ModelError, SidecarError
from jetlens.results import label_of

__all__ = [
    "FP32_NODES_KEY",
    "METADATA_KEY",
    "ModelSpec",
    "PreprocessSpec",
    "ResizeFilter",
    "ResizeRule",
    "TaskName",
    "TensorSpec",
    "is_sound",
    "read_model",
    "sidecar_path",
    "write_sidecar",
]

TaskName = Literal["classification", "detection", "segmentation"]
ResizeRule = Literal["stretch", "letterbox", "crop"]
ResizeFilter = Literal["antialias", "linear"]
ChannelOrder = Literal["rgb", "bgr", "gray"]
Layout = Literal["nhwc", "nchw"]
InputType = Literal["uint8", "float32", "float16"]
Anchor = Literal["center", "top-left"]

METADATA_KEY = "jetlens.spec"
"""The key under which the spec (without the file's hash) also stands in an ONNX file's metadata."""

FP32_NODES_KEY = "jetlens.fp32_nodes"
"""The key of a JSON list in an ONNX file's metadata: nodes whose numbers leave fp16, for builders that may lower what the graph's types leave open."""

FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, NumPy type name and shape of a graph's input or output; a text in the shape names a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How a picture becomes the model's input.

    Resizing is done on the host, by the one shared implementation, unless the graph was made for frames of one size. The steps after it
    (channel order, ``(x - mean) / std``, layout) are in the graph when ``baked`` is true, and the host then feeds uint8 RGB [N, H, W, 3];
    otherwise the host does them too.

    Attributes:
        size_hw: height and width of the network's input in pixels.
        resize: ``stretch`` ignores the aspect ratio; ``letterbox`` keeps it and pads with ``pad_value``; ``crop`` scales the
            short side to ``short_side`` (to the input's size if None) and cuts the centre.
        filter: ``antialias`` equals Pillow's and torchvision's bilinear within one grey level; ``linear`` equals cv2's.
        anchor: where a letterboxed picture stands on its canvas.
        mean: subtracted from each channel, in grey levels (0 to 255), in the order of ``channel_order``.
        std: divides each channel, in grey levels.
        frame_hw: height and width of the frames that a graph takes which resizes them itself; None where the host resizes.
    """

    size_hw: tuple[int, int]
    resize: ResizeRule = "stretch"
    filter: ResizeFilter = "antialias"
    short_side: int | None = None
    anchor: Anchor = "center"
    pad_value: int = 114
    baked: bool = True
    channel_order: ChannelOrder = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    layout: Layout = "nchw"
    dtype: InputType = "float32"
    frame_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if height < 1 or width < 1:
            raise SidecarError(f"the input size is {height}x{width}; give a height and a width of at least 1 pixel")
        channels = 1 if self.channel_order == "gray" else 3
        if len(self.mean) != channels or len(self.std) != channels:
            raise SidecarError(
                f"mean and std have {len(self.mean)} and {len(self.std)} values; channel order {self.channel_order!r} needs {channels} of each"
            )
        if not all(value > 0 for value in self.std):
            raise SidecarError(f"std is {list(self.std)}; every value must be above 0 (grey levels, 0 to 255)")
        if self.frame_hw is not None and (min(self.frame_hw) < 1 or not self.baked):
            raise SidecarError(
                f"frame_hw is {list(self.frame_hw)}; it takes 2 sides of at least 1 pixel, and a graph that takes uint8 (baked)"
            )
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise SidecarError(f"preprocess.{name} is {value!r}; allowed: {', '.join(allowed)}")


_CHOICES: dict[str, tuple[str, ...]] = {
    "resize": get_args(ResizeRule),
    "filter": get_args(ResizeFilter),
    "anchor": get_args(Anchor),
    "channel_order": get_args(ChannelOrder),
    "layout": get_args(Layout),
    "dtype": get_args(InputType),
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model file is, how to feed it and how to read it; written beside the file as ``NAME.onnx.json``.

    Attributes:
        labels: names by class id; an empty text is a gap in the ids.
        decoder: how outputs become results: a name in the task's table of decoders.
        decoder_options: what that decoder needs to know, such as strides or tensor names.
        label_offset: subtracted from the graph's class ids before labels are looked up (1 where class 0 is a background that has no label).
        confidence: default threshold for detections.
        iou: default threshold of non-maximum suppression.
        precision: ``fp32``, ``fp16`` or ``int8``: the arithmetic that the graph asks for.
        sha256: of the model file's bytes.
        weights: where the weights came from (command, data, seed, source, licence ...).
        accuracy: metric name to value, with what it was measured on under ``data``.
    """

    name: str
    task: TaskName
    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    decoder: str
    decoder_options: Mapping[str, Any] = field(default_factory=dict)
    label_offset: int = 0
    confidence: float = 0.5
    iou: float = 0.5
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    precision: str = "fp32"
    sha256: str = ""
    weights: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.labels, tuple) or not all(isinstance(label, str) for label in self.labels):
            raise SidecarError("labels must be a list of texts, one for each class id (an empty text is a gap)")
        if self.task not in get_args(TaskName):
            raise SidecarError(f"task is {self.task!r}; allowed: {', '.join(get_args(TaskName))}")

    def label(self, class_id: int) -> str:
        """The name of a class id; ``class N`` where the labels have none."""
        return label_of(self.labels, class_id)

    def to_json(self) -> str:
        """The sidecar's text."""
        return json.dumps({"jetlens_sidecar": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, origin: str = "sidecar") -> ModelSpec:
        """Reads a sidecar's text.

        Raises:
            SidecarError: it is no JSON object of this format, or a field is missing, unknown or of the wrong kind.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SidecarError(f"{origin} is not valid JSON ({error}); write it again with `jetlens adopt`") from None
        if not isinstance(raw, dict) or raw.pop("jetlens_sidecar", None) != FORMAT:
            raise SidecarError(f"{origin} is not a jetlens sidecar of format {FORMAT}; write one with `jetlens adopt`")
        try:
            raw["preprocess"] = _build(PreprocessSpec, raw.get("preprocess"), origin)
            for key in ("inputs", "outputs"):
                raw[key] = tuple(_build(TensorSpec, row, origin) for row in raw.get(key, ()))
            return _build(cls, raw, origin)
        except SidecarError as error:
            raise error if str(error).startswith(origin) else SidecarError(f"{origin}: {error}") from None
        except (TypeError, ValueError) as error:
            raise SidecarError(f"{origin}: {error}; write it again with `jetlens adopt`") from None


def _build(kind: type[T], raw: Any, origin: str) -> T:
    """A dataclass from a JSON object: lists become tuples, unknown keys are errors."""
    if not isinstance(raw, dict):
        raise SidecarError(f"{origin}: {kind.__name__} must be a JSON object, not {type(raw).__name__}")
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - known)
    if unknown:
        raise SidecarError(f"{origin}: unknown key {unknown[0]!r} in {kind.__name__}; known: {', '.join(sorted(known))}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})


def sidecar_path(model: Path) -> Path:
    """Where the sidecar of a model file stands: ``NAME.onnx`` -> ``NAME.onnx.json``."""
    return model.with_name(model.name + ".json")


def write_sidecar(model: Path, spec: ModelSpec) -> ModelSpec:
    """Writes the sidecar of an existing model file and returns the spec with that file's hash in it."""
    complete = replace(spec, sha256=hashlib.sha256(model.read_bytes()).hexdigest())
    write_atomic(sidecar_path(model), complete.to_json().encode())
    return complete


def is_sound(path: Path) -> bool:
    """Whether a model file and its sidecar are there, whole, and belong together."""
    try:
        read_model(path)
    except ModelError:
        return False
    return True


def read_model(path: Path) -> tuple[bytes, ModelSpec]:
    """The bytes of a model file and its spec, after checking that the two belong together.

    Raises:
        ModelError: there is no such file, or it is empty.
        SidecarError: there is no sidecar, or it is another file's.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such model file; give an .onnx file or a model's name")
    content = path.read_bytes()
    if not content:
        raise ModelError(f"{path}: the model file is empty; export or copy it again")
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        raise SidecarError(f"{path} has no sidecar {sidecar.name}, so nobody knows how to feed it; write one: jetlens adopt {path}")
    spec = ModelSpec.from_json(sidecar.read_bytes(), origin=str(sidecar))
    digest = hashlib.sha256(content).hexdigest()
    if spec.sha256 != digest:
        raise SidecarError(
            f"{sidecar.name} belongs to another file (sha256 {spec.sha256[:12]}, this file has {digest[:12]}): "
            f"copy the right pair, or write a new sidecar with jetlens adopt {path}"
        )
    return content, spec
