"""`jetlens run` with detectors made elsewhere on real videos: every frame is answered, and what is to be seen is found where it is to be seen."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jetlens.cli import main
from jetlens.media import open_source

av = pytest.importorskip("av")

Box = tuple[int, int, int, int]

DETECTORS = {
    "yolox": ("yolox_nano/yolox_nano_bigisland.onnx", "--preset yolox"),
    "nanodet": ("nanodet_m/nanodet_m.onnx", "--preset nanodet"),
    "fastestdet": ("fastestdet/FastestDet.onnx", "--preset fastestdet"),
    "yunet": ("yunet/yunet_n_320_320.onnx", "--preset yunet"),
    "yunet-dynamic": ("yunet/yunet_n_dynamic.onnx", "--preset yunet --size 640x640"),
    "ultraface": ("ultraface/version-slim-320.onnx", "--preset ultraface"),
}
OF_FACES = ("yunet", "yunet-dynamic", "ultraface")
IN_MAKE_TEST = ("yolox", "yunet")


@dataclass(frozen=True)
class Scene:
    """A piece of a video, and an object in its sixth frame whose box was read off that picture; ``alone`` says that nobody is there."""

    video: str
    start: int
    label: str
    box: Box
    alone: bool = True


SCENES = (
    Scene("intel/bottle-detection.mp4", 250, "bottle", (509, 105, 570, 317)),
    Scene("intel/one-by-one-person-detection.mp4", 110, "person", (383, 14, 520, 402), alone=False),
    Scene("intel/one-by-one-person-detection.mp4", 1340, "face", (573, 35, 613, 92), alone=False),
    Scene("opencv/car_traffic_small.mp4", 321, "car", (250, 164, 315, 221)),
    Scene("opencv/vtest.avi", 500, "person", (345, 141, 369, 209), alone=False),
    Scene("torchserve/sample_video.mp4", 0, "cat", (186, 45, 548, 448)),
)
LENGTH, LOOKED_AT = 12, 5
FRAMES = {
    "intel/bottle-detection.mp4": (1189, "bottle"),
    "intel/one-by-one-person-detection.mp4": (1394, "person"),
    "opencv/car_traffic_small.mp4": (917, "car"),
    "opencv/vtest.avi": (795, "person"),
    "torchserve/sample_video.mp4": (375, "cat"),
}
"""How many frames of each video decode, and what most of the objects in it are."""


ENTERED_AND_LEFT = ("zone-entered", "zone-left")


def cli(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def copied(source: Path, target: Path, start: int, count: int) -> Path:
    """So many frames from a key frame on, as they are coded."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as part:
        stream = whole.streams.video[0]
        copy: Any = getattr(part, "add_stream_from_template", None)
        own = part.add_stream(template=stream) if copy is None else copy(stream)
        packets = [packet for packet in whole.demux(stream) if packet.dts is not None][start : start + count]
        assert packets[0].is_keyframe
        first = packets[0].dts
        for packet in packets:
            packet.dts -= first
            packet.pts = None if packet.pts is None else packet.pts - first
            packet.stream = own
            part.mux(packet)
    return target


def adopted(name: str, data: Path, folder: Path) -> Path:
    file, flags = DETECTORS[name]
    model = folder / f"{name}.onnx"
    shutil.copy(data / "models" / file, model)
    assert cli("adopt", str(model), *flags.split()) == 0
    return model


def ran(model: Path, videos: list[Path], folder: Path, *flags: str) -> list[tuple[list[dict[str, Any]], Path]]:
    """The results of each video and the video that was written of it."""
    lines = folder / "a.jsonl"
    words = ["run", *map(str, videos), "--model", str(model), "--backend", "onnxruntime", "--threads", "1"]
    assert cli(*words, "--output", str(lines), "--output", str(folder / "out"), *flags) == 0
    results = [json.loads(line) for line in lines.read_text().splitlines()]
    written = sorted((folder / "out").iterdir())
    assert len(written) == len(videos)
    return [([row for row in results if row["stream"] == str(video)], out) for video, out in zip(videos, written, strict=True)]


def overlap(first: Any, second: Any) -> float:
    """Intersection over union."""
    sides = [max(0.0, min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis])) for axis in (0, 1)]
    inner = sides[0] * sides[1]
    return inner / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - inner)


def found(result: dict[str, Any], label: str, box: Box) -> list[dict[str, Any]]:
    return [row for row in result["detections"] if row["label"] == label and overlap(row["xyxy"], box) >= 0.6]


def pictures(video: Path) -> Iterator[np.ndarray]:
    with open_source(str(video)) as source:
        for frame in source:
            yield frame.image_rgb.astype(np.int16)


@pytest.fixture(scope="module")
def scenes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    for package in ("cv2", "onnxruntime", "onnx"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("scenes")
    names = [f"{number}{Path(scene.video).suffix}" for number, scene in enumerate(SCENES)]
    return [
        copied(shared_data / "videos" / scene.video, folder / name, scene.start, LENGTH) for scene, name in zip(SCENES, names, strict=True)
    ]


@pytest.mark.parametrize("name", [name if name in IN_MAKE_TEST else pytest.param(name, marks=pytest.mark.release) for name in DETECTORS])
def test_every_video_with(name: str, scenes: list[Path], shared_data: Path, tmp_path: Path) -> None:
    model = adopted(name, shared_data, tmp_path)
    pairs = ran(model, scenes, tmp_path)
    for scene, video, (results, written) in zip(SCENES, scenes, pairs, strict=True):
        assert [row["index"] for row in results] == list(range(LENGTH)), scene
        with open_source(str(video)) as source, open_source(str(written)) as drawn:
            height, width = source.info.size_hw
            assert drawn.info.size_hw == (height, width)
            times = [[frame.pts_s for frame in frames] for frames in (source, drawn)]
            assert times[0] == pytest.approx(times[1], abs=1e-3)
            assert [row["pts_s"] for row in results] == pytest.approx(times[0], abs=1e-5)
            assert drawn.info.fps == pytest.approx(source.info.fps, rel=1e-3)
            # So that the times are those of the rate, and not the same wrong ones in both videos; where it was cut, frames are missing.
            assert np.diff(times[0][:-4]) == pytest.approx(1 / source.info.fps, abs=1e-3)
        assert all(
            0 <= x <= limit
            for row in results
            for one in row["detections"]
            for x, limit in zip(one["xyxy"], (width, height) * 2, strict=True)
        )
        mirrored = (width - scene.box[2], scene.box[1], width - scene.box[0], scene.box[3])
        if (scene.label == "face") == (name in OF_FACES):
            hits = found(results[LOOKED_AT], scene.label, scene.box)
            assert hits, (scene, results[LOOKED_AT]["detections"])
            assert not found(results[LOOKED_AT], scene.label, mirrored)  # the control: what is found elsewhere is not found here
            assert is_drawn(video, written, hits[0]["xyxy"])
        elif name in OF_FACES and scene.alone:
            assert not any(row["detections"] for row in results), scene


def is_drawn(video: Path, written: Path, xyxy: list[float]) -> bool:
    """Whether the frame that was looked at differs along the left edge of a box, and less left of it."""
    before, after = (list(pictures(path))[LOOKED_AT] for path in (video, written))
    change = np.abs(after - before).mean(axis=2)
    x, top, bottom = round(xyxy[0]), round(xyxy[1]) + 4, round(xyxy[3]) - 4
    edge = change[top:bottom, max(0, x - 1) : x + 2].max(axis=1).mean()
    return bool(edge > 20 and edge > 2 * change[top:bottom, x - 10 : x - 5].mean())


def test_a_portrait_video_is_answered_upright(scenes: list[Path], shared_data: Path, tmp_path: Path) -> None:
    """The room with the person, recorded by a camera that lay on its side and said so."""
    scene, path = SCENES[1], tmp_path / "lying.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10, options={"qscale": "3"})
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV writes no display matrix")
        frames = [np.ascontiguousarray(np.rot90(image.astype(np.uint8))) for image in pictures(scenes[1])]
        stream.height, stream.width = frames[0].shape[:2]
        stream.set_display_rotation(-90)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    ((results, written),) = ran(adopted("yolox", shared_data, tmp_path), [path], tmp_path)
    assert frames[0].shape[:2] == (768, 432)
    assert [row["size_hw"] for row in results] == [[432, 768]] * LENGTH
    assert found(results[LOOKED_AT], scene.label, scene.box), results[LOOKED_AT]["detections"]
    with open_source(str(written)) as drawn:
        assert drawn.info.size_hw == (432, 768)
        assert sum(1 for _ in drawn) == LENGTH


@pytest.mark.release
def test_all_frames_of_the_five_at_once(scenes: list[Path], shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = ran(adopted("yolox", shared_data, tmp_path), [shared_data / "videos" / name for name in FRAMES], tmp_path)
    account = [line for line in capsys.readouterr().out.splitlines() if "frames captured" in line][-len(FRAMES) :]
    for (count, label), (results, written), line in zip(FRAMES.values(), pairs, account, strict=True):
        assert [row["index"] for row in results] == list(range(count))
        assert f"{count} frames captured = {count} answered" in line
        seen = Counter(row["label"] for result in results for row in result["detections"])
        assert seen.most_common(1)[0][0] == label, seen
        with open_source(str(written)) as drawn:
            assert sum(1 for _ in drawn) == count


@pytest.mark.release
def test_six_people_keep_their_ids_and_are_counted(scenes: list[Path], shared_data: Path, tmp_path: Path) -> None:
    """Six people come to the table one after the other, stay and go; each has one id all the while."""
    video, events = shared_data / "videos" / SCENES[1].video, tmp_path / "events.jsonl"
    zone = ("--zone", "330,150,560,150,560,430,330,430")
    ((results, _),) = ran(adopted("yolox", shared_data, tmp_path), [video], tmp_path, *zone, "--events", str(events))
    told = [json.loads(line) for line in events.read_text().splitlines()]
    people = {kind: [row["tracker_id"] for row in told if row["event"] == kind and row["label"] == "person"] for kind in ENTERED_AND_LEFT}
    assert len(people["zone-entered"]) == 6
    assert len(set(people["zone-entered"])) == 6
    assert people["zone-left"] == people["zone-entered"]
    at_table = {row["index"]: [one["tracker_id"] for one in found(row, "person", SCENES[1].box)] for row in results}
    assert [at_table[index] for index in range(100, 180)] == [people["zone-entered"][:1]] * 80


@pytest.mark.release
def test_cars_that_tremble_on_the_line_count_once(scenes: list[Path], shared_data: Path, tmp_path: Path) -> None:
    """Six cars come over the line and two go; without a margin 12 and 7 were counted, since boxes tremble and one car had two names."""
    video, events = shared_data / "videos" / SCENES[3].video, tmp_path / "events.jsonl"
    ran(adopted("yolox", shared_data, tmp_path), [video], tmp_path, "--line", "230,200,640,200", "--events", str(events))
    crossings = Counter(json.loads(line)["direction"] for line in events.read_text().splitlines())
    assert crossings == {"forward": 6, "backward": 2}
