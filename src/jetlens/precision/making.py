"""make(): an fp16 or int8 file from an fp32 one, kept only if the guard passes it; ensure(): the one that is there already, or made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jetlens import __version__
from jetlens.atomic import write_atomic
from jetlens.data.opening import ORANGE_LINE
from jetlens.data.samples import is_orange_line_model
from jetlens.errors import DataError, GateError, ModelError, UnknownNameError, UsageError
from jetlens.folders import cache_folder
from jetlens.graph import read_graph
from jetlens.precision.activations import METHODS, Method, observe, scales
from jetlens.precision.fp16 import halvable, overflowing, rounded, to_half
from jetlens.precision.graph import Graph
from jetlens.precision.guard import Budget, Verdict, judge
from jetlens.precision.int8 import RECIPES, quantizable, quantize, recipe_name, watched, with_half_rest
from jetlens.precision.pictures import Pictures, answers, calibration_pictures, labelled_pictures
from jetlens.precision.repair import Made, groups, ranked
from jetlens.precision.report import Report, Step
from jetlens.precision.tallies import Tally
from jetlens.spec import FP32_NODES_KEY, METADATA_KEY, ModelSpec, is_sound, read_model, write_sidecar

__all__ = ["Asked", "attempt", "chosen_pictures", "ensure", "make"]

_CALIBRATION = 256
_RANKED_ON = 16
_HALF = 0.5
"""The share of layers that may go back to fp32: beyond that a file is of the lower precision in name only."""

Say = Callable[[str], None]
Chosen = tuple[Pictures | None, Pictures, bool]
"""What to calibrate on, what to judge on, and whether that has its truth."""


def _silent(line: str) -> None:
    """Where nobody listens."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a graph of lower precision; see ``make``."""

    precision: Literal["fp16", "int8"]
    data: str | Path | None = None
    layout: str | None = None
    calibration: str | Path | None = None
    method: Method = "percentile"
    recipe: str = "default"
    count: int | None = None
    calibration_count: int = _CALIBRATION
    backend: str = "onnxruntime"


def make(
    model: Path,
    precision: Literal["fp16", "int8"],
    output: Path | None = None,
    *,
    data: str | Path | None = None,
    layout: str | None = None,
    calibration: str | Path | None = None,
    method: Method = "percentile",
    recipe: str = "default",
    count: int | None = None,
    calibration_count: int = _CALIBRATION,
    backend: str = "onnxruntime",
    budget: Budget | None = None,
    report: Say = _silent,
) -> Report:
    """Writes the fp16 or int8 file of an fp32 model, with its sidecar, if its answers hold.

    Args:
        model: an ``.onnx`` file with its sidecar.
        output: ``NAME.fp16.onnx`` or ``NAME.int8.onnx`` beside the model if None.
        data: labelled pictures that judge it: ``orange-line`` or a folder. None takes the orange line for a model of its classes; any other
            model is judged by how far its answers agree with those in fp32.
        calibration: pictures to calibrate on: ``orange-line`` or a folder, whose truth is not read; int8 of a model that is not the orange
            line's needs it. Without ``data`` every other one of them judges.
        count: labelled pictures; 1,000 of a folder and 100 stills of the orange line if None.
        backend: the runtime that answers for the judgement.
        report: is told each step in one line.

    Raises:
        GateError: the answers do not hold, even with half of the layers in fp32; nothing is written.
        UsageError: int8 is asked for and there is nothing to calibrate on.
        ModelError: the model is not fp32, or cannot be of that precision.
        DataError: the pictures cannot be used.
    """
    asked = Asked(precision, data, layout, calibration, method, recipe, count, calibration_count, backend)
    target = output or model.with_name(f"{model.stem}.{precision}.onnx")
    if target.suffix != ".onnx":
        raise UsageError(f"the output is {target.name!r}; give a name that ends in .onnx")
    if target.resolve() == model.resolve():
        raise UsageError(f"{target} is the fp32 model itself; give another output")
    result, content = attempt(model, asked, budget or Budget(), report)
    if content is None:
        raise GateError(_refusal(result))
    write_atomic(target, content)
    spec = ModelSpec.from_json(read_graph(content).metadata[METADATA_KEY], origin=target.name)
    write_sidecar(target, spec)
    return replace(result, path=target)


def ensure(
    model: Path,
    precision: Literal["fp16", "int8"],
    *,
    data: str | Path | None = None,
    calibration: str | Path | None = None,
    report: Say = _silent,
) -> Path:
    """The file of a precision: the model itself, the one beside it, or one made once into the cache; see ``make``."""
    content, spec = read_model(model)
    if spec.precision == precision:
        return model
    beside = model.with_name(f"{model.stem}.{precision}.onnx")
    if beside.is_file():
        return beside
    about = f"{__version__} {hashlib.sha256(content).hexdigest()} {precision} {data} {calibration}"
    cached = cache_folder("models") / f"{model.stem}-{hashlib.sha256(about.encode()).hexdigest()[:16]}.{precision}.onnx"
    if not is_sound(cached):
        make(model, precision, cached, data=data, calibration=calibration, report=report)
    return cached


def attempt(
    model: Path, asked: Asked, budget: Budget, report: Say = _silent, pictures: Chosen | None = None
) -> tuple[Report, bytes | None]:
    """The graph of lower precision and how it was judged; None in its place where it is refused.

    Args:
        pictures: what ``chosen_pictures`` gave, where several precisions are tried on them.
    """
    content, spec = read_model(model)
    if spec.precision != "fp32":
        raise ModelError(f"{model.name} is {spec.precision} already; give the fp32 model that it was made from")
    if asked.method not in METHODS:
        raise UnknownNameError("calibration method", asked.method, METHODS)
    if pictures is None:
        report("reads or draws its pictures")
        pictures = chosen_pictures(spec, asked)
    work = _Work(content, spec, asked, budget, report, pictures)
    work.run()
    return work.finish()


def _refusal(result: Report) -> str:
    last = result.steps[-1].verdict
    back = f", even with {len(result.put_back)} layers back in fp32" if result.put_back else ""
    figures = f"{last.metric} {last.reference:.4f} -> {last.score:.4f}, " if last.metric else ""
    other = "take fp16 or calibrate on the camera's own pictures" if result.precision == "int8" else "stay with fp32"
    return f"{result.precision} is refused{back}: {last.reasons[0]}; {figures}agreement {last.agreement:.2%} of {last.images}; nothing was written: {other}"


class _Work:
    """One conversion: the first try, then repairs until it passes."""

    def __init__(self, content: bytes, spec: ModelSpec, asked: Asked, budget: Budget, report: Say, pictures: Chosen) -> None:
        self._content, self._spec, self._asked, self._budget, self._report = content, spec, asked, budget, report
        self._graph = Graph(content)
        axis = read_graph(content).inputs[0].shape[0]
        self._fixed = axis if isinstance(axis, int) else None
        self._steps: list[Step] = []
        self._made = b""
        self._calibration, self._judged, self._labelled = pictures
        self._reference: Tally | None = None
        self._overflowing: dict[str, float] = {}
        self._layers = [node.name for node in quantizable(self._graph)] if asked.precision == "int8" else halvable(self._graph)
        self._make = self._maker()
        # What is judged: of int8 the file itself, of fp16 its rounding, which the runtime at hand may not do.
        self._judged_as = self._make
        if asked.precision == "fp16" and asked.backend == "onnxruntime":
            self._judged_as = lambda keep: rounded(content, {*keep, *self._overflowing})

    def run(self) -> None:
        """Tries, and puts groups back until the guard passes or too much is fp32."""
        back: tuple[str, ...] = ()
        if self._try(back, ""):
            return
        parts = groups(self._graph, self._layers)
        batches = (self._calibration or self._judged).arrays(_RANKED_ON, self._fixed)
        self._report(f"looks which of {len(parts)} groups of layers to put back into fp32")
        for part in ranked(self._content, self._judged_as, parts, batches):
            more = (*back, *part.nodes)
            if len(more) > _HALF * len(self._layers):
                # A smaller group further down may still fit; the worst one that does not is left out.
                continue
            back = more
            if self._try(back, str(part)):
                return

    def finish(self) -> tuple[Report, bytes | None]:
        """The report, and the finished file's bytes if it passed."""
        result = self._result()
        if not self._steps[-1].verdict.passed:
            return result, None
        return result, self._described(result)

    def _maker(self) -> Made:
        rule = RECIPES[recipe_name(self._asked.recipe)]
        # Also for int8: TensorRT 8.6 runs in fp16 what is not quantized, unless it is told not to.
        self._report(f"looks for values too large for fp16 in {len(self._judged)} pictures")
        self._overflowing = overflowing(self._graph, self._judged.arrays(fixed=self._fixed))
        for name, value in self._overflowing.items():
            self._report(f"{name} reaches {value:.3g} and stays fp32")
        if self._asked.precision == "fp16":
            return lambda keep: to_half(self._content, {*keep, *self._overflowing})
        assert self._calibration is not None
        pictures = self._calibration
        self._report(f"calibrates on {len(pictures)} pictures ({pictures.origin}), {self._asked.method}")
        seen = observe(self._graph, pictures.arrays(fixed=self._fixed), watched(self._graph), self._asked.method)
        table = scales(seen, self._asked.method)
        if rule.rest == "fp16":
            return lambda keep: with_half_rest(quantize(self._content, table, rule, keep), self._overflowing)
        return lambda keep: quantize(self._content, table, rule, keep)

    def _try(self, back: tuple[str, ...], group: str) -> bool:
        self._report(f"{self._asked.precision} answers {len(self._judged)} pictures{'' if self._reference else ', after fp32'}")
        if self._reference is None:
            self._reference = self._answers(self._content, self._judged)
        self._made = self._make(back)
        labels = self._spec.labels if self._labelled else None
        try:
            if self._judged_as is not self._make:
                self._answers(self._made, self._judged.first(_RANKED_ON))
            answered = self._answers(self._judged_as(back), self._judged)
            verdict = judge(self._reference, answered, len(self._judged), self._budget, labels)
        except ModelError as error:
            verdict = Verdict("refused", (str(error),), len(self._judged), 0.0)
        self._steps.append(Step(group, back, verdict))
        self._report(f"{f'with {group} back in fp32: ' if group else ''}{verdict}")
        return verdict.passed

    def _answers(self, content: bytes, pictures: Pictures) -> Tally:
        return answers(content, self._spec, pictures, backend=self._asked.backend, labelled=self._labelled)

    def _result(self) -> Report:
        asked, calibration = self._asked, self._calibration
        return Report(
            precision=asked.precision,
            recipe=recipe_name(asked.recipe) if asked.precision == "int8" else "",
            method=asked.method if asked.precision == "int8" else "",
            calibration={} if calibration is None else _about(calibration),
            data={**_about(self._judged), "labelled": self._labelled, "backend": asked.backend},
            layers=len(self._layers),
            overflowing=self._overflowing,
            steps=tuple(self._steps),
            budget=asdict(self._budget),
        )

    def _described(self, result: Report) -> bytes:
        """The graph with its own spec in the metadata."""
        graph = Graph(self._made)
        facts = read_graph(self._made)
        weights: dict[str, Any] = {**self._spec.weights, "precision": result.summary()}
        if result.calibration:
            weights |= {"calibration": dict(result.calibration), "calibration_sha256": result.calibration["sha256"]}
        verdict = result.steps[-1].verdict
        accuracy: dict[str, Any] = {}
        if verdict.metric:
            accuracy = {verdict.metric: round(verdict.score, 6), f"{verdict.metric}_fp32": round(verdict.reference, 6), **result.data}
        spec = replace(
            self._spec,
            precision=result.precision,
            inputs=facts.inputs,
            outputs=facts.outputs,
            sha256="",
            weights=weights,
            accuracy=accuracy,
        )
        graph.model.producer_name, graph.model.producer_version = "jetlens", __version__
        back = result.steps[-1].kept if self._asked.precision == "fp16" else ()
        held = json.dumps(sorted({*self._overflowing, *back}))
        graph.onnx.helper.set_model_props(graph.model, {METADATA_KEY: spec.to_json(), FP32_NODES_KEY: held})
        return graph.to_bytes()


def _about(pictures: Pictures) -> dict[str, Any]:
    return {"origin": pictures.origin, "pictures": len(pictures), "skipped": pictures.skipped, "sha256": pictures.sha256}


def chosen_pictures(spec: ModelSpec, asked: Asked) -> Chosen:
    """What to calibrate on (int8 only), what to judge on, and whether that has its truth."""
    oranges = is_orange_line_model(spec)
    source = asked.calibration or (ORANGE_LINE if oranges or asked.precision == "fp16" else None)
    if source is None:
        raise UsageError(
            f"int8 of {spec.name} needs pictures to calibrate on: give --calibration FOLDER with {_CALIBRATION} or so of what its camera sees"
        )
    data = asked.data or (ORANGE_LINE if oranges else None)
    if data is not None:
        judged = labelled_pictures(data, spec, asked.count, asked.layout)
        return calibration_pictures(source, spec, asked.calibration_count) if asked.precision == "int8" else None, judged, True
    pictures = calibration_pictures(source, spec, asked.calibration_count)
    if asked.precision == "fp16":
        return None, pictures, False
    if len(pictures) < 2:
        raise DataError(f"{pictures.origin}: one picture cannot both calibrate and judge; give more, or labelled ones with --data")
    return (*pictures.split(), False)
