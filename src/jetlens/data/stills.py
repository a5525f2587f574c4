"""The orange line as a dataset: stills drawn when they are asked for."""

from __future__ import annotations

from typing import Final

from jetlens.data.base import MeanStd, PartName
from jetlens.data.samples import ORANGE_LINE_LABELS, TEST_SEED, Sample, orange_line_samples
from jetlens.errors import UnknownNameError
from jetlens.spec import TaskName

__all__ = ["FIRST_SEEDS", "OrangeLineStills"]

FIRST_SEEDS: Final = {"train": 0, "val": 1_000_000, "test": TEST_SEED}
"""Where the seeds of each part begin."""
_STILLS: Final = {"train": 1000, "val": 100, "test": 100}


class OrangeLineStills:
    """Stills of the orange line; for classification the fruits that are cut out of them. See ``Dataset``.

    Parts never share a seed: 1,000 stills to train, 100 to validate and 100 to test.
    """

    def __init__(self, task: TaskName, split: PartName = "all", size_hw: tuple[int, int] = (360, 640)) -> None:
        if task not in ORANGE_LINE_LABELS:
            raise UnknownNameError("task", task, ORANGE_LINE_LABELS)
        self.task: TaskName = task
        self.labels = ORANGE_LINE_LABELS[task]
        self._size_hw = size_hw
        parts = list(_STILLS) if split == "all" else [split]
        self._seeds = [FIRST_SEEDS[part] + k for part in parts for k in range(_STILLS[part])]
        self.origin = f"orange-line, {split} ({len(self._seeds)} stills)"
        self._fruits = list(self._count_fruits()) if task == "classification" else []

    def __len__(self) -> int:
        return len(self._fruits) if self.task == "classification" else len(self._seeds)

    def __getitem__(self, index: int) -> Sample:
        seed, fruit = self._fruits[index] if self.task == "classification" else (self._seeds[index], 0)
        return list(orange_line_samples(self.task, 1, self._size_hw, seed))[fruit]

    def mean_std(self) -> MeanStd | None:
        """None: there are no published values."""
        return None

    def _count_fruits(self) -> list[tuple[int, int]]:
        """A seed and the number of a fruit in its still, for every fruit."""
        return [(seed, k) for seed in self._seeds for k, _ in enumerate(orange_line_samples("classification", 1, self._size_hw, seed))]
