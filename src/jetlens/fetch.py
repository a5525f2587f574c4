"""Images by http or https: one GET with a time limit, a size limit, and no way for an answer to point inside.

The address that the user typed may be any, a camera on the local network included: it is the user's own. An answer's
redirect may not be: it is followed at most 5 times, never to an address that is not public, never from https to http, and never
with the user's credentials; a redirect within the very same scheme, host and port is followed wherever that is. A name is
resolved once a hop, all its addresses are judged, and the connection goes to a judged address (with the name in the Host header
and, for https, checked against the certificate), so that a second DNS answer changes nothing. Proxy settings are not used.
User names, passwords, queries and fragments are never printed.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from jetlens.errors import NetworkError

__all__ = ["DEFAULT_MAX_BYTES", "DEFAULT_TIMEOUT_S", "MAX_REDIRECTS", "fetch", "is_url"]

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_MAX_BYTES: Final = 32 * 2**20
MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_CHUNK_BYTES: Final = 65_536
_MAX_ADDRESSES: Final = 8
_QUERY_SAFE: Final = "/%:@!$&'()*+,;=~-._?[]{}|^"
# IPv6 networks that stand for IPv4 addresses, and where in the 16 bytes the four are.
_EMBEDDING: Final = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 12),  # mapped
    (ipaddress.IPv6Network("64:ff9b::/96"), 12),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 2),  # 6to4
)


@dataclass(frozen=True, slots=True)
class _Url:
    """A checked http(s) address in parts."""

    scheme: str
    host: str
    port: int
    target: str
    credentials: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """What may be printed: no credentials, no query."""
        shown = f"{self.scheme}://{self.host_header}{self.target.partition('?')[0]}"
        return shown if len(shown) <= 100 else f"{shown[:97]}..."


class _Deadline:
    """One limit for everything that one fetch does."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        left = self._ends_s - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no complete answer within {self._timeout_s:g} s")
        return left


class _DeadlineReader(io.RawIOBase):
    """The receiving side of a socket with what is left of the deadline set before every read, which HTTPResponse takes for a socket."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._deadline.left_s())
        return self._sock.recv_into(buffer)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def is_url(source: object) -> bool:
    """Whether a source is an http or https address and not a path."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def fetch(url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """The body that a GET of the address answers with, redirects followed.

    Raises NetworkError when the address is refused or unreachable, the answer is not 200, cut or too large, or the time
    (for all hops together) is up.
    """
    deadline = _Deadline(timeout_s)
    here = _parse(url)
    typed, addresses = here, _resolve(here, deadline)
    for _ in range(MAX_REDIRECTS + 1):
        with _get(here, addresses, deadline) as response:
            if response.status not in _REDIRECTS:
                return _body(here, response, max_bytes)
            following = _redirected(here, response.getheader("Location"))
        if following.origin != here.origin:
            addresses = _resolve(following, deadline)
            _refuse_private(following, addresses)
        here = following
    raise NetworkError(f"{typed}: more than {MAX_REDIRECTS} redirects; give the final address")


def _parse(url: str) -> _Url:
    """The parts of an address that a browser would read in the same way; anything else is refused."""
    if re.search(r"[\x00-\x20\x7f\\]", url) or len(url) > 8192:
        raise NetworkError("the address has spaces, control characters or backslashes, or is over 8192 characters; escape them as %20")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii") if ":" not in (parts.hostname or "") else parts.hostname or ""
    except (ValueError, UnicodeError):
        raise NetworkError("the address has a malformed host or port; http://HOST[:PORT]/PATH is allowed") from None
    if parts.scheme not in _PORTS:
        raise NetworkError(f"addresses of scheme {parts.scheme[:20]!r} are not fetched; http and https are allowed")
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+(%[a-z0-9]+)?", host) or port == 0:
        raise NetworkError("the address has no usable host or port; http://HOST[:PORT]/PATH is allowed")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{quote(parts.query, safe=_QUERY_SAFE)}" if parts.query else "")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode("ascii") if user or password else ""
    return _Url(parts.scheme, host, port or _PORTS[parts.scheme], target, credentials)


def _redirected(here: _Url, location: str | None) -> _Url:
    if not location:
        raise NetworkError(f"{here}: a redirect without an address")
    try:
        following = _parse(urljoin(f"{here.scheme}://{here.host_header}{here.target}", location))
    except (NetworkError, ValueError) as error:
        said = str(error) if isinstance(error, NetworkError) else "it is malformed"
        raise NetworkError(f"{here}: its redirect is refused: {said}"[:300]) from None
    if following.credentials:
        raise NetworkError(f"{here}: its redirect is refused: it carries a user name or password")
    if here.scheme == "https" and following.scheme == "http":
        raise NetworkError(f"{here}: its redirect from https to http is refused")
    return following


def _resolve(url: _Url, deadline: _Deadline) -> list[str]:
    """All addresses of the host, numeric; getaddrinfo has no time limit of its own, so it runs in a thread that may be left behind."""
    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.append(error)

    thread = threading.Thread(target=ask, name="jetlens-resolve", daemon=True)
    thread.start()
    thread.join(deadline.left_s())
    if not answer:
        raise NetworkError(f"{url}: the name was not resolved in time")
    if isinstance(answer[0], Exception):
        raise NetworkError(f"{url}: the host is not known ({getattr(answer[0], 'strerror', None) or 'malformed name'})")
    return list(dict.fromkeys(str(entry[4][0]) for entry in answer[0]))[:_MAX_ADDRESSES]


def _refuse_private(url: _Url, addresses: list[str]) -> None:
    private = next((address for address in addresses if not _is_public(address)), None)
    if private is not None:
        raise NetworkError(
            f"{url}: a redirect to {private}, which is not a public address, is refused; give that address yourself if you trust it"
        )


def _is_public(address: str) -> bool:
    """Whether an address, or the IPv4 address that it stands for, is one of the public internet."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv6Address):
        for network, at in _EMBEDDING:
            if number in network:
                return _is_public(str(ipaddress.IPv4Address(number.packed[at : at + 4])))
    special = number.is_private or number.is_loopback or number.is_link_local or number.is_multicast or number.is_reserved
    return number.is_global and not special and not number.is_unspecified


@contextmanager
def _get(url: _Url, addresses: list[str], deadline: _Deadline) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET, its headers read; whatever the network does in the body of the with becomes a NetworkError."""
    try:
        with _connect(url, addresses, deadline) as sock:
            sock.settimeout(deadline.left_s())
            sock.sendall(_request(url))
            reader: Any = _DeadlineReader(sock, deadline)
            with http.client.HTTPResponse(reader, method="GET") as response:
                response.begin()
                yield response
    except ssl.SSLCertVerificationError as error:
        raise NetworkError(f"{url}: its certificate is not valid: {error.verify_message}") from None
    except TimeoutError as error:
        raise NetworkError(f"{url}: {error if 'no complete' in str(error) else 'no answer in time'}") from None
    except http.client.IncompleteRead:
        raise NetworkError(f"{url}: the connection closed before the end of the body") from None
    except http.client.HTTPException as error:
        raise NetworkError(f"{url}: the answer is not proper HTTP ({type(error).__name__})") from None
    except OSError as error:
        raise NetworkError(f"{url}: {error.strerror or type(error).__name__}") from None


def _request(url: _Url) -> bytes:
    lines = [
        f"GET {url.target} HTTP/1.1",
        f"Host: {url.host_header}",
        "User-Agent: jetlens",
        "Accept: image/*, */*;q=0.1",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    if url.credentials:
        lines.append(f"Authorization: Basic {url.credentials}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


@contextmanager
def _connect(url: _Url, addresses: list[str], deadline: _Deadline) -> Iterator[socket.socket]:
    """A connection to the first of the judged addresses that accepts one."""
    failure: OSError = OSError("no address")
    for position, address in enumerate(addresses):
        try:
            # A silent address leaves their share of the time to the others.
            plain = socket.create_connection((address, url.port), timeout=deadline.left_s() / (len(addresses) - position))
        except OSError as error:
            failure = error
            continue
        with plain:
            if url.scheme == "http":
                yield plain
                return
            plain.settimeout(deadline.left_s())
            with ssl.create_default_context().wrap_socket(plain, server_hostname=url.host) as secure:
                yield secure
                return
    raise failure


def _body(url: _Url, response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """The whole body, counted while it is read: what the headers say of its length is checked and never believed."""
    if response.status != 200:
        raise NetworkError(f"{url}: the server answered {response.status} {_printable(response.reason)}".rstrip())
    encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity":
        raise NetworkError(f"{url}: the body is encoded as {_printable(encoding)}, which was not asked for; only identity is allowed")
    promised = response.length
    if promised is not None and promised > max_bytes:
        raise NetworkError(f"{url}: {promised:,} bytes are announced; at most {max_bytes:,} are allowed")
    body = bytearray()
    while chunk := response.read(min(_CHUNK_BYTES, max_bytes + 1 - len(body))):
        body += chunk
        if len(body) > max_bytes:
            raise NetworkError(f"{url}: the body goes on beyond the {max_bytes:,} bytes that are allowed")
    if promised is not None and len(body) < promised:
        raise NetworkError(f"{url}: the connection closed after {len(body):,} of {promised:,} bytes")
    return bytes(body)


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:40]
