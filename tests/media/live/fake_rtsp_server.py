"""A server that streams are sent to (ANNOUNCE, RECORD; RFC 2326, 6184), on a real socket, able to fail."""

from __future__ import annotations

import base64
import re
import socket
import struct

import av
from fake_mjpeg import number_of
from fake_server import FakeServer

from jetlens.frame import Image


class FakeRtspServer(FakeServer):
    """Takes one H.264 stream at a time and decodes it.

    ``mode`` is "ok", "silent" (accepts and says nothing), "refused" (closes at once), "garbage" or "stuck" (reads nothing after RECORD). With a
    ``challenge`` it asks for a password, and is content with any unless it is not ``forgiving``.
    """

    receive_buffer = 4096

    def __init__(self) -> None:
        self.mode, self.challenge, self.forgiving = "ok", "", True
        self.images: list[Image] = []
        self.sessions = 0
        super().__init__()

    @property
    def uri(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    @property
    def numbers(self) -> list[int]:
        return [number_of(image) for image in self.images]

    def stop_listening(self) -> None:
        super().stop_listening()
        self.drop()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                sock.settimeout(10)
                if self.mode == "silent":
                    self._stopped.wait(10)
                elif self.mode == "garbage":
                    for _ in range(100):
                        sock.sendall(bytes(range(32, 127)) * 100)
                elif self.mode != "refused":
                    self._converse(sock)
        except OSError:
            pass
        finally:
            self._open.discard(sock)

    def _converse(self, sock: socket.socket) -> None:
        held, sdp = bytearray(), ""
        while True:
            while b"\r\n\r\n" not in held:
                self._fill(sock, held)
            end = held.index(b"\r\n\r\n") + 4
            head = bytes(held[:end]).decode()
            length = re.search(r"Content-Length: *(\d+)", head)
            size = int(length[1]) if length else 0
            while len(held) < end + size:
                self._fill(sock, held)
            self.requests.append(bytes(held[: end + size]))
            sdp = held[end : end + size].decode() or sdp
            del held[: end + size]
            number = re.search(r"CSeq: *(\d+)", head)
            answer = f"\r\nCSeq: {number[1] if number else 0}\r\nSession: 7\r\n"
            if self.challenge and not (self.forgiving and "Authorization: " in head):
                sock.sendall(f"RTSP/1.0 401 Unauthorized{answer}WWW-Authenticate: {self.challenge}\r\n\r\n".encode())
                continue
            if head.startswith("SETUP"):
                answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n"
            sock.sendall(f"RTSP/1.0 200 OK{answer}\r\n".encode())
            if head.startswith("RECORD"):
                self.sessions += 1
                if self.mode == "stuck":
                    self._stopped.wait(10)
                return self._record(sock, held, sdp)

    def _record(self, sock: socket.socket, held: bytearray, sdp: str) -> None:
        decoder = av.CodecContext.create("h264", "r")
        sets = re.search(r"sprop-parameter-sets=([^;\s]+)", sdp)
        assert sets is not None
        access_unit = b"".join(b"\0\0\0\1" + base64.b64decode(text) for text in sets[1].split(","))
        part = b""
        while True:
            while len(held) < 4 or (held[0] == 0x24 and len(held) < 4 + struct.unpack_from(">H", held, 2)[0]):
                self._fill(sock, held)
            if held[0] != 0x24:  # a request in between, such as TEARDOWN
                self.requests.append(bytes(held))
                return
            channel, size = held[1], struct.unpack_from(">H", held, 2)[0]
            packet = bytes(held[4 : 4 + size])
            del held[: 4 + size]
            if channel:
                continue
            payload, marker = packet[12:], packet[1] & 0x80
            kind = payload[0] & 31
            if kind == 28:
                part = (bytes([payload[0] & 0xE0 | payload[1] & 31]) if payload[1] & 0x80 else part) + payload[2:]
                units = [part] if payload[1] & 0x40 else []
            elif kind == 24:
                units, at = [], 1
                while at < len(payload):
                    length = struct.unpack_from(">H", payload, at)[0]
                    units.append(payload[at + 2 : at + 2 + length])
                    at += 2 + length
            else:
                units = [payload]
            access_unit += b"".join(b"\0\0\0\1" + unit for unit in units)
            if marker:
                self.images += [frame.to_ndarray(format="rgb24") for frame in decoder.decode(av.Packet(access_unit))]
                access_unit = b""

    @staticmethod
    def _fill(sock: socket.socket, held: bytearray) -> None:
        piece = sock.recv(65536)
        if not piece:
            raise OSError
        held += piece
