"""`jetlens run` with a detector made elsewhere on real videos: what it finds is what is to be seen there."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from jetlens.cli import main
from jetlens.media import open_source

SEEN = {
    "intel/bottle-detection.mp4": "bottle",
    "intel/one-by-one-person-detection.mp4": "person",
    "opencv/car_traffic_small.mp4": "car",
    "opencv/vtest.avi": "person",
    "torchserve/sample_video.mp4": "cat",
}
"""What most of the objects in each video are; the one with the person begins with an empty room."""


def cli(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def yolox(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("av", "cv2", "onnxruntime", "onnx"):
        pytest.importorskip(package)
    model = tmp_path_factory.mktemp("yolox") / "yolox.onnx"
    shutil.copy(shared_data / "models" / "yolox_nano" / "yolox_nano_bigisland.onnx", model)
    assert cli("adopt", str(model), "--preset", "yolox", "--labels", "coco80") == 0
    return model


def test_all_five_at_once(yolox: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = [str(shared_data / "videos" / name) for name in SEEN]
    lines = tmp_path / "a.jsonl"
    words = ("run", *videos, "--model", str(yolox), "--backend", "onnxruntime", "--output", str(lines), "--output", str(tmp_path / "out"))
    assert cli(*words, "--threads", "1", "--duration", "5") == 0
    account = capsys.readouterr().out.splitlines()[-len(videos) :]
    results = [json.loads(line) for line in lines.read_text().splitlines()]
    right = 0
    for number, (video, label) in enumerate(zip(videos, SEEN.values(), strict=True)):
        own = [result for result in results if result["stream"] == video]
        assert [result["index"] for result in own] == list(range(len(own)))
        found = Counter(row["label"] for result in own for row in result["detections"])
        right += found.most_common(1)[:1] == [(label, found[label])]
        assert not found or found.most_common(1)[0][0] == label, found
        with open_source(video) as source, open_source(sorted((tmp_path / "out").iterdir())[number]) as written:
            size_hw = source.info.size_hw
            assert written.info.size_hw == tuple(length + length % 2 for length in size_hw)
            assert sum(1 for _ in written) == len(own)
        assert f"= {len(own)} answered" in account[number]
        assert all(0 <= x <= size_hw[1] for result in own for row in result["detections"] for x in row["xyxy"][::2])
    assert right >= len(SEEN) - 1
