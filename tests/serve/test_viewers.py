import os
import select
import socket
import threading
import time

import pytest
from made_pipeline import MadePipeline
from raw_http import Parts, ask, connect

from jetlens.serve import LivePage, server


def counts() -> tuple[int, int]:
    """Threads that answer and open descriptors."""
    return sum(thread.name == "page viewer" for thread in threading.enumerate()), len(os.listdir("/proc/self/fd"))


def until_back(before: tuple[int, int], seconds: float = 5.0) -> tuple[int, int]:
    """The numbers once they are back, or as they are in the end."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and any(now > then for now, then in zip(counts(), before, strict=True)):
        time.sleep(0.02)
    return counts()


def rss_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_viewer_that_reads_nothing_delays_nobody() -> None:
    with MadePipeline(fps=30, size_hw=(720, 1280)) as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        stuck = []
        for _ in range(4):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", page.access.port))
            connection.sendall(b"GET /stream/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stuck.append(connection)
        with Parts(page, "/stream/0") as quick:
            quick.next()
            before_mib, first = rss_mib(), pipeline.shown["front"]
            ages = [int(quick.next()[0]["x-age-ms"]) for _ in range(30)]
            assert pipeline.shown["front"] - first >= 30
        grown_mib = rss_mib() - before_mib
        for connection in stuck:
            connection.close()
    assert sorted(ages)[len(ages) // 2] < 500
    assert grown_mib < 25  # 30 frames of 2.6 MiB each went by
    assert pipeline.slowest_show_s < 0.5


@pytest.mark.parametrize("paused", [False, True])
def test_viewers_that_vanish_leave_nothing(paused: bool) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0, interval_s=60) as page:
        pipeline.page = page
        ask(page)
        until_back((0, 0), 0.5)
        before = counts()
        viewers = [Parts(page, "/frames") for _ in range(12)]
        for one in viewers[::2]:
            one.next()
        if paused:
            pipeline.pause()  # nothing is sent to them any more: only asking finds that they are gone
        assert counts()[0] == 12
        assert page.wanted("front")
        for one in viewers:
            one.close()
        after = until_back(before)
        assert after[0] == before[0] == 0
        assert after[1] <= before[1]
        assert not page.wanted("front")


def test_close_ends_everything_at_once_whatever_goes_on() -> None:
    before = counts()
    pipeline = MadePipeline(("front", "still"))
    pipeline.states["still"] = ("stalled", "")
    with pipeline:
        page = LivePage(pipeline, port=0)
        pipeline.page = page
        page.start()
        viewers = [Parts(page, "/frames") for _ in range(4)]
        silent = [connect(page) for _ in range(4)]
        viewers[0].next()
        asking = connect(page)
        asking.sendall(b"GET /snapshot/1.png HTTP/1.1\r\nHost: localhost\r\n\r\n")  # waits for a frame of a stream that has none
        began_s = time.monotonic()
        page.close()
        took_s = time.monotonic() - began_s
        page.close()
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("page")]
        for one in [*viewers, *silent, asking]:
            one.close()
        with pytest.raises(OSError):
            connect(page, 0.5)
    assert took_s < 1.0
    assert names == []
    assert until_back(before) <= before


def test_who_sends_slowly_or_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 0.4)
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        crowd = [connect(page) for _ in range(40)]
        slow = connect(page)
        began_s = time.monotonic()
        # A byte now and then keeps no connection alive: the time is for the whole request.
        with pytest.raises(OSError):  # noqa: PT012
            for _ in range(100):
                slow.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() - began_s < 3
        for one in crowd:
            one.close()
        slow.close()
        assert ask(page).status == 200


def test_more_connections_than_threads_are_told_so() -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        crowd = [connect(page) for _ in range(40)]
        told: list[socket.socket] = []
        end_s = time.monotonic() + 4
        while len(told) < 8 and time.monotonic() < end_s:
            told = select.select(crowd, [], [], 0.05)[0]
        assert len(told) == 8
        assert all(b" 503 " in one.recv(100) for one in told)
        assert counts()[0] == 32
        for one in crowd:
            one.close()


def test_more_viewers_than_seats_leave_room_for_questions() -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        viewers = [Parts(page, "/stream/0") for _ in range(24)]
        assert ask(page, "/stream/0").status == 503
        assert ask(page).status == 200
        for one in viewers:
            one.close()


@pytest.mark.parametrize("head", ["X-Long: " + "a" * 20_000, "\r\n".join(f"X-{n}: {'b' * 100}" for n in range(250))])
def test_a_request_may_not_be_large(head: str) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        with connect(page) as connection:
            connection.sendall(f"GET /status HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
            try:
                answer = connection.recv(100)
            except ConnectionResetError:
                answer = b""
        assert answer == b"" or b" 431 " in answer
        assert ask(page).status == 200
