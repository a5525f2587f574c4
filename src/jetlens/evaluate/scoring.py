"""The accuracy of a predictor over pictures whose truth is known, whatever its task and runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from jetlens.data.base import PartName, readable
from jetlens.data.matching import Matched
from jetlens.data.opening import ORANGE_LINE, open_listed, take_split
from jetlens.data.samples import ORANGE_LINE_LABELS, Sample, is_orange_line_model, orange_line_samples
from jetlens.data.stills import FIRST_SEEDS
from jetlens.errors import DataError, ImageError, InputError, UnknownNameError, UsageError
from jetlens.evaluate.behind import LOOKED_BEHIND, check_behind_argmax
from jetlens.evaluate.evaluation import Evaluation
from jetlens.evaluate.scorers import SCORERS
from jetlens.frame import Image
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec

__all__ = ["ORANGE_LINE", "dataset", "evaluate"]


def evaluate(predictor: Predictor, samples: Iterable[Sample], *, on_sample: Callable[[int], None] | None = None) -> Evaluation:
    """Scores a predictor; pictures that cannot be read, or whose truth cannot, are named in the result and left out.

    Boxes below the predictor's confidence are not seen: for mAP load it with a low one, such as ``TaskOptions(confidence=0.01)``.

    Raises:
        DataError: no picture could be scored, or a truth is not of the model's task.
        MissingDependencyError: the package behind mAP is not installed; said before the first picture is taken.
        ModelError: an answer of the first pictures is NaN behind an ArgMax that hides it.
    """
    scorer = SCORERS[predictor.spec.task](predictor.spec)
    skipped: list[str] = []
    first: list[Image | Path] = []
    count = 0
    for sample in readable(samples):
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
        if count <= LOOKED_BEHIND:
            first.append(sample.image)
        if count == LOOKED_BEHIND:
            check_behind_argmax(predictor, first)
        if on_sample is not None:
            on_sample(count)
    if not count:
        why = f": {skipped[0]}" if skipped else "; the dataset is empty"
        raise DataError(f"no picture could be scored{why}")
    if count < LOOKED_BEHIND:
        check_behind_argmax(predictor, first)
    return scorer.result(count, tuple(skipped))


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
    if not is_orange_line_model(spec):
        raise DataError(
            f"{spec.name} answers {len(spec.labels)} classes ({', '.join(spec.labels[:4])[:80]}), "
            f"the orange line has {', '.join(ORANGE_LINE_LABELS[spec.task])}: give --data FOLDER with this model's classes"
        )
    if split not in (None, *FIRST_SEEDS):
        raise UnknownNameError("split of the orange line", str(split), FIRST_SEEDS)
    return orange_line_samples(spec.task, 100 if count is None else count, size_hw or (360, 640), FIRST_SEEDS[split or "test"])
