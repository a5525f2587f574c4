"""Feed: the newest picture of each stream for viewers of any speed; nobody waits for them, and who is slow gets fewer pictures."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from jetlens.frame import Frame, Image
from jetlens.ops.opencv import cv2_if_there

__all__ = ["Feed", "Picture", "Viewer", "encode_jpeg"]

_QUALITY = 80
_LONGEST_SIDE = 1920
_FASTEST_S = 1 / 30
# A page that is loaded again still finds the last picture of a paused stream; one that is opened much later gets no old picture.
_KEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded frame.

    Attributes:
        number: counts the frames that this stream showed.
        frame: that it was made of.
    """

    number: int
    frame: Frame
    jpeg: bytes


class _Slot:
    """The newest frame of one stream and, once somebody asked for it, its JPEG."""

    def __init__(self) -> None:
        self.viewers = 0
        self.left_s = 0.0
        self.newest: tuple[int, Frame | None] = (0, None)
        self._encoding = threading.Lock()
        self._picture: Picture | None = None

    def picture(self) -> Picture | None:
        """The newest frame, encoded by whoever comes first; None before the first."""
        with self._encoding:
            number, frame = self.newest
            if frame is None:
                return None
            if self._picture is None or self._picture.number != number:
                self._picture = Picture(number, frame, encode_jpeg(frame.image_rgb))
            return self._picture


class Feed:
    """Keeps one frame and one JPEG a stream, whatever the number of viewers.

    Args:
        clock: a monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._slots: dict[str, _Slot] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether no more frames come."""
        return self._closed

    def wanted(self, stream: str) -> bool:
        """Whether anybody looks at this stream now."""
        slot = self._slots.get(stream)
        return slot is not None and slot.viewers > 0

    def show(self, frame: Frame) -> None:
        """Takes the newest frame of its stream and returns at once; without a viewer it is not kept."""
        with self._changed:
            slot = self._slots.get(frame.stream)
            if slot is None or not slot.viewers:
                return
            slot.newest = (slot.newest[0] + 1, frame)
            self._changed.notify_all()

    @contextmanager
    def viewer(self, streams: Sequence[str]) -> Iterator[Viewer]:
        """Counts as somebody who looks at these streams while it lasts."""
        with self._changed:
            slots = {name: self._slots.setdefault(name, _Slot()) for name in streams}
            for slot in slots.values():
                if not slot.viewers and self._clock() - slot.left_s > _KEPT_S:
                    slot.newest = (slot.newest[0], None)
                slot.viewers += 1
        try:
            yield Viewer(self, slots, self._clock)
        finally:
            with self._changed:
                for slot in slots.values():
                    slot.viewers -= 1
                    slot.left_s = self._clock()

    def frame(self, stream: str, timeout_s: float) -> Frame | None:
        """The newest frame of a stream; where nobody looked so far, the first that comes in this time."""
        with self.viewer([stream]) as viewer:
            viewer.wait(timeout_s)
            return self._slots[stream].newest[1]

    def close(self) -> None:
        """Wakes every viewer; none of them gets anything more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, ready: Callable[[float], float], timeout_s: float) -> bool:
        """Waits until ``ready(now)``, the seconds that are left until something can be sent, is 0; False at the time-out or the end."""
        end_s = self._clock() + timeout_s
        with self._changed:
            while not self._closed:
                now_s = self._clock()
                left_s = ready(now_s)
                if left_s <= 0:
                    return True
                if now_s >= end_s:
                    return False
                self._changed.wait(min(left_s, end_s - now_s))
        return False


class Viewer:
    """One who looks at some streams and gets their newest frames in turn, each at most 30 times a second."""

    def __init__(self, feed: Feed, slots: dict[str, _Slot], clock: Callable[[], float]) -> None:
        self._feed, self._slots, self._clock = feed, slots, clock
        self._seen = dict.fromkeys(slots, 0)
        self._sent_s = dict.fromkeys(slots, float("-inf"))

    def wait(self, timeout_s: float) -> bool:
        """Whether a frame that this viewer has not seen is there in time."""
        return self._feed.wait(self._left_s, timeout_s)

    def next(self, timeout_s: float) -> Picture | None:
        """The newest frame of the stream that waited longest; None if there is none in time."""
        if not self.wait(timeout_s):
            return None
        now_s = self._clock()
        name = min(self._fresh(), key=lambda name: self._sent_s[name])
        picture = self._slots[name].picture()
        if picture is not None:
            self._seen[name], self._sent_s[name] = picture.number, now_s
        return picture

    def _fresh(self) -> list[str]:
        return [name for name, slot in self._slots.items() if slot.newest[1] is not None and slot.newest[0] != self._seen[name]]

    def _left_s(self, now_s: float) -> float:
        return min((self._sent_s[name] + _FASTEST_S - now_s for name in self._fresh()), default=float("inf"))


def encode_jpeg(image_rgb: Image) -> bytes:
    """A JPEG of a picture, made smaller by a whole factor where it is longer than 1920 pixels."""
    factor = -(-max(image_rgb.shape[:2]) // _LONGEST_SIDE)
    if factor > 1:
        image_rgb = np.asarray(PillowImage.fromarray(image_rgb).reduce(factor))
    cv2 = cv2_if_there()
    if cv2 is not None:
        # Unlike Pillow it lets other threads run meanwhile.
        made, data = cv2.imencode(".jpg", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if made:
            return bytes(data)
    buffer = io.BytesIO()
    PillowImage.fromarray(image_rgb).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
