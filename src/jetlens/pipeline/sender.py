"""Sender: events to one address, from a thread of its own that never makes the pipeline wait."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import SplitResult, unquote, urlsplit

from jetlens.errors import UsageError
from jetlens.pipeline.events import Event, to_record

__all__ = ["Sender", "SenderStatus", "parse_address", "plain", "user_and_password"]

IDLE_S = 1.0
"""How often a thread with nothing to deliver looks after its connection."""


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """What became of the events: ``sent = delivered + failed + dropped + waiting``.

    Attributes:
        failed: events that the address did not take.
        dropped: events for which there was no room, or no time at the end.
        reason: the last trouble, without credentials; empty if there was none.
    """

    name: str
    sent: int
    delivered: int
    failed: int
    dropped: int
    waiting: int
    reason: str

    def __str__(self) -> str:
        counts = {what: getattr(self, what) for what in ("delivered", "failed", "dropped", "waiting")}
        became = " + ".join(f"{count} {what}" for what, count in counts.items() if count) or "0"
        trouble = f"; last trouble: {self.reason}" if self.reason else ""
        return f"{self.name}: {self.sent} {'event' if self.sent == 1 else 'events'} sent = {became}{trouble}"


class Sender(ABC):
    """Delivers events to one address, in order and one at a time.

    The name under which it appears anywhere is its scheme and host: user, password, path and query may all be secrets.
    """

    def __init__(self, name: str, *, timeout_s: float, waiting: int) -> None:
        """Starts its thread, so what the other methods need has to stand before.

        Args:
            timeout_s: of connecting, and of each wait for an answer.
            waiting: events that may wait; further ones are dropped and counted.

        Raises:
            UsageError: a number is out of range.
        """
        if not 0 < timeout_s <= 60 or waiting < 1:
            raise UsageError(f"{name}: timeout {timeout_s} s, {waiting} waiting; give up to 60 s and at least 1")
        self.name = name
        self._timeout_s, self._room = timeout_s, waiting
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        """The first one is under way and stays here until it is settled."""
        self._counts = dict.fromkeys(("sent", "delivered", "failed", "dropped"), 0)
        self._reason = ""
        self._closed = False
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sender", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Takes an event and returns at once; one for which there is no room is dropped and counted."""
        content = json.dumps(to_record(event), allow_nan=False).encode()
        with self._changed:
            self._counts["sent"] += 1
            if self._closed or len(self._waiting) >= self._room:
                self._counts["dropped"] += 1
            else:
                self._waiting.append(content)
                self._changed.notify()

    def status(self) -> SenderStatus:
        """Counts so far."""
        with self._changed:
            return SenderStatus(self.name, **self._counts, waiting=len(self._waiting), reason=self._reason)

    def close(self, timeout_s: float = 1.0) -> None:
        """Delivers what waits for at most this long, then drops the rest; closing twice is allowed."""
        if self._given_up.is_set():
            return
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            if self._waiting:
                self._reason = self._reason or "no answer before the end"
            self._counts["dropped"] += len(self._waiting)
            self._waiting.clear()
            self._given_up.set()
        self._break_off()
        self._thread.join(max(0.5, deadline - time.monotonic()))

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def _deliver(self, content: bytes) -> str:
        """Delivers one event; the reason if that failed."""

    def _idle(self) -> None:  # noqa: B027 - not all need it
        """Looks after a connection over which nothing goes."""

    def _break_off(self) -> None:  # noqa: B027 - not all need it
        """Ends what ``_deliver`` waits for, called from another thread."""

    def _hang_up(self) -> None:  # noqa: B027 - not all need it
        """Ends the connection."""

    def _work(self) -> None:
        while not self._given_up.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed, IDLE_S)
                content = self._waiting[0] if self._waiting else None
            if content is not None:
                self._settle(self._deliver(content))
            elif self._closed:
                break
            else:
                self._idle()
        self._hang_up()

    def _settle(self, reason: str) -> None:
        self._note(reason)
        with self._changed:
            if self._waiting:  # otherwise it was given up and counted meanwhile
                self._waiting.popleft()
                self._counts["failed" if reason else "delivered"] += 1

    def _note(self, reason: str) -> None:
        with self._changed:
            if reason and not self._given_up.is_set():  # later it is the breaking off itself
                self._reason = reason


def parse_address(url: str, whose: str, schemes: tuple[str, str], path: str) -> tuple[SplitResult, str]:
    """The parts of an address and the name under which it may appear.

    Raises:
        UsageError: it is none of these two schemes, or could be read in two ways; the message does not quote it.
    """
    host, port = "", None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        pass  # its text may quote the address
    if not host or port == 0 or parts.scheme not in schemes or not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise UsageError(
            f"{whose} address is not of the form {schemes[0]}://HOST:PORT/{path} or {schemes[1]}://... in ASCII without spaces"
        )
    if "@" in parts.path + parts.query or "#" in url:
        # A password with a plain / or # moves the host: nothing may go to whatever stands there then.
        raise UsageError(f"{whose} address has an @ behind its host or a #; write /, ?, # and @ of a password as %2F, %3F, %23 and %40")
    shown = f"[{host}]" if ":" in host else host
    return parts, f"{parts.scheme}://{shown}{f':{port}' if port else ''}"


def user_and_password(parts: SplitResult) -> tuple[str, str] | None:
    """Both as they were meant; None where the address names no user."""
    return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))


def plain(error: Exception) -> str:
    """What an error was, without its text: that may quote the address."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or 'unknown reason'})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
