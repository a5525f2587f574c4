"""One GET whose answer never ends: connected, authorised and read piece by piece, nothing of it waited for without a limit."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import secrets
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urljoin

from jetlens.errors import NetworkError, UsageError
from jetlens.media.live.address import Address, parse_address
from jetlens.media.live.multipart import MAX_HEAD_BYTES, ChunkDecoder, read_fields
from jetlens.media.live.source import POLL_S, REFUSED, Limits

__all__ = ["HTTP_PORTS", "HttpStream", "digest_field"]

HTTP_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_HOPS: Final = 4
_PIECE_BYTES: Final = 262_144
_DRAINED_BYTES: Final = 8 * 2**20
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_DIGESTS: Final = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
_CHALLENGE: Final = re.compile(r'([a-z]+)\s*=\s*(?:"([^"]*)"|([^\s,"]*))', re.IGNORECASE)


class HttpStream:
    """The body of one answer, as its bytes come in.

    Redirects are followed within the same scheme, host and port. Neither the server's own words nor the address's secrets get into a
    message.
    """

    def __init__(self, address: Address, limits: Limits) -> None:
        self._name = address.name
        self._ends_s = time.monotonic() + limits.first_s
        self._closing = limits.closing
        self._socket: socket.socket | None = None
        self._held = b""
        self._chunks: ChunkDecoder | None = None
        try:
            self.content_type = self._open(address)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise NetworkError(f"{self._name}: {_said(error)}") from None
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes | None:
        """All bytes that are there, waiting a moment for the first of them; None where none came.

        Raises:
            NetworkError: the connection is lost or the server ended it.
        """
        assert self._socket is not None
        if self._held:
            raw, self._held = self._held, b""
            return self._decoded(raw)
        try:
            self._socket.settimeout(POLL_S)
            received = bytearray(self._socket.recv(_PIECE_BYTES))
            self._socket.settimeout(0)
            with suppress(BlockingIOError, ssl.SSLWantReadError):
                while len(received) < _DRAINED_BYTES and (more := self._socket.recv(_PIECE_BYTES)):
                    received += more
        except TimeoutError:
            return None
        except OSError as error:
            raise NetworkError(f"{self._name}: {_said(error)}") from None
        if not received:
            raise NetworkError(f"{self._name}: the camera closed the connection")
        return self._decoded(bytes(received))

    def close(self) -> None:
        """Closes the connection."""
        if self._socket is not None:
            self._socket.close()

    def _decoded(self, raw: bytes) -> bytes:
        try:
            return raw if self._chunks is None else self._chunks.feed(raw)
        except EOFError:
            raise NetworkError(f"{self._name}: the camera ended the stream") from None
        except NetworkError as error:
            raise NetworkError(f"{self._name}: {error}") from None

    def _open(self, address: Address) -> str:
        """Asks until an answer is no redirect and no demand for a password; returns its Content-Type."""
        here, credentials, asked = address, f"Basic {address.basic}" if address.basic else "", False
        for _ in range(_MAX_HOPS):
            self._socket = self._connect(here)
            self._send(here, credentials)
            status, fields = self._head()
            challenge = fields.get("www-authenticate", "")
            if status == 200:
                return self._accepted(fields)
            if status in _REDIRECTS:
                here = self._redirected(here, fields.get("location", ""))
            elif status == 401 and address.basic and not asked and challenge.lower().startswith("digest"):
                credentials, asked = digest_field(here, challenge), True
            else:
                raise NetworkError(f"{self._name}: {_refusal(status, bool(address.basic))}")
            self._socket.close()
            self._held = b""
        raise NetworkError(f"{self._name}: it redirects again and again; give the final address")

    def _accepted(self, fields: dict[str, str]) -> str:
        if fields.get("content-encoding", "identity").lower() != "identity":
            raise NetworkError(f"{self._name}: the body is compressed, which was not asked for")
        if "chunked" in fields.get("transfer-encoding", "").lower():
            self._chunks = ChunkDecoder()
        return fields.get("content-type", "")

    def _redirected(self, here: Address, location: str) -> Address:
        base = f"{here.scheme}://{here.host_header}{here.target}"
        try:
            following = parse_address(urljoin(base, location), HTTP_PORTS)
        except (UsageError, ValueError):
            raise NetworkError(f"{self._name}: it redirects to no usable address") from None
        if (following.scheme, following.host, following.port) != (here.scheme, here.host, here.port) or following.basic:
            raise NetworkError(
                f"{self._name}: it redirects to another server, which is refused; give that address yourself if you trust it"
            )
        return following

    def _left_s(self) -> float:
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0 or self._closing.is_set():
            raise TimeoutError
        return left_s

    def _connect(self, address: Address) -> socket.socket:
        """A connection to the first address of the host that accepts one."""
        failure: OSError = OSError("the host has no address")
        places = self._resolve(address)
        for position, (family, place) in enumerate(places):
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._reach(plain, place, self._left_s() / (len(places) - position))
                plain.settimeout(self._left_s())
                if address.scheme == "http":
                    return plain
                return ssl.create_default_context().wrap_socket(plain, server_hostname=address.host)
            except OSError as error:
                plain.close()
                failure = error
                self._left_s()
        raise failure

    def _reach(self, sock: socket.socket, place: Any, limit_s: float) -> None:
        """Connects; looks up every moment whether anybody still waits."""
        ends_s = time.monotonic() + limit_s
        sock.setblocking(False)
        if (code := sock.connect_ex(place)) not in (0, 115, 36):  # EINPROGRESS on Linux, macOS
            raise OSError(code, os.strerror(code))
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        while not poller.poll(POLL_S * 1000):
            if time.monotonic() > ends_s or self._closing.is_set():
                raise TimeoutError
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))

    def _resolve(self, address: Address) -> list[tuple[int, Any]]:
        """The host's addresses; a name is looked up in a thread that may be left behind, for that has no time limit of its own."""
        answer: list[Any] = []

        def ask(flags: int = 0) -> None:
            try:
                found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
                answer.append([(entry[0], entry[4]) for entry in found])
            except (OSError, UnicodeError):
                answer.append(None)

        ask(socket.AI_NUMERICHOST)
        if answer[0] is None:
            answer.clear()
            thread = threading.Thread(target=ask, name="jetlens-resolve", daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(min(POLL_S, self._left_s()))
        if not answer or not answer[0]:
            raise NetworkError(f"{self._name}: the host is not known")
        places: list[tuple[int, Any]] = answer[0]
        return places

    def _send(self, address: Address, credentials: str) -> None:
        assert self._socket is not None
        lines = [
            f"GET {address.target} HTTP/1.1",
            f"Host: {address.host_header}",
            "User-Agent: jetlens",
            "Accept: multipart/x-mixed-replace, */*;q=0.1",
            "Accept-Encoding: identity",
            "Connection: close",
            *([f"Authorization: {credentials}"] if credentials else []),
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def _head(self) -> tuple[int, dict[str, str]]:
        """Status and header fields of the answer; what follows them is held."""
        assert self._socket is not None
        received = bytearray()
        while (end := _HEAD_END.search(received)) is None:
            if len(received) > MAX_HEAD_BYTES:
                raise NetworkError(f"{self._name}: the answer has no end of its head")
            self._socket.settimeout(min(POLL_S, self._left_s()))
            with suppress(TimeoutError):
                piece = self._socket.recv(8192)
                if not piece:
                    raise NetworkError(f"{self._name}: the camera closed the connection without an answer")
                received += piece
                if len(received) > 16 and not received.startswith(b"HTTP/1."):
                    raise NetworkError(f"{self._name}: the answer is not HTTP")
        status = _STATUS_LINE.match(received)
        if status is None:
            raise NetworkError(f"{self._name}: the answer is not HTTP")
        self._held = bytes(received[end.end() :])
        return int(status[1]), read_fields(bytes(received[status.end() : end.start()]))


def _refusal(status: int, has_credentials: bool) -> str:
    if status == 401:
        return f"the camera {'refuses the user or' if has_credentials else 'asks for a user and'} password {REFUSED}"
    return f"the camera answers {status} {http.client.responses.get(status, '')}".rstrip()


def _said(error: Exception) -> str:
    """What went wrong in the system's words, never the server's or the address's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not for this address or not trusted here; SSL_CERT_FILE may name a file with the camera's own"
    if isinstance(error, ssl.SSLError):
        return "no secure connection could be made"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (getattr(error, "strerror", None) or type(error).__name__).lower()


def digest_field(address: Address, challenge: str, method: str = "GET", target: str = "") -> str:
    """The Authorization field that answers a Digest challenge (RFC 7616, qop auth or none).

    Args:
        target: what is asked for; the address's own path and query if empty.

    Raises:
        NetworkError: the challenge is of a kind that is not known.
    """
    target = target or address.target
    fields = {match[1].lower(): match[2] or match[3] or "" for match in _CHALLENGE.finditer(challenge)}
    algorithm = fields.get("algorithm", "MD5").upper()
    if algorithm not in _DIGESTS:
        raise NetworkError(f"{address.name}: it asks for a kind of digest that is not known; MD5 and SHA-256 are")

    def digest(*parts: str) -> str:
        return _DIGESTS[algorithm](":".join(parts).encode()).hexdigest()

    realm, nonce = fields.get("realm", ""), fields.get("nonce", "")
    secret, asked = digest(address.user, realm, address.password), digest(method, target)
    user = address.user.replace("\\", "\\\\").replace('"', '\\"')
    answer = [f'username="{user}"', f'realm="{realm}"', f'nonce="{nonce}"', f'uri="{target}"', f"algorithm={algorithm}"]
    if "qop" in fields:
        own = secrets.token_hex(8)
        answer += ["qop=auth", "nc=00000001", f'cnonce="{own}"', f'response="{digest(secret, nonce, "00000001", own, "auth", asked)}"']
    else:
        answer.append(f'response="{digest(secret, nonce, asked)}"')
    if "opaque" in fields:
        answer.append(f'opaque="{fields["opaque"]}"')
    return "Digest " + ", ".join(answer)
