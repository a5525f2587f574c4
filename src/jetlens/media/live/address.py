"""Network addresses of cameras: taken apart once, and shown without what is secret in them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from jetlens.errors import UsageError

__all__ = ["Address", "parse_address", "shown"]

_UNFIT: Final = re.compile(r"[\x00-\x20\x7f\\]")
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+(?:%[a-z0-9]+)?)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?", re.IGNORECASE)
_SECRET_WORDS: Final = re.compile(r"pass|pwd|token|secret|key|auth|user|login|sig", re.IGNORECASE)
_LONGEST_NAME: Final = 100
_PORTS: Final = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
_OPEN: Final = frozenset({"test", "csi", "v4l2"})
_PATH_SAFE: Final = "/%:!$&'()*+,;=~-._@"
_QUERY_SAFE: Final = _PATH_SAFE + "?[]{}|^"


@dataclass(frozen=True, slots=True)
class Address:
    """An address in parts; only ``name`` may be printed, and it is all that its repr shows.

    Attributes:
        target: path and query as they go over the wire.
        name: the address without user, password, query, and without a path's parts from one on that looks like a secret.
    """

    name: str
    scheme: str = field(repr=False)
    host: str = field(repr=False)
    port: int = field(repr=False)
    target: str = field(repr=False)
    user: str = field(repr=False)
    password: str = field(repr=False)

    @property
    def host_header(self) -> str:
        """Host and port as HTTP and RTSP write them."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def basic(self) -> str:
        """The credentials of HTTP's basic scheme, or an empty text."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii") if self.user or self.password else ""

    @property
    def url(self) -> str:
        """The whole address, secrets included, every reserved character escaped: for a library that connects by itself."""
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user or self.password else ""
        return f"{self.scheme}://{credentials}{self.host_header}{self.target}"


def parse_address(uri: str, ports: Mapping[str, int]) -> Address:
    """Takes an address apart; ``ports`` maps the schemes that are allowed to their ports.

    Raises:
        UsageError: it is malformed, or where its password ends cannot be told; no part of it that may be secret is in the message.
    """
    scheme, separator, rest = uri.partition("://")
    scheme = scheme.lower()
    form = f"{next(iter(ports))}://[USER:PASSWORD@]HOST[:PORT]/PATH is allowed"
    if not separator or scheme not in ports:
        raise UsageError(f"the address has no scheme that is allowed here; {form}")
    if _UNFIT.search(uri) or len(uri) > 8192:
        raise UsageError(f"{scheme}://...: the address has spaces, control characters or backslashes, or is too long; escape them as %20")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :].partition("#")[0]
    if "@" in rest[len(authority) :]:
        raise UsageError(
            f"{scheme}://...: where the password ends cannot be told; in user, password, path and query write @ as %40, "
            "/ as %2F, ? as %3F, # as %23 and % as %25"
        )
    credentials, _, place = authority.rpartition("@")
    found = _HOST.fullmatch(place)
    port = int(found[3] or ports[scheme]) if found else 0
    if found is None or not 0 < port < 65536:
        raise UsageError(f"{scheme}://...: the address has no usable host or port; {form}")
    host = (found[1] or found[2]).lower()
    user, _, password = (unquote(part) for part in credentials.partition(":"))
    if not (user + password).isprintable():
        raise UsageError(f"{scheme}://...: the user or password has control characters")
    path, mark, query = tail.partition("?")
    target = quote(path or "/", safe=_PATH_SAFE) + mark + quote(query, safe=_QUERY_SAFE)
    name = _name(scheme, found[0], path, bool(query))
    return Address(name, scheme, host, port, target, user, password)


def _name(scheme: str, place: str, path: str, has_query: bool) -> str:
    """What may be printed of an address."""
    pieces: list[str] = []
    for piece in path.split("/"):
        if "=" in piece or _SECRET_WORDS.search(piece):
            pieces.append("...")
            break
        pieces.append(piece)
    name = f"{scheme}://{place.lower()}{'/'.join(pieces)}{'?...' if has_query else ''}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def shown(uri: str) -> str:
    """What may be printed of any text that was given for a source: an address's ``name``, or its scheme alone where it may hide a secret."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, separator, rest = uri.partition(":")
    if scheme.lower() in _PORTS:
        try:
            return parse_address(uri, _PORTS).name
        except UsageError:
            return f"{scheme}://..."
    return uri if scheme.lower() in _OPEN or not set(rest) & set("@?#") else f"{scheme}{separator}..."
