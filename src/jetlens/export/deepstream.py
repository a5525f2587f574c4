"""DeepStream: an nvinfer configuration, its graph, a label file and a pipeline script that do what the sidecar says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jetlens import __version__
from jetlens.atomic import write_atomic
from jetlens.engines.plan import SUFFIXES
from jetlens.errors import ModelError, OutputError, UsageError
from jetlens.export.bake import bake_preprocessing, graph_input
from jetlens.export.deepstream_graph import deepstream_graph
from jetlens.registry import require
from jetlens.spec import ModelSpec, PreprocessSpec, read_model
from jetlens.tasks.segmentation import segment_labels

__all__ = ["CONFIG", "LABELS", "SCRIPT", "DeepStreamFiles", "write_deepstream"]

CONFIG, LABELS, SCRIPT = "nvinfer.txt", "labels.txt", "run.sh"

_LIBRARY = "/opt/nvidia/deepstream/deepstream/lib/libnvds_infercustomparser.so"
_NETWORK_MODE = {"fp32": 0, "int8": 1, "fp16": 2}
_NETWORK_TYPE = {"detection": 0, "classification": 1, "segmentation": 2}
_COLOR_FORMAT = {"rgb": 0, "bgr": 1}
_SHOWN = (1080, 1920)
"""Height and width to which frames are brought for showing where the graph does not fix it."""


@dataclass(frozen=True, slots=True)
class DeepStreamFiles:
    """What was written.

    Attributes:
        graph: the ONNX file for nvinfer, which differs from the model: see ``changes``.
        settings: the properties of the configuration.
        changes: what the graph does that nvinfer cannot.
        differences: where DeepStream's answers still differ from jetlens's; none means that the same pixels give the same answers
            (its parser ends boxes at the right and lower edge a pixel earlier).
    """

    folder: Path
    graph: Path
    settings: dict[str, str]
    changes: tuple[str, ...]
    differences: tuple[str, ...]


def write_deepstream(
    model: Path,
    folder: Path,
    *,
    name: str | None = None,
    batch: int | None = None,
    frame_hw: tuple[int, int] | None = None,
    force: bool = False,
) -> DeepStreamFiles:
    """Writes a folder that DeepStream runs: ``nvinfer.txt``, ``labels.txt``, ``run.sh`` and the graph.

    nvinfer computes ``net-scale-factor * (x - offsets[channel])`` with one factor for all channels. Where that cannot be what the sidecar says,
    the graph takes RGB from 0 to 255 and holds mean, std and channel order itself; the factor is then 1 and the offsets are 0.

    Args:
        name: of the graph, ``NAME.deepstream.onnx``; the model file's own if not given.
        batch: streams that are inferred together; the graph's own if its batch axis is fixed, otherwise 1.
        frame_hw: size of the streams' frames: the graph then resizes them itself, exactly as jetlens does.
        force: replace the files of an earlier call; engines that DeepStream built there of it are removed.

    Raises:
        ModelError: the model needs another graph; says which and why.
        OutputError: the files are there already, or cannot be written.
    """
    if model.suffix.lower() in SUFFIXES:
        raise UsageError(f"{model} is an engine; give the .onnx file that it was built from, DeepStream builds its own")
    onnx = require("onnx", extra="export", why="jetlens deepstream")
    content, spec = read_model(model)
    if spec.precision not in _NETWORK_MODE:
        raise ModelError(f"{spec.name} has precision {spec.precision!r}; DeepStream has {', '.join(_NETWORK_MODE)}")
    source = onnx.load_model_from_string(content)
    if frame_hw is not None and not spec.preprocess.baked:
        source = bake_preprocessing(source, spec.preprocess)
        spec = replace(spec, preprocess=replace(spec.preprocess, baked=True))
    spec = _framed(spec, frame_hw)
    batch = _batch(graph_input(source.graph), batch)
    direct = _is_expressible(spec.preprocess)
    graph, outputs = deepstream_graph(onnx, source, spec, keep_input=direct)
    target = folder / f"{name or model.stem}.deepstream.onnx"
    classes = [dim.dim_value for dim in graph.graph.output[0].type.tensor_type.shape.dim][1]
    settings = {**_settings(spec, target.name, batch, direct), **_task_settings(spec, classes), "output-blob-names": ";".join(outputs)}
    changes = tuple(_changes(spec, direct))
    differences = tuple(_differences(spec, settings, graph_input(graph.graph)))
    taken = next((folder / name for name in (CONFIG, LABELS, SCRIPT, target.name) if (folder / name).exists()), None)
    if taken is not None and not force:
        raise OutputError(f"{taken} is there already; give --force to replace it, or another --output")
    for engine in folder.glob(f"{target.name}_b*.engine"):
        # nvinfer would go on with the engine of the graph before.
        engine.unlink()
    write_atomic(target, graph.SerializeToString())
    write_atomic(folder / LABELS, _labels(spec, classes).encode())
    write_atomic(folder / CONFIG, _config(spec, settings, (*changes, *differences)).encode())
    write_atomic(folder / SCRIPT, _script(spec).encode(), mode=0o755)
    return DeepStreamFiles(folder, target, settings, changes, differences)


def _framed(spec: ModelSpec, frame_hw: tuple[int, int] | None) -> ModelSpec:
    """The spec with the frames' size in it, where one is asked for."""
    pre = spec.preprocess
    if pre.frame_hw is not None and frame_hw not in (None, pre.frame_hw):
        own = "{}x{}".format(*pre.frame_hw)
        raise UsageError(f"{spec.name} takes frames of {own}; leave --frame-size out, or export the model for another size")
    frame_hw = frame_hw or pre.frame_hw
    if frame_hw is None and pre.resize == "crop":
        raise ModelError(
            f"{spec.name}: nvinfer scales whole frames and cannot cut their middle out, as resize rule 'crop' says; "
            "give --frame-size HxW, and the graph does it itself"
        )
    return replace(spec, preprocess=replace(pre, frame_hw=frame_hw))


def _batch(source: Any, batch: int | None) -> int:
    """The batch of the configuration, which a graph with a fixed one decides."""
    dim = source.type.tensor_type.shape.dim[0]
    fixed = dim.dim_value if dim.HasField("dim_value") else None
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch}: give 1 or more streams")
    if fixed is not None and batch not in (None, fixed):
        raise ModelError(f"the graph takes batches of {fixed} only; leave --batch out, or export it with --batch dynamic")
    return fixed or batch or 1


def _is_expressible(spec: PreprocessSpec) -> bool:
    """Whether nvinfer's own arithmetic is all that stands between pixels and the graph's input."""
    return (
        not spec.baked
        and spec.layout == "nchw"
        and spec.dtype == "float32"
        and spec.channel_order in _COLOR_FORMAT
        and len(set(spec.std)) == 1
    )


def _settings(spec: ModelSpec, graph: str, batch: int, direct: bool) -> dict[str, str]:
    """The properties, in the order in which they are written."""
    pre = spec.preprocess
    height, width = pre.frame_hw or pre.size_hw
    letterbox = pre.resize == "letterbox" and pre.frame_hw is None
    values: dict[str, Any] = {
        "gpu-id": 0,
        "onnx-file": graph,
        "model-engine-file": f"{graph}_b{batch}_gpu0_{spec.precision}.engine",
        "labelfile-path": LABELS,
        "batch-size": batch,
        "network-mode": _NETWORK_MODE[spec.precision],
        "network-type": _NETWORK_TYPE[spec.task],
        "process-mode": 1,
        "gie-unique-id": 1,
        "interval": 0,
        "infer-dims": f"3;{height};{width}",
        "network-input-order": 0,
        "model-color-format": _COLOR_FORMAT[pre.channel_order] if direct else 0,
        "net-scale-factor": repr(1 / pre.std[0]) if direct else "1.0",
        "offsets": ";".join(repr(float(value)) for value in (pre.mean if direct else (0.0, 0.0, 0.0))),
        "maintain-aspect-ratio": int(letterbox),
        "symmetric-padding": int(letterbox and pre.anchor == "center"),
        "scaling-filter": 1,
    }
    return {key: str(value) for key, value in values.items()}


def _task_settings(spec: ModelSpec, classes: int) -> dict[str, str]:
    """What depends on the task; ``classes``: of the graph's first output."""
    if spec.task == "classification":
        return {"classifier-threshold": "0.0"}
    if spec.task == "segmentation":
        return {"num-detected-classes": str(classes), "segmentation-threshold": "0.0", "segmentation-output-order": "0"}
    return {
        "num-detected-classes": str(max(1, len(spec.labels))),
        "cluster-mode": "2",
        "parse-bbox-func-name": "NvDsInferParseCustomTfSSD",
        "custom-lib-path": _LIBRARY,
    }


def _changes(spec: ModelSpec, direct: bool) -> Iterator[str]:
    """What the graph does in place of nvinfer, and why."""
    pre = spec.preprocess
    if not direct:
        why = "nvinfer has one net-scale-factor for all channels" if len(set(pre.std)) > 1 else "as in the model itself"
        yield f"the graph takes float32 RGB from 0 to 255 [N, 3, H, W]; channel order, mean and std are inside ({why})"
    if pre.frame_hw is not None:
        yield f"the graph resizes frames of {pre.frame_hw[0]}x{pre.frame_hw[1]} itself ({pre.resize}, {pre.filter})"
    if spec.precision == "int8":
        yield "int8: the graph holds its own scales (Q/DQ), so nvinfer's warning that there is no calibration file means nothing"
    yield {
        "classification": "the graph answers probabilities, which nvinfer's classifier compares",
        "detection": "the graph answers the four tensors that NvDsInferParseCustomTfSSD of DeepStream's own library reads; NMS is nvinfer's (cluster-mode 2)",
        "segmentation": "the graph answers a plane a class that is 1 where the class is, since nvinfer takes the largest plane above its threshold",
    }[spec.task]


def _differences(spec: ModelSpec, settings: dict[str, str], taken: Any) -> Iterator[str]:
    """What DeepStream does otherwise than the model and its sidecar say."""
    pre = spec.preprocess
    if spec.precision == "fp16":
        command = f"trtexec --stronglyTyped --onnx={settings['onnx-file']} --saveEngine={settings['model-engine-file']}"
        if not taken.type.tensor_type.shape.dim[0].HasField("dim_value"):
            picture = settings["infer-dims"].replace(";", "x")
            batches = {"min": "1", "opt": settings["batch-size"], "max": settings["batch-size"]}
            command += "".join(f" --{kind}Shapes={taken.name}:{count}x{picture}" for kind, count in batches.items())
        yield (
            "fp16: nvinfer lets TensorRT compute in fp16 also what the graph keeps in fp32, such as the decoding of boxes; with TensorRT 10 this makes "
            f"an engine that does not: {command}"
        )
    if pre.frame_hw is not None:
        return
    remedy = "give --frame-size HxW, and the graph resizes exactly"
    if pre.resize == "letterbox" and pre.pad_value != 0:
        yield f"letterbox: nvinfer pads with black, the model was trained with grey level {pre.pad_value}; {remedy}"
    if pre.filter == "antialias":
        yield f"resizing: nvinfer's bilinear filter does not average when it shrinks, the sidecar's filter 'antialias' does; {remedy}"


def _labels(spec: ModelSpec, classes: int) -> str:
    """The label file: a line a class, or for a classifier one line with semicolons between the names."""
    names: tuple[str, ...]
    if spec.task == "segmentation":
        names = (*segment_labels(spec), *("",) * classes)[:classes]
    elif spec.task == "classification":
        first = max(0, spec.label_offset) - spec.label_offset
        names = tuple(spec.label(first + index) for index in range(classes))
    else:
        names = spec.labels
    plain = [" ".join(name.replace(";", ",").split()) or f"class {index}" for index, name in enumerate(names)]
    return (";" if spec.task == "classification" else "\n").join(plain) + "\n"


def _config(spec: ModelSpec, settings: dict[str, str], notes: tuple[str, ...]) -> str:
    lines = [f"# Written by jetlens {__version__} from {spec.name} ({spec.task}, {spec.precision}, sha256 {spec.sha256[:16]}).", "#"]
    lines += [*(f"# {note}" for note in notes), "", "[property]", *(f"{key}={value}" for key, value in settings.items())]
    if spec.task == "detection":
        lines += ["", "[class-attrs-all]", f"pre-cluster-threshold={spec.confidence!r}", f"nms-iou-threshold={spec.iou!r}", "topk=300"]
    # A comment that a name with a line break leaves would be read as a setting.
    return "".join("".join(c if c.isprintable() else "?" for c in line) + "\n" for line in lines)


def _script(spec: ModelSpec) -> str:
    height, width = spec.preprocess.frame_hw or _SHOWN
    visual = _VISUAL[spec.task].format(width=_SHOWN[1], height=_SHOWN[0])
    return _SCRIPT.replace("WIDTH", str(width)).replace("HEIGHT", str(height)).replace("VISUAL", visual)


_VISUAL = {
    "classification": "nvmultistreamtiler width={width} height={height} ! nvvideoconvert ! nvdsosd",
    "detection": "nvmultistreamtiler width={width} height={height} ! nvvideoconvert ! nvdsosd",
    "segmentation": 'nvsegvisual batch-size="$total" width={width} height={height} ! nvmultistreamtiler width={width} height={height}',
}

_SCRIPT = """\
#!/bin/sh
# Runs files, rtsp:// or http:// addresses through nvinfer.txt: ./run.sh SOURCE...
# SINK=FILE.mp4 writes what is seen (out.mp4 if not given), SINK=display shows it, SINK=none only measures.
# ENCODER=x264enc for boards without a hardware encoder, such as the Orin Nano.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
total=$#
if [ "$total" -eq 0 ]; then
  echo "usage: $0 SOURCE...   (files, rtsp:// or http:// addresses)" >&2
  exit 2
fi
batch=$(sed -n 's/^batch-size=//p' "$here/nvinfer.txt")
if [ "$total" -gt "$batch" ]; then
  echo "$total sources and batch-size $batch: write the configuration again with --batch $total" >&2
  exit 2
fi
live=0
number=0
while [ "$number" -lt "$total" ]; do
  case $1 in
    rtsp://* | rtsps://*) uri=$1 live=1 ;;
    *://*) uri=$1 ;;
    *) uri=file://$(realpath -- "$1") ;;
  esac
  shift
  set -- "$@" uridecodebin "uri=$uri" ! nvvideoconvert ! 'video/x-raw(memory:NVMM),format=NV12' ! "mux.sink_$number"
  number=$((number + 1))
done
encoder=${ENCODER:-nvv4l2h264enc}
raw='video/x-raw,format=I420'
case $encoder in nv*) raw='video/x-raw(memory:NVMM),format=I420' ;; esac
show=nveglglessink
if [ -e /etc/nv_tegra_release ]; then show=nv3dsink; fi
case ${SINK:-out.mp4} in
  display) set -- "$show" "$@" ;;
  none) set -- fakesink sync=0 "$@" ;;
  *) set -- nvvideoconvert ! "$raw" ! "$encoder" ! h264parse ! mp4mux ! filesink "location=${SINK:-out.mp4}" "$@" ;;
esac
exec gst-launch-1.0 -e \\
  nvstreammux name=mux batch-size="$total" width=WIDTH height=HEIGHT live-source="$live" batched-push-timeout=40000 ! \\
  nvinfer config-file-path="$here/nvinfer.txt" ! \\
  VISUAL ! "$@"
"""
