"""Two processes on one machine: one network, each picture once, and the figures of one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from jetlens.checkpoint import load_checkpoint, load_into  # noqa: E402
from jetlens.models import build  # noqa: E402
from jetlens.train.loop import evaluate_samples  # noqa: E402

PROGRAM = Path(__file__).with_name("parallel_case.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_give_the_figures_of_one(tmp_path):
    import parallel_case

    port = str(20000 + os.getpid() % 20000)
    names = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path)], env={**os.environ, **names, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    answers = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    assert answers[1][0] == ""  # only the first speaks
    assert answers[0][0].count("epoch") == 2
    config, split = parallel_case.case(tmp_path)
    rows = json.loads((tmp_path / "two.history.json").read_text())
    tensors, meta = load_checkpoint(tmp_path / "two.safetensors")
    network = build(meta["model"], **meta["arguments"])
    load_into(network, tensors, "two")
    best = max(rows, key=lambda row: row["metrics"]["top1"])["metrics"]
    assert evaluate_samples(network, config, split.validation, split.labels) == best
    # Without chance (no dropout, no augmentation, group norm) the sums of two halves train as the whole does.
    one = parallel_case.run(replace(config, name="one"), None, split)
    alone = load_checkpoint(one)[0]
    assert all(torch.allclose(tensors[name], alone[name], atol=2e-5) for name in alone)
