"""An RTSP camera on a real socket: H.264 as RTP over the same TCP connection (RFC 2326, 6184), able to fail."""

from __future__ import annotations

import base64
import re
import socket
import struct
import time
from fractions import Fraction
from typing import Any, ClassVar

import av
from fake_mjpeg import BITS, FakeCamera, numbered

_MAX_PAYLOAD = 1400


def _nals(stream: bytes) -> list[bytes]:
    """The units of an Annex B stream."""
    return [unit for unit in re.split(rb"\x00\x00\x00?\x01", stream) if unit]


class FakeRtspCamera(FakeCamera):
    """The same camera and faults, spoken over RTSP. ``first_time`` is where its RTP clock starts."""

    first_time = 0
    sdp_extra = ""
    encoding: ClassVar[dict[str, str]] = {"tune": "zerolatency"}

    @property
    def uri(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/stream"

    def _encoder(self) -> Any:
        codec: Any = av.CodecContext.create("libx264", "w")
        codec.height, codec.width = self.size_hw
        codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", Fraction(1, 90_000), Fraction(int(self.fps), 1)
        codec.options = {"preset": "ultrafast", "g": "5", "crf": "18", "threads": "1", **self.encoding}
        return codec

    def _ask(self, sock: socket.socket, held: bytearray) -> tuple[str, str, str]:
        """Method, address and CSeq of the next request."""
        while b"\r\n\r\n" not in held:
            piece = sock.recv(4096)
            if not piece:
                raise OSError
            held += piece
        end = held.index(b"\r\n\r\n") + 4
        request = bytes(held[:end])
        del held[:end]
        self.requests.append(request)
        method, address = request.decode().split()[:2]
        found = re.search(r"CSeq: *(\d+)", request.decode())
        return method, address, found[1] if found else "0"

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(5)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mode = self.mode
            if mode in ("fin", "rst"):
                self._drop(sock, reset=mode == "rst")
            elif mode in ("silent", "garbage", "half"):
                self._spoil(sock)
            else:
                self._converse(sock, mode)
        except OSError:
            pass
        finally:
            self._open.discard(sock)
            sock.close()

    def _converse(self, sock: socket.socket, mode: str) -> None:
        held = bytearray()
        codec = self._encoder()
        while True:
            method, address, number = self._ask(sock, held)
            head = f"\r\nCSeq: {number}\r\n"
            if mode in ("401", "503"):
                words = {"401": 'Unauthorized\r\nWWW-Authenticate: Basic realm="cam"', "503": "Service Unavailable"}[mode]
                sock.sendall(f"RTSP/1.0 {mode} {words}{head}\r\n".encode())
                continue
            answer, body = "", ""
            if method == "OPTIONS":
                answer = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = self._describe(codec, address)
                answer = f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                answer = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "PLAY":
                answer = "Session: 1\r\n"
            sock.sendall(f"RTSP/1.0 200 OK{head}{answer}\r\n{body}".encode())
            if method == "PLAY":
                return self._play(sock, codec)

    def _describe(self, codec: Any, address: str) -> str:
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=camera", "c=IN IP4 0.0.0.0", "t=0 0", "m=video 0 RTP/AVP 96"]
        lines += ["a=rtpmap:96 H264/90000", f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={self._parameter_sets()}"]
        return "\r\n".join([*lines, "a=control:track1", *self.sdp_extra.splitlines(), ""])

    def _parameter_sets(self) -> str:
        codec = self._encoder()
        units = _nals(b"".join(bytes(packet) for packet in [*self._encode(codec, 0), *codec.encode(None)]))
        return ",".join(base64.b64encode(unit).decode() for unit in units if unit[0] & 31 in (7, 8))

    def _encode(self, codec: Any, number: int) -> list[Any]:
        frame = av.VideoFrame.from_ndarray(numbered(number % 2**BITS, self.size_hw), format="rgb24")
        frame.pts, frame.time_base = int(number * 90_000 / self.fps), Fraction(1, 90_000)
        return list(codec.encode(frame))

    def _play(self, sock: socket.socket, codec: Any) -> None:
        generation, sent, sequence = self._generation, -1, 0
        while not self._stopped.is_set():
            number = self.number
            if generation != self._generation:
                return self._spoil(sock)
            if number == sent:
                self._stopped.wait(0.25 / self.fps)
                continue
            sent = number
            for packet in self._encode(codec, number):
                stamp = (self.first_time + packet.pts) % 2**32
                units = _nals(self.damage(number, bytes(packet)))
                for index, unit in enumerate(units):
                    sequence = self._send_unit(sock, unit, stamp, sequence, last=index == len(units) - 1)
        return None

    @staticmethod
    def _send_unit(sock: socket.socket, unit: bytes, stamp: int, sequence: int, *, last: bool) -> int:
        pieces = [unit]
        if len(unit) > _MAX_PAYLOAD:
            body = unit[1:]
            cuts = [body[at : at + _MAX_PAYLOAD] for at in range(0, len(body), _MAX_PAYLOAD)]
            pieces = [
                bytes([unit[0] & 0xE0 | 28, (0x80 if at == 0 else 0x40 if at == len(cuts) - 1 else 0) | unit[0] & 31]) + cut
                for at, cut in enumerate(cuts)
            ]
        for at, piece in enumerate(pieces):
            marker = 0x80 if last and at == len(pieces) - 1 else 0
            packet = struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, stamp, 1) + piece
            sock.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
            sequence += 1
        return sequence

    def _spoil(self, sock: socket.socket) -> None:
        if self.mode == "half":
            sock.sendall(b"$\0" + struct.pack(">H", 1000) + b"\x80\x60" + bytes(200))
        while not self._stopped.is_set():
            if self.mode == "garbage":
                sock.sendall(time.monotonic_ns().to_bytes(8, "big") * 100)
            self._stopped.wait(0.02)
