"""The accuracy of a predictor over pictures whose truth is known, whatever its task and runtime."""

from __future__ import annotations

from jetlens.evaluate.evaluation import Evaluation
from jetlens.evaluate.scoring import ORANGE_LINE, dataset, evaluate

__all__ = ["ORANGE_LINE", "Evaluation", "dataset", "evaluate"]
