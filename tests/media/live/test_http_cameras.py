"""Motion JPEG as cameras speak it: chunks, digests, redirects, other answers, TLS."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_mjpeg import jpeg, number_of, numbered

from jetlens.errors import VideoError
from jetlens.media import open_source
from jetlens.media.live import LiveSource


def _open(uri: str) -> LiveSource:
    source = open_source(uri)
    assert isinstance(source, LiveSource)
    return source


@contextmanager
def serving(answer: Callable[[bytes], list[bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """A server that sends what ``answer`` makes of each request, piece by piece; the port and the requests."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    requests: list[bytes] = []

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(2)
                try:
                    requests.append(sock.recv(65536))
                    for piece in answer(requests[-1]):
                        sock.sendall(piece)
                    sock.recv(1)
                except OSError:
                    pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1], requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n"


def part(number: int) -> bytes:
    data = jpeg(numbered(number))
    return b"--b\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data)


def first_number(uri: str) -> int:
    with _open(uri) as source:
        source.ready(5)
        return number_of(next(iter(source)).image_rgb)


def test_chunks() -> None:
    body = part(77)
    chunks = [b"%x\r\n%s\r\n" % (len(body[at : at + 500]), body[at : at + 500]) for at in range(0, len(body), 500)]
    with serving(lambda _: [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks]) as (port, _):
        assert first_number(f"http://127.0.0.1:{port}/") == 77


def test_basic_credentials_are_sent_and_the_address_is_not_shown() -> None:
    with serving(lambda _: [HEAD + b"\r\n", part(3)]) as (port, requests):
        assert first_number(f"http://ann:p%40ss@127.0.0.1:{port}/live?token=q") == 3
    assert b"Authorization: Basic YW5uOnBAc3M=\r\n" in requests[0]
    assert requests[0].startswith(b"GET /live?token=q HTTP/1.1\r\n")


@pytest.mark.parametrize(("name", "qop"), [("MD5", True), ("MD5", False), ("SHA-256", True)])
def test_digest_credentials(name: str, qop: bool) -> None:
    make = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[name]

    def digest(text: str) -> str:
        return make(text.encode()).hexdigest()

    def answer(request: bytes) -> list[bytes]:
        given = dict(re.findall(r'(\w+)="?([^",]*)"?', request.decode().partition("Authorization: Digest ")[2].partition("\r\n")[0]))
        middle = f"{given.get('nc')}:{given.get('cnonce')}:auth:" if qop else ""
        wanted = digest(f"{digest('ann:cam:secret word')}:n0nce:{middle}{digest('GET:/live')}")
        if given.get("response") == wanted:
            return [HEAD + b"\r\n", part(9)]
        challenge = f'Digest realm="cam", nonce="n0nce", algorithm={name}, opaque="o"' + (', qop="auth"' if qop else "")
        return [f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n\r\n".encode()]

    with serving(answer) as (port, requests):
        assert first_number(f"http://ann:secret%20word@127.0.0.1:{port}/live") == 9
        with _open(f"http://ann:wrong@127.0.0.1:{port}/live") as source, pytest.raises(VideoError, match="refuses the user or password"):
            source.ready(0.3)
    assert len(requests) >= 4


def test_redirects_within_the_server_only() -> None:
    def answer(request: bytes) -> list[bytes]:
        if request.startswith(b"GET /start "):
            return [b"HTTP/1.1 302 Found\r\nLocation: /stream\r\n\r\n"]
        if request.startswith(b"GET /away "):
            return [b"HTTP/1.1 302 Found\r\nLocation: http://localhost:1/\r\n\r\n"]
        if request.startswith(b"GET /round "):
            return [b"HTTP/1.1 302 Found\r\nLocation: /round\r\n\r\n"]
        return [HEAD + b"\r\n", part(5)]

    with serving(answer) as (port, _):
        assert first_number(f"http://127.0.0.1:{port}/start") == 5
        for path, words in (("away", "another server"), ("round", "again and again")):
            with _open(f"http://127.0.0.1:{port}/{path}") as source, pytest.raises(VideoError, match=words):
                source.ready(0.4)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", "jetlens predict"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", "web page"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\n\r\n", "no multipart"),
        (b"HTTP/1.1 404 Whatever\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n", "compressed"),
        (b"SSH-2.0-OpenSSH_9.0 hello there\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "no end of its head"),
        (HEAD + b"\r\n--b\r\nContent-Length: 999999999\r\n\r\n", "announced"),
        (HEAD + b"\r\n--b\r\n\r\n" + b"GIF89a" + bytes(50) + b"\r\n--b\r\n", "no JPEG"),
    ],
)
def test_other_answers_are_told_in_one_line(answer: bytes, words: str) -> None:
    with serving(lambda _: [answer]) as (port, _), _open(f"http://127.0.0.1:{port}/") as source:
        with pytest.raises(VideoError, match=words) as caught:
            source.ready(0.4)
        assert len(str(caught.value)) <= 300


def test_a_host_that_is_not_there() -> None:
    with _open("http://no-such-host.invalid/") as source, pytest.raises(VideoError, match=r"not known|no answer|silent"):
        source.ready(0.5)


def test_a_plain_camera_is_no_secure_one() -> None:
    with (
        serving(lambda _: [HEAD + b"\r\n"]) as (port, _),
        _open(f"https://127.0.0.1:{port}/") as source,
        pytest.raises(VideoError, match="secure connection"),
    ):
        source.ready(0.5)


def test_https_with_the_cameras_own_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run([*command, "-subj", "/CN=cam", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(sock, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(HEAD + b"\r\n")
                    for number in range(200):
                        secure.sendall(part(number))
                        time.sleep(0.01)
            except OSError:
                sock.close()

    thread = threading.Thread(target=run)
    thread.start()
    uri = f"https://127.0.0.1:{listener.getsockname()[1]}/"
    try:
        with _open(uri) as source, pytest.raises(VideoError, match="SSL_CERT_FILE"):
            source.ready(0.5)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with _open(uri) as source:
            frames = iter(source)
            numbers = [number_of(next(frames).image_rgb) for _ in range(30)]
            assert source.status().reconnects == 0
        assert -1 not in numbers
        assert numbers == sorted(set(numbers))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
