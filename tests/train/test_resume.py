"""Nothing lost: a run that was killed again and again ends like one that was left alone, bit for bit; two naive ways are seen not to."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import train_cases  # noqa: E402

from jetlens.errors import OutputError, TrainingError  # noqa: E402
from jetlens.train import TrainConfig, train  # noqa: E402

PROGRAM = Path(__file__).with_name("kill_case.py")
TASKS = ("classification", "detection", "segmentation")
posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def killed(task, kills, seed, *modes):
    words = [sys.executable, str(PROGRAM), task, str(kills), str(seed), *modes]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@posix
def test_three_kills_change_nothing_and_naive_ways_are_seen_to_fail():
    real, without_rng, in_place = killed("classification", 3, 1, "real", "no-rng", "in-place")
    assert real == {"differences": [], "at_write": 2}
    assert without_rng["differences"]
    assert in_place["differences"]


@posix
@pytest.mark.parametrize("task", TASKS[1:])
def test_three_kills_change_nothing(task):
    assert killed(task, 3, 1, "real") == [{"differences": [], "at_write": 2}]


@posix
@pytest.mark.release
@pytest.mark.parametrize("task", TASKS)
def test_twenty_kills_change_nothing(task, record_property):
    (outcome,) = killed(task, 20, 7, "real")
    record_property("kills", 20)
    record_property("differences from an uninterrupted run", len(outcome["differences"]))
    assert outcome == {"differences": [], "at_write": 10}


def config_of(folder, **changes):
    base = TrainConfig("classification", size_hw=(32, 32), epochs=2, batch_size=32, device="cpu", output=folder, pictures=False, name="a")
    return replace(base, **changes)


def test_a_finished_run_resumes_to_itself_and_other_settings_or_data_are_refused(splits, tmp_path):
    split = splits["classification"]
    path = train(config_of(tmp_path), split=split)
    before, rows = path.read_bytes(), train_cases.rows_of(path)
    assert train(config_of(tmp_path, resume=True, workers=0), split=split).read_bytes() == before
    assert train_cases.rows_of(path) == rows
    with pytest.raises(TrainingError, match=r"lr = 0\.001, not 0\.5"):
        train(config_of(tmp_path, resume=True, lr=0.5), split=split)
    images = split.training.images.copy()
    images[0] += 1
    with pytest.raises(TrainingError, match="other data"):
        train(config_of(tmp_path, resume=True), split=replace(split, training=replace(split.training, images=images)))
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(TrainingError, match="best weights so far are gone"):
        train(config_of(tmp_path, resume=True), split=split)


def test_nothing_to_resume_begins_anew_and_says_so(splits, tmp_path):
    notes = []
    train(config_of(tmp_path, resume=True, epochs=1), lambda event: notes.append(event.note), splits["classification"])
    assert any("begins anew" in note for note in notes)


def test_a_full_disk_is_named_and_the_good_checkpoint_stays(splits, tmp_path):
    split = splits["classification"]
    path = train(config_of(tmp_path, epochs=1), split=split)
    before = path.read_bytes()
    resource = pytest.importorskip("resource")
    import signal

    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, old[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            train(config_of(tmp_path, seed=5), split=split)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))
