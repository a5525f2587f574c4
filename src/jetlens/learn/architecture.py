"""The architecture of a network: a table of its layers and a diagram, from PyTorch or from an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlens.errors import UnknownNameError, UsageError
from jetlens.learn.lesson import Lesson
from jetlens.models import MODELS, PRETRAINED, build, canonical
from jetlens.models.summary import LayerRow, summary, summary_table, totals
from jetlens.plots import plot_architecture
from jetlens.predictor import model_path, shipped_names
from jetlens.registry import require

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NetworkOptions", "architecture"]

_SIZES = {"basic_cnn": (32, 32), "custom_resnet": (32, 32), "small_det": (288, 512), "small_seg": (360, 640)}
_CLASSES = {"basic_cnn": 10, "custom_resnet": 10, "small_det": 1, "small_seg": 4}
_PRETRAINED_CLASSES = {"classification": 1000, "segmentation": 21, "detection": 90}


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a user may say of a network that is built by name; None takes what is usual for it.

    Attributes:
        own_network: ``module:factory`` of a checkpoint of the user's own network.
    """

    classes: int | None = None
    size_hw: tuple[int, int] | None = None
    channels: int = 3
    own_network: str | None = None


def architecture(model: str, output: Path, options: NetworkOptions | None = None) -> Lesson:
    """Draws the blocks of a network and lists its layers: ours, torchvision's by name, ``module:factory``, a checkpoint, or an .onnx file.

    Raises:
        UnknownNameError: nothing has that name.
        UsageError: an option that does not go with the model.
        ModelError: the file cannot be read.
    """
    name, rows, shape = _rows(model, options or NetworkOptions())
    parameters, macs = totals(rows)
    plot_architecture(rows, output, title=name, input_shape=shape)
    deepest = max(rows, key=lambda row: row.macs)
    largest = max(rows, key=lambda row: row.parameters)
    return Lesson(
        f"architecture of {name}",
        (
            "A convolution of C_out filters k×k over C_in maps has C_out·(C_in·k²/groups + 1) parameters (without bias one less a filter) and needs "
            "C_out·H·W·C_in·k²/groups multiplications with their additions (MACs) for an output of H×W.",
            "A linear layer from n to m values has m·(n + 1) parameters and needs n·m MACs. Pooling and activations have none of either.",
            "As a rule early layers, with large maps, take most of the arithmetic, and late layers, with many filters, hold most of the parameters.",
        ),
        (
            *summary_table(rows).splitlines(),
            f"input {'x'.join(map(str, shape))}; {parameters:,} parameters ({parameters * 4 / 2**20:.2f} MiB in fp32), {macs:,} MACs a picture",
            f"most parameters: {largest.name} ({largest.parameters / max(1, parameters):.0%}); most arithmetic: {deepest.name} ({deepest.macs / max(1, macs):.0%})",
        ),
        {
            "model": name, "input_shape": list(shape), "parameters": parameters, "macs": macs,
            "layers": [_record(row) for row in rows],
        },
        (output,),
    )  # fmt: skip


def _record(row: LayerRow) -> dict[str, Any]:
    """A layer for programs; its output without the batch."""
    return {**asdict(row), "output_shape": list(row.output_shape[1:])}


def _rows(model: str, options: NetworkOptions) -> tuple[str, Sequence[LayerRow], tuple[int, ...]]:
    """The network's name, its layers and the shape of its input: channels, height, width."""
    suffix = Path(model).suffix.lower()
    if suffix == ".onnx" or model in shipped_names():
        if replace(options, size_hw=None) != NetworkOptions():
            raise UsageError(f"{model} is a graph as it is; --classes, --channels and --network go with networks that are built")
        return _onnx_rows(model, options.size_hw)
    if suffix == ".safetensors" or Path(model).is_file():
        from jetlens.registry import resolve

        require("torch", extra="train", why="a checkpoint")
        network, spec = resolve("jetlens.export.trained:network_to_export")(model, own_network=options.own_network, size_hw=options.size_hw)
        return spec.name, *_measured(network, (len(spec.preprocess.mean), *spec.preprocess.size_hw))
    name, network, size_hw = _built(model, options)
    return name, *_measured(network, (options.channels, *size_hw))


def _onnx_rows(model: str, size_hw: tuple[int, int] | None) -> tuple[str, Sequence[LayerRow], tuple[int, ...]]:
    from jetlens.learn.layers_onnx import onnx_rows
    from jetlens.learn.onnx_graph import OnnxGraph

    path = model_path(model)
    graph = OnnxGraph(path.read_bytes(), path.name, size_hw)
    if graph.open_axes and size_hw is None:
        raise UsageError(f"{path.name} takes pictures of any size: give one with --size HxW, such as --size 224x224")
    if size_hw is not None and not graph.open_axes:
        raise UsageError(f"{path.name} takes {'x'.join(map(str, graph.input.shape[1:]))} and no other size; leave --size away")
    rows = onnx_rows(graph)
    if not rows:
        raise UsageError(f"{path.name}: the graph has no layer that computes")
    # Our own preprocessing in the graph is no part of the network.
    rows = [row for row in rows if not row.name.startswith("jetlens.")]
    return path.stem, rows, graph.shapes.get(graph.input.name, (0,))[1:]


def _measured(network: nn.Module, shape: tuple[int, ...]) -> tuple[Sequence[LayerRow], tuple[int, ...]]:
    try:
        rows = summary(network, shape)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        words = " ".join(str(error).split())[:140]
        raise UsageError(
            f"{type(network).__name__} does not take a picture of {'x'.join(map(str, shape))}: {words}; give another --size HxW or --channels"
        ) from None
    return rows, shape


def _built(model: str, options: NetworkOptions) -> tuple[str, nn.Module, tuple[int, int]]:
    """A network with random weights."""
    require("torch", extra="train", why=f"the network {model}")
    name = _known(model)
    arguments: dict[str, Any] = {"in_channels": options.channels} if options.channels != 3 else {}
    if ":" in name:
        if options.size_hw is None:
            raise UsageError(f"{model}: give the size of its pictures: --size 224x224")
        classes = {} if options.classes is None else {"num_classes": options.classes}
        return name, build(name, own_code=True, **arguments, **classes, size_hw=options.size_hw), options.size_hw
    row = PRETRAINED.get(name)
    size_hw = options.size_hw or (row.size_hw if row else _SIZES.get(name, (224, 224)))
    classes_of = options.classes or (_PRETRAINED_CLASSES[row.task] if row else _CLASSES.get(name, 1000))
    if row is None and name not in MODELS:
        return name, _of_torchvision(name, classes_of, options), size_hw
    if name == "small_det" or (row is not None and row.fixed_size):
        arguments["size_hw"] = size_hw
    return name, build(name, num_classes=classes_of, **arguments), size_hw


def _known(model: str) -> str:
    """The name as jetlens or torchvision writes it, however the user does: ``BasicCNN`` is basic_cnn."""
    if ":" in model:
        return model
    models = require("torchvision.models", extra="train", why=f"the network {model}")
    names = [*MODELS, *PRETRAINED, *models.list_models(module=models)]
    plain = {name.replace("_", ""): name for name in reversed(names)}
    found: str | None = plain.get(canonical(model).lower().replace("_", ""))
    if found is None:
        raise UnknownNameError("network", model, [*dict.fromkeys(names), *shipped_names()])
    return found


def _of_torchvision(name: str, classes: int, options: NetworkOptions) -> nn.Module:
    """A classifier of torchvision that jetlens does not train itself."""
    if options.channels != 3:
        raise UsageError(f"{name} takes colour pictures: leave --channels away")
    models = require("torchvision.models", extra="train", why=f"the network {name}")
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return network
