"""Access: who may ask a server for anything; every rule is checked before the path is looked at."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qsl, urlsplit

from jetlens.errors import UsageError

__all__ = ["ACTION_HEADER", "Access", "Refusal", "check_token", "is_loopback"]

ACTION_HEADER = "X-Jetlens-Action"
"""A header that a page of another origin cannot send without being asked: what changes anything must bring it."""

_SHORTEST_TOKEN = 8
_TOKEN_CHARACTERS = frozenset(string.ascii_letters + string.digits + string.punctuation)
_MOST_FIELDS = 8
# Any port: behind a tunnel it is another one. It is the name that a foreign page cannot choose.
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of the one that was asked for: HTTP status and the reason in words."""

    status: int
    reason: str


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    On a loopback address only names of this machine may stand in the Host header, so that a foreign page whose name was made to point here
    (DNS rebinding) reads nothing. On another address, and wherever there is a token, each request brings the token or the cookie
    that the server gave for it.

    Args:
        address: that the server listens on.
        port: told apart from other servers of this machine by the cookie's name.
        token: 8 or more printable ASCII characters.

    Raises:
        UsageError: the address is not loopback and there is no token, or the token is none that can be used.
    """

    address: str
    port: int
    token: str | None = field(default=None, repr=False)
    # Not the token: cookies go to every port of a host.
    _session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def __post_init__(self) -> None:
        check_token(self.address, self.token)

    @property
    def cookie(self) -> str:
        """The value of Set-Cookie for who brought the right token."""
        return f"{self._cookie_name}={self._session}; HttpOnly; SameSite=Strict; Path=/"

    def refusal(self, method: str, query: str, headers: Message) -> Refusal | None:
        """Why a request gets no answer, or None where it may have one."""
        if is_loopback(self.address) and not _names_this_machine(headers.get_all("Host") or ()):
            return Refusal(403, f"this server answers to its own address only: open http://{self.address}:{self.port}/")
        if self.token is not None and not self._knows(query, headers):
            return Refusal(401, "a token is needed, the one that was given with --view-token")
        if (headers.get("Sec-Fetch-Site") or "none") not in ("none", "same-origin") and not _is_visit(method, headers):
            return Refusal(403, "requests of other sites are not answered")
        if method == "POST" and not _own_action(headers):
            return Refusal(403, f"a change needs the header {ACTION_HEADER}: 1 and no foreign Origin")
        return None

    def brings_token(self, query: str) -> bool:
        """Whether the address carries the right token, once."""
        if self.token is None:
            return False
        return _one_of(_query_tokens(query), self.token)

    def _knows(self, query: str, headers: Message) -> bool:
        """Whether the token was brought; of several ways that a request uses, none may be wrong."""
        assert self.token is not None
        authorization = headers.get_all("Authorization")
        if authorization is not None and not _one_of(authorization, f"Bearer {self.token}"):
            return False
        tokens = _query_tokens(query)
        if tokens and not _one_of(tokens, self.token):
            return False
        return bool(authorization or tokens) or _one_of(self._cookies(headers), self._session)

    @property
    def _cookie_name(self) -> str:
        return f"jetlens_view_{self.port}"

    def _cookies(self, headers: Message) -> list[str]:
        pairs = [pair.strip().partition("=") for line in headers.get_all("Cookie") or () for pair in line.split(";")]
        return [value for name, _, value in pairs if name == self._cookie_name]


def check_token(address: str, token: str | None) -> None:
    """Refuses an address that others reach without a token, and a token that is none; the message never holds the token.

    Raises:
        UsageError: so it is.
    """
    if token is None or not token:
        if token is None and is_loopback(address):
            return
        suggestion = secrets.token_hex(10)
        what = "an empty --view-token" if token is not None else f"--view-host {address} can be reached from other machines"
        raise UsageError(f"{what}: give a token that viewers must know, such as --view-token {suggestion}")
    if len(token) < _SHORTEST_TOKEN or not set(token) <= _TOKEN_CHARACTERS:
        raise UsageError(
            f"--view-token: give {_SHORTEST_TOKEN} or more letters, digits and signs without blanks (it has {len(token)} characters)"
        )


def is_loopback(address: str) -> bool:
    """Whether an IP address is reached from this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _one_of(given: Sequence[str], wanted: str) -> bool:
    """Whether exactly one value was given and it is the wanted one; takes equally long whatever was given."""
    digests = [hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest() for value in given[:1]]
    right = hashlib.sha256(wanted.encode()).digest()
    return hmac.compare_digest(digests[0] if digests else b"\0" * len(right), right) and len(given) == 1


def _query_tokens(query: str) -> list[str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return ["", ""]
    return [value for name, value in pairs if name == "token"]


def _names_this_machine(hosts: Sequence[str]) -> bool:
    found = _HOST.fullmatch(hosts[0].strip()) if len(hosts) == 1 else None
    return found is not None and (found["name"].lower() == "localhost" or is_loopback(found["name"].strip("[]")))


def _is_visit(method: str, headers: Message) -> bool:
    """Whether somebody follows a link to the page."""
    return method == "GET" and headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"


def _own_action(headers: Message) -> bool:
    origins, hosts = headers.get_all("Origin") or [], headers.get_all("Host") or []
    if headers.get_all(ACTION_HEADER) != ["1"] or len(hosts) != 1:
        return False
    return not origins or (len(origins) == 1 and urlsplit(origins[0]).netloc == hosts[0])
