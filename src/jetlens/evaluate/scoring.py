"""The accuracy of a predictor over pictures whose truth is known, whatever its task and runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from jetlens.data.base import PartName
from jetlens.data.matching import Matched
from jetlens.data.opening import ORANGE_LINE, open_listed, take_split
from jetlens.data.orange import FIRST_SEEDS
from jetlens.data.samples import ORANGE_LINE_LABELS, Sample, orange_line_samples
from jetlens.errors import DataError, ImageError, InputError, UnknownNameError, UsageError
from jetlens.evaluate.evaluation import Evaluation
from jetlens.evaluate.scorers import SCORERS
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec

__all__ = ["ORANGE_LINE", "dataset", "evaluate"]


def evaluate(predictor: Predictor, samples: Iterable[Sample], *, on_sample: Callable[[int], None] | None = None) -> Evaluation:
    """Scores a predictor; pictures that cannot be read, or whose truth cannot, are named in the result and left out.

    Boxes below the predictor's confidence are not seen: for mAP load it with a low one, such as ``TaskOptions(confidence=0.01)``.

    Raises:
        DataError: no picture could be scored, or a truth is not of the model's task.
    """
    scorer = SCORERS[predictor.spec.task](predictor.spec)
    skipped: list[str] = []
    count = 0
    for sample in _each(samples):
        if isinstance(sample, InputError):
            skipped.append(str(sample))
            continue
        try:
            prediction = predictor(sample.image)
        except ImageError as error:
            if not isinstance(sample.image, Path):
                raise
            skipped.append(str(error))
            continue
        scorer.add(prediction, sample)
        count += 1
        if on_sample is not None:
            on_sample(count)
    if not count:
        why = f": {skipped[0]}" if skipped else "; the dataset is empty"
        raise DataError(f"no picture could be scored{why}")
    return scorer.result(count, tuple(skipped))


def _each(samples: Iterable[Sample]) -> Iterator[Sample | InputError]:
    """The samples; in the place of one that cannot be read its error. After an error only a sequence can go on."""
    if not isinstance(samples, (Sequence, Matched)):
        yield from samples
        return
    for index in range(len(samples)):
        try:
            yield samples[index]
        except (ImageError, DataError) as error:
            yield error


def dataset(
    data: str | Path,
    spec: ModelSpec,
    count: int | None = None,
    size_hw: tuple[int, int] | None = None,
    *,
    layout: str | None = None,
    split: PartName | None = None,
) -> Iterable[Sample]:
    """The samples that ``orange-line`` or a folder in any layout holds for a model, in the model's class ids.

    Args:
        count: so many pictures, evenly spread; all of a folder and 100 of the orange line if not given.
        size_hw: of the orange line's pictures.
        split: if not given, the test part where the dataset has its own, else its own validation part, else all of it.

    Raises:
        DataError: the folder does not fit, or a class of it is none of the model's.
        UsageError: the folder has no truth for the model's task.
    """
    if str(data) == ORANGE_LINE:
        if layout is not None:
            raise UsageError(f"--layout goes with a folder; {ORANGE_LINE} has none")
        return _orange_line(spec, count, size_hw, split)
    if size_hw is not None:
        raise UsageError(f"--size goes with --data {ORANGE_LINE}; the pictures in {data} have their own sizes")
    listed = open_listed(data, spec.task, layout=layout)
    own: list[PartName] = [part for part in ("test", "val") if part in listed.parts]
    return Matched(take_split(listed, split or [*own, "all"][0]), spec.labels, count)


def _orange_line(spec: ModelSpec, count: int | None, size_hw: tuple[int, int] | None, split: PartName | None) -> Iterable[Sample]:
    expected = ORANGE_LINE_LABELS[spec.task]
    if tuple(label.casefold() for label in spec.labels) != tuple(label.casefold() for label in expected):
        raise DataError(
            f"{spec.name} answers {len(spec.labels)} classes ({', '.join(spec.labels[:4])[:80]}), "
            f"the orange line has {', '.join(expected)}: give --data FOLDER with this model's classes"
        )
    if split not in (None, *FIRST_SEEDS):
        raise UnknownNameError("split of the orange line", str(split), FIRST_SEEDS)
    return orange_line_samples(spec.task, 100 if count is None else count, size_hw or (360, 640), FIRST_SEEDS[split or "test"])
