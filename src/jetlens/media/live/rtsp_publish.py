"""H.264 to an RTSP server (ANNOUNCE and RECORD, RFC 2326; RTP over the same TCP connection, RFC 6184).

FFmpeg's own RTSP muxer is no choice: PyAV keeps Python's lock while it connects, so that a dead server would stop every thread.
"""

from __future__ import annotations

import base64
import re
import secrets
import socket
import ssl
import struct
from contextlib import suppress
from typing import Final

from jetlens.errors import NetworkError
from jetlens.media.live.address import Address
from jetlens.media.live.httpstream import digest_field

__all__ = ["CLOCK_HZ", "RtspPublisher", "nal_units"]

CLOCK_HZ: Final = 90_000
_PAYLOAD: Final = 1400
_LONGEST_ANSWER: Final = 1 << 16
_FRAGMENT: Final = 28
_PARAMETERS: Final = (7, 8)
_START: Final = re.compile(rb"\x00\x00\x00?\x01")
_STATUS: Final = re.compile(r"RTSP/1\.[0-9] ([0-9]{3})")


def nal_units(stream: bytes) -> list[bytes]:
    """The units of an Annex B stream."""
    return [unit for unit in _START.split(stream) if unit]


class RtspPublisher:
    """One session with a server, to which pictures are sent.

    Args:
        first: an encoded picture that begins with its parameter sets (SPS and PPS).
        patience_s: how long any step may take.

    Raises:
        NetworkError: the server cannot be reached or refuses; nothing secret is in the message.
    """

    def __init__(self, address: Address, first: bytes, patience_s: float) -> None:
        self._address = address
        self._url = f"{address.scheme}://{address.host_header}{address.target}"
        self._number, self._session, self._challenge = 0, "", ""
        self._sequence, self._source = secrets.randbelow(1 << 16), secrets.randbits(32)
        try:
            self._socket = self._connect(patience_s)
        except OSError as error:
            raise NetworkError(f"{address.name}: {_said(error)}") from None
        try:
            self._ask("OPTIONS", self._url)
            self._ask("ANNOUNCE", self._url, "Content-Type: application/sdp\r\n", self._description(first))
            track = f"{self._url.rstrip('/')}/trackID=0"
            self._ask("SETUP", track, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1;mode=record\r\n")
            self._ask("RECORD", self._url, "Range: npt=0.000-\r\n")
        except OSError as error:
            self._socket.close()
            raise NetworkError(f"{address.name}: {_said(error)}") from None
        except BaseException:
            self._socket.close()
            raise

    def send(self, picture: bytes, ticks: int) -> None:
        """Sends one encoded picture.

        Args:
            ticks: its time, in ``CLOCK_HZ``.

        Raises:
            NetworkError: the connection is lost, or the server takes nothing for too long.
        """
        stamp = ticks & 0xFFFF_FFFF
        payloads = [payload for unit in nal_units(picture) for payload in _payloads(unit)]
        packets = bytearray()
        for index, payload in enumerate(payloads):
            marker = 0x80 if index == len(payloads) - 1 else 0
            packets += (
                struct.pack(">cBHBBHII", b"$", 0, len(payload) + 12, 0x80, marker | 96, self._sequence, stamp, self._source) + payload
            )
            self._sequence = self._sequence + 1 & 0xFFFF
        try:
            self._socket.sendall(packets)
            self._drain()
        except OSError as error:
            raise NetworkError(f"{self._address.name}: {_said(error)}") from None

    def close(self) -> None:
        """Says goodbye and closes the connection; waits for no answer."""
        with suppress(OSError):
            self._socket.settimeout(0.2)
            self._socket.sendall(self._request("TEARDOWN", self._url, "", ""))
        self._socket.close()

    def _connect(self, patience_s: float) -> socket.socket:
        address = self._address
        connected = socket.create_connection((address.host, address.port), patience_s)
        try:
            if address.scheme == "rtsps":
                connected = ssl.create_default_context().wrap_socket(connected, server_hostname=address.host)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connected.close()
            raise
        return connected

    def _drain(self) -> None:
        """Takes what the server says meanwhile, such as reports: it would stop reading if nobody did."""
        before = self._socket.gettimeout()
        self._socket.settimeout(0)
        try:
            if not self._socket.recv(_LONGEST_ANSWER):
                raise ConnectionResetError(None, "the server closed the connection")
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self._socket.settimeout(before)

    def _request(self, method: str, url: str, fields: str, body: str) -> bytes:
        self._number += 1
        head = f"{method} {url} RTSP/1.0\r\nCSeq: {self._number}\r\nUser-Agent: jetlens\r\n{fields}"
        if self._session:
            head += f"Session: {self._session}\r\n"
        kind = self._challenge.partition(" ")[0].lower()
        if kind == "basic":
            head += f"Authorization: Basic {self._address.basic}\r\n"
        elif kind == "digest":
            head += f"Authorization: {digest_field(self._address, self._challenge, method, url)}\r\n"
        if body:
            head += f"Content-Length: {len(body.encode())}\r\n"
        return f"{head}\r\n{body}".encode()

    def _ask(self, method: str, url: str, fields: str = "", body: str = "") -> None:
        """One request; a second time with user and password where the server asks for them."""
        self._socket.sendall(self._request(method, url, fields, body))
        status, answer = self._answer()
        challenge = answer.get("www-authenticate", "")
        if status == 401 and self._address.basic and challenge and not self._challenge:
            self._challenge = challenge
            self._socket.sendall(self._request(method, url, fields, body))
            status, answer = self._answer()
        if status == 401:
            had = "refuses the user or" if self._address.basic else "asks for a user and"
            raise NetworkError(f"{self._address.name}: the server {had} password")
        if status != 200:
            raise NetworkError(f"{self._address.name}: the server answers {status} to {method}")
        self._session = answer.get("session", self._session).partition(";")[0]

    def _answer(self) -> tuple[int, dict[str, str]]:
        received = bytearray()
        while b"\r\n\r\n" not in received:
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionResetError(None, "the server closed the connection")
            received += piece
            if len(received) > _LONGEST_ANSWER:
                raise NetworkError(f"{self._address.name}: the server's answer is not RTSP")
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")
        status = _STATUS.match(lines[0])
        if status is None:
            raise NetworkError(f"{self._address.name}: the server's answer is not RTSP")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        left = int(fields.get("content-length", "0") or 0) - len(body) if fields.get("content-length", "0").isdecimal() else 0
        while 0 < left <= _LONGEST_ANSWER and (piece := self._socket.recv(min(left, 4096))):
            left -= len(piece)
        return int(status[1]), fields

    def _description(self, first: bytes) -> str:
        sets = [unit for unit in nal_units(first) if unit[0] & 31 in _PARAMETERS]
        profile = sets[0][1:4].hex() if sets else "42c01f"
        texts = ",".join(base64.b64encode(unit).decode() for unit in sets)
        lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=jetlens", f"c=IN IP4 {self._address.host}", "t=0 0", "m=video 0 RTP/AVP 96"]
        lines += [f"a=rtpmap:96 H264/{CLOCK_HZ}", f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={texts};profile-level-id={profile}"]
        return "\r\n".join([*lines, "a=control:trackID=0", ""])


def _payloads(unit: bytes) -> list[bytes]:
    """A unit as payloads of packets: itself, or fragments (FU-A)."""
    if len(unit) <= _PAYLOAD:
        return [unit]
    body = unit[1:]
    cuts = [body[at : at + _PAYLOAD - 2] for at in range(0, len(body), _PAYLOAD - 2)]
    indicator, kind = unit[0] & 0xE0 | _FRAGMENT, unit[0] & 31
    flags = [0x80, *[0] * (len(cuts) - 2), 0x40]
    return [bytes([indicator, flag | kind]) + cut for flag, cut in zip(flags, cuts, strict=True)]


def _said(error: OSError) -> str:
    """What went wrong in the system's words, never the server's or the address's."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return "no secure connection could be made"
    return (error.strerror or type(error).__name__).lower()
