"""Pictures as a graph takes them: for calibration and for the guard, made ready once and run through many graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions
from jetlens.backends.choice import open_session
from jetlens.data.base import pictures_in, readable
from jetlens.data.opening import ORANGE_LINE, open_listed
from jetlens.data.samples import Sample, Truth, orange_line_samples
from jetlens.data.stills import FIRST_SEEDS
from jetlens.errors import DataError, InputError, ModelError
from jetlens.evaluate import dataset
from jetlens.precision.activations import largest_values
from jetlens.precision.graph import Graph
from jetlens.precision.tallies import TALLIES, Tally
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec
from jetlens.tasks import TASKS
from jetlens.tasks.base import Batch, Task, TaskOptions

__all__ = ["Pictures", "answers", "calibration_pictures", "first_broken", "labelled_pictures"]

_BATCH = 8
_JOINED_BYTES = 4 * 224 * 224 * 3
"""Few pictures at once, since calibration takes every tensor out of the runtime."""
_ENOUGH = 1000
_SEEN_CONFIDENCE = 0.01


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures made ready for a graph.

    Attributes:
        batches: of one picture each.
        truths: of each picture; empty where there are none.
        origin: what the pictures are.
        skipped: how many could not be read.
    """

    batches: tuple[Batch, ...]
    truths: tuple[Truth, ...]
    origin: str
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def sha256(self) -> str:
        """The hash of the pixels as the graph sees them, in their order."""
        digest = hashlib.sha256()
        for batch in self.batches:
            digest.update(batch.array.tobytes())
        return digest.hexdigest()

    def arrays(self, count: int | None = None, fixed: int | None = None) -> list[NDArray[Any]]:
        """The pictures joined to batches; where a graph fixes their size the last is filled up with the first pictures."""
        rows = self.batches[:count]
        size = fixed or max(1, min(_BATCH, _JOINED_BYTES // rows[0].array.nbytes))
        batches = []
        for start in range(0, len(rows), size):
            end = start + size if fixed else min(start + size, len(rows))
            batches.append(np.concatenate([rows[k % len(rows)].array for k in range(start, end)]))
        return batches

    def first(self, count: int) -> Pictures:
        """The first pictures."""
        return replace(self, batches=self.batches[:count], truths=self.truths[:count])

    def split(self) -> tuple[Pictures, Pictures]:
        """Every other picture, and the rest: what was calibrated on should not be judged on."""
        return tuple(replace(self, batches=self.batches[k::2], truths=self.truths[k::2]) for k in (0, 1))  # type: ignore[return-value]


def labelled_pictures(data: str | Path, spec: ModelSpec, count: int | None, layout: str | None) -> Pictures:
    """Pictures with their truth, in the model's class ids; if no count is given 1,000 of a folder, 100 stills of the orange line.

    Raises:
        DataError: there is none, or the truth is not this model's.
    """
    chosen = count if count is not None or str(data) == ORANGE_LINE else _ENOUGH
    samples = dataset(data, spec, chosen, layout=layout)
    return _ready(samples, spec, str(getattr(samples, "origin", data)))


def calibration_pictures(data: str | Path, spec: ModelSpec, count: int) -> Pictures:
    """Pictures whose truth is not read: of a folder those that lie in it at any depth, evenly spread.

    Raises:
        DataError: there is none.
    """
    if str(data) == ORANGE_LINE:
        # Stills of training: the guard measures on those of the test.
        stills = orange_line_samples(spec.task, count, first_seed=FIRST_SEEDS["train"])
        return _ready(islice(stills, count), spec, ORANGE_LINE)
    root = Path(data)
    if not root.exists():
        raise DataError(f"{root}: no such folder of pictures; give --calibration FOLDER, or {ORANGE_LINE}")
    files = pictures_in(root, deep=True) if root.is_dir() else []
    if files:
        chosen: Iterable[Any] = (Sample(files[i * len(files) // min(count, len(files))], 0, "") for i in range(min(count, len(files))))
        return _ready(chosen, spec, f"{len(files)} pictures in {root.name}")
    listed = open_listed(root)
    # Where the dataset has parts, those of training: the guard judges on the others.
    own = [k for k, part in enumerate(listed.parts) if part == "train"] or range(len(listed))
    number = min(count, len(own))
    return _ready((listed[own[i * len(own) // number]] for i in range(number)), spec, listed.origin)


def _ready(samples: Iterable[Sample], spec: ModelSpec, origin: str) -> Pictures:
    task: Task[Any] = TASKS.load(spec.task)(spec, TaskOptions())
    batches: list[Batch] = []
    truths: list[Truth] = []
    skipped = 0
    for sample in readable(samples):
        if isinstance(sample, InputError):
            skipped += 1
            continue
        try:
            image = sample.pixels()
        except InputError:
            skipped += 1
            continue
        batches.append(task.preprocess([np.ascontiguousarray(image)]))
        truths.append(sample.truth)
    if not batches:
        raise DataError(f"{origin[-120:]}: no picture in it could be read ({skipped} were tried)")
    return Pictures(tuple(batches), tuple(truths), origin, skipped)


def answers(content: bytes, spec: ModelSpec, pictures: Pictures, *, backend: str = "onnxruntime", labelled: bool = True) -> Tally:
    """Runs a graph on the pictures and counts what it answers.

    Raises:
        ModelError: an answer is NaN or infinite, or scores behind a mask are; the message names the first layer that is.
    """
    task: Task[Any] = TASKS.load(spec.task)(spec, TaskOptions(confidence=_SEEN_CONFIDENCE))
    tally = TALLIES[spec.task](spec)
    session, _ = open_session(Graph(content).with_scores(), backend, SessionOptions())
    with Predictor(task, session) as predictor:
        for start in range(0, len(pictures), _BATCH):
            rows = pictures.batches[start : start + _BATCH]
            batch = Batch(np.concatenate([row.array for row in rows]), tuple(place for row in rows for place in row.placements))
            outputs = predictor.infer(batch)
            for name, array in outputs.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    broken = int((~np.isfinite(array)).sum())
                    raise ModelError(
                        f"output {name!r} holds {broken} values that are NaN or infinite, first in {first_broken(content, batch.array)}"
                    )
            truths = pictures.truths[start : start + _BATCH] if labelled else [None] * len(rows)
            for prediction, truth in zip(task.postprocess(outputs, batch), truths, strict=True):
                tally.add(prediction, truth)
    return tally


def first_broken(content: bytes, batch: NDArray[Any]) -> str:
    """The first layer whose answer to a batch is NaN or infinite, by name."""
    graph = Graph(content)
    largest = largest_values(graph, [batch], graph.real_activations())
    name = next((name for name, value in largest.items() if not np.isfinite(value)), None)
    return "no layer by itself" if name is None else f"layer {graph.producers[name].name}"
