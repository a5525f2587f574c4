"""A small HTTP server that stays small: bounded threads, requests of bounded size and time, and an end within a moment."""

from __future__ import annotations

import errno
import io
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jetlens.errors import NetworkError, UsageError, one_line

__all__ = ["BoundedServer", "Request", "bind"]

_MOST_CONNECTIONS = 32
_MOST_REQUEST_BYTES = 16 * 1024
_REQUEST_S = 5.0
_ANSWER_S = 10.0
# What lies in the kernel's buffer is old when it is seen: less of it, younger pictures for a slow viewer.
_SEND_BUFFER_BYTES = 128 * 1024
_JOIN_S = 0.4
_POLL_S = 0.05
_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _TooLargeError(Exception):
    """A request has more bytes than any of ours."""


class _Incoming(io.RawIOBase):
    """What a client sends, up to a number of bytes and a moment in time, however slowly it comes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end_s = time.monotonic() + _REQUEST_S
        self._left = _MOST_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise _TooLargeError
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class Request(BaseHTTPRequestHandler):
    """One request on one connection, which ends with its answer; subclasses write ``answer``.

    Attributes:
        begun: whether the answer's first line was sent.
    """

    server_version = "jetlens"
    sys_version = ""
    begun = False

    def setup(self) -> None:
        self.connection = self.request
        self.rfile = io.BufferedReader(_Incoming(self.connection))
        self.wfile = io.BytesIO()  # what the base class writes: headers; sent by send()

    def finish(self) -> None:
        self.rfile.close()

    def handle(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(_MOST_REQUEST_BYTES + 1)
            complete = bool(self.raw_requestline) and self.parse_request()
        except _TooLargeError:
            self.refuse(431, "the request is too large")
        except TimeoutError:
            self.refuse(408, "the request did not end in time")
        else:
            if complete:
                self.answer()

    def answer(self) -> None:
        """Answers the request that was read."""
        raise NotImplementedError

    @property
    def target(self) -> tuple[str, str]:
        """Path and query exactly as they were sent: nothing is decoded or simplified."""
        path, _, query = self.requestline.split()[1].partition("?")
        return path, query

    def refuse(self, status: int, reason: str) -> None:
        """Answers with a status and one line of plain text."""
        self.reply(status, "text/plain; charset=utf-8", f"{reason}\n".encode())

    def reply(self, status: int, content_type: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Sends a whole answer."""
        self.begin(status, content_type, {"Content-Length": str(len(body)), **(headers or {})})
        self.send(body)

    def begin(self, status: int, content_type: str, headers: dict[str, str]) -> None:
        """Sends the status and the headers, those that every answer has with them."""
        if not hasattr(self, "request_version"):
            self.request_version, self.requestline, self.command = "HTTP/1.0", "", ""
        self.begun = True
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **_SAFE_HEADERS, **headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.flush()

    def flush(self) -> None:
        """Sends what the base class wrote."""
        assert isinstance(self.wfile, io.BytesIO)
        head = self.wfile.getvalue()
        self.wfile = io.BytesIO()
        self.send(head)

    def send(self, data: bytes) -> None:
        """Sends bytes; an OSError, in bounded time, where the client does not take them."""
        self.connection.settimeout(_ANSWER_S)
        self.connection.sendall(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of a request that is none."""
        self.close_connection = True
        self.refuse(int(code), "this is no request that can be answered")

    def handle_expect_100(self) -> bool:
        """Nothing is promised before the request was looked at."""
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: an address may hold the token."""


_SAFE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What keeps a page to itself: nothing from elsewhere is loaded into it, and it is not loaded into others."""


class BoundedServer(ThreadingHTTPServer):
    """Answers in at most 32 threads; more connections are told to come back later.

    Args:
        listener: a bound socket that listens; the server closes it.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: Callable[..., Request]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_S,), daemon=True, name="page server")
        self.closing = threading.Event()

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self) -> None:
        """Ends every connection and thread; twice is allowed."""
        if self.closing.is_set():
            return
        self.closing.set()
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join(_JOIN_S)
        with self._lock:
            under_way = dict(self._open)
            for connection in under_way:
                _end(connection)
        end_s = time.monotonic() + _JOIN_S
        for thread in under_way.values():
            thread.join(max(0.0, end_s - time.monotonic()))
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, if there is one left."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True, name="page viewer")
        with self._lock:
            full = len(self._open) >= _MOST_CONNECTIONS or self.closing.is_set()
            if not full:
                self._open[request] = thread
        if full:
            request.setblocking(False)
            try:
                request.send(_BUSY)
            finally:
                self.shutdown_request(request)
        else:
            thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection and forgets it."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; of anything else the kind is printed, never what was asked for."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(one_line(f"jetlens: the live page failed: {type(error).__name__}: {error}"), file=sys.stderr)


def bind(host: str, port: int, check: Callable[[str], None]) -> socket.socket:
    """A socket that listens on an address of this machine; port 0 takes a free one.

    Args:
        check: is given the IP address before anybody can reach it, and raises where it may not be used.

    Raises:
        UsageError: the number is no port.
        NetworkError: the port is in use or may not be used, or the address is none of this machine.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--view {port}: give a port from 1 to 65535, such as --view 8080")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NetworkError(f"--view-host {host[:60]!r} is no address: {reason}; give one of this machine, such as 127.0.0.1") from None
    # IPv4 first: browsers try it for localhost, and the address in messages is the familiar one.
    family, _, _, _, address = min(found, key=lambda row: row[0] != socket.AF_INET)
    check(str(address[0]))
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(_MOST_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise NetworkError(f"the live page cannot listen on {host} port {port}: {error.strerror}; {_remedy(error, port)}") from None
    return listener


def _remedy(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return "give an address of this machine, such as --view-host 127.0.0.1"
    return f"give another port, such as --view {port + 1 if 1024 <= port < 65535 else 8080}"


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # it ended by itself
        connection.shutdown(socket.SHUT_RDWR)
