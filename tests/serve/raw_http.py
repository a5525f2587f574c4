"""Requests written by hand, byte for byte: no client tidies them up."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from jetlens.serve import LivePage


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def connect(page: LivePage, timeout_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", page.access.port), timeout_s)


def ask(
    page: LivePage, path: str = "/status", *headers: str, method: str = "GET", host: str | None = "127.0.0.1", most: int = 1 << 22
) -> Reply:
    """One request and its answer, of which at most so many bytes are read; without ``host`` there is no such header."""
    lines = [f"{method} {path} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    with connect(page) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        data = b""
        while len(data) < most and (piece := connection.recv(1 << 16)):
            data += piece
    return parse(data)


def parse(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return Reply(status, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, body)


class Parts:
    """Reads the parts of a multipart answer one by one."""

    def __init__(self, page: LivePage, path: str, *headers: str) -> None:
        self.connection = connect(page)
        self.connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode())
        self._bytes = b""
        self.head = self._until(b"\r\n\r\n")

    def next(self) -> tuple[dict[str, str], bytes]:
        lines = self._until(b"\r\n\r\n").decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers["content-length"])
        while len(self._bytes) < length + 2:
            self._more()
        body, self._bytes = self._bytes[:length], self._bytes[length + 2 :]
        return headers, body

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._bytes:
            self._more()
        found, _, self._bytes = self._bytes.partition(mark)
        return found

    def _more(self) -> None:
        data = self.connection.recv(1 << 16)
        assert data, "the answer ended"
        self._bytes += data
