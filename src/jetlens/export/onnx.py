"""Export of the deployable graph: uint8 pictures in, decoded answers out, its own description inside, checked before it is kept."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetlens import __version__
from jetlens.atomic import write_atomic
from jetlens.errors import ModelError, UsageError, WeightsError
from jetlens.export.bake import INPUT_NAME, bake_preprocessing, opset_of
from jetlens.export.tidy import infer_outputs, keep_outputs, tidy
from jetlens.export.verify import Verification, verify
from jetlens.graph import read_graph
from jetlens.registry import require
from jetlens.spec import METADATA_KEY, ModelSpec, TaskName, write_sidecar

if TYPE_CHECKING:
    from torch import nn

    from jetlens.export.deployable import Deployable

__all__ = ["DEPLOYABLE", "OPSETS", "Form", "export_model", "taps_path"]

OPSETS = (11, 20)
"""The lowest and highest opset that can be asked for; 17 is what TensorRT 8.6 takes."""


@dataclass(frozen=True, slots=True)
class Form:
    """What kind of graph is written.

    Attributes:
        floats: the input is normalised float32 [N, C, H, W] and not uint8 [N, H, W, 3]: for tools that feed floats.
        raw: the outputs are the network's own numbers (of detectors all decoded boxes and scores), and the graph holds no description of itself:
            what ``torch.onnx.export`` alone would write. Its input is of floats.
        input_name: of a graph that takes floats.
        output_names: in order; none takes the task's own.
    """

    floats: bool = False
    raw: bool = False
    input_name: str = INPUT_NAME
    output_names: tuple[str, ...] = ()

    @property
    def takes_floats(self) -> bool:
        """Whether the host normalises."""
        return self.floats or self.raw


DEPLOYABLE = Form()
"""uint8 pictures in, decoded answers out."""


def taps_path(output: Path) -> Path:
    """Where the verification twin stands: ``NAME.onnx`` -> ``NAME.taps.onnx``."""
    return output.with_name(f"{output.stem}.taps{output.suffix}")


def export_model(
    network: nn.Module,
    spec: ModelSpec,
    output: Path,
    *,
    taps: bool = False,
    batch: int | None = None,
    opset: int = 17,
    form: Form = DEPLOYABLE,
    allow_random: bool = False,
    report: Callable[[Verification], None] | None = None,
) -> ModelSpec:
    """Writes the graph of a network and its sidecar, and returns the spec that stands in it.

    Args:
        network: takes normalised float pixels [N, C, H, W] and gives raw outputs, as ``export.deployable.Deployable`` says.
        spec: task, labels and preprocessing; ``weights`` must say where the weights came from.
        output: the ``.onnx`` file; nothing is written or replaced unless the graph passed its verification.
        taps: also write ``NAME.taps.onnx``, which answers with the raw outputs besides.
        batch: pictures in one run; None leaves the axis dynamic.
        allow_random: export although ``spec.weights`` is empty.
        report: is told how far the graph is from PyTorch.

    Raises:
        WeightsError: the weights are random or not finite.
        ModelError: the network cannot be exported as a plain graph.
        VerificationError: the graph does not answer as the network does.
        OutputError: the files cannot be written.
    """
    _check(spec, output, opset, batch, allow_random)
    torch = require("torch", extra="export", why="export")
    onnx = require("onnx", extra="export", why="export")
    from jetlens.export.deployable import Deployable, fix_pools

    _check_finite(torch, network, spec.name)
    deployable = Deployable(deepcopy(network).cpu().float(), spec.task, raw=form.raw).eval()
    whole = _described(spec, form)
    names = _output_names(spec.task, form)
    taken = form.input_name if form.takes_floats else "pixels"
    traced = deepcopy(deployable)
    fix_pools(traced)
    floats = tidy(onnx, onnx.load_model_from_string(_trace(torch, traced, whole, batch, opset, (taken, *names))))
    written = opset_of(floats)
    if written != opset:
        raise ModelError(f"opset {opset} was asked for and this torch wrote {written}; ask for --opset {written} or take another torch")
    twin = floats if form.takes_floats else bake_preprocessing(floats, whole.preprocess)
    graph = twin if form.raw else keep_outputs(onnx, twin, names[:1])
    described, content = _finish(onnx, graph, whole, form)
    twin_content = content if len(twin.graph.output) == len(graph.graph.output) else _finish(onnx, twin, whole, form)[1]
    result = verify(deployable, described, content, twin_content, "N" if batch is None else batch)
    if report is not None:
        report(result)
    write_atomic(output, content)
    if taps:
        write_atomic(taps_path(output), twin_content)
        write_sidecar(taps_path(output), replace(described, outputs=read_graph(twin_content).outputs))
    return write_sidecar(output, described)


def _described(spec: ModelSpec, form: Form) -> ModelSpec:
    """The spec of the graph to write, but for its tensors."""
    from jetlens.export.deployable import OUTPUTS, RAW_DECODERS

    options: dict[str, Any] = {}
    if form.raw and spec.task == "detection":
        boxes, scores = _output_names(spec.task, form)
        options = {"boxes": boxes, "scores": scores, "normalised": False}
    return replace(
        spec,
        preprocess=replace(spec.preprocess, baked=not form.takes_floats, layout="nchw", dtype="float32"),
        decoder=(RAW_DECODERS if form.raw else OUTPUTS)[spec.task],
        decoder_options=options,
        precision="fp32",
        weights=spec.weights or {"source": "none: random weights"},
        sha256="",
    )


def _output_names(task: TaskName, form: Form) -> tuple[str, ...]:
    """The graph's outputs, those of its verification twin included.

    Raises:
        UsageError: as many names as there are outputs were not given, or one twice.
    """
    from jetlens.export.deployable import OUTPUTS, RAW_OUTPUTS, TAPS

    own = RAW_OUTPUTS[task] if form.raw else (OUTPUTS[task],)
    given = form.output_names or own
    taps = () if form.raw else TAPS[task]
    names = (*given, *taps)
    if len(given) != len(own) or len({form.input_name, *names}) != len(names) + 1 or not all(names):
        raise UsageError(
            f"--output-name {','.join(given)[:60]}: a {task} graph of this kind has {len(own)} outputs ({', '.join(own)}); "
            f"give as many names, all different and none of them {', '.join((form.input_name[:30], *taps))}"
        )
    return names


def _check(spec: ModelSpec, output: Path, opset: int, batch: int | None, allow_random: bool) -> None:
    if output.suffix != ".onnx":
        raise UsageError(f"the output is {output.name!r}; give a name that ends in .onnx")
    if batch is not None and batch < 1:
        raise UsageError(f"the batch is {batch}; give 1 or more pictures, or leave it dynamic")
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UsageError(f"opset is {opset}; allowed: {OPSETS[0]} to {OPSETS[1]}, 17 for every TensorRT from 8.6 on")
    if not spec.weights and not allow_random:
        raise WeightsError(
            f"{spec.name} has random weights, so its answers mean nothing; give trained ones, or say --untrained if that is wanted"
        )


def _check_finite(torch: Any, network: nn.Module, name: str) -> None:
    bad = [key for key, value in network.state_dict().items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(
            f"{name}: {len(bad)} weights hold NaN or infinity (such as {bad[0]}); the training went astray: take an earlier checkpoint"
        )


def _trace(torch: Any, deployable: Deployable, spec: ModelSpec, batch: int | None, opset: int, names: tuple[str, ...]) -> bytes:
    """The network as ONNX with float input, its taps as outputs; ``names`` has the input first."""
    channels = len(spec.preprocess.mean)
    # Two pictures: with one, a batch axis that the tracer lost would go unseen.
    example = torch.zeros(batch or 2, channels, *spec.preprocess.size_hw)
    options: dict[str, Any] = {
        "opset_version": opset,
        "input_names": [names[0]],
        "output_names": list(names[1:]),
        "do_constant_folding": True,
    }
    if batch is None:
        options["dynamic_axes"] = {name: {0: "N"} for name in names}
    # The tracing exporter writes the opset that was asked for into one file; the other one drifts to 18 and writes a second file.
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False
    buffer = io.BytesIO()
    try:
        with _quiet(), torch.inference_mode(mode=False), torch.no_grad():
            torch.onnx.export(deployable, (example,), buffer, **options)
    except (RuntimeError, TypeError, ValueError, AttributeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{spec.name} cannot be exported at opset {opset}: {reason}") from error
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporter says of itself; what matters is checked on the graph it wrote."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(before)


def _finish(onnx: Any, graph: Any, spec: ModelSpec, form: Form) -> tuple[ModelSpec, bytes]:
    """The checked graph's bytes, with its spec in the metadata unless it is a raw one, and that spec."""
    infer_outputs(onnx, graph)
    facts = read_graph(graph.SerializeToString())
    described = replace(spec, inputs=facts.inputs, outputs=facts.outputs)
    if not form.raw:
        graph.producer_name, graph.producer_version = "jetlens", __version__
        graph.graph.name = spec.name
        onnx.helper.set_model_props(graph, {METADATA_KEY: described.to_json()})
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{spec.name}: the exported graph is not valid ONNX ({' '.join(str(error).split())[:160]})") from error
    return described, graph.SerializeToString()
