"""Hardware decoders of H.264 and H.265: which are tried, and the trial that each must pass against the software decoder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from jetlens.errors import JetlensError, MissingDependencyError, UsageError, VideoError
from jetlens.registry import Table

__all__ = ["HARDWARE", "SOFTWARE", "Choice", "Decoding", "NvdecDecoder", "PacketDecoder", "planar_frame", "split_decoder"]

HARDWARE: Final = Table(
    "hardware decoder",
    {
        "nvv4l2decoder": "jetlens.media.gstdecoder:JetsonDecoder",
        "nvdec": "jetlens.media.hardware:NvdecDecoder",
        "nvcodec": "jetlens.media.gstdecoder:NvcodecDecoder",
    },
)
"""A Jetson's through GStreamer, then a desktop GPU's through PyAV and through GStreamer, in the order in which they are tried."""
SOFTWARE: Final = "av"
"""The name of PyAV's software decoders."""
_CODECS: Final = ("h264", "hevc")
_PLANAR: Final = ("yuv420p", "yuvj420p")
_TRIAL_PACKETS: Final = 24
_MOST_DIFFERENCE: Final = 2.0
_MOST_TIMES: Final = 256
_MARK: Final = "#decoder="
_LEAST_PYAV: Final = 17
_MOST_THREADS: Final = 4


class PacketDecoder(Protocol):
    """One opened hardware decoder of one stream.

    It is made of PyAV's module and stream, of a sound frame of the software decoder, whose format and tags its frames get, and of the
    seconds that it may wait for the frame of the packet that it was given last. Making it raises MissingDependencyError where the
    machine has no such decoder.
    """

    def decode(self, packet: Any) -> list[Any]:
        """The frames that are ready; an empty packet or None asks for those that are still inside."""
        ...

    def close(self) -> None:
        """Frees the decoder."""
        ...


def split_decoder(text: str) -> tuple[str, str | None]:
    """The address or path, and the decoder that its end asks for (``line.mp4#decoder=av``), or None; a file that is called so is itself.

    Raises:
        UsageError: no decoder has this name; nothing else of the address is in the message.
    """
    place, mark, name = text.rpartition(_MARK)
    if not mark or os.path.isfile(text):
        return text, None
    known = ("auto", SOFTWARE, "cv2", *HARDWARE)
    if name not in known:
        raise UsageError(f"what stands after {_MARK} is no decoder; known: {', '.join(known)}")
    return place, None if name == "auto" else name


@dataclass(frozen=True, slots=True)
class Choice:
    """The decoder that one source uses, from one connection to the next; raises UnknownNameError for a name that is none's.

    Attributes:
        asked: a name of HARDWARE, SOFTWARE, or None for the first hardware decoder that passes, else software.
        failed: hardware decoders that are here and did not pass, with the reason; they are not tried again.
    """

    asked: str | None
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.asked not in (None, SOFTWARE):
            HARDWARE[self.asked]

    def candidates(self, codec: str) -> list[str]:
        """The hardware decoders that are to be tried."""
        if self.asked is not None:
            return [] if self.asked == SOFTWARE else [self.asked]
        return [name for name in HARDWARE if name not in self.failed] if codec in _CODECS else []


class Decoding:
    """Packets of one stream to frames: in hardware where that passes the trial, in software otherwise.

    During the trial both decoders get every packet and no frame is handed out. The hardware's first frame must be the software's; if it
    is not, or none comes, what the software decoded meanwhile is handed out, so that no frame is lost or comes twice.

    Args:
        patience_s: how long the frame of the newest packet is waited for.
    """

    def __init__(self, av: Any, stream: Any, name: str, choice: Choice, patience_s: float = 0.0) -> None:
        self._av, self._stream, self._name, self._choice, self._patience_s = av, stream, name, choice, patience_s
        context = stream.codec_context
        self._codec = str(context.name)
        # A 720p frame of four slices on two cores: 1.4 ms with one thread, 1.0 ms with two or four, 1.25 ms with the cores + 1 (16 at most) that
        # FFmpeg starts by itself. Threads of frames spare 0.3 ms where a frame is one slice, cost about an eighth more work, and each holds a frame back.
        context.thread_type, context.thread_count = "SLICE", min(_MOST_THREADS, os.cpu_count() or 1)
        self._candidates = choice.candidates(self._codec)
        self._errors = (JetlensError, av.error.FFmpegError, ValueError)
        self._hardware: PacketDecoder | None = None
        self._chosen = ""
        self._packets: list[Any] = []
        self._frames: list[Any] = []
        self._keys: dict[int, bool] = {}
        self._reference: Any = None

    @property
    def description(self) -> str:
        """What decodes, and why hardware that was tried does not."""
        if self._chosen:
            return f"{self._chosen} {self._codec}"
        failed = "; ".join(f"{name} failed: {why}" for name, why in self._choice.failed.items())
        return f"pyav {self._codec}" + (f" ({failed})" if failed else "")

    def marked(self, frame: Any) -> Any:
        """The frame whose display matrix holds for a frame: the hardware's own have none."""
        return self._reference if self._chosen else frame

    def is_key(self, frame: Any) -> bool:
        """Whether a frame stands by itself, which the hardware's own do not tell."""
        return self._keys.pop(frame.pts, False) if self._chosen else bool(frame.key_frame)

    def decode(self, packet: Any) -> list[Any]:
        """The frames that are ready; an empty packet or None asks for those that are still inside.

        Raises:
            VideoError: hardware that was asked for does not pass the trial, or hardware that passed fails now.
            MissingDependencyError: hardware that was asked for is not here.
        """
        if packet is not None and packet.pts is not None:
            self._keys[packet.pts] = packet.is_keyframe
            if len(self._keys) > _MOST_TIMES:
                del self._keys[next(iter(self._keys))]
        if self._chosen and self._hardware is not None:
            try:
                return self._hardware.decode(packet)
            except EOFError:  # asked for the rest once more
                return []
            except self._errors as error:
                raise self._failure(self._chosen, error) from None
        frames: list[Any] = self._stream.codec_context.decode(packet)
        return self._try(packet, frames) if self._candidates else frames

    def _try(self, packet: Any, frames: list[Any]) -> list[Any]:
        """One packet more of the trial, which a stream that is joined in its middle begins at a key frame."""
        ending = packet is None or not packet.size
        if not self._packets and (ending or not packet.is_keyframe):
            return frames
        self._packets.append(packet)
        self._frames += frames
        if not self._frames:
            if len(self._packets) >= _TRIAL_PACKETS:  # nothing of it decodes: once more from the next key frame
                self._packets = []
            return []
        self._reference = self._frames[0]
        while self._candidates:
            name = self._candidates[0]
            try:
                ready = self._trial(name, ending)
            except self._errors as error:
                self.close()
                if self._choice.asked is not None:
                    raise self._failure(name, error) from None
                if not isinstance(error, (MissingDependencyError, _UnfitError)):
                    self._choice.failed[name] = _said(error)
                self._candidates.pop(0)
                continue
            if not ready:
                return []
            self._chosen, self._candidates, self._packets, self._frames = name, [], [], []
            return ready
        ready, self._frames, self._packets = self._frames, [], []
        return ready

    def _trial(self, name: str, ending: bool) -> list[Any]:
        """The hardware's first frames, if they are there and the software's."""
        fed = self._packets[-1:]
        if self._hardware is None:
            opening, kind = HARDWARE.load(name), self._reference.format.name
            if self._codec not in _CODECS or kind not in _PLANAR:
                raise _UnfitError(f"it is used for H.264 and H.265 with 8 bits and 4:2:0, and this is {self._codec} {kind}")
            self._hardware = opening(self._av, self._stream, self._reference, self._patience_s)
            fed = self._packets
        decoder: PacketDecoder = self._hardware
        ready = [frame for packet in fed for frame in decoder.decode(packet)]
        if ready and (difference := _difference(ready[0], self._reference)) > _MOST_DIFFERENCE:
            raise VideoError(f"its first frame is not the software decoder's: {difference:.0f} levels apart on average")
        if not ready and (ending or len(self._packets) >= _TRIAL_PACKETS):
            raise VideoError(f"no frame came out of {len(self._packets)} packets")
        return ready

    def _failure(self, name: str, error: Exception) -> JetlensError:
        kind = MissingDependencyError if isinstance(error, MissingDependencyError) else VideoError
        return kind(f"{self._name}: {name} cannot be used: {_said(error)}")

    def close(self) -> None:
        """Frees the hardware."""
        if self._hardware is not None:
            self._hardware.close()
            self._hardware = None


class _UnfitError(VideoError):
    """A stream that is no hardware's."""


def _said(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _difference(frame: Any, reference: Any) -> float:
    """Mean difference of the plane that differs most, in levels; 255 between frames of different sizes."""
    if (frame.width, frame.height) != (reference.width, reference.height):
        return 255.0
    pairs = ((_pixels(frame, number).astype(np.int16), _pixels(reference, number)) for number in range(3))
    return max(float(np.abs(one - other).mean()) for one, other in pairs)


def _pixels(frame: Any, number: int) -> NDArray[np.uint8]:
    """The bytes of one plane without what pads its rows."""
    plane = frame.planes[number]
    wide = plane.width * (2 if frame.format.name == "nv12" and number else 1)
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, :wide]


def planar_frame(av: Any, reference: Any, luma: NDArray[np.uint8], chroma: tuple[NDArray[np.uint8], ...]) -> Any:
    """A frame of PyAV from planes, with the format and colour tags of another: both then become the same RGB.

    The chroma is two planes, or one with the bytes of both by turns (NV12).
    """
    planes: tuple[NDArray[Any], ...] = chroma
    if len(chroma) == 1:  # as numbers of two bytes, whose lower one stays: quicker than every second byte
        pairs = chroma[0].view("<u2")
        planes = pairs, pairs >> 8
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], reference.format.name)
    for number, plane in enumerate((luma, *planes)):
        _pixels(frame, number)[...] = plane
    frame.colorspace, frame.color_range = reference.colorspace, reference.color_range
    return frame


class NvdecDecoder:
    """NVDEC through PyAV; what FFmpeg would decode in software in its place is refused."""

    def __init__(self, av: Any, stream: Any, reference: Any, patience_s: float) -> None:
        self._av, self._reference = av, reference
        if int(av.__version__.partition(".")[0]) < _LEAST_PYAV:  # where NVDEC refuses a stream, older ones crash
            raise MissingDependencyError(f"nvdec needs PyAV {_LEAST_PYAV} or newer, and this is {av.__version__}: pip install -U av")
        device = av.codec.hwaccel.HWAccel("cuda", allow_software_fallback=False)
        context = stream.codec_context
        try:
            self._context = av.CodecContext.create(context.name, "r", hwaccel=device)
        except (av.error.FFmpegError, ValueError) as error:
            raise MissingDependencyError(f"FFmpeg opens no NVIDIA GPU here ({_said(error).lower()}); see nvidia-smi") from None
        if not self._context.is_hwaccel:
            raise MissingDependencyError(f"this PyAV was built without NVDEC for {context.name}; install it from its wheel")
        self._context.extradata = context.extradata

    def decode(self, packet: Any) -> list[Any]:
        """The frames that are ready, downloaded from the GPU."""
        return [self._planar(frame) for frame in self._context.decode(packet)]

    def _planar(self, frame: Any) -> Any:
        if frame.format.name != "nv12":
            raise VideoError(f"FFmpeg answers with {frame.format.name}, which is not the hardware's")
        planar = planar_frame(self._av, self._reference, _pixels(frame, 0), (_pixels(frame, 1),))
        planar.pts, planar.time_base = frame.pts, frame.time_base
        return planar

    def close(self) -> None:
        """Frees the decoder."""
        self._context = None
