"""Goal I1: every file of Pillow's own corpus, and mutants of them, gives one image or one ImageError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imagefile_cases import HANG_S, Trial, corpus_files, try_all, unpack_corpus

SEED = 20_260_101


@pytest.fixture(scope="session")
def corpus(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_corpus(shared_data, tmp_path_factory.mktemp("corpus"))


def assert_only_images_and_errors(trial: Trial) -> None:
    summary = f"images {trial.of('image')}, errors {trial.errors}, all {trial.outcomes}, crashes {trial.crashes}, hangs {trial.hangs}"
    assert not trial.crashes, summary
    assert not trial.hangs, summary
    assert trial.of("image") + trial.errors == trial.count, summary
    assert trial.slowest_s < HANG_S


def test_corpus(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(corpus_files(corpus))
    trial = try_all("jetlens", corpus, count)
    counts = trial.pillow
    clean = sum(counts.get(word, 0) for word in ("missed", "wide", "equal", "close", "differs"))
    with capsys.disabled():
        print(f"\ncorpus: {trial.of('image')} images + {trial.errors} errors of {count}; of {clean} that Pillow decodes cleanly: {counts}")
    assert count >= 1000
    assert clean >= 600
    assert_only_images_and_errors(trial)
    assert counts.get("differs", 0) == 0
    assert counts.get("missed", 0) <= clean // 100


def test_naive_loader_fails_on_the_corpus(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The negative control of the test above: cv2.imread answers None, silently."""
    pytest.importorskip("cv2")
    count = len(corpus_files(corpus))
    trial = try_all("naive", corpus, count)
    with capsys.disabled():
        print(f"\nnaive cv2.imread: silent None for {trial.of('none')}/{count}")
    assert trial.of("none") > 100
    with pytest.raises(AssertionError):
        assert_only_images_and_errors(trial)


@pytest.mark.parametrize("count", [1000, pytest.param(5000, marks=pytest.mark.release)])
def test_mutants(corpus: Path, count: int, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]) -> None:
    trial = try_all("jetlens", corpus, count, SEED)
    record_property("an image or one clear error", f"{trial.of('image') + trial.errors}/{count}")
    with capsys.disabled():
        print(f"\nmutants, seed {SEED}: {trial.of('image')} images + {trial.errors} errors of {count}, slowest {trial.slowest_s:.2f} s")
    assert_only_images_and_errors(trial)
    assert trial.errors > count // 10, "the mutants are hardly damaged"


def test_naive_loader_fails_on_mutants(corpus: Path) -> None:
    """The negative control of the test above."""
    pytest.importorskip("cv2")
    trial = try_all("naive", corpus, 100, SEED)
    assert trial.of("none") > 0
    with pytest.raises(AssertionError):
        assert_only_images_and_errors(trial)
