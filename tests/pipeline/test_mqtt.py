"""Events to an MQTT broker: acknowledged or accounted for, in order, through outages, and no credential shows."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from receivers import EVENT, SECRETS, longest_send, wait_for

from jetlens.errors import MissingDependencyError, UsageError, one_line
from jetlens.pipeline import mqtt
from jetlens.pipeline.events import LineCrossed, to_record
from jetlens.pipeline.mqtt import Mqtt

pytest.importorskip("paho.mqtt.client")

CONNECT, CONNACK, PUBLISH, PUBACK, PINGREQ, PINGRESP, DISCONNECT = 1, 2, 3, 4, 12, 13, 14


class Broker:
    """As much of an MQTT 3.1.1 broker as a publisher needs, on the loopback. A context manager.

    Args:
        answer: whether to acknowledge a publication, False to say nothing, None to end the connection instead.
        code: of its CONNACK; 0 takes the client.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any]], bool | None] = lambda _: True, code: int = 0, port: int = 0, tls: Any = None
    ) -> None:
        self.answer, self.code, self.tls = answer, code, tls
        self.got: list[dict[str, Any]] = []
        self.users: list[tuple[str, str] | None] = []
        self.seen: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.open: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.threads[0].join(5)
        for sock in self.open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.open.append(sock)
                self.threads.append(threading.Thread(target=self.serve, args=(sock,), daemon=True))
                self.threads[-1].start()

    def serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock, sock.makefile("rb") as stream:
                while (first := stream.read(1)) and self.packet(sock, first[0], stream.read(length(stream))):
                    pass

    def packet(self, sock: socket.socket, first: int, body: bytes) -> bool:
        """Answers one packet; whether the connection goes on."""
        kind = first >> 4
        self.seen.append(kind)
        if kind == CONNECT:
            self.users.append(user_of(body))
            sock.sendall(bytes([CONNACK << 4, 2, 0, self.code]))
            return self.code == 0
        if kind == PUBLISH:
            end = 2 + int.from_bytes(body[:2], "big")
            row = {"topic": body[2:end].decode(), "qos": first >> 1 & 3, "body": json.loads(body[end + 2 :])}
            self.got.append(row)
            acknowledged = self.answer(row)
            if acknowledged:
                sock.sendall(bytes([PUBACK << 4, 2]) + body[end : end + 2])
            return acknowledged is not None
        if kind == PINGREQ:
            sock.sendall(bytes([PINGRESP << 4, 0]))
        return kind != DISCONNECT

    def numbers(self) -> list[int]:
        return [row["body"]["tracker_id"] for row in self.got]


def length(stream: Any) -> int:
    """The remaining length: seven bits a byte, the lowest first."""
    total, shift = 0, 0
    while True:
        byte = stream.read(1)[0]
        total |= (byte & 127) << shift
        if byte < 128:
            return total
        shift += 7


def user_of(body: bytes) -> tuple[str, str] | None:
    """User and password of a CONNECT packet."""
    assert body[:7] == b"\0\4MQTT\4"
    texts, rest = [], body[10:]
    while rest:
        size = int.from_bytes(rest[:2], "big")
        texts.append(rest[2 : 2 + size].decode())
        rest = rest[2 + size :]
    return (texts[1], texts[2]) if body[7] & 0xC0 == 0xC0 else None


def numbered(number: int) -> LineCrossed:
    return LineCrossed("cam", float(number), "gate", "forward", number, "orange")


def adds_up(status: Any) -> bool:
    return status.sent == status.delivered + status.failed + status.dropped + status.waiting


def test_events_arrive_in_order_as_json_over_one_connection() -> None:
    with Broker() as broker:
        with Mqtt(f"mqtt://us%40er:p%3Aw%C3%B6rd@{broker.host}/line%201/events") as sender:
            for number in range(20):
                sender.send(numbered(number))
            wait_for(lambda: sender.status().delivered == 20)
        wait_for(lambda: broker.seen[-1] == DISCONNECT)
    assert broker.numbers() == list(range(20))
    assert {(row["topic"], row["qos"]) for row in broker.got} == {("line 1/events", 1)}
    assert broker.got[3]["body"]["event"] == "line-crossed"
    assert broker.users == [("us@er", "p:w\u00f6rd")]
    assert str(sender.status()) == f"mqtt://{broker.host}: 20 events sent = 20 delivered"


def test_a_broker_that_dies_and_comes_back_gets_every_event() -> None:
    with Broker() as broker:
        sender = Mqtt(f"mqtt://{broker.host}/t")
        for number in range(3):
            sender.send(numbered(number))
        wait_for(lambda: sender.status().delivered == 3)
    for number in range(3, 6):
        sender.send(numbered(number))
    wait_for(lambda: sender.status().reason == "Connection refused")
    assert (sender.status().delivered, sender.status().waiting) == (3, 3)
    with Broker(port=broker.port) as again, sender:
        wait_for(lambda: sender.status().delivered == 6, 20)
        assert again.numbers() == [3, 4, 5]


def test_an_event_that_was_not_acknowledged_is_sent_again() -> None:
    answers = iter([True, None, True, True])
    with Broker(answer=lambda _: next(answers)) as broker, Mqtt(f"mqtt://{broker.host}/t") as sender:
        for number in range(3):
            sender.send(numbered(number))
        wait_for(lambda: sender.status().delivered == 3)
        assert sender.status().reason == "The connection was lost."
    assert broker.numbers() == [0, 1, 1, 2]


class PatientMqtt:
    """What a sender must not be: it publishes while the pipeline waits."""

    def __init__(self, url: str) -> None:
        self._sender = Mqtt(url, timeout_s=0.5)

    def send(self, event: Any) -> None:
        self._sender._attempt(json.dumps(to_record(event)).encode())


def test_a_broker_that_never_acknowledges_costs_the_pipeline_nothing_and_every_drop_is_counted() -> None:
    with Broker(answer=lambda _: False) as broker:
        sender = Mqtt(f"mqtt://{broker.host}/t", waiting=10, timeout_s=0.5)
        # Half of what one attempt takes by itself here, and far above what a busy machine adds to a queue.
        assert longest_send(sender, 500) < 0.25
        wait_for(lambda: sender.status().reason == "no answer in time")
        status = sender.status()
        assert (status.sent, status.delivered, status.waiting, status.dropped) == (500, 0, 10, 490)
        start = time.monotonic()
        sender.close(0.3)
        sender.close()
        assert time.monotonic() - start < 3
        assert (sender.status().dropped, sender.status().waiting) == (500, 0)
        sender.send(EVENT)
        assert adds_up(sender.status())
        assert not sender._thread.is_alive()
        assert longest_send(PatientMqtt(f"mqtt://{broker.host}/t"), 1) > 0.4


def test_one_that_accepts_and_says_nothing_does_not_hold_up_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = Mqtt(f"mqtt://127.0.0.1:{listener.getsockname()[1]}/t")
        sender.send(EVENT)
        start = time.monotonic()
        sender.close(0.2)
        assert time.monotonic() - start < 3
        assert (sender.status().dropped, sender.status().waiting) == (1, 0)


def test_garbage_from_a_broker_costs_an_attempt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "LONGEST_DELAY_S", 0.1)
    answers = [b"\xff" * 64, b"\x20\x00", b"\x20\x02\x00", b"HTTP/1.1 400 no\r\n\r\n", b"\x40\x02\x00\x09", b""]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(1024)
                    sock.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        sender = Mqtt(f"mqtt://127.0.0.1:{port}/t", timeout_s=1)
        sender.send(EVENT)
        thread.join(20)
        assert not thread.is_alive()
    with Broker(port=port) as broker, sender:
        wait_for(lambda: sender.status().delivered == 1, 20)
        assert len(broker.got) == 1


def test_an_idle_connection_is_kept_and_its_end_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 1)
    monkeypatch.setattr("jetlens.pipeline.sender.IDLE_S", 0.05)
    with Broker() as broker:
        sender = Mqtt(f"mqtt://{broker.host}/t")
        sender.send(EVENT)
        wait_for(lambda: broker.seen.count(PINGREQ) >= 2)
        assert broker.seen.count(CONNECT) == 1
    wait_for(lambda: sender._client is None)
    sender.close()
    assert sender.status().delivered == 1


@pytest.mark.parametrize(("code", "reason"), [(4, "Bad user name or password"), (5, "Not authorized"), (3, "Server unavailable")])
def test_a_refusal_is_told_and_ends_once_the_broker_agrees(code: int, reason: str) -> None:
    with Broker(code=code) as broker, Mqtt(f"mqtt://me:wrong@{broker.host}/t") as sender:
        sender.send(EVENT)
        wait_for(lambda: bool(sender.status().reason))
        assert sender.status().reason == f"refused: {reason}"
        assert (broker.got, sender.status().delivered, sender.status().waiting) == ([], 0, 1)
        broker.code = 0
        wait_for(lambda: sender.status().delivered == 1)


PLACES = ("mqtt://{secret}:x@HOST/in", "mqtt://user:{secret}@HOST/in", "mqtt://HOST/services/{secret}")


@pytest.fixture(scope="module")
def refusing() -> Any:
    with Broker(code=5) as broker:
        yield broker.host


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("secret", SECRETS)
def test_no_credential_shows_anywhere(
    secret: str, place: str, refusing: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    try:
        sender = Mqtt(place.format(secret=secret).replace("HOST", refusing))
        sender.send(EVENT)
        wait_for(lambda: bool(sender.status().reason))
        shown = f"{sender!r} {sender.status()!r} {sender.status()} {[thread.name for thread in threading.enumerate()]}"
        sender.close(0)
    except UsageError as error:
        shown = f"{error} {one_line(str(error))} {error.__cause__} {error.__context__}"
    assert secret not in shown + "".join(capfd.readouterr()) + caplog.text


def test_tls_checks_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=broker"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Broker(tls=context) as broker:
        with Mqtt(f"mqtts://{broker.host}/t") as stranger:
            stranger.send(EVENT)
            wait_for(lambda: stranger.status().reason == "TLS failed (CERTIFICATE_VERIFY_FAILED)")
            assert broker.seen == []
            stranger.close(0)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Mqtt(f"mqtts://me:secret@{broker.host}/t") as known:
            for number in range(5):
                known.send(numbered(number))
            wait_for(lambda: known.status().delivered == 5)
    assert (broker.numbers(), broker.users) == ([0, 1, 2, 3, 4], [("me", "secret")])


@pytest.mark.parametrize(
    "url",
    [
        "http://host/t",
        "host/t",
        "",
        "mqtt:///t",
        "mqtt://host",
        "mqtt://host/",
        "mqtt://host/a b",
        "mqtt://host/a/+/b",
        "mqtt://host/a/%23",
        "mqtt://host/a#b",
        "mqtt://host/a/#",
        "mqtt://host/a?b",
        "mqtt://host/a?",
        "mqtt://host/a%00b",
        "mqtt://host/a%FFb",
        "mqtt://pa/ss@h/t",
        "mqtt://h:99999/t",
        "mqtt://h:0/t",
        "mqtt://h/\r\nx",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    before = threading.active_count()
    with pytest.raises(UsageError, match="MQTT broker's address"):
        Mqtt(url)
    assert threading.active_count() == before


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"timeout_s": 0}, {"timeout_s": 61}, {"waiting": 0}):
        with pytest.raises(UsageError, match="mqtt://host"):
            Mqtt("mqtt://me:secret@host/t", **wrong)  # type: ignore[arg-type]


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingDependencyError, match=r"--mqtt needs .*pip install 'jetlens\[mqtt\]'"):
        Mqtt("mqtt://host/t")
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", types.ModuleType("as before 2.0"))
    with pytest.raises(MissingDependencyError, match=r"2\.0 or newer: pip install --upgrade"):
        Mqtt("mqtt://host/t")
