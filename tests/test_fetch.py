"""Fetching over real sockets on the loopback interface."""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetlens.errors import NetworkError
from jetlens.fetch import MAX_REDIRECTS, fetch, is_url

Answer = Callable[[socket.socket, bytes], None]


class Server:
    """Answers every connection with one function and remembers the requests."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.context = context
        self.requests: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self.context is not None:
                    connection = self.context.wrap_socket(connection, server_side=True)
                request = b""
                while b"\r\n\r\n" not in request:
                    part = connection.recv(4096)
                    if not part:
                        break
                    request += part
                self.requests.append(request)
                self.answer(connection, request)
            except OSError:
                pass


@contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(answer, context)
    try:
        yield server
    finally:
        # A thread in accept() is not woken by close() alone, and would go on with whatever gets the number of this socket.
        server.socket.shutdown(socket.SHUT_RDWR)
        server.socket.close()


def saying(head: str, body: bytes = b"", then: Answer | None = None) -> Answer:
    """An answer of given head lines and body, after which the connection closes."""

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        if then is not None:
            then(connection, request)

    return answer


def redirecting(location: str, status: int = 302) -> Answer:
    return saying(f"HTTP/1.1 {status} Found\nLocation: {location}\nContent-Length: 0")


def refusal(url: str, **limits: float) -> str:
    with pytest.raises(NetworkError) as caught:
        fetch(url, **limits)  # type: ignore[arg-type]
    message = str(caught.value)
    assert len(message) <= 300
    assert "\n" not in message
    return message


def test_body_arrives_whole_and_identity_is_asked_for() -> None:
    content = bytes(range(256)) * 1000
    with serving(saying(f"HTTP/1.1 200 OK\nContent-Length: {len(content)}", content)) as server:
        assert fetch(f"{server.url}/a/b.png?size=3&x=[1]#part") == content
    request = server.requests[0].decode()
    assert request.startswith("GET /a/b.png?size=3&x=[1] HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


def test_chunked_body_and_body_until_close() -> None:
    chunked = b"3\r\nabc\r\n4;name=x\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n"
    with serving(saying("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", chunked)) as server:
        assert fetch(server.url) == b"abcdefg"
    with serving(saying("HTTP/1.0 200 OK", b"until close")) as server:
        assert fetch(server.url) == b"until close"


def test_escapes_what_a_path_may_not_hold() -> None:
    with serving(saying("HTTP/1.1 200 OK", b"x")) as server:
        fetch(f"{server.url}/süß.png")
    assert b"GET /s%C3%BC%C3%9F.png " in server.requests[0]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("ftp://example.com/a.png", "http and https"),
        ("file:///etc/passwd", "http and https"),
        ("data:image/png;base64,AAAA", "http and https"),
        ("example.com/a.png", "http and https"),
        ("http://", "host"),
        ("http:///a.png", "host"),
        ("http://a..b/x", "host"),
        ("http://host:99999/x", "port"),
        ("http://host:0/x", "port"),
        ("http://host/a b", "spaces"),
        ("http://host/a\r\nX-Injected: 1", "control"),
        ("http:\\\\host\\a", "backslashes"),
        ("http://[::1/x", "host"),
        ("http://" + "a" * 9000, "8192"),
        ("http://ho$t/", "host"),
    ],
)
def test_malformed_addresses_are_refused(url: str, part: str) -> None:
    assert part in refusal(url)


def test_is_url() -> None:
    assert is_url("HTTPS://example.com/cat.jpg")
    assert not is_url("photos/http/cat.jpg")
    assert not is_url(Path("http:/x"))


def test_credentials_are_sent_once_and_never_printed() -> None:
    with serving(saying("HTTP/1.1 401 No\nContent-Length: 0")) as server:
        message = refusal(f"http://ann:s%40cret@127.0.0.1:{server.port}/snap?token=t0ken#frag")
    assert "401" in message
    assert not any(word in message for word in ("ann", "s@cret", "s%40cret", "t0ken", "frag"))
    assert b"Authorization: Basic YW5uOnNAY3JldA==" in server.requests[0]

    def answer(connection: socket.socket, request: bytes) -> None:
        again = b"GET /two" in request
        (saying("HTTP/1.1 200 OK", b"done") if again else redirecting("/two"))(connection, request)

    with serving(answer) as server:
        assert fetch(f"http://ann:secret@127.0.0.1:{server.port}/one") == b"done"
    assert b"Authorization" in server.requests[0]
    assert b"Authorization" not in server.requests[1]


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 429, 500, 503])
def test_other_answers_than_200_are_errors(status: int) -> None:
    with serving(saying(f"HTTP/1.1 {status} Reason\nContent-Length: 0")) as server:
        assert f"answered {status}" in refusal(f"{server.url}/x")


def test_announced_length_over_the_limit_is_refused_unread() -> None:
    with serving(saying("HTTP/1.1 200 OK\nContent-Length: 1001", b"x" * 1001)) as server:
        assert "1,001 bytes" in refusal(server.url, max_bytes=1000)


def test_exact_limit_is_allowed() -> None:
    with serving(saying("HTTP/1.1 200 OK\nContent-Length: 1000", b"x" * 1000)) as server:
        assert len(fetch(server.url, max_bytes=1000)) == 1000


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK\nContent-Length: -5", "HTTP/1.1 200 OK\nContent-Length: many"])
def test_endless_body_stops_at_the_limit(head: str) -> None:
    sent = 0

    def endless(connection: socket.socket, request: bytes) -> None:
        nonlocal sent
        while True:
            sent += connection.send(b"x" * 65_536)

    with serving(saying(head, then=endless)) as server:
        assert "beyond" in refusal(server.url, max_bytes=200_000)
    # What the kernel's buffers took counts as sent; nothing near endless may have gone.
    assert sent < 64 * 2**20


def test_endless_chunks_stop_at_the_limit() -> None:
    def endless(connection: socket.socket, request: bytes) -> None:
        while True:
            connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    with serving(saying("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", then=endless)) as server:
        assert "beyond" in refusal(server.url, max_bytes=200_000)


def test_half_a_body_is_an_error() -> None:
    with serving(saying("HTTP/1.1 200 OK\nContent-Length: 1000", b"x" * 400)) as server:
        assert "400 of 1,000" in refusal(server.url)
    with serving(saying("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"10\r\nabc")) as server:
        assert "closed" in refusal(server.url)


def test_compressed_body_is_refused() -> None:
    with serving(saying("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 3", b"abc")) as server:
        assert "gzip" in refusal(server.url)


@pytest.mark.parametrize("stage", ["silent", "headers", "body"])
def test_drip_ends_at_the_total_time(stage: str) -> None:
    """A byte now and then keeps every single read alive; only a limit on the whole ends it."""

    def drip(connection: socket.socket, request: bytes) -> None:
        if stage == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        elif stage == "headers":
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(100):
            time.sleep(0.1)
            if stage != "silent":
                connection.sendall(b"x")

    with serving(drip) as server:
        began_s = time.monotonic()
        assert "0.5 s" in (message := refusal(server.url, timeout_s=0.5)) or "in time" in message
        assert time.monotonic() - began_s < 5


def test_slow_name_resolution_ends_at_the_total_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    assert "not resolved in time" in refusal("http://slow.test/x", timeout_s=0.3)


def test_unknown_host_and_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in refusal(f"http://127.0.0.1:{port}/x").lower()
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "not known" in refusal("http://nowhere.test/x")


def test_redirects_within_one_origin_up_to_the_limit() -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        step = int(request.split()[1].lstrip(b"/"))
        (saying("HTTP/1.1 200 OK", b"there") if step == 0 else redirecting(f"/{step - 1}", 301 + step % 2))(connection, request)

    with serving(answer) as server:
        assert fetch(f"{server.url}/{MAX_REDIRECTS}") == b"there"
        assert f"more than {MAX_REDIRECTS} redirects" in refusal(f"{server.url}/{MAX_REDIRECTS + 1}")


def hostile_locations(port: int) -> list[str]:
    """Ways to say 127.0.0.1:port, other inside addresses, other schemes."""
    loopback = [
        *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "0177.0.0.1", "0177.0.0.01"),
        *(
            "127.255.255.254",
            "0.0.0.0",
            "0",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "[::1]",
            "[::]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
        ),
        *("[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "①②⑦.⓪.⓪.①", "127。0。0。1"),
        *("user@127.0.0.1", "user:pw@127.0.0.1", "example.com@127.0.0.1", "127.0.0.1%00.example.com", "127.0.0.1%2f.example.com"),
    ]
    inside = [
        *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "169.254.1.1", "100.64.0.1"),
        *("192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "[fe80::1]", "[fc00::1]", "[fd00::1]"),
        *("[ff02::1]", "[2001:db8::1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[2001::1]"),
    ]
    schemes = [
        *("file:///etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "data:,x", "javascript:1", "unix:/run/x"),
        *(
            "",
            "http:",
            "http://",
            "https:///x",
            f"\\\\127.0.0.1:{port}\\x",
            f"http:\\\\127.0.0.1:{port}/",
            f"http://example.com\\@127.0.0.1:{port}/",
        ),
        f"//127.0.0.1:{port}/x",
        f"https://127.0.0.1:{port}/x",
        "http://[::1",
        "http://127.0.0.1:port/",
    ]
    return [f"http://{host}:{port}/x" for host in loopback] + [f"http://{host}:{port}/x" for host in inside] + schemes


def test_no_redirect_reaches_an_inside_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    connected: list[str] = []
    real = socket.create_connection

    def recorded(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(f"{address[0]}:{address[1]}")
        return real(address, timeout)

    monkeypatch.setattr(socket, "create_connection", recorded)
    with serving(saying("HTTP/1.1 200 OK", b"secret")) as canary:
        locations = hostile_locations(canary.port)
        refused = 0
        for location in locations:
            with serving(redirecting(location)) as server:
                refusal(f"{server.url}/start", timeout_s=5)
                refused += set(connected) == {f"127.0.0.1:{server.port}"}
                connected.clear()
        assert canary.requests == []
    with capsys.disabled():
        print(f"\nredirects to inside addresses refused without a connection: {refused}/{len(locations)}")
    assert refused == len(locations) >= 60


def test_naive_fetch_reaches_the_canary() -> None:
    """The negative control of the test above."""
    with serving(saying("HTTP/1.1 200 OK", b"secret")) as canary, serving(redirecting(f"http://127.0.0.1:{canary.port}/x")) as server:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{server.url}/start", timeout=5) as response:
            assert response.read() == b"secret"
        assert len(canary.requests) == 1


def test_names_are_resolved_once_and_all_their_addresses_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the second answer of rebind.test is the loopback address; it must never be asked for."""
    asked: list[str] = []
    connected: list[str] = []
    public = {"rebind.test": ["93.184.216.34"], "mixed.test": ["93.184.216.34", "127.0.0.1"]}
    with serving(saying("HTTP/1.1 200 OK", b"picture")) as outside, serving(redirecting("http://rebind.test:8080/x")) as server:
        real = socket.create_connection

        def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
            if host[0].isdigit():
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
            asked.append(host)
            addresses = public[host] if asked.count(host) == 1 else ["127.0.0.1"]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        def connect(address: tuple[str, int], timeout: float) -> socket.socket:
            connected.append(address[0])
            return real(("127.0.0.1", outside.port if address[0] == "93.184.216.34" else address[1]), timeout)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(socket, "create_connection", connect)
        assert fetch(f"{server.url}/start") == b"picture"
        assert asked == ["rebind.test"]
        assert connected == ["127.0.0.1", "93.184.216.34"]
        assert b"Host: rebind.test:8080\r\n" in outside.requests[0]
        server.answer = redirecting("http://mixed.test:8080/x")
        asked.clear()
        assert "not a public address" in refusal(f"{server.url}/start")
        assert connected[2:] == ["127.0.0.1"]


def test_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate), "-days", "2"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(saying("HTTP/1.1 200 OK", b"x"), context) as server:
        assert "certificate is not valid" in refusal(f"https://127.0.0.1:{server.port}/x")
    assert server.requests == []


def test_garbage_answers_are_network_errors() -> None:
    seed, count = 7, 100
    chance = random.Random(seed)
    base = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\nLocation: /x\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"

    def answer(connection: socket.socket, request: bytes) -> None:
        damaged = bytearray(base)
        for _ in range(chance.randrange(1, 12)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        connection.sendall(bytes(damaged[: chance.randrange(1, len(damaged) + 1)]))

    ended = 0
    with serving(answer) as server:
        for _ in range(count):
            try:
                fetch(f"{server.url}/x", timeout_s=2)
                ended += 1
            except NetworkError as error:
                ended += len(str(error)) <= 300
    assert ended == count, f"seed {seed}: {ended}/{count}"
