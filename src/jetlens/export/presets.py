"""Presets: how the well-known families of networks are fed and read, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jetlens.errors import UnknownNameError
from jetlens.models.options import IMAGENET_MEAN, IMAGENET_STD
from jetlens.spec import TaskName

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True, slots=True)
class Preset:
    """One family.

    Attributes:
        summary: which networks it fits, in a few words.
        preprocess: fields of PreprocessSpec that the family fixes.
        decoder: None where the graph's outputs tell it (softmax inside or not).
        decoder_options: what the family fixes; the graph completes it.
        labels: a name that ``load_labels`` knows, or the labels themselves.
        size_hw: for graphs whose input has a free size.
        confidence, iou: default thresholds of a detector.
    """

    summary: str
    task: TaskName
    preprocess: Mapping[str, Any]
    decoder: str | None = None
    decoder_options: Mapping[str, Any] = field(default_factory=dict)
    labels: str | tuple[str, ...] | None = None
    size_hw: tuple[int, int] | None = None
    confidence: float = 0.5
    iou: float = 0.5


_IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_UNIT = {"std": (255.0, 255.0, 255.0)}
_SIGNED = {"mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)}
_CENTER = {"resize": "letterbox", "filter": "linear", "pad_value": 114}
_TOP_LEFT = {**_CENTER, "anchor": "top-left"}
_PLAIN = {"resize": "stretch", "filter": "linear"}
_NANODET = {**_PLAIN, "channel_order": "bgr", "mean": IMAGENET_MEAN[::-1], "std": IMAGENET_STD[::-1]}
_FACE = ("face",)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist", "void")

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "torchvision-classifier": Preset(
            "ImageNet classifiers of torchvision, timm's default and many others",
            "classification",
            {"resize": "crop", "short_side": 256, **_IMAGENET},
            labels="imagenet",
            size_hw=(224, 224),
        ),
        "caffe-classifier": Preset(
            "SqueezeNet, AlexNet, VGG and others from Caffe: BGR minus the mean colour",
            "classification",
            {"resize": "crop", "short_side": 256, "channel_order": "bgr", "mean": (104.0, 117.0, 123.0)},
            labels="imagenet",
            size_hw=(224, 224),
        ),
        "tf-inception": Preset(
            "Inception, MobileNet and others from TensorFlow: -1 to 1",
            "classification",
            {"resize": "crop", **_SIGNED},
            labels="imagenet",
            size_hw=(224, 224),
        ),
        "mnist": Preset(
            "digits, white on black, grey levels 0 to 255",
            "classification",
            {"resize": "stretch", "channel_order": "gray", "mean": (0.0,), "std": (1.0,)},
            labels=tuple("0123456789"),
            size_hw=(28, 28),
        ),
        "cifar10": Preset(
            "CIFAR-10 networks on grey levels 0 to 255 (MLPerf Tiny)",
            "classification",
            {"resize": "stretch"},
            labels=_CIFAR10,
            size_hw=(32, 32),
        ),
        "yolov5": Preset(
            "YOLOv5 and v7: [N, anchors, 5 + classes] in pixels",
            "detection",
            {**_CENTER, **_UNIT},
            decoder="yolov5",
            labels="coco80",
            size_hw=(640, 640),
            confidence=0.25,
            iou=0.45,
        ),
        "yolov8": Preset(
            "YOLOv8, v9, v11: [N, 4 + classes, anchors]",
            "detection",
            {**_CENTER, **_UNIT},
            decoder="yolov8",
            labels="coco80",
            size_hw=(640, 640),
            confidence=0.25,
            iou=0.7,
        ),
        "yolov10": Preset(
            "YOLOv10 and others without NMS: [N, K, 6] corners, score, class",
            "detection",
            {**_CENTER, **_UNIT},
            decoder="detections",
            labels="coco80",
            size_hw=(640, 640),
            confidence=0.25,
            iou=1.0,
        ),
        "yolox": Preset(
            "YOLOX from 0.1.1 on: BGR, grey levels 0 to 255",
            "detection",
            {**_TOP_LEFT, "channel_order": "bgr"},
            decoder="yolox",
            labels="coco80",
            size_hw=(640, 640),
            confidence=0.3,
            iou=0.45,
        ),
        "yolox-legacy": Preset(
            "YOLOX before 0.1.1: RGB, ImageNet's mean and std",
            "detection",
            {**_TOP_LEFT, **_IMAGENET},
            decoder="yolox",
            labels="coco80",
            size_hw=(640, 640),
            confidence=0.3,
            iou=0.45,
        ),
        "nanodet": Preset(
            "NanoDet: class and distribution maps at strides 8, 16, 32",
            "detection",
            _NANODET,
            decoder="nanodet",
            labels="coco80",
            size_hw=(320, 320),
            confidence=0.35,
            iou=0.6,
        ),
        "nanodet-plus": Preset(
            "NanoDet-Plus: one output, strides 8 to 64",
            "detection",
            _NANODET,
            decoder="nanodet",
            decoder_options={"strides": (8, 16, 32, 64), "center": 0.0},
            labels="coco80",
            size_hw=(320, 320),
            confidence=0.35,
            iou=0.6,
        ),
        "fastestdet": Preset(
            "FastestDet: one map [N, 5 + classes, rows, columns]",
            "detection",
            {**_PLAIN, "channel_order": "bgr", **_UNIT},
            decoder="fastestdet",
            labels="coco80",
            size_hw=(352, 352),
            confidence=0.65,
            iou=0.45,
        ),
        "ultraface": Preset(
            "UltraFace: scores [N, A, 2] and boxes [N, A, 4]",
            "detection",
            {**_PLAIN, "mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0)},
            decoder="ssd",
            labels=_FACE,
            size_hw=(240, 320),
            confidence=0.7,
            iou=0.3,
        ),
        "yunet": Preset(
            "YuNet faces: cls, obj, bbox and kps at 8, 16, 32",
            "detection",
            {**_CENTER, "pad_value": 0, "channel_order": "bgr"},
            decoder="yunet",
            labels=_FACE,
            size_hw=(320, 320),
            confidence=0.6,
            iou=0.3,
        ),
        "ssd-signed": Preset(
            "SSD-MobileNet and the like with decoded boxes: -1 to 1",
            "detection",
            {**_PLAIN, **_SIGNED},
            decoder="ssd",
            labels="voc",
            size_hw=(300, 300),
        ),
        "ssd-tf": Preset(
            "TensorFlow's detection API: boxes, scores and classes after NMS",
            "detection",
            _PLAIN,
            decoder="ssd",
            labels="coco91",
            size_hw=(300, 300),
        ),
        "deeplab": Preset(
            "DeepLab from TensorFlow: -1 to 1",
            "segmentation",
            {"resize": "stretch", **_SIGNED},
            labels="voc",
            size_hw=(513, 513),
        ),
        "torchvision-segmentation": Preset(
            "DeepLab, FCN and LR-ASPP of torchvision",
            "segmentation",
            {"resize": "stretch", **_IMAGENET},
            labels="voc",
            size_hw=(520, 520),
        ),
        "espnet-camvid": Preset(
            "ESPNet on CamVid",
            "segmentation",
            {
                **_PLAIN,
                "channel_order": "bgr",
                "mean": (110.331, 108.409, 105.033),
                "std": (72.126 * 255, 72.691 * 255, 69.904 * 255),
            },
            labels=_CAMVID,
            size_hw=(360, 480),
        ),
    }
)


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
