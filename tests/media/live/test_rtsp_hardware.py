"""RTSP through hardware decoders: the promises of the software path, with the decoder named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("av")

from fake_mjpeg import number_of
from fake_rtsp import FakeRtspCamera
from stand_ins import Dark, Sound, put_in, system_gstreamer

from jetlens.errors import MissingDependencyError, VideoError
from jetlens.frame import Frame
from jetlens.media import gstdecoder, open_source
from jetlens.media.live import LiveSource


def _open(uri: str) -> LiveSource:
    source = open_source(uri)
    assert isinstance(source, LiveSource)
    return source


class Bare(FakeRtspCamera):
    """Sends its parameter sets with the pictures alone."""

    def _parameter_sets(self) -> str:
        return ""


def until_it_is_back(camera: FakeRtspCamera, source: LiveSource, frames: Iterator[Frame]) -> list[int]:
    """The numbers of ten pictures and of those that came until the connection, then reset, was made again."""
    numbers = [number_of(next(frames).image_rgb) for _ in range(10)]
    camera.fail("rst")
    camera.heal()
    while source.status().reconnects == 0:
        numbers.append(number_of(next(frames).image_rgb))
    return numbers


@pytest.mark.parametrize("camera_class", [FakeRtspCamera, Bare])
def test_frames_before_and_after_an_outage(monkeypatch: pytest.MonkeyPatch, camera_class: type[FakeRtspCamera]) -> None:
    put_in(monkeypatch, "Sound")
    opened = Sound.opened
    with camera_class(fps=30) as camera, _open(camera.uri) as source:
        frames = iter(source)
        numbers = until_it_is_back(camera, source, frames)
        numbers += [number_of(next(frames).image_rgb) for _ in range(10)]
        assert source.info.decoder == "sound h264"
    assert Sound.opened >= opened + 2
    assert -1 not in numbers
    assert numbers == sorted(set(numbers))


def test_hardware_that_decodes_wrongly_is_replaced_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, "Dark")
    opened = Dark.opened
    with FakeRtspCamera(fps=30) as camera, _open(camera.uri) as source:
        numbers = until_it_is_back(camera, source, iter(source))
        assert source.info.decoder.startswith("pyav h264 (dark failed: its first frame is not the software decoder's")
    assert Dark.opened == opened + 1
    assert -1 not in numbers
    assert numbers == sorted(set(numbers))


def test_what_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, "Absent", "Dark")
    with FakeRtspCamera(fps=30) as camera:
        with (
            _open(f"{camera.uri}#decoder=absent") as source,
            pytest.raises(MissingDependencyError, match="absent cannot be used: this machine"),
        ):
            next(iter(source))
        with _open(f"{camera.uri}#decoder=dark") as source:
            with pytest.raises(VideoError, match="dark cannot be used: its first frame"):
                source.ready(2)
            assert source.status().captured == 0
        assert all(b"decoder" not in request for request in camera.requests)


@pytest.mark.parametrize("element", ["openh264dec", "avdec_h264 max-threads=1"])
def test_a_camera_through_gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, element: str) -> None:
    system_gstreamer(monkeypatch, tmp_path, element.split()[0], "h264parse")
    monkeypatch.setattr(gstdecoder.JetsonDecoder, "elements", {"h264": element})
    for camera_class in (FakeRtspCamera, Bare):
        with camera_class(fps=30) as camera, _open(camera.uri) as source:
            frames = iter(source)
            pairs = [(frame, time.monotonic()) for frame, _ in zip(frames, range(30), strict=False)]
            assert source.info.decoder == "nvv4l2decoder h264"
        numbers = [number_of(frame.image_rgb) for frame, _ in pairs]
        assert -1 not in numbers
        assert numbers == sorted(set(numbers))
        assert all(frame.captured_s < shown_s for frame, shown_s in pairs)
