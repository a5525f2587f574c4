"""Adoption: a model made elsewhere gets the sidecar that says how to feed and to read it, after it has answered a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jetlens.atomic import write_atomic
from jetlens.backends import BACKENDS
from jetlens.backends.base import Session, SessionOptions
from jetlens.engines.plan import SUFFIXES
from jetlens.errors import ModelError, OutputError, UsageError, VerificationError
from jetlens.export.bake import INPUT_NAME, bake_preprocessing
from jetlens.export.describe import AdoptOptions, describe, probe_picture
from jetlens.export.plans import describe_plan, describe_unread, require_trust, trusted_session
from jetlens.export.verify import raw_deviation
from jetlens.frame import Image
from jetlens.graph import read_graph
from jetlens.registry import require
from jetlens.results import Prediction
from jetlens.spec import METADATA_KEY, ModelSpec, TensorSpec, sidecar_path, write_sidecar
from jetlens.tasks import TASKS
from jetlens.tasks.base import Arrays, Task

__all__ = ["AdoptOptions", "Adoption", "adopt"]

_TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "uint8": 1e-4}
"""How far the baked graph's answers may be from the unbaked one's, as a part of the largest answer, by the type of the original input."""


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was written.

    Attributes:
        path: the model file that got the sidecar.
        notes: what was found in the graph and what was assumed, a line each.
        trial: the answer to the picture that was given to try, or None.
        baked: the file with the preprocessing inside, or None.
        baked_deviation: largest difference between the answers of the two files, as a part of the largest answer.
        tried: it has answered a picture; false for a plan that cannot be opened here.
    """

    path: Path
    spec: ModelSpec
    notes: tuple[str, ...]
    trial: Prediction | None = None
    baked: Path | None = None
    baked_deviation: float = 0.0
    tried: bool = True


def adopt(
    model: Path,
    options: AdoptOptions,
    *,
    output: Path | None = None,
    bake: bool = False,
    force: bool = False,
    picture: Image | None = None,
    trust: bool = False,
) -> Adoption:
    """Writes the sidecar of an ONNX file or a TensorRT plan; nothing is written before it has answered a picture without fault.

    Args:
        output: copy the model to this file or folder and write the sidecar there.
        bake: also write ``NAME.baked.onnx``, which takes uint8 RGB pixels and answers as the original does.
        force: replace files that are there.
        picture: uint8 RGB [height, width, 3] to try the model on; without it a synthetic one serves.
        trust: the user vouches for a plan, which is executable code.

    Raises:
        UsageError: a plan is not vouched for, or what the options say does not go together.
        ModelError: the graph cannot be run, or is not what the options say.
        VerificationError: the baked graph answers differently.
        OutputError: a file is in the way, or the folder cannot be written.
    """
    content = _content(model)
    target = _target(model, output)
    if model.suffix.lower() in SUFFIXES:
        require_trust(model, trust)
        if bake:
            raise UsageError(f"{model} is a TensorRT engine, into which nothing can be baked; leave --bake away")
        _check_free(model, [target], force)
        return _adopt_plan(model, content, target, options, picture)
    if trust:
        raise UsageError(f"{model} is no TensorRT engine and needs no trust; leave --trust away")
    baked_path = target.with_name(f"{target.stem}.baked.onnx") if bake else None
    _check_free(model, [path for path in (target, baked_path) if path], force)
    graph = read_graph(content, str(model))
    with BACKENDS.load("onnxruntime").open(content, SessionOptions(device="cpu")) as session:
        spec, notes = describe(graph, session, options, target.stem)
        shown = probe_picture(spec.preprocess.size_hw) if picture is None else picture
        trial, answers = _try(session, spec, shown)
    files = [(target, content, spec)]
    deviation = 0.0
    if baked_path:
        baked, baked_spec = _baked(content, spec)
        deviation = _compare(baked, baked_spec, shown, answers)
        files.append((baked_path, baked, baked_spec))
    written = _write(files, model)
    return Adoption(target, written[0], notes, None if picture is None else trial, baked_path, deviation)


def _adopt_plan(model: Path, content: bytes, target: Path, options: AdoptOptions, picture: Image | None) -> Adoption:
    """Trusts a plan and writes its sidecar, after it has answered a picture where TensorRT and a GPU are here."""
    with trusted_session(content, target.name) as (session, missing):
        trial = None
        if session is None:
            spec, notes = describe_unread(options, target.stem, missing)
        else:
            spec, notes = describe_plan(session, options, target.stem)
            trial, _ = _try(session, spec, probe_picture(spec.preprocess.size_hw) if picture is None else picture)
        written = _write([(target, content, spec)], model)
    return Adoption(target, written[0], notes, None if picture is None else trial, tried=trial is not None)


def _content(model: Path) -> bytes:
    if not model.is_file():
        raise ModelError(f"{model}: no such file; give an .onnx file, or a TensorRT engine ({', '.join(SUFFIXES)})")
    if model.suffix.lower() not in (".onnx", *SUFFIXES):
        raise ModelError(f"{model} is no .onnx file; export the network to ONNX where it was made, and adopt that file")
    content = model.read_bytes()
    if not content:
        raise ModelError(f"{model}: the file is empty; export or copy it again")
    return content


def _target(model: Path, output: Path | None) -> Path:
    if output is None:
        return model
    target = output / model.name if output.is_dir() else output
    suffixes = SUFFIXES if model.suffix.lower() in SUFFIXES else (".onnx",)
    if target.suffix.lower() not in suffixes:
        raise UsageError(f"--output {output}: give a file name that ends in {' or '.join(suffixes)}, or a folder that exists")
    return target


def _check_free(model: Path, targets: Sequence[Path], force: bool) -> None:
    """Refuses to replace what is there, except the model itself by itself."""
    for target in targets:
        itself = target.exists() and target.samefile(model)
        for path in [sidecar_path(target)] + ([] if itself else [target]):
            if path.exists() and not force:
                raise OutputError(f"{path} is there already; --force replaces it, --output FILE writes elsewhere")


def _try(session: Session, spec: ModelSpec, picture: Image) -> tuple[Prediction, Arrays]:
    """The answer to one picture on the way that every command takes; a fixed batch is filled with copies."""
    task: Task[Prediction] = TASKS.load(spec.task)(spec)
    tensor = session.inputs[0]
    count = tensor.shape[0] if isinstance(tensor.shape[0], int) else 1
    batch = task.preprocess([picture] * count)
    answers = session.run({tensor.name: batch.array})
    return task.postprocess(answers, batch)[0], answers


def _baked(content: bytes, spec: ModelSpec) -> tuple[bytes, ModelSpec]:
    """The file with preprocessing inside and the spec in its metadata, and that spec."""
    if spec.preprocess.baked:
        raise UsageError(f"{spec.name} takes uint8 RGB pixels already; leave --bake away")
    onnx = require("onnx", extra="export", why="--bake")
    model = bake_preprocessing(onnx.load_model_from_string(content), spec.preprocess)
    source = spec.inputs[0]
    shape = (source.shape[0], *spec.preprocess.size_hw, 3)
    baked_spec = replace(
        spec,
        name=f"{spec.name}.baked",
        preprocess=replace(spec.preprocess, baked=True),
        inputs=(TensorSpec(INPUT_NAME, "uint8", shape),),
    )
    kept = {row.key: row.value for row in model.metadata_props if row.key != METADATA_KEY}
    onnx.helper.set_model_props(model, {**kept, METADATA_KEY: baked_spec.to_json()})
    return model.SerializeToString(), baked_spec


def _compare(baked: bytes, spec: ModelSpec, picture: Image, answers: Arrays) -> float:
    """The deviation of the baked graph's answers to a picture from the unbaked graph's.

    Raises:
        VerificationError: it is too large.
    """
    with BACKENDS.load("onnxruntime").open(baked, SessionOptions(device="cpu")) as session:
        _, others = _try(session, spec, picture)
    worst, where = max((raw_deviation(answers[name], others[name]), name) for name in answers)
    # Grey levels of a coloured picture are whole on the host and exact in the graph: up to half a level apart.
    tolerance = 2e-2 if spec.preprocess.channel_order == "gray" else _TOLERANCES[spec.preprocess.dtype]
    if not worst <= tolerance:
        raise VerificationError(
            f"baking changed the answer {where!r} by {worst:.2g} of its largest value (allowed {tolerance:g}); nothing was written"
        )
    return worst


def _write(files: Sequence[tuple[Path, bytes, ModelSpec]], model: Path) -> list[ModelSpec]:
    written = []
    try:
        for path, content, spec in files:
            if not (path.exists() and path.samefile(model)):
                write_atomic(path, content)
            written.append(write_sidecar(path, spec))
    except OutputError as error:
        raise OutputError(f"{error}; --output FILE writes the model and its sidecar elsewhere") from None
    return written
