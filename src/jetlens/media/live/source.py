"""A camera that comes back: one thread reads and reconnects, whoever iterates gets the newest sound frame."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Final, Protocol, TypeAlias

from jetlens.errors import InputError, VideoError, one_line
from jetlens.frame import Frame, Image
from jetlens.media.base import StreamInfo
from jetlens.media.live.status import SourceStatus, State
from jetlens.media.live.timeline import Timeline

__all__ = ["POLL_S", "REFUSED", "Connect", "Connection", "Damaged", "Limits", "LiveSource", "Picture", "Timing"]

POLL_S: Final = 0.1
"""How long a connection's read may wait where it can choose."""
REFUSED: Final = "(401)"
"""Stands in the message where a camera refuses the user or password."""
_GAPS: Final = 15
_FIRSTS: Final = 5
_JOIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A sound picture.

    Attributes:
        captured_s: monotonic time at which its last byte was there.
        camera_s: the camera's own time, or None where it sends none.
        skipped: older pictures that were left undecoded because this one was already there.
    """

    image_rgb: Image
    captured_s: float
    camera_s: float | None = None
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Damaged:
    """A picture that arrived and cannot be decoded."""

    why: str


class Connection(Protocol):
    """One connection to a camera, used by one thread."""

    @property
    def decoder(self) -> str:
        """What turns bytes into pixels."""
        ...

    @property
    def fps(self) -> float:
        """The nominal rate; 0 where the camera does not tell."""
        ...

    def read(self) -> Picture | Damaged | None:
        """The next picture; None where none came within a moment (``POLL_S``, at most the limit of a stall).

        Raises:
            InputError: the connection is lost; the message holds no secret.
            EOFError: the stream is over and is not to be opened again.
        """
        ...

    def close(self) -> None:
        """Frees everything."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take.

    Attributes:
        first_s: from the start of connecting to the first picture.
        stall_s: from one picture to the next.
        closing: set when nobody waits any more.
    """

    first_s: float
    stall_s: float
    closing: threading.Event


Connect: TypeAlias = "Callable[[Limits], Connection]"
"""Opens one connection; raises InputError where that fails."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a live source is; all in seconds.

    An unknown camera is given ``first_s`` for its first picture. One that sent pictures before is given half as much again as it lately
    took at its slowest, at least ``first_known_s``, and after ``fast_tries`` in vain ``first_patient_s``. Tries begin ``retry_s``
    apart and double up to ``retry_cap_s``; after ``patient_after_s``, and where a camera refused a password from the start (many lock
    the account after a few wrong ones), up to ``patient_cap_s``.
    """

    stall_s: float = 1.0
    longest_stall_s: float = 10.0
    first_s: float = 10.0
    first_known_s: float = 0.4
    first_patient_s: float = 3.0
    fast_tries: int = 10
    retry_s: float = 0.1
    retry_cap_s: float = 0.25
    patient_after_s: float = 600.0
    patient_cap_s: float = 5.0


class LiveSource:
    """The frames of a camera, newest first to hand: it never ends by itself, reconnects, and delivers no frame twice, late or damaged.

    A frame that nobody took is replaced by the next one and counted; one that waited when the connection broke is dropped.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        *,
        info: StreamInfo | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._name = name
        self._connect = connect
        self._timing = timing or Timing()
        self._clock = clock
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._changed = threading.Condition()
        self._reader: threading.Thread | None = None
        self._jitter = random.Random()
        self._timeline = Timeline()
        self._info = info or StreamInfo((0, 0), 0.0, None, name, "")
        self._waiting: Frame | None = None
        self._failure: BaseException | None = None
        self._state: State = "opening"
        self._since_s = self._last_s = clock()
        self._stall_s = self._timing.stall_s
        self._firsts: deque[float] = deque(maxlen=_FIRSTS)
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self._captured = self._dropped = self._corrupt = self._reconnects = 0
        self._reason = ""

    def __repr__(self) -> str:
        return f"LiveSource({self._name!r}, {self.status().state})"

    @property
    def info(self) -> StreamInfo:
        """What is known by now: size 0 x 0 before the first frame, then the latest frame's."""
        return self._info

    def status(self) -> SourceStatus:
        """The state at this moment, counted and judged anew at every call; any thread may ask."""
        with self._changed:
            state, since_s = self._state, self._since_s
            if state == "running" and self._clock() - self._last_s > self._stall_s:
                state, since_s = "stalled", self._last_s + self._stall_s
            return SourceStatus(self._name, state, since_s, self._reconnects, self._corrupt, self._captured, self._dropped, self._reason)

    def ready(self, timeout_s: float) -> None:
        """Waits for the first frame, which stays to be iterated.

        Raises:
            InputError: none came in time; the message says why.
        """
        self._start()
        with self._changed:
            self._changed.wait_for(lambda: self._captured or self._state == "ended", timeout_s)
            if self._failure is not None:
                raise self._failure
            if not self._captured:
                raise VideoError(f"{self._name}: no picture within {timeout_s:g} s: {self._reason or 'the camera is silent'}")

    def __iter__(self) -> Iterator[Frame]:
        self._start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._state == "ended")
                frame, self._waiting = self._waiting, None
                if frame is None:
                    if self._failure is not None:
                        raise self._failure
                    return
            yield frame
            del frame

    def stop(self) -> None:
        """Ends the iteration at once and lets the reader go, without waiting for it."""
        self._closing.set()
        self._end(None)

    def close(self) -> None:
        """Ends the iteration at once, then waits up to a second for the reader; closing twice is allowed."""
        self.stop()
        reader = self._reader
        if reader is not None and reader is not threading.current_thread():
            reader.join(_JOIN_S)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self) -> None:
        with self._changed:
            if self._reader is None and not self._closing.is_set():
                self._reader = threading.Thread(target=self._keep_reading, name="jetlens-live", daemon=True)
                self._reader.start()

    def _keep_reading(self) -> None:
        """The reader's life: connections, one after another, until somebody closes."""
        tries, lost_s = 0, self._clock()
        while not self._closing.is_set():
            before = self._captured
            try:
                self._read_one(tries)
            except EOFError:
                return self._end(None, keep=True)
            except InputError as error:
                reason = one_line(str(error))
            except BaseException as error:  # a fault of ours or a missing package: the one who iterates must know
                return self._end(error)
            else:
                return None
            if self._captured > before:
                tries, lost_s = 0, self._clock()
            self._lose(reason)
            patient = self._clock() - lost_s > self._timing.patient_after_s or (REFUSED in reason and not self._captured)
            cap_s = self._timing.patient_cap_s if patient else self._timing.retry_cap_s
            wait_s = min(cap_s, self._timing.retry_s * 2 ** min(tries, 16))
            self._pause(wait_s * self._jitter.uniform(0.75, 1.0))
            tries += 1
        return None

    def _read_one(self, tries: int) -> None:
        """Reads one connection; returns when the source is closed."""
        limits = self._limits(tries)
        opened_s, first = self._clock(), True
        self._timeline.restart()
        connection = self._connect(limits)
        try:
            while not self._closing.is_set():
                reading = connection.read()
                now_s = self._clock()
                if isinstance(reading, Picture):
                    self._take(reading, connection, None if first else now_s - self._last_s, now_s)
                    if first:
                        first = False
                        self._firsts.append(now_s - opened_s)
                    continue
                if isinstance(reading, Damaged):
                    self._damage(reading)
                waited_s = now_s - (opened_s if first else self._last_s)
                limit_s = limits.first_s if first else self._stall_s
                if waited_s > limit_s:
                    raise VideoError(f"{self._name}: no sound picture for {waited_s:.1f} s")
        finally:
            connection.close()
            # A camera whose second picture never came may be slow rather than dead.
            if not first and not self._gaps:
                self._stall_s = min(2 * self._stall_s, self._timing.longest_stall_s)

    def _limits(self, tries: int) -> Limits:
        timing = self._timing
        if not self._firsts:
            return Limits(timing.first_s, self._stall_s, self._closing)
        least_s = timing.first_known_s if tries < timing.fast_tries else timing.first_patient_s
        first_s = min(timing.first_s, max(least_s, 1.5 * max(self._firsts)))
        return Limits(first_s, self._stall_s, self._closing)

    def _take(self, picture: Picture, connection: Connection, gap_s: float | None, now_s: float) -> None:
        """Puts a picture where the one who iterates finds it."""
        shown_s = self._timeline.shown_s(picture.camera_s, picture.captured_s)
        with self._changed:
            if self._closing.is_set():
                return
            if gap_s is not None:
                self._gaps.append(gap_s)
                self._stall_s = min(max(4 * median(self._gaps), self._timing.stall_s), self._timing.longest_stall_s)
            if self._state == "reconnecting":
                self._reconnects += 1
            self._enter("running", now_s)
            self._last_s = now_s
            self._dropped += picture.skipped + (self._waiting is not None)
            self._captured += picture.skipped
            self._waiting = Frame(picture.image_rgb, self._captured, shown_s, picture.captured_s, self._name)
            self._captured += 1
            fps = connection.fps or self._measured_fps()
            self._info = StreamInfo(self._waiting.size_hw, fps, None, self._name, connection.decoder)
            self._changed.notify_all()

    def _measured_fps(self) -> float:
        """The rate at which frames lately came; 0 before it can be told."""
        lasted_s = sum(self._gaps)
        return round(len(self._gaps) / lasted_s, 1) if len(self._gaps) == _GAPS and lasted_s > 0 else self._info.fps

    def _damage(self, reading: Damaged) -> None:
        with self._changed:
            self._corrupt += 1
            self._reason = one_line(reading.why)

    def _lose(self, reason: str) -> None:
        """The connection is gone, and with it the frame that nobody took: it would be old when it is taken."""
        with self._changed:
            if self._state == "ended":
                return
            self._reason = reason
            if self._captured:
                self._enter("reconnecting", self._clock())
            self._drop_waiting()

    def _end(self, failure: BaseException | None, *, keep: bool = False) -> None:
        """No more frames; ``keep``: the last one may still be taken."""
        with self._changed:
            if not keep:
                self._drop_waiting()
            self._failure = self._failure or failure
            self._enter("ended", self._clock())
            self._changed.notify_all()

    def _drop_waiting(self) -> None:
        self._dropped += self._waiting is not None
        self._waiting = None

    def _enter(self, state: State, now_s: float) -> None:
        if state != self._state:
            self._state, self._since_s = state, now_s
