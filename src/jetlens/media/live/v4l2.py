"""USB and other V4L2 cameras through OpenCV: ``v4l2:///dev/video0?format=mjpg&size=1280x720&fps=30``, in short ``0``."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import Any, Final

from jetlens.errors import InputError, UsageError, VideoError
from jetlens.media.live.options import choice, read_options, size_wh, whole
from jetlens.media.live.source import Damaged, Limits, LiveSource, Picture, Timing
from jetlens.registry import require

__all__ = ["V4L2_FORMATS", "V4l2Connection", "v4l2_devices", "v4l2_source"]

V4L2_FORMATS: Final = {"mjpg": "MJPG", "yuyv": "YUYV", "uyvy": "UYVY", "nv12": "NV12", "grey": "GREY"}
"""Formats that a camera can be asked for, by their names in addresses, and their four letters; the preferred one first."""
_OPTIONS: Final = {"format": choice(*V4L2_FORMATS), "size": size_wh, "fps": whole(1, 1000)}
_DEVICE: Final = re.compile(r"/?(?:dev/)?(?:video)?([0-9]{1,3})")
_FAILURES: Final = 10


def v4l2_devices(folder: Path = Path("/dev")) -> list[str]:
    """The video devices of this machine, in order of their numbers."""
    found = [entry for entry in folder.glob("video*") if re.fullmatch(r"video[0-9]+", entry.name)]
    return [str(entry) for entry in sorted(found, key=lambda entry: int(entry.name[5:]))]


class V4l2Connection:
    """One opened device; the newest of the driver's buffers is read."""

    def __init__(self, device: Path, options: dict[str, Any], limits: Limits) -> None:
        self._name = str(device)
        # OpenCV waits 10 s for a picture unless this says otherwise, in whole seconds.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
        os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
        self._cv2 = require("cv2", extra="cpu", why="reading a V4L2 camera")
        _check_device(device)
        self._capture = self._cv2.VideoCapture(str(device), self._cv2.CAP_V4L2)
        if not self._capture.isOpened():
            self._capture.release()
            raise VideoError(
                f"{device}: it does not open for capture (busy, or no camera's picture node); `v4l2-ctl --device {device} --all` tells"
            )
        self._set(options)
        self._limit_s = limits.stall_s
        self._failures = 0
        self.decoder = "cv2 v4l2"
        self.fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))

    def _set(self, options: dict[str, Any]) -> None:
        """Asks the driver for a format, and says so if it chose another."""
        cv2, width_height = self._cv2, options.get("size")
        wanted: list[tuple[int, float]] = []
        if "format" in options:
            wanted.append((cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*V4L2_FORMATS[options["format"]])))
        if width_height:
            wanted += [(cv2.CAP_PROP_FRAME_WIDTH, width_height[0]), (cv2.CAP_PROP_FRAME_HEIGHT, width_height[1])]
        if "fps" in options:
            wanted.append((cv2.CAP_PROP_FPS, options["fps"]))
        wanted.append((cv2.CAP_PROP_BUFFERSIZE, 1))
        for code, value in wanted:
            self._capture.set(code, value)
        got = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if width_height and got != width_height:
            self._capture.release()
            raise VideoError(
                f"{self._name}: the camera gives {got[0]}x{got[1]}, not {width_height[0]}x{width_height[1]}; "
                f"`v4l2-ctl --device {self._name} --list-formats-ext` lists its sizes"
            )

    def read(self) -> Picture | Damaged | None:
        """The next picture; blocks for a second at most."""
        began_s = time.monotonic()
        grabbed = self._capture.grab()
        captured_s = time.monotonic()
        if not grabbed:
            self._failures += 1
            if self._failures >= _FAILURES or not os.path.exists(self._name) or captured_s - began_s > self._limit_s:
                raise VideoError(
                    f"{self._name}: the camera gives no picture" + ("" if os.path.exists(self._name) else ": it was unplugged")
                )
            time.sleep(0.01)
            return None
        self._failures = 0
        try:
            ok, bgr = self._capture.retrieve()
            image = self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB) if ok else None
        except self._cv2.error:
            image = None
        return Damaged(f"{self._name}: a picture is damaged") if image is None else Picture(image, captured_s)

    def close(self) -> None:
        """Gives the device back."""
        self._capture.release()


def _check_device(device: Path) -> None:
    """Whether a device is there and may be read.

    Raises:
        InputError: it is not; the message names those that are.
    """
    try:
        usable = stat.S_ISCHR(device.stat().st_mode)
        allowed = os.access(device, os.R_OK | os.W_OK)
    except OSError:
        usable = allowed = False
    if not usable:
        others = v4l2_devices()
        there = (
            f"this machine has {', '.join(others[:8])}; `v4l2-ctl --list-devices` names them"
            if others
            else "this machine has no /dev/video*"
        )
        raise InputError(f"{device}: there is no such camera; {there} (is it plugged in, and in a container passed with --device?)")
    if not allowed:
        raise InputError(
            f"{device}: this user may not read it; add the user to the group video: sudo usermod -aG video $USER, and log in again"
        )


def v4l2_source(uri: str, *, timing: Timing | None = None) -> LiveSource:
    """A camera of this machine by its address.

    Raises:
        InputError: there is no such camera now, or this user may not read it.
        UsageError: the address or an option is wrong.
        MissingDependencyError: OpenCV is not installed.
    """
    place, options = read_options(uri, _OPTIONS, {})
    found = _DEVICE.fullmatch(place)
    by_link = place.startswith("/dev/v4l/") and ".." not in place
    if found is None and not by_link:
        raise UsageError(f"{uri[:80]}: a camera is v4l2:///dev/videoN, v4l2:///dev/v4l/by-id/NAME or just its number, such as 0")
    device = Path(place) if found is None else Path(f"/dev/video{int(found[1])}")
    _check_device(device)
    require("cv2", extra="cpu", why="reading a V4L2 camera")
    return LiveSource(str(device), lambda limits: V4l2Connection(device, options, limits), timing=timing)
