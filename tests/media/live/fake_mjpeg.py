"""A motion JPEG camera on a real socket that can fail in the ways cameras do."""

from __future__ import annotations

import io
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import numpy as np
from fake_server import FakeServer
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens.frame import Image

FAULTS: Final = ("fin", "rst", "silent", "closed", "401", "503", "garbage", "half")
BITS: Final = 16


def numbered(number: int, size_hw: tuple[int, int] = (48, 128)) -> NDArray[np.uint8]:
    """A picture whose stripes are the bits of its number, on which nothing is a plain colour: lost parts show."""
    image = np.full((*size_hw, 3), 128, np.uint8)
    width = size_hw[1] // BITS
    for bit in range(BITS):
        image[:, bit * width : (bit + 1) * width] = 225 if number >> bit & 1 else 30
    image[::4] += 20
    return image


def number_of(image: Image) -> int:
    """The number in a picture; -1 where it is no picture of ours, such as one that is black or partly filled up."""
    width = image.shape[1] // BITS
    number = 0
    for bit in range(BITS):
        stripe = image[:, bit * width + 2 : (bit + 1) * width - 2].mean(axis=(1, 2))
        if (stripe > 150).all():
            number |= 1 << bit
        elif not (stripe < 110).all():
            return -1
    return number


def jpeg(image: Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


class FakeCamera(FakeServer):
    """Sends numbered pictures at its rate; the numbers go on by time, connected or not.

    ``mode`` is "ok" or one of FAULTS. Connections of a faulty time never work again; ``damage`` turns a picture's bytes into others.
    """

    def __init__(self, fps: float = 30.0, *, size_hw: tuple[int, int] = (48, 128), lengths: bool = True, head: bytes | None = None) -> None:
        self.fps = fps
        self.size_hw = size_hw
        self.lengths = lengths
        self.head = head
        self.mode = "ok"
        self.sent = 0
        self.damage: Callable[[int, bytes], bytes] = lambda number, data: data
        self._start_s = time.monotonic()
        self._generation = 0
        super().__init__()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"

    @property
    def number(self) -> int:
        """The number of the picture of this moment."""
        return int((time.monotonic() - self._start_s) * self.fps)

    def fail(self, mode: str) -> None:
        self._generation += 1
        self.mode = mode
        if mode == "closed":
            self.stop_listening()
        if mode in ("rst", "fin", "closed", "401", "503"):
            for sock in list(self._open):
                self._drop(sock, reset=mode == "rst")

    def heal(self) -> None:
        if self.mode == "closed":
            self.listen_again()
        self._generation += 1
        self.mode = "ok"

    def _drop(self, sock: socket.socket, *, reset: bool) -> None:
        with suppress(OSError):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(5)
            request = b""
            while b"\r\n\r\n" not in request and (piece := sock.recv(4096)):
                request += piece
            self.requests.append(request)
            getattr(self, f"_serve_{self.mode}", self._serve_ok)(sock)
        except OSError:
            pass
        finally:
            self._open.discard(sock)
            sock.close()

    def _serve_fin(self, sock: socket.socket) -> None:
        pass

    def _serve_rst(self, sock: socket.socket) -> None:
        self._drop(sock, reset=True)

    def _serve_401(self, sock: socket.socket) -> None:
        sock.sendall(b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="cam"\r\nContent-Length: 0\r\n\r\n')

    def _serve_503(self, sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")

    def _serve_ok(self, sock: socket.socket) -> None:
        generation, sent = self._generation, -1
        head = self.head or b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=shot\r\n\r\n"
        sock.sendall(head)
        while not self._stopped.is_set():
            number = self.number
            if generation != self._generation:
                return self._spoil(sock)
            if number == sent:
                self._stopped.wait(0.25 / self.fps)
                continue
            sent = number
            data = self.damage(number, jpeg(numbered(number % 2**BITS, self.size_hw)))
            length = b"Content-Length: %d\r\n" % len(data) if self.lengths else b""
            sock.sendall(b"--shot\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n" + data + b"\r\n")
            self.sent += 1
        return None

    _serve_silent = _serve_garbage = _serve_half = None  # type: ignore[assignment]

    def _spoil(self, sock: socket.socket) -> None:
        """What becomes of a connection whose time has passed: it is never right again."""
        mode, rng = self.mode, random.Random(0)
        if mode == "half":
            data = jpeg(numbered(self.number % 2**BITS, self.size_hw))
            sock.sendall(b"--shot\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data[: len(data) // 2])
        while not self._stopped.is_set():
            if mode == "garbage":
                sock.sendall(rng.randbytes(3000))
            self._stopped.wait(0.02)


def _spoiled_from_the_start(camera: FakeCamera, sock: socket.socket) -> None:
    if camera.mode != "silent":
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=shot\r\n\r\n")
    camera._spoil(sock)


for _mode in ("silent", "garbage", "half"):
    setattr(FakeCamera, f"_serve_{_mode}", _spoiled_from_the_start)
