"""USB and CSI cameras and the synthetic one: addresses, pipelines, and clear words where something is missing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jetlens.errors import InputError, MissingDependencyError, UsageError, VideoError
from jetlens.media import open_source
from jetlens.media.live import LiveSource, v4l2
from jetlens.media.live.csi import csi_pipeline
from jetlens.media.live.gstreamer import SINK, GstreamerConnection, load_gstreamer
from jetlens.media.live.v4l2 import v4l2_devices


@pytest.mark.parametrize(
    "uri", ["97", "/dev/video97", "v4l2:///dev/video97", "v4l2://97", "v4l2:///dev/video97?format=mjpg&size=1280x720&fps=30"]
)
def test_a_camera_that_is_not_there_is_one_line(uri: str) -> None:
    with pytest.raises(InputError, match=r"/dev/video97: there is no such camera") as caught:
        open_source(uri)
    assert caught.value.exit_code == 1
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_the_cameras_that_are_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("video10", "video2", "video-x", "vide0"):
        (tmp_path / name).touch()
    assert [Path(name).name for name in v4l2_devices(tmp_path)] == ["video2", "video10"]
    monkeypatch.setattr(v4l2, "v4l2_devices", lambda: ["/dev/video2", "/dev/video10"])
    with pytest.raises(InputError, match=r"this machine has /dev/video2, /dev/video10; `v4l2-ctl --list-devices`"):
        open_source("97")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("v4l2:///dev/video0?fmt=mjpg", "unknown option 'fmt'; known: format, size, fps"),
        ("v4l2:///dev/video0?size=big", "WIDTHxHEIGHT"),
        ("v4l2:///dev/video0?fps=0", "from 1 to 1000"),
        ("v4l2:///dev/video0?format=h265", "one of mjpg"),
        ("v4l2:///etc/passwd", "/dev/videoN"),
        ("v4l2:///dev/v4l/../../etc/passwd", "/dev/videoN"),
        ("csi://x", "csi://0"),
        ("csi://0?flip=45", "one of none, 90"),
        ("csi://0?gain=nan", "gain is 'nan'"),
        ("csi://0?exposure=1e9", "a number from"),
        ("csi://0?colour=red", "known: size, fps, format, flip, exposure, gain, mode"),
        ("csi://0 ! filesink location=x", "csi://0"),
        ("test://orange-line?live=2", "live is '2'"),
        ("test://orange-line?loop=3", "loop is for live=1"),
    ],
)
def test_addresses_that_are_wrong(uri: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        open_source(uri)


def test_csi_pipelines() -> None:
    assert csi_pipeline("csi://0") == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1,format=NV12 ! "
        "nvvidconv flip-method=0 ! video/x-raw,format=BGRx ! appsink name=sink max-buffers=1 drop=true sync=false"
    )
    told = csi_pipeline("csi://1?size=1920x1080&fps=60&flip=90&exposure=5&gain=2.5&mode=2&format=p010")
    assert told.startswith('nvarguscamerasrc sensor-id=1 sensor-mode=2 exposuretimerange="5000000 5000000" gainrange="2.5 2.5" ! ')
    assert "width=1920,height=1080,framerate=60/1,format=P010 ! nvvidconv flip-method=3 !" in told


def test_without_gi_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gi", None)
    with pytest.raises(MissingDependencyError, match="sudo apt install python3-gi") as caught:
        open_source("csi://0")
    assert len(str(caught.value)) <= 300


def test_without_gstreamer_or_its_plugin_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, version: str) -> None:
        raise ValueError(f"Namespace {name} not available")

    monkeypatch.setitem(sys.modules, "gi", SimpleNamespace(require_version=refuse))
    with pytest.raises(MissingDependencyError, match=r"GStreamer 1\.0, which gi does not find"):
        open_source("csi://0")
    gst = SimpleNamespace(init=lambda arguments: None, ElementFactory=SimpleNamespace(find=lambda name: None))
    monkeypatch.setitem(sys.modules, "gi", SimpleNamespace(require_version=lambda name, version: None))
    monkeypatch.setitem(sys.modules, "gi.repository.Gst", gst)
    monkeypatch.setitem(sys.modules, "gi.repository.GstApp", SimpleNamespace())
    with pytest.raises(MissingDependencyError, match="nvarguscamerasrc, which is not installed; it is part of JetPack") as caught:
        open_source("csi://0")
    assert len(str(caught.value)) <= 300


def test_frames_of_a_real_pipeline() -> None:
    try:
        gst = load_gstreamer("videotestsrc", "this test")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for caps in ("format=BGRx,width=322,height=240", "format=RGB,width=322,height=240"):
        pipeline = f"videotestsrc is-live=true pattern=red ! video/x-raw,framerate=30/1,{caps} ! {SINK}"
        with LiveSource("gst", lambda limits, pipeline=pipeline: GstreamerConnection("gst", pipeline, gst, 30.0, "gst")) as source:
            source.ready(5)
            frame = next(iter(source))
        assert frame.size_hw == (240, 322)
        assert (frame.image_rgb == (255, 0, 0)).all()


class FakeCapture:
    """OpenCV's capture as far as it is used: some frames, then nothing."""

    frames = 5
    size_wh = (64, 48)

    def __init__(self, device: str, api: int) -> None:
        self.left = self.frames

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, code: int, value: float) -> bool:
        return True

    def get(self, code: int) -> float:
        return {3: self.size_wh[0], 4: self.size_wh[1]}.get(code, 30.0)

    def grab(self) -> bool:
        time.sleep(0.005)
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, Any]:
        return True, np.full((48, 64, 3), (255, 0, 0), np.uint8)

    def release(self) -> None:
        pass


def test_a_v4l2_camera_that_stops_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(v4l2, "_check_device", lambda device: None)
    monkeypatch.setattr(v4l2.os.path, "exists", lambda path: True)
    with open_source("v4l2:///dev/video7?size=64x48") as source:
        assert isinstance(source, LiveSource)
        for count, frame in enumerate(source):
            assert (frame.image_rgb[0, 0] == (0, 0, 255)).all()
            assert frame.stream == "/dev/video7"
            if count == 8 and source.status().reconnects:
                break
    with open_source("v4l2:///dev/video7?size=640x480") as source:
        assert isinstance(source, LiveSource)
        with pytest.raises(VideoError, match="gives 64x48, not 640x480"):
            source.ready(0.5)


def test_the_synthetic_camera_keeps_its_rate_and_its_truth() -> None:
    with open_source("test://orange-line?live=1&loop=4&frames=30&fps=60&size=64x96") as source:
        assert isinstance(source, LiveSource)
        assert source.info.size_hw == (64, 96)
        began_s = time.monotonic()
        frames = list(source)
        lasted_s = time.monotonic() - began_s
        status = source.status()
    assert status.state == "ended"
    assert status.captured == 30 == len(frames) + status.dropped
    assert lasted_s >= 29 / 60
    with open_source("test://orange-line?frames=4&fps=60&size=64x96") as plain:
        truth = [frame.image_rgb for frame in plain]
    assert all((frame.image_rgb == truth[frame.index % 4]).all() for frame in frames)


def test_the_synthetic_camera_goes_on_until_it_is_closed() -> None:
    with open_source("test://orange-line?live=1&loop=2&fps=100&size=32x32") as source:
        assert source.info.frames is None
        for count, _ in enumerate(source):
            if count == 20:
                break
        source.close()
        assert list(source) == []
