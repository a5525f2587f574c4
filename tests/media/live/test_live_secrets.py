"""V7: no password, token or user of an address appears anywhere, whatever is in it and whatever the server says."""

from __future__ import annotations

import base64
import io
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from urllib.parse import quote, urlsplit

import pytest

from jetlens.errors import InputError, JetlensError, UsageError
from jetlens.media import open_source
from jetlens.media.live import LiveSource
from jetlens.media.live.address import parse_address, shown

MARK = "s3Kr1t"
PASSWORDS = [
    *(MARK + character for character in "@:/?#%&=+ ~!$'()*,;[]{}|^<>\"`"),
    *(character + MARK for character in "@:/?#%"),
    MARK + "%41",
    MARK + "@host/" + MARK,
    MARK + "пароль",
    MARK + "密码",
    MARK + "é\u00fc",
    f"{MARK}@{MARK}:{MARK}/{MARK}?{MARK}#{MARK}%",
]


def test_there_are_forty_of_them() -> None:
    assert len(PASSWORDS) == len(set(PASSWORDS)) >= 40


def hidden_forms(password: str) -> list[str]:
    pair = f"u5er:{password}".encode()
    return [MARK, quote(password, safe=""), base64.b64encode(pair).decode(), "u5er"]


def addresses(password: str, host: str) -> Iterator[str]:
    """Every place for a secret, well escaped and as people type it."""
    for scheme in ("http", "rtsp"):
        yield f"{scheme}://u5er:{quote(password, safe='')}@{host}/live"
        yield f"{scheme}://u5er:{password}@{host}/live"
    yield f"http://{host}/live?token={quote(password, safe='')}"
    yield f"http://{host}/live?user=u5er&password={password}"
    yield f"rtsp://{host}/user=u5er&password={quote(password, safe='')}&channel=1"


@contextmanager
def echoing_server() -> Iterator[str]:
    """Answers every request with all that it was sent, wherever an answer has room for words."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    done, turn = threading.Event(), [0]

    def serve() -> None:
        while not done.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(1)
                try:
                    request = sock.recv(65536).decode("latin-1")
                    words = f"{MARK} " + " ".join(request.split())
                    turn[0] += 1
                    proto = "RTSP/1.0" if "RTSP" in request else "HTTP/1.1"
                    number = request.partition("CSeq: ")[2].split("\r")[0] or "1"
                    status = (
                        f"401 {words}",
                        f"500 {words}",
                        f"302 Found\r\nLocation: http://{MARK}@{MARK}/{MARK}",
                        f"200 OK\r\nContent-Type: {words}",
                    )
                    sock.sendall(
                        f"{proto} {status[turn[0] % 4]}\r\nCSeq: {number}\r\nX-Said: {words}\r\n\r\n{words}".encode("latin-1", "replace")
                    )
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def said_of(uri: str) -> str:
    """Everything that the program says of an address that leads nowhere good."""
    said: list[str] = []
    try:
        source = open_source(uri)
        assert isinstance(source, LiveSource)
        with source:
            try:
                source.ready(0.12)
            except InputError as error:
                said += [str(error), repr(error), "".join(traceback.format_exception(error))]
            said += [repr(source.status()), repr(source.info), repr(source), str(source)]
    except JetlensError as error:
        said += [str(error), repr(error)]
    with_parts = []
    try:
        with_parts.append(repr(parse_address(uri, {"http": 80, "rtsp": 554})))
    except UsageError as error:
        with_parts.append("".join(traceback.format_exception(error)).replace(uri, ""))
    return "\n".join([*said, *with_parts, *(thread.name for thread in threading.enumerate())])


def _occurrences(passwords: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> int:
    caplog.set_level(logging.DEBUG)
    found = 0
    with echoing_server() as host, redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        for password in passwords:
            for uri in addresses(password, host):
                said = said_of(uri)
                captured = capfd.readouterr()
                everything = "\n".join([said, caplog.text, captured.out, captured.err, out.getvalue(), err.getvalue()])
                found += sum(form in everything for form in hidden_forms(password))
    return found


def test_secrets_appear_nowhere(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    assert _occurrences(PASSWORDS[::10], caplog, capfd) == 0


@pytest.mark.release
def test_forty_hostile_passwords_appear_nowhere(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], record_property: pytest.RecordProperty
) -> None:
    found = _occurrences(PASSWORDS, caplog, capfd)
    record_property("occurrences", f"{found} for {len(PASSWORDS)} passwords x 7 addresses")
    assert found == 0


def test_the_usual_way_to_print_an_address_shows_them() -> None:
    """The control: what others do, cutting the password out of what urlsplit finds, fails on passwords as people type them."""

    def naive(uri: str) -> str:
        try:
            parts = urlsplit(uri)
            return uri.replace(f":{parts.password}@", ":***@")
        except ValueError as error:
            return str(error)

    shown_by_others = [naive(uri) for password in PASSWORDS for uri in addresses(password, "host")]
    assert sum(MARK in text for text in shown_by_others) > 40


@pytest.mark.parametrize("password", PASSWORDS)
def test_an_escaped_password_arrives_as_it_is(password: str) -> None:
    address = parse_address(f"http://u5er:{quote(password, safe='')}@Host.local:8080/a%20b?c=d", {"http": 80})
    assert (address.user, address.password, address.host, address.port) == ("u5er", password, "host.local", 8080)
    assert address.target == "/a%20b?c=d"
    assert address.name == "http://host.local:8080/a%20b?..."
    assert parse_address(address.url, {"http": 80}).password == password


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http://:80/",
        "http://h:0/",
        "http://h:99999/",
        "http:///path",
        "http://[::1/",
        "http://a b/",
        "http://h\\x/",
        "gopher://h/",
        "h/x",
    ],
)
def test_malformed_addresses(uri: str) -> None:
    with pytest.raises(UsageError):
        parse_address(uri, {"http": 80})


def test_ipv6_and_plain_forms() -> None:
    address = parse_address("http://[::1]:81/x", {"http": 80})
    assert (address.host, address.host_header) == ("::1", "[::1]:81")
    assert parse_address("HTTP://cam", {"http": 80}).target == "/"
    assert shown("ftp://host/file") == "ftp://host/file"
    assert shown("ftp://u:p@host/file") == "ftp://..."
    assert shown("rtsp://u:p@host/live?token=1") == "rtsp://host/live?..."
    assert shown("rtsp://u:p/@host/live") == "rtsp://..."
    assert shown("test://orange-line?live=1") == "test://orange-line?live=1"
