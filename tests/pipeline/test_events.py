"""Events as JSON lines and webhooks: nothing waits, nothing is lost uncounted, no credential shows."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from receivers import EVENT, SECRETS, longest_send, wait_for

from jetlens.errors import UsageError, one_line
from jetlens.media.jsonlines import JsonLines
from jetlens.pipeline.counting import LineCounter, ZoneCounter
from jetlens.pipeline.events import EventLog, LineCrossed, ObjectWatch, StreamBack, StreamStalled, StreamWatch, to_record
from jetlens.pipeline.webhook import Webhook
from jetlens.results import Detections

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678900, timezone.utc)


def at(x: float, number: int = 1) -> Detections:
    box = np.array([[x - 5, 40, x + 5, 50]], np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64), (100, 100), ("orange",), tracker_id=np.array([number]))


# ---- what happened


def test_objects_become_events() -> None:
    watch = ObjectWatch(
        "cam",
        lines={"gate": LineCounter((50, 0), (50, 100))},
        zones={"end": ZoneCounter([(45, 0), (100, 0), (100, 100), (45, 100)])},
        defect_above=0.1,
    )
    ratios = (0.0, 0.1, 0.5, 0.6)
    found = [
        (index, event.kind)
        for index, x in enumerate((30, 40, 48, 60))
        for event in watch.update(at(x), index / 30, np.array([ratios[index]], np.float32))
    ]
    # The mean is 0.2 after three frames; told once.
    assert found == [(2, "zone-entered"), (2, "defect-found"), (3, "line-crossed")]
    assert [event.kind for event in watch.update(at(10), 1.0)] == ["line-crossed", "zone-left"]


def test_a_stream_stalls_once_and_comes_back_once() -> None:
    watch = StreamWatch("cam")
    states = ["opening", "running", "stalled", "reconnecting", "reconnecting", "running", "running", "ended"]
    events = [watch.update(state, float(index), 1.0, "silent") for index, state in enumerate(states)]
    assert [event for event in events if event] == [StreamStalled("cam", 1.0, "silent"), StreamBack("cam", 1.0, 3.0)]


def test_events_are_json_lines() -> None:
    stream = io.StringIO()
    log = EventLog(JsonLines(stream), lambda: MOMENT)
    log.send(EVENT)
    log.send(StreamBack("cam", 2.0, 0.5))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first == {
        "event": "line-crossed",
        "time": "2026-01-02T03:04:05.678+00:00",
        "stream": "cam",
        "pts_s": 1.5,
        "line": "gate",
        "direction": "forward",
        "tracker_id": 7,
        "label": "orange",
    }
    assert (second["event"], second["down_s"]) == ("stream-back", 0.5)


# ---- webhook


@contextmanager
def server(status: int = 204, hold: threading.Event | None = None, location: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver on the loopback: its address, and the requests that it got."""
    got: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append({"path": self.path, "headers": dict(self.headers), "body": json.loads(body)})
            if hold is not None:
                hold.wait(10)
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def do_GET(self) -> None:
            got.append({"path": self.path, "headers": dict(self.headers), "body": None})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_address[1]}", got
    finally:
        if hold is not None:
            hold.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join(5)


def test_events_arrive_in_order_as_json() -> None:
    with server() as (host, got), Webhook(f"http://{host}/in?key=1") as hook:
        for index in range(20):
            hook.send(LineCrossed("cam", float(index), "gate", "forward", index, "orange"))
        wait_for(lambda: hook.status().delivered == 20)
    assert [row["body"]["tracker_id"] for row in got] == list(range(20))
    assert got[0]["path"] == "/in?key=1"
    assert got[0]["headers"]["Content-Type"] == "application/json"


class PatientWebhook:
    """What a webhook must not be: it posts while the pipeline waits."""

    def __init__(self, url: str) -> None:
        self._hook = Webhook(url, timeout_s=0.5)

    def send(self, event: Any) -> None:
        self._hook._deliver(json.dumps(to_record(event)).encode())


def test_a_dead_receiver_costs_the_pipeline_nothing_and_every_drop_is_counted() -> None:
    hold = threading.Event()
    with server(hold=hold) as (host, _):
        hook = Webhook(f"http://{host}/", waiting=10, timeout_s=5)
        # Half of what one post takes by itself here, and far above what a busy machine adds to a queue.
        assert longest_send(hook, 500) < 0.25
        status = hook.status()
        assert status.sent == 500
        assert status.dropped >= 500 - 10 - 2
        assert status.sent == status.delivered + status.failed + status.dropped + status.waiting
        start = time.monotonic()
        hook.close(0.3)
        assert time.monotonic() - start < 3
        status = hook.status()
        assert (status.waiting, status.delivered) == (0, 0)
        assert status.sent == status.failed + status.dropped
        assert status.reason == "no answer before the end"
        assert longest_send(PatientWebhook(f"http://{host}/"), 1) > 0.4


def test_failures_are_counted_with_their_reason() -> None:
    with server(status=500) as (host, _), Webhook(f"http://{host}/") as hook:
        hook.send(EVENT)
        wait_for(lambda: hook.status().failed == 1)
        assert hook.status().reason == "answered 500"
    # The port is closed now.
    with Webhook(f"http://{host}/") as hook:
        hook.send(EVENT)
        wait_for(lambda: hook.status().failed == 1)
        assert hook.status().reason == "Connection refused"


def test_redirects_and_proxies_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as (other, elsewhere):
        monkeypatch.setenv("http_proxy", f"http://{other}")
        with server(status=302, location=f"http://{other}/stolen") as (host, got), Webhook(f"http://{host}/") as hook:
            hook.send(EVENT)
            wait_for(lambda: hook.status().failed == 1)
        assert (len(got), elsewhere) == (1, [])


PLACES = ("http://{secret}:x@HOST/in", "http://user:{secret}@HOST/in", "http://HOST/services/{secret}", "http://HOST/in?token={secret}")


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    with server(status=403) as (host, _):
        yield host


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("secret", SECRETS)
def test_no_credential_shows_anywhere(secret: str, place: str, refusing: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The 40 hostile addresses of goal V7: each is refused or used, and shows no more than its host."""
    try:
        with Webhook(place.format(secret=secret).replace("HOST", refusing), timeout_s=0.5) as hook:
            hook.send(EVENT)
            wait_for(lambda: hook.status().failed == 1)
            shown = f"{hook.name} {hook.status()!r} {[thread.name for thread in threading.enumerate()]}"
    except UsageError as error:
        shown = f"{error} {one_line(str(error))} {error.__cause__}"
    assert secret not in shown + "".join(capfd.readouterr())


def test_user_and_password_are_sent_as_they_were_meant() -> None:
    with server() as (host, got), Webhook(f"http://us%40er:p%3Aw%C3%B6rd@{host}/") as hook:
        hook.send(EVENT)
        wait_for(lambda: hook.status().delivered == 1)
    scheme, content = got[0]["headers"]["Authorization"].split()
    assert (scheme, base64.b64decode(content).decode()) == ("Basic", "us@er:p:w\u00f6rd")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "file:///etc/passwd",
        "host/x",
        "http:///x",
        "http://host/a b",
        "http://host/\r\nX: y",
        "",
        "http://h:99999/",
        "http://pa/ss@h/",
        "http://h/pa#th",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    before = threading.active_count()
    with pytest.raises(UsageError, match="webhook's address"):
        Webhook(url)
    assert threading.active_count() == before
