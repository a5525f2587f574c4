"""CSI cameras of a Jetson (nvarguscamerasrc): ``csi://0?size=1280x720&fps=30&flip=180&exposure=5&gain=2``."""

from __future__ import annotations

from typing import Any, Final

from jetlens.errors import MissingDependencyError, UsageError
from jetlens.media.live.gstreamer import SINK, GstreamerConnection, load_gstreamer
from jetlens.media.live.options import choice, decimal, read_options, size_wh, whole
from jetlens.media.live.source import LiveSource, Timing

__all__ = ["csi_missing", "csi_pipeline", "csi_source"]

_ELEMENT: Final = "nvarguscamerasrc"
_FLIPS: Final = {"none": 0, "90": 3, "180": 2, "270": 1, "horizontal": 4, "vertical": 6}
"""Turns clockwise and mirrors, and nvvidconv's numbers for them."""
_OPTIONS: Final = {
    "size": size_wh,
    "fps": whole(1, 240),
    "format": choice("nv12", "p010"),
    "flip": choice(*_FLIPS),
    "exposure": decimal(0.013, 1000.0),
    "gain": decimal(1, 256),
    "mode": whole(0, 20),
}
_DEFAULTS: Final[dict[str, Any]] = {"size": (1280, 720), "fps": 30, "format": "nv12", "flip": "none"}


def csi_pipeline(uri: str) -> str:
    """The GStreamer pipeline behind an address; the exposure is in milliseconds, the gain is the sensor's.

    Raises:
        UsageError: the address or an option is wrong.
    """
    number, options = _read(uri)
    width, height = options["size"]
    camera = [f"{_ELEMENT} sensor-id={number}"]
    if "mode" in options:
        camera.append(f"sensor-mode={options['mode']}")
    if "exposure" in options:
        nanoseconds = round(options["exposure"] * 1e6)
        camera.append(f'exposuretimerange="{nanoseconds} {nanoseconds}"')
    if "gain" in options:
        camera.append(f'gainrange="{options["gain"]:g} {options["gain"]:g}"')
    return (
        f"{' '.join(camera)} ! "
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={options['fps']}/1,format={options['format'].upper()} ! "
        f"nvvidconv flip-method={_FLIPS[options['flip']]} ! video/x-raw,format=BGRx ! {SINK}"
    )


def csi_missing() -> str:
    """Why CSI cameras cannot be read here, with the remedy; an empty text where they can."""
    try:
        load_gstreamer(_ELEMENT, "a CSI camera")
    except MissingDependencyError as error:
        return str(error)
    return ""


def _read(uri: str) -> tuple[int, dict[str, Any]]:
    place, options = read_options(uri, _OPTIONS, _DEFAULTS)
    if not place.isascii() or not place.isdecimal() or len(place) > 2:
        raise UsageError(f"{uri[:80]}: a CSI camera is csi://N with its number, such as csi://0")
    return int(place), options


def csi_source(uri: str, *, timing: Timing | None = None) -> LiveSource:
    """A CSI camera by its address; 1280 x 720 at 30 frames a second unless options say otherwise.

    Raises:
        UsageError: the address or an option is wrong.
        MissingDependencyError: GStreamer, its Python module or NVIDIA's plugin is not there.
    """
    number, options = _read(uri)
    pipeline = csi_pipeline(uri)
    name = f"csi://{number}"
    gst = load_gstreamer(_ELEMENT, "a CSI camera")
    return LiveSource(
        name, lambda limits: GstreamerConnection(name, pipeline, gst, float(options["fps"]), "gstreamer nvargus"), timing=timing
    )
