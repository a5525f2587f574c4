"""Hardware decoders through GStreamer: packets that PyAV read go in through an appsrc, frames come out of an appsink."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

import numpy as np

from jetlens.errors import VideoError
from jetlens.media.hardware import planar_frame
from jetlens.media.live.gstreamer import GstreamerPipeline, load_gstreamer

__all__ = ["GstreamerDecoder", "JetsonDecoder", "NvcodecDecoder", "decoder_pipeline"]

CODECS: Final = {
    "h264": ("video/x-h264,stream-format=byte-stream,alignment=au", "h264parse", "h264_mp4toannexb,dump_extra"),
    "hevc": ("video/x-h265,stream-format=byte-stream,alignment=au", "h265parse", "hevc_mp4toannexb,dump_extra"),
}
"""Of each codec the stream that hardware takes, its parser, and FFmpeg's filters that make such a stream of any file's packets."""
_SINK: Final = "video/x-raw,format=(string){I420,NV12} ! appsink name=sink sync=false"
_LONGEST_S: Final = 5.0
_LOOK_S: Final = 0.02
_MOST_TIMES: Final = 256
_START_US: Final = 3_600_000_000  # GStreamer knows no times before zero: streams begin an hour later


def decoder_pipeline(codec: str, elements: str) -> str:
    """The pipeline of one decoder."""
    caps, parser, _ = CODECS[codec]
    return f'appsrc name=packets format=time caps="{caps}" ! {parser} ! {elements} ! {_SINK}'


class GstreamerDecoder(GstreamerPipeline):
    """One running decoder; which elements it is made of, a class below it tells by codec."""

    elements: ClassVar[dict[str, str]] = {}
    remedy: ClassVar[str] = ""

    def __init__(self, av: Any, stream: Any, reference: Any, patience_s: float) -> None:
        self._av, self._reference, self._patience_s = av, reference, patience_s
        codec = stream.codec_context.name
        _, parser, filters = CODECS[codec]
        for part in (parser, *self.elements[codec].split(" ! ")):
            gst = load_gstreamer(part.split()[0], "it", self.remedy)
        super().__init__(self.elements[codec], decoder_pipeline(codec, self.elements[codec]), gst)
        self._source = self.element("packets")
        self._filter = av.bitstream.BitStreamFilterContext(filters, stream)
        self._first_us: int | None = None
        self._times: dict[int, tuple[int, Any]] = {}
        self._ended = False

    def decode(self, packet: Any) -> list[Any]:
        """The frames that are ready; an empty packet or None waits for all that are still inside.

        Raises:
            VideoError: the pipeline reports an error or stands still.
        """
        if packet is None or not packet.size:
            return self._drain()
        # A filter takes the packet away from whoever else still needs it.
        own = self._av.Packet(bytes(packet))
        own.pts, own.dts, own.time_base, own.is_keyframe = packet.pts, packet.dts, packet.time_base, packet.is_keyframe
        for unit in self._filter.filter(own):
            self._push(unit, packet.time_base)
        return self._ready()

    def _push(self, unit: Any, time_base: Any) -> None:
        buffer = self.gst.Buffer.new_wrapped(bytes(unit))
        if unit.pts is not None:
            at_us = round(unit.pts * time_base * 1_000_000)
            self._first_us = at_us if self._first_us is None else self._first_us
            shifted_us = at_us - self._first_us + _START_US
            if shifted_us >= 0:
                buffer.pts = shifted_us * 1000
                self._times[shifted_us] = unit.pts, time_base
            if len(self._times) > _MOST_TIMES:
                del self._times[next(iter(self._times))]
        self._source.emit("push-buffer", buffer)

    def _ready(self) -> list[Any]:
        """What is there once the decoder has taken the packet."""
        frames: list[Any] = []
        began_s = time.monotonic()
        while True:
            waits = self._source.get_property("current-level-bytes") > 0
            limit_s = _LOOK_S if waits else 0.0 if frames else self._patience_s
            sample = self.sink.try_pull_sample(int(limit_s * self.gst.SECOND))
            if sample is not None:
                frames.append(self._frame(sample))
                continue
            self._check(began_s)
            if not waits:
                return frames

    def _drain(self) -> list[Any]:
        frames: list[Any] = []
        if not self._ended:
            self._ended = True
            self._source.emit("end-of-stream")
        began_s = time.monotonic()
        while not self.sink.get_property("eos"):
            sample = self.sink.try_pull_sample(int(_LOOK_S * self.gst.SECOND))
            if sample is not None:
                frames.append(self._frame(sample))
                began_s = time.monotonic()
            self._check(began_s)
        return frames

    def _check(self, began_s: float) -> None:
        said = self.message(self.gst.MessageType.ERROR)
        if said:
            raise VideoError(said)
        if time.monotonic() - began_s > _LONGEST_S:
            raise VideoError(f"it stands still for {_LONGEST_S:.0f} s")

    def _frame(self, sample: Any) -> Any:
        """A frame of PyAV with the packet's own time; rows are padded as GStreamer's default layout has it."""
        shape, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
        width, height = shape.get_value("width"), shape.get_value("height")
        interleaved = shape.get_value("format") == "NV12"
        half_wide, half_high = (width + 1) // 2, (height + 1) // 2
        stride = -(-width // 4) * 4
        other = stride if interleaved else -(-half_wide // 4) * 4
        cuts = [stride * half_high * 2, other * half_high, 0 if interleaved else other * half_high]
        ok, mapped = buffer.map(self.gst.MapFlags.READ)
        if not ok:
            raise VideoError("a frame cannot be read")
        try:
            if mapped.size < sum(cuts):
                raise VideoError(f"a frame of {width} x {height} has {mapped.size} bytes")
            data = np.frombuffer(mapped.data, np.uint8)
            luma = data[: cuts[0]].reshape(-1, stride)[:height, :width]
            first = data[cuts[0] : cuts[0] + cuts[1]].reshape(half_high, other)
            second = data[cuts[0] + cuts[1] : sum(cuts)].reshape(-1, other)
            chroma = (first[:, : 2 * half_wide],) if interleaved else (first[:, :half_wide], second[:, :half_wide])
            frame = planar_frame(self._av, self._reference, luma, chroma)
        finally:
            buffer.unmap(mapped)
        known = self._times.pop(round(buffer.pts / 1000), None) if buffer.pts != self.gst.CLOCK_TIME_NONE else None
        if known is not None:
            frame.pts, frame.time_base = known
        return frame


class JetsonDecoder(GstreamerDecoder):
    """A Jetson's decoder; nvvidconv brings its frames out of the hardware's memory."""

    elements: ClassVar = dict.fromkeys(("h264", "hevc"), "nvv4l2decoder ! nvvidconv")
    remedy: ClassVar = "it is part of JetPack (sudo apt install nvidia-l4t-gstreamer gstreamer1.0-plugins-bad), in a container mount it with --runtime nvidia"


class NvcodecDecoder(GstreamerDecoder):
    """NVDEC through GStreamer's own plugin."""

    elements: ClassVar = {"h264": "nvh264dec", "hevc": "nvh265dec"}
    remedy: ClassVar = (
        "sudo apt install gstreamer1.0-plugins-bad, whose plugin nvcodec shows it where there are an NVIDIA GPU and its driver"
    )
