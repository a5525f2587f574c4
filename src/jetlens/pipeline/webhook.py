"""Webhook: events as POSTs of JSON."""

from __future__ import annotations

import base64
import http.client
import socket
from contextlib import suppress

from jetlens import __version__
from jetlens.pipeline.sender import Sender, parse_address, plain, user_and_password

__all__ = ["Webhook"]


class Webhook(Sender):
    """Posts each event once. Only the address itself is asked: redirects are not followed and no proxy is used."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, waiting: int = 256) -> None:
        """``timeout_s`` and ``waiting`` as in Sender.

        Raises:
            UsageError: it is no http or https address.
        """
        self._parts, name = parse_address(url, "the webhook's", ("http", "https"), "PATH")
        self._connection: http.client.HTTPConnection | None = None
        super().__init__(name, timeout_s=timeout_s, waiting=waiting)

    def _deliver(self, content: bytes) -> str:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)
        self._connection = connection
        path = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        try:
            connection.request("POST", path, content, self._headers())
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            return plain(error)
        finally:
            self._connection = None
            connection.close()
        return "" if 200 <= status < 300 else f"answered {status}"

    def _break_off(self) -> None:
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"jetlens/{__version__}", "Connection": "close"}
        if (pair := user_and_password(self._parts)) is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(pair).encode()).decode()}"
        return headers
