"""Pictures of the orange line, drawn once, as tiny training data of each task."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def pictures():
    from jetlens.train.samples import render, shots

    return [render(shot) for shot in shots(0, 8)]


@pytest.fixture(scope="session")
def splits(pictures):
    import train_cases

    return train_cases.splits_of(pictures)
