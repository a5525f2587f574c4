"""RtspSink: frames reach a server in order and whole; a server that is slow, dead or away holds nobody up."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("av")
sys.path.append(str(Path(__file__).parent / "live"))

from fake_mjpeg import numbered
from fake_rtsp_server import FakeRtspServer

from jetlens.cli import main
from jetlens.errors import OutputError, UsageError
from jetlens.frame import Frame
from jetlens.media import StreamInfo
from jetlens.media.live.address import parse_address
from jetlens.media.live.rtsp_publish import _payloads, nal_units
from jetlens.media.rtsp_sink import RTSP_PORTS, RtspSink

INFO = StreamInfo((48, 128), 30.0, None, "camera", "")


@pytest.fixture
def server() -> Iterator[FakeRtspServer]:
    with FakeRtspServer() as made:
        yield made


def frame(number: int, size_hw: tuple[int, int] = (48, 128)) -> Frame:
    return Frame(numbered(number, size_hw), number, number / 30, time.monotonic(), "camera")


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def feed(sink: RtspSink, numbers: range, size_hw: tuple[int, int] = (48, 128), every_s: float = 0.02) -> float:
    """Writes frames at a rate; the longest time that one write took."""
    longest_s = 0.0
    for number in numbers:
        began_s = time.monotonic()
        sink.write(frame(number, size_hw))
        longest_s = max(longest_s, time.monotonic() - began_s)
        time.sleep(every_s)
    return longest_s


def test_frames_arrive_in_order_and_whole(server: FakeRtspServer) -> None:
    with RtspSink(server.uri, INFO) as sink:
        feed(sink, range(1, 50))
        until(lambda: sink.sent + sink.dropped == 49)
    until(lambda: len(server.images) >= sink.sent - 1)
    assert sink.sent >= 40
    assert -1 not in server.numbers
    assert all(before < after for before, after in pairwise(server.numbers))
    until(lambda: server.requests[-1].startswith(b"TEARDOWN"))
    assert sink.note == f"rtsp://127.0.0.1:{server.port}/live: {sink.sent} frames sent, {sink.dropped} dropped"
    with pytest.raises(OutputError, match="closed already"):
        sink.write(frame(1))


def test_large_pictures_of_odd_size_go_in_fragments(server: FakeRtspServer) -> None:
    with RtspSink(server.uri, INFO) as sink:
        feed(sink, range(1, 6), (361, 641), 0.1)
        until(lambda: len(server.images) >= 4)
    assert server.images[0].shape == (360, 640, 3)
    assert -1 not in server.numbers


def test_a_unit_in_fragments_is_the_same_unit() -> None:
    for size in (1, 1399, 1400, 1401, 2796, 2797, 10_000):
        unit = bytes([0x65]) + bytes(index * 7 & 0xFF for index in range(size))
        payloads = _payloads(unit)
        assert max(map(len, payloads)) <= 1400
        if len(payloads) == 1:
            assert payloads == [unit]
            continue
        assert [payload[1] >> 6 for payload in payloads] == [2, *[0] * (len(payloads) - 2), 1]
        assert bytes([payloads[0][0] & 0xE0 | payloads[0][1] & 31]) + b"".join(payload[2:] for payload in payloads) == unit
    assert nal_units(b"\0\0\0\1ab\0\0\1c") == [b"ab", b"c"]


def test_a_new_size_begins_a_new_session(server: FakeRtspServer) -> None:
    with RtspSink(server.uri, INFO) as sink:
        feed(sink, range(1, 10))
        feed(sink, range(10, 60), (96, 256))
        until(lambda: any(image.shape == (96, 256, 3) for image in server.images))
    assert server.sessions == 2
    assert -1 not in server.numbers


@pytest.mark.parametrize("mode", ["refused", "silent", "garbage", "stuck", "closed"])
def test_a_server_in_trouble_holds_nobody_up(server: FakeRtspServer, mode: str) -> None:
    before = threading.active_count()
    if mode == "closed":
        server.stop_listening()
    server.mode = mode
    sink = RtspSink(server.uri, INFO)
    assert feed(sink, range(1, 30)) < 0.2
    began_s = time.monotonic()
    if mode == "stuck":
        sink.close()
    else:
        with pytest.raises(OutputError, match=r"none of \d+ frames could be sent"):
            sink.close()
    assert time.monotonic() - began_s < 1.0
    sink.close()
    assert mode == "stuck" or sink.sent == 0
    assert mode != "garbage" or sink.reason == "the server's answer is not RTSP"
    until(lambda: threading.active_count() <= before + (mode != "closed"), 6)


def test_frames_go_on_when_the_server_is_back(server: FakeRtspServer) -> None:
    with RtspSink(server.uri, INFO) as sink:
        for _ in range(3):
            count = len(server.images)
            until(lambda count=count: feed(sink, range(1, 3)) < 0 or len(server.images) > count + 3)
            server.stop_listening()
            feed(sink, range(1, 20))
            server.listen_again()
        count = len(server.images)
        until(lambda count=count: feed(sink, range(1, 3)) < 0 or len(server.images) > count + 3)
    assert sink.reconnects >= 3
    assert sink.dropped > 10
    assert "connected again" in sink.note
    assert -1 not in server.numbers


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Digest realm="x", nonce="abc"'])
def test_credentials_are_sent_when_asked_for_and_shown_nowhere(server: FakeRtspServer, challenge: str) -> None:
    server.challenge = challenge
    secret = "Zj%3A%40%2Fq9"
    with RtspSink(f"rtsp://ann:{secret}@127.0.0.1:{server.port}/live", INFO) as sink:
        feed(sink, range(1, 20))
        until(lambda: server.images)
        shown = f"{sink.note} {sink.reason} {sink._address!r} {sink._thread.name}"
    requests = b"".join(server.requests).decode()
    assert re.search(r"Authorization: (Basic|Digest) ", requests)
    for word in ("Zj", "ann", "q9"):
        assert word not in shown
    assert "Zj:@/q9" not in requests  # neither in clear in any address


def test_a_refused_password_is_said_without_it(server: FakeRtspServer) -> None:
    server.challenge, server.forgiving = 'Basic realm="x"', False
    sink = RtspSink(f"rtsp://ann:Zj9@127.0.0.1:{server.port}/live", INFO)
    feed(sink, range(1, 20))
    until(lambda: sink.reason)
    with pytest.raises(OutputError, match="could be sent: the server refuses the user or password"):
        sink.close()
    assert sink.reason == "the server refuses the user or password"
    assert "Zj9" not in sink.note


def test_addresses_that_are_no_use_are_refused() -> None:
    for uri in ("rtsp://", "http://host/x", "rtsp://a b/x"):
        with pytest.raises(UsageError):
            RtspSink(uri, INFO)
    assert parse_address("rtsps://host/x", RTSP_PORTS).port == 322


def test_the_command_sends_to_a_server(server: FakeRtspServer, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    server.challenge = 'Basic realm="x"'
    source = "test://orange-line?live=1&loop=5&frames=30&size=64x96"
    with pytest.raises(SystemExit) as ended:
        main(["run", source, "--backend", "onnxruntime", "--output", f"rtsp://ann:Zj9@127.0.0.1:{server.port}/live"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert f"rtsp://127.0.0.1:{server.port}/live: " in out
    assert "Zj9" not in out + err
    until(lambda: len(server.images) >= 10)
    assert server.images[0].shape == (64, 96, 3)
