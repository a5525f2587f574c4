"""How far a runtime's outputs are from a reference on identical input, and whether honest arithmetic explains it."""

from __future__ import annotations

from jetlens.deviation.figures import DEVIATIONS, check_outputs, deviation, raw_figures
from jetlens.deviation.judgement import DARKER, Verdict, judge

__all__ = ["DARKER", "DEVIATIONS", "Verdict", "check_outputs", "deviation", "judge", "raw_figures"]
