"""Frames from a GStreamer pipeline through an appsink of our own: OpenCV from PyPI comes without GStreamer."""

from __future__ import annotations

import ctypes
import importlib
import time
from contextlib import suppress
from typing import Any, Final

import numpy as np

from jetlens.errors import MissingDependencyError, VideoError
from jetlens.frame import Image
from jetlens.media.live.source import POLL_S, Damaged, Picture

__all__ = ["GSTREAMER_REMEDY", "SINK", "GstreamerConnection", "GstreamerPipeline", "load_gstreamer"]

SINK: Final = "appsink name=sink max-buffers=1 drop=true sync=false"
"""The end of every camera's pipeline: only the newest frame waits."""
GSTREAMER_REMEDY: Final = (
    "on a Jetson or Debian: sudo apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good, "
    "and a virtual environment made with --system-site-packages by the system's Python"
)
"""How GStreamer gets into Python."""
_JETPACK: Final = "it is part of JetPack (nvidia-l4t-gstreamer), in a container mount it with --runtime nvidia"


def load_gstreamer(element: str, why: str, remedy: str = _JETPACK) -> Any:
    """GStreamer's Python module, started.

    Raises:
        MissingDependencyError: Python's gi, GStreamer or the element's plugin is not there; the message holds the remedy.
    """
    try:
        _keep_exceptions_whole()
        gi = importlib.import_module("gi")
    except ImportError:
        raise MissingDependencyError(f"{why} needs GStreamer for Python (gi), which is not installed: {GSTREAMER_REMEDY}") from None
    try:
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        gst: Any = importlib.import_module("gi.repository.Gst")
        importlib.import_module("gi.repository.GstApp")
        gst.init(None)
    except (ImportError, ValueError):
        raise MissingDependencyError(f"{why} needs GStreamer 1.0, which gi does not find: {GSTREAMER_REMEDY}") from None
    if gst.ElementFactory.find(element) is None:
        raise MissingDependencyError(f"{why} needs GStreamer's element {element}, which is not installed; {remedy}")
    return gst


def _keep_exceptions_whole() -> None:
    """Puts GCC's unwinder before libunwind, which GStreamer brings: a C++ exception handled half by each crashes the process.

    Without it onnxruntime crashes where it would raise (seen here, and in rclpy's issue 1149).
    """
    with suppress(OSError):
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


class GstreamerPipeline:
    """One running pipeline that ends in an appsink named sink."""

    def __init__(self, name: str, pipeline: str, gst: Any) -> None:
        self.gst = gst
        try:
            self._pipeline = gst.parse_launch(pipeline)
        except Exception as error:  # GLib.Error, which exists only where gi does
            raise VideoError(f"{name}: GStreamer refuses the pipeline: {getattr(error, 'message', type(error).__name__)}") from None
        self.sink = self.element("sink")
        self._bus = self._pipeline.get_bus()
        if self._pipeline.set_state(gst.State.PLAYING) == gst.StateChangeReturn.FAILURE:
            said = self.message(gst.MessageType.ERROR)
            self.close()
            raise VideoError(f"{name} does not start" + (f": {said}" if said else ""))

    def element(self, name: str) -> Any:
        """One of its elements."""
        return self._pipeline.get_by_name(name)

    def message(self, kinds: Any) -> str:
        """What the pipeline says of its end or error, one line; empty where it says nothing of these kinds."""
        message = self._bus.pop_filtered(kinds)
        if message is None:
            return ""
        if message.type == self.gst.MessageType.EOS:
            return "the pipeline ended"
        error, _ = message.parse_error()
        return str(error.message).splitlines()[0][:160]

    def close(self) -> None:
        """Stops the pipeline."""
        self._pipeline.set_state(self.gst.State.NULL)


class GstreamerConnection(GstreamerPipeline):
    """One running pipeline that ends in ``SINK`` with frames of ``video/x-raw,format=BGRx`` or RGB."""

    def __init__(self, name: str, pipeline: str, gst: Any, fps: float, decoder: str) -> None:
        self._name = name
        self.fps, self.decoder = fps, decoder
        super().__init__(name, pipeline, gst)

    def read(self) -> Picture | Damaged | None:
        """The newest frame, or None where none comes in a moment."""
        sample = self.sink.try_pull_sample(int(POLL_S * self.gst.SECOND))
        captured_s = time.monotonic()
        if sample is None:
            said = self.message(self.gst.MessageType.ERROR | self.gst.MessageType.EOS)
            if said:
                raise VideoError(f"{self._name}: {said}")
            return None
        image = self._image(sample)
        buffer = sample.get_buffer()
        camera_s = None if buffer.pts == self.gst.CLOCK_TIME_NONE else buffer.pts / self.gst.SECOND
        return Damaged(f"{self._name}: a frame is smaller than its size says") if image is None else Picture(image, captured_s, camera_s)

    def _image(self, sample: Any) -> Image | None:
        """A copy of the frame's pixels as RGB; rows may be padded."""
        shape = sample.get_caps().get_structure(0)
        width, height, kind = shape.get_value("width"), shape.get_value("height"), shape.get_value("format")
        channels = 3 if kind == "RGB" else 4
        buffer = sample.get_buffer()
        ok, mapped = buffer.map(self.gst.MapFlags.READ)
        if not ok:
            return None
        try:
            row_bytes = mapped.size // height
            if row_bytes < width * channels:
                return None
            rows = np.frombuffer(mapped.data, np.uint8)[: row_bytes * height].reshape(height, row_bytes)
            pixels = rows[:, : width * channels].reshape(height, width, channels)
            return np.ascontiguousarray(pixels if channels == 3 else pixels[..., 2::-1])
        finally:
            buffer.unmap(mapped)
