"""`jetlens run` on video files that are broken or odd: every frame that decodes is answered, and the exit code says whether that was all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetlens.backends.base import RunFacts
from jetlens.cli import main
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

av = pytest.importorskip("av")
FRAMES = 40


class BrightnessSession:
    """Answers with the brightness of the picture as the confidence of a class."""

    inputs = (TensorSpec("images", "uint8", ("N", 32, 48, 3)),)
    outputs = (TensorSpec("logits", "float32", ("N", 2)),)
    facts = RunFacts("fake", "1", "CPU", "none", "fp32")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        return {"logits": np.stack([pixels.mean((1, 2, 3)) / 255, np.zeros(len(pixels))], axis=1).astype(np.float32)}

    def close(self) -> None: ...

    def __enter__(self) -> BrightnessSession:
        return self

    def __exit__(self, *_: object) -> None: ...


def make(
    path: Path, frames: int = FRAMES, size_hw: tuple[int, int] = (96, 160), times: Any = None, turn: int = 0, index_first: bool = True
) -> bytes:
    """A video that is hard to compress, so that every part of the file has frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" and index_first else {}) as container:
        stream: Any = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width = size_hw
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        if turn and hasattr(stream, "set_display_rotation"):  # older PyAV writes no display matrix
            stream.set_display_rotation(turn)
        container.start_encoding()
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = (times[index] if times else index), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def cut(part: int, suffix: str) -> Callable[[Path], Path]:
    """A file that ends after so many 20ths."""

    def write(folder: Path) -> Path:
        whole = make(folder / f"whole{suffix}")
        path = folder / f"cut{suffix}"
        path.write_bytes(whole[: len(whole) * part // 20])
        return path

    return write


def written(name: str, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        make(folder / name, **options)
        return folder / name

    return write


def without_index(folder: Path) -> Path:
    """As a camera leaves it that loses its power: the index would have come last."""
    whole = make(folder / "whole.mp4", index_first=False)
    (folder / "no-moov.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return folder / "no-moov.mp4"


def lying(folder: Path) -> Path:
    """A header that says ten times as long."""
    whole = make(folder / "whole.mkv")
    place = whole.index(b"\x44\x89\x88") + 3
    (folder / "lying.mkv").write_bytes(whole[:place] + np.array(13_333.0, ">f8").tobytes() + whole[place + 8 :])
    return folder / "lying.mkv"


# name: how it is made, and whether it is whole
BROKEN: dict[str, tuple[Callable[[Path], Path], bool]] = {
    **{f"cut-{part}.mkv": (cut(part, ".mkv"), False) for part in (2, 5, 8, 11, 14, 17, 19)},
    **{f"cut-{part}.mp4": (cut(part, ".mp4"), False) for part in (2, 7, 12, 19)},
    **{f"cut-{part}.avi": (cut(part, ".avi"), False) for part in (4, 10, 18)},
    "no moov": (without_index, False),
    "no frames": (written("none.mkv", frames=0), False),
    "uneven times": (written("uneven.mkv", times=[index * index // 4 + index for index in range(FRAMES)]), True),
    "rotated": (written("rotated.mp4", turn=90), True),
    "odd size": (written("odd.mkv", size_hw=(97, 161)), True),
    "lying duration": (lying, True),
}


def decodable(path: Path) -> int:
    """Frames that FFmpeg's decoder gives until the container ends or breaks off."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                try:
                    count += len(packet.decode())
                except av.error.FFmpegError:
                    continue
    except (av.error.FFmpegError, IndexError):
        pass
    return count


def check(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from jetlens.cli import run as module

    def load(model: str, *_: object, options: TaskOptions, **__: object) -> Predictor:
        spec = ModelSpec("grey", "classification", ("a", "b"), PreprocessSpec((32, 48), filter="linear"), "logits")
        return Predictor(TASKS.load("classification")(spec, options), BrightnessSession())  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load", load)
    write, whole = BROKEN[name]
    path = write(folder)
    results = folder / "results.jsonl"
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path), "--output", str(results)])
    out, err = capfd.readouterr()
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    assert [row["index"] for row in rows] == list(range(decodable(path))), name
    assert "Traceback" not in out + err
    if whole:
        assert (ended.value.code or 0, len(rows)) == (0, FRAMES), name
    else:
        assert ended.value.code == 1, name
        assert path.name in err, name
        assert len(err.strip().splitlines()[-1]) <= 300 + len(str(path)), name


def test_twenty_broken_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    """I5."""
    wrong = []
    for number, name in enumerate(BROKEN):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            check(name, folder, monkeypatch, capfd)
        except AssertionError as error:
            wrong.append(f"{name}: {str(error)[:200]}")
    record_property("broken videos told right", f"{len(BROKEN) - len(wrong)}/{len(BROKEN)}")
    assert len(BROKEN) == 20
    assert wrong == []


def test_negative_control_opencv_says_nothing_of_a_cut_file(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = BROKEN["cut-11.mkv"][0](tmp_path)
    reader: Any = cv2.VideoCapture(str(path))
    count = 0
    while reader.read()[0]:
        count += 1
    assert 0 < count < FRAMES  # the loop ends as after a whole file
