"""Cameras: what each one of this machine gives, and the address under which `jetlens run` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jetlens.errors import JetlensError
from jetlens.media.live.csi import csi_missing
from jetlens.media.live.v4l2 import V4L2_FORMATS, v4l2_devices
from jetlens.media.live.v4l2_facts import Control, Format, Ioctl, VideoDevice, read_device

__all__ = ["Camera", "describe", "find_cameras"]

_CSI_DRIVER: Final = "tegra-video"
"""The driver of a Jetson's CSI sensors, whose raw pictures only the camera service of JetPack turns into colours."""
_USUAL_WH: Final = (1280, 720)
_SHOWN_RATES: Final = 6


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera, or a device that should be one.

    Attributes:
        source: what `jetlens run` takes; empty where it cannot be read.
        device: what it says of itself; None where it cannot be asked.
        problem: what is in the way; empty where nothing is.
    """

    path: str
    source: str
    device: VideoDevice | None
    problem: str = ""


def find_cameras(folder: Path = Path("/dev"), ioctl: Ioctl | None = None) -> Iterator[Camera]:
    """The V4L2 cameras of this machine, a Jetson's CSI cameras among them; nothing for nodes without pictures.

    Args:
        folder: where the devices are.
        ioctl: asks a driver, as ``read_device`` takes it.
    """
    sensors = 0
    for path in v4l2_devices(folder):
        try:
            device = read_device(Path(path), ioctl)
        except JetlensError as error:
            yield Camera(path, "", None, str(error))
            continue
        if device is None:
            continue
        if device.driver == _CSI_DRIVER:
            yield Camera(path, f"csi://{sensors}{_csi_options(device)}", device, csi_missing())
            sensors += 1
        else:
            source, problem = _v4l2_source(device)
            yield Camera(path, source, device, problem)


def describe(camera: Camera) -> list[str]:
    """A camera in lines for people."""
    device = camera.device
    if device is None:
        return [camera.problem]
    lines = [f"{camera.path}: {device.name} ({device.driver}, {device.bus})"]
    if camera.source:
        lines.append(f"  jetlens run '{camera.source}'")
    if camera.problem:
        lines.append(f"  {camera.problem}")
    for kind in device.formats:
        sizes = (f"{_size(size.wh, size.largest_wh)} at {_rates(size.fps)}" for size in kind.sizes)
        lines.append(f"  {kind.code} ({kind.name}): {'; '.join(sizes) or 'no size is told'}")
    if device.controls:
        lines.append(f"  controls: {'; '.join(map(_control, device.controls))}")
    return lines


def _v4l2_source(device: VideoDevice) -> tuple[str, str]:
    """The address of a camera at a usual size, and what is in the way."""
    by_code = {kind.code: kind for kind in device.formats}
    known = [(name, by_code[code]) for name, code in V4L2_FORMATS.items() if code in by_code]
    if not known:
        return "", f"none of its formats is read; known are {', '.join(V4L2_FORMATS)}"
    name, kind = known[0]
    return f"v4l2://{device.path}?format={name}{_best(kind, '&')}", ""


def _csi_options(device: VideoDevice) -> str:
    return _best(device.formats[0], "?") if device.formats else ""


def _best(kind: Format, first: str) -> str:
    """The largest size up to 1280x720, else the smallest, with its highest rate, as options."""
    sizes = [(size.largest_wh, size.fps) for size in kind.sizes]
    if not sizes:
        return ""
    fitting = [row for row in sizes if row[0][0] <= _USUAL_WH[0] and row[0][1] <= _USUAL_WH[1]]
    (width, height), fps = max(fitting) if fitting else min(sizes)
    return f"{first}size={width}x{height}" + (f"&fps={int(fps[0])}" if fps and fps[0] >= 1 else "")


def _size(wh: tuple[int, int], largest_wh: tuple[int, int]) -> str:
    text = f"{wh[0]}x{wh[1]}"
    return text if wh == largest_wh else f"{text} to {largest_wh[0]}x{largest_wh[1]}"


def _rates(fps: tuple[float, ...]) -> str:
    if not fps:
        return "a rate that is not told"
    return ", ".join(f"{rate:g}" for rate in fps[:_SHOWN_RATES]) + (" and others" if len(fps) > _SHOWN_RATES else "")


def _control(control: Control) -> str:
    now = "" if control.value is None else f", now {control.value}"
    if control.kind == "menu":
        return f"{control.name} {'|'.join(control.choices) or f'{control.low} to {control.high}'}{now}"
    if control.kind == "switch":
        return f"{control.name} 0|1{now}"
    return f"{control.name} {control.low} to {control.high}{now}"
