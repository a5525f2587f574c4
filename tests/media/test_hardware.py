"""Hardware decoders: taken only when they decode as software does, always named, and never a silent replacement for what was asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stand_ins
from coded_video import coded_image, read_code
from stand_ins import Dark, Silent, Sound, put_in, system_gstreamer

from jetlens.errors import InputError, MissingDependencyError, UsageError, VideoError
from jetlens.frame import Frame
from jetlens.media import gstdecoder, hardware, open_source
from jetlens.media.gstdecoder import JetsonDecoder, NvcodecDecoder, decoder_pipeline
from jetlens.media.hardware import HARDWARE, NvdecDecoder, split_decoder
from jetlens.media.sources import open_video
from jetlens.registry import Table

av = pytest.importorskip("av")
MakeVideo = Callable[..., Path]
needs_x264 = pytest.mark.skipif("libx264" not in av.codecs_available, reason="this PyAV has no libx264")


def read(path: Path, decoder: str | None = None) -> tuple[list[Frame], str]:
    """All frames, and what decoded them."""
    with open_video(path, decoder=decoder) as source:
        return list(source), source.info.decoder


def same(one: list[Frame], other: list[Frame]) -> bool:
    """Whether two readings have the same frames to the last bit, at the same times."""
    return len(one) == len(other) and all(
        abs(a.pts_s - b.pts_s) < 1e-9 and np.array_equal(a.image_rgb, b.image_rgb) for a, b in zip(one, other, strict=True)
    )


def test_pipelines() -> None:
    assert decoder_pipeline("h264", JetsonDecoder.elements["h264"]) == (
        'appsrc name=packets format=time caps="video/x-h264,stream-format=byte-stream,alignment=au" ! h264parse ! nvv4l2decoder ! nvvidconv '
        "! video/x-raw,format=(string){I420,NV12} ! appsink name=sink sync=false"
    )
    assert decoder_pipeline("hevc", NvcodecDecoder.elements["hevc"]).startswith(
        'appsrc name=packets format=time caps="video/x-h265,stream-format=byte-stream,alignment=au" ! h265parse ! nvh265dec ! video/x-raw,'
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("line.mp4", ("line.mp4", None)),
        ("line.mp4#decoder=av", ("line.mp4", "av")),
        ("line.mp4#decoder=auto", ("line.mp4", None)),
        ("rtsp://h/a?x=1#decoder=nvv4l2decoder", ("rtsp://h/a?x=1", "nvv4l2decoder")),
    ],
)
def test_the_decoder_stands_at_the_end_of_an_address(text: str, parts: tuple[str, str | None]) -> None:
    assert split_decoder(text) == parts


def test_unknown_decoders_are_wrong_usage_and_no_secret_is_told(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video("v.mp4", 2)
    for text in (f"{path}#decoder=gpu", "rtsp://user:se#decoder=cret@host/a", "rtsp://host/a#decoder=", "rtsp://host/a#decoder=cv2"):
        with pytest.raises(UsageError) as caught:
            open_source(text)
        assert "cret" not in str(caught.value)
        assert len(str(caught.value)) <= 300
    (tmp_path / "photo.png").touch()
    for text in (str(tmp_path / "photo.png"), "test://orange-line", "csi://0", "0", "http://user:secret@host/a"):
        with pytest.raises(UsageError, match="one video file") as caught:
            open_source(f"{text}#decoder=av")
        assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        list(open_source(f"{tmp_path / 'none.mp4'}#decoder=av"))
    named = path.rename(tmp_path / "v.mp4#decoder=gpu")  # a file that is there is that file
    with open_source(named) as source:
        assert len(list(source)) == 2


@needs_x264
@pytest.mark.parametrize("muxer", ["mp4", "matroska", "mpegts", "avi"])
def test_sound_hardware_is_taken_and_named(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, muxer: str) -> None:
    path = make_video("v", 20, muxer=muxer, codec="libx264", noise=30)
    software, name = read(path, "av")
    assert name == "pyav h264"
    put_in(monkeypatch, "Absent", "Sound", "Dark")
    frames, name = read(path)
    assert name == "sound h264"
    assert same(frames, software)
    assert [read_code(frame.image_rgb[30:]) for frame in frames] == list(range(20))
    with open_source(f"{path}#decoder=sound") as source:
        assert (source.info.name, source.info.decoder) == (str(path), "sound h264")
        assert same(list(source), software)


@needs_x264
@pytest.mark.parametrize("turn", [(90, False), (180, True)])
def test_pictures_are_turned_upright(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, turn: tuple[int, bool]) -> None:
    path = make_video("v.mp4", 4, codec="libx264", turn=turn)
    software, _ = read(path, "av")
    put_in(monkeypatch, "Sound")
    frames, name = read(path)
    assert name == "sound h264"
    assert same(frames, software)


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
@pytest.mark.parametrize("name", HARDWARE)
def test_small_pictures_of_both_codecs_are_given_to_hardware(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, name: str, encoder: str
) -> None:
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder}")
    path = make_video("v.mp4", 3, codec=encoder)
    software, said = read(path, "av")
    monkeypatch.setattr(hardware, "HARDWARE", Table("hardware decoder", {name: "stand_ins:Sound"}))
    frames, chosen = read(path)
    assert chosen == said.replace("pyav", name)
    assert same(frames, software)


FAILING = {
    "Refusing": "it does not open",
    "Raising": "invalid data found",
    "Silent": "no frame came out of",
    "Dark": "levels apart on average",
}


@needs_x264
@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("count", [1, 20, 60])
def test_hardware_that_fails_at_first_is_replaced_and_named(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, kind: str, count: int
) -> None:
    path = make_video("v.mp4", count, codec="libx264", noise=30)
    software, _ = read(path, "av")
    put_in(monkeypatch, kind)
    frames, name = read(path)
    assert same(frames, software)
    assert name.startswith(f"pyav h264 ({kind.lower()} failed: ")
    assert FAILING[kind] in name
    with pytest.raises(VideoError, match=FAILING[kind]) as caught:
        read(path, kind.lower())
    assert f"{kind.lower()} cannot be used" in str(caught.value)
    put_in(monkeypatch, kind, "Sound")
    frames, name = read(path)
    assert name == "sound h264"
    assert same(frames, software)


@needs_x264
@pytest.mark.parametrize(("kind", "shown"), [(Silent, 0), (Dark, 20)])
def test_negative_control_a_decoder_that_opens_need_not_decode(make_video: MakeVideo, kind: type[Sound], shown: int) -> None:
    """Whoever asks only whether it opens and raises nothing shows no frames, or dark ones."""
    path = make_video("v.mp4", 20, codec="libx264")
    software, _ = read(path, "av")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        reference = next(container.decode(stream))
        container.seek(0)
        naive = kind(av, stream, reference, 0.0)
        frames = [frame.to_ndarray(format="rgb24") for packet in container.demux(stream) for frame in naive.decode(packet)]
    assert len(frames) == shown
    assert all(np.abs(frame.astype(int) - software[index].image_rgb).mean() > 5 for index, frame in enumerate(frames))


@needs_x264
def test_hardware_that_fails_later_ends_the_reading_with_its_name(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, "Breaking")
    with open_video(make_video("v.mp4", 20, codec="libx264")) as source:
        frames: list[Frame] = []
        with pytest.raises(VideoError, match="breaking cannot be used: the engine was reset"):
            frames.extend(source)


@needs_x264
def test_absent_hardware_is_no_warning_unless_it_was_asked_for(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video("v.mp4", 5, codec="libx264")
    put_in(monkeypatch, "Absent")
    assert read(path)[1] == "pyav h264"
    with pytest.raises(MissingDependencyError, match="absent cannot be used: this machine has none"):
        read(path, "absent")


@needs_x264
def test_swapped_colours_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "red.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 160, 3), (200, 30, 30), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    put_in(monkeypatch, "Swapped")
    frames, name = read(path)
    assert "swapped failed: its first frame is not the software decoder's" in name
    assert same(frames, read(path, "av")[0])


@needs_x264
def test_ten_bits_stay_with_software(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ten.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p10le"
        for index in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded_image(index), format="rgb24")))
        container.mux(stream.encode(None))
    put_in(monkeypatch, "Sound")
    frames, name = read(path)
    assert (len(frames), name) == (3, "pyav h264")
    with pytest.raises(VideoError, match=r"sound cannot be used: it is used for .* this is h264 yuv420p10le"):
        read(path, "sound")


def test_other_codecs_stay_with_software(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, "Sound")
    opened = Sound.opened
    path = make_video("v.mp4", 5)
    assert read(path)[1] == "pyav mpeg4"
    assert Sound.opened == opened
    with pytest.raises(VideoError, match=r"H\.264 and H\.265 with 8 bits and 4:2:0, and this is mpeg4"):
        read(path, "sound")


@needs_x264
@pytest.mark.parametrize("name", HARDWARE)
def test_decoders_of_this_machine(make_video: MakeVideo, name: str) -> None:
    """Where there is one it decodes as software does; where there is none, that is one line."""
    path = make_video("v.mp4", 20, (256, 256), codec="libx264", noise=30)
    said = ""
    try:
        frames, chosen = read(path, name)
    except MissingDependencyError as error:
        said = str(error)
    except VideoError as error:
        pytest.skip(f"it is here and does not pass: {error}")
    if said:
        assert f"{name} cannot be used: " in said
        assert len(said) - len(str(path)) <= 300
    else:
        assert chosen == f"{name} h264"
        assert same(frames, read(path, "av")[0])


def test_pyav_that_crashes_where_nvdec_refuses_is_not_asked() -> None:
    with pytest.raises(MissingDependencyError, match=r"PyAV 17 or newer, and this is 16\.1\.0"):
        NvdecDecoder(SimpleNamespace(__version__="16.1.0"), None, None, 0.0)


def test_what_ffmpeg_decodes_in_place_of_the_hardware_is_refused() -> None:
    """PyAV has handed out software frames although no fallback was allowed (its issue 1690)."""
    decoder = object.__new__(NvdecDecoder)
    frame = av.VideoFrame.from_ndarray(coded_image(5), format="rgb24").reformat(format="yuv420p")
    with pytest.raises(VideoError, match="yuv420p, which is not the hardware's"):
        decoder._planar(frame)


@pytest.mark.parametrize("size_hw", [(96, 160), (95, 161), (2, 2)])
def test_frames_of_a_gpu_become_the_same_pixels(size_hw: tuple[int, int]) -> None:
    """NVDEC's interleaved chroma against the planes that it was made of."""
    rng = np.random.default_rng(0)
    reference = av.VideoFrame(size_hw[1], size_hw[0], "yuvj420p")
    reference.colorspace, reference.color_range = 1, 2
    planes = [hardware._pixels(reference, number) for number in range(3)]
    for plane in planes:
        plane[...] = rng.integers(0, 255, plane.shape)
    interleaved = av.VideoFrame(size_hw[1], size_hw[0], "nv12")
    interleaved.pts, interleaved.time_base = 7, Fraction(1, 30)
    hardware._pixels(interleaved, 0)[...] = planes[0]
    hardware._pixels(interleaved, 1)[:, 0::2], hardware._pixels(interleaved, 1)[:, 1::2] = planes[1:]
    decoder = object.__new__(NvdecDecoder)
    decoder._av, decoder._reference = av, reference
    planar = decoder._planar(interleaved)
    assert (planar.pts, planar.format.name, planar.colorspace, planar.color_range) == (7, "yuvj420p", 1, 2)
    assert all(np.array_equal(hardware._pixels(planar, number), planes[number]) for number in range(3))


def _stand_in(monkeypatch: pytest.MonkeyPatch, codec: str, elements: str) -> None:
    """Other elements in the place of a Jetson's, which every element name in the pipeline is looked up for."""
    monkeypatch.setattr(JetsonDecoder, "elements", {codec: elements})


@pytest.mark.parametrize("size_hw", [(96, 160), (98, 168)])
@pytest.mark.parametrize("kind", ["I420", "NV12"])
def test_packets_through_gstreamer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_hw: tuple[int, int], kind: str) -> None:
    """Raw pictures as packets need only GStreamer's base: order, times, layout and end are those of the real path."""
    system_gstreamer(monkeypatch, tmp_path, "identity", "videoconvert", "appsrc")
    rng = np.random.default_rng(1)
    path = tmp_path / "raw.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("rawvideo", rate=30)
        stream.width, stream.height, stream.pix_fmt = size_hw[1], size_hw[0], "yuv420p"
        for index in range(70):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (*size_hw, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
    caps = f"video/x-raw,format=I420,width={size_hw[1]},height={size_hw[0]},framerate=30/1"
    monkeypatch.setitem(gstdecoder.CODECS, "rawvideo", (caps, "identity", "null"))
    monkeypatch.setattr(hardware, "_CODECS", ("rawvideo",))
    _stand_in(monkeypatch, "rawvideo", f"videoconvert ! capsfilter caps=video/x-raw,format={kind}")
    software, _ = read(path, "av")
    frames, name = read(path, "nvv4l2decoder")
    assert name == "nvv4l2decoder rawvideo"
    assert len(frames) == 70
    assert same(frames, software)


CODED = [("libx264", "h264", "openh264dec", {"bf": "0"}), ("libx264", "h264", "avdec_h264", {}), ("libx265", "hevc", "avdec_h265", {})]


@pytest.mark.parametrize(("encoder", "codec", "element", "options"), CODED)
@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts"])
def test_coded_video_through_gstreamer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, codec: str, element: str, options: dict[str, str], name: str
) -> None:
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder}")
    system_gstreamer(monkeypatch, tmp_path, element, f"{codec.replace('hevc', 'h265')}parse")
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=30, options={"x265-params": "log-level=none", **options})
        stream.width, stream.height, stream.pix_fmt = 162, 98, "yuv420p"
        for index in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coded_image(index, (98, 162)), format="rgb24")))
        container.mux(stream.encode(None))
    software, _ = read(path, "av")
    _stand_in(monkeypatch, codec, element)
    frames, chosen = read(path)
    assert chosen == f"nvv4l2decoder {codec}"
    assert same(frames, software)


@needs_x264
def test_a_pipeline_that_cannot_run_is_replaced_and_named(make_video: MakeVideo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real GStreamer whose elements do not fit each other."""
    system_gstreamer(monkeypatch, tmp_path, "identity", "videoconvert", "appsrc")
    path = make_video("v.mp4", 20, codec="libx264")
    caps, _, filters = gstdecoder.CODECS["h264"]
    monkeypatch.setitem(gstdecoder.CODECS, "h264", (caps, "identity", filters))
    _stand_in(monkeypatch, "h264", "videoconvert")
    frames, name = read(path)
    assert same(frames, read(path, "av")[0])
    assert name.startswith("pyav h264 (nvv4l2decoder failed: ")
    with pytest.raises(VideoError, match="nvv4l2decoder cannot be used"):
        read(path, "nvv4l2decoder")


def test_stand_ins_are_told_apart() -> None:
    assert {"Sound", "Absent", "Breaking", *FAILING} <= vars(stand_ins).keys()


_RAISES = """
import sys
sys.path[:0] = {paths!r}
from jetlens.media.live import gstreamer
if {naive}:
    gstreamer._keep_exceptions_whole = lambda: None
gstreamer.load_gstreamer("identity", "this test")
import onnxruntime
from jetlens.doctor.probes import _runs
print("raised:", _runs(onnxruntime, "CUDAExecutionProvider"))
"""


def test_gstreamer_does_not_break_the_exceptions_of_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive way, the negative control, crashes where GStreamer was built with libunwind; ours never does."""
    pytest.importorskip("onnxruntime")
    system_gstreamer(monkeypatch, tmp_path, "identity")

    def ends(naive: bool) -> tuple[int, str]:
        script = _RAISES.format(paths=[path for path in sys.path if path], naive=naive)
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout

    code, said = ends(naive=False)
    assert code == 0
    assert said.startswith("raised: ")
    if "libunwind" in Path("/proc/self/maps").read_text():
        assert ends(naive=True)[0] < 0
