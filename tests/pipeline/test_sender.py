"""Sender: one that hangs is left behind, and what it held is counted once."""

from __future__ import annotations

import threading
import time

from receivers import EVENT, wait_for

from jetlens.pipeline.sender import Sender


class Hanging(Sender):
    """Delivers nothing until it is let go."""

    def __init__(self) -> None:
        self.under_way, self.let_go = threading.Event(), threading.Event()
        super().__init__("test://hanging", timeout_s=1, waiting=3)

    def _deliver(self, content: bytes) -> str:
        self.under_way.set()
        self.let_go.wait(20)
        return ""


def test_one_that_hangs_is_left_behind_and_its_events_are_counted_once() -> None:
    sender = Hanging()
    sender.send(EVENT)
    assert sender.under_way.wait(10)
    for _ in range(4):
        sender.send(EVENT)
    assert str(sender.status()) == "test://hanging: 5 events sent = 2 dropped + 3 waiting"
    start = time.monotonic()
    for _ in range(5):
        sender.close(0)
    assert time.monotonic() - start < 1.5  # one close waits half a second
    assert str(sender.status()) == "test://hanging: 5 events sent = 5 dropped; last trouble: no answer before the end"
    sender.let_go.set()
    wait_for(lambda: not sender._thread.is_alive())
    assert str(sender.status()).startswith("test://hanging: 5 events sent = 5 dropped;")


def test_what_waits_is_delivered_at_the_end() -> None:
    sender = Hanging()
    for _ in range(3):
        sender.send(EVENT)
    threading.Timer(0.05, sender.let_go.set).start()
    sender.close(10)
    assert str(sender.status()) == "test://hanging: 3 events sent = 3 delivered"
