"""V1, V4, V5 over RTSP: sessions that break come back, damage is never shown, and wrapping clocks harm nothing."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest

pytest.importorskip("av")

from fake_mjpeg import FAULTS, number_of
from fake_rtsp import FakeRtspCamera
from faults import Outcome, fault_rounds, percentile

from jetlens.media import open_source
from jetlens.media.live import LiveSource


def _open(uri: str) -> LiveSource:
    source = open_source(uri)
    assert isinstance(source, LiveSource)
    return source


def _all_faults(rounds: int) -> Outcome:
    def one(kind: str) -> Outcome:
        with FakeRtspCamera(fps=30) as camera:
            return fault_rounds(camera, _open(camera.uri), number_of, kind, rounds, FAULTS.index(kind))

    total = Outcome()
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        for outcome in pool.map(one, FAULTS):
            total.add(outcome)
    return total


def _check(total: Outcome, faults: int) -> None:
    assert len(total.recovered_s) == faults
    assert total.lost == 0
    assert total.stale == 0
    assert total.strange == 0
    assert max(total.recovered_s) <= 2.0, sorted(total.recovered_s)
    assert max(total.noticed_s) <= 1.5


def test_eight_kinds_of_fault_over_rtsp() -> None:
    _check(_all_faults(1), len(FAULTS))


@pytest.mark.release
def test_eighty_faults_over_rtsp(record_property: Callable[[str, object], None]) -> None:
    total = _all_faults(10)
    record_property("recovered", f"{len(total.recovered_s) - total.lost}/{len(total.recovered_s)}")
    record_property("recovery_p95_s", round(percentile(total.recovered_s, 0.95), 3))
    record_property("recovery_max_s", round(max(total.recovered_s), 3))
    record_property("noticed_max_s", round(max(total.noticed_s), 3))
    record_property("stale", total.stale)
    _check(total, 10 * len(FAULTS))
    assert percentile(total.recovered_s, 0.95) <= 1.0, sorted(total.recovered_s)


@pytest.mark.parametrize("first_time", [2**32 - 45_000, 2**31 - 45_000])
def test_rtp_clocks_that_wrap(first_time: int) -> None:
    with FakeRtspCamera(fps=30) as camera:
        camera.first_time = first_time
        with _open(camera.uri) as source:
            frames = []
            for frame in source:
                frames.append(frame)
                if len(frames) == 45:
                    break
            assert source.status().reconnects == 0
    assert all(before.pts_s < after.pts_s for before, after in pairwise(frames))
    assert all(abs((frame.pts_s - frames[0].pts_s) - (frame.captured_s - frames[0].captured_s)) < 1 for frame in frames)
    numbers = [number_of(frame.image_rgb) for frame in frames]
    assert -1 not in numbers
    assert numbers == sorted(set(numbers))


def test_damaged_h264_is_never_shown() -> None:
    rng = random.Random(1)

    def damage(number: int, data: bytes) -> bytes:
        if number % 10 != 3:
            return data
        spoilt = bytearray(data)
        for _ in range(40):
            spoilt[rng.randrange(len(spoilt) // 2, len(spoilt))] ^= 1 << rng.randrange(8)
        return bytes(spoilt)

    with FakeRtspCamera(fps=30) as camera:
        camera.damage = damage
        with _open(camera.uri) as source:
            numbers = []
            for frame in source:
                numbers.append(number_of(frame.image_rgb))
                if len(numbers) == 50:
                    break
            status = source.status()
    assert status.reconnects == 0
    assert status.corrupt > 0
    assert numbers == sorted(set(numbers))
    assert -1 not in numbers


def test_sizes_change_while_the_camera_is_away() -> None:
    with FakeRtspCamera(fps=30) as camera, _open(camera.uri) as source:
        frames = iter(source)
        for size_hw in ((48, 128), (64, 160), (96, 256), (48, 128)):
            camera.fail("fin")
            camera.size_hw = size_hw
            camera.heal()
            while (frame := next(frames)).size_hw != size_hw:
                assert number_of(frame.image_rgb) >= 0
            assert number_of(frame.image_rgb) >= 0
            assert source.info.size_hw == size_hw


_CAMERA = """
import sys
from fake_rtsp import FakeRtspCamera
with FakeRtspCamera(fps=30) as camera:
    print(camera.uri, flush=True)
    while sys.stdin.readline():
        camera.fail("rst")
        camera.heal()
"""


def _leaks(reconnections: int) -> tuple[float, int]:
    """MiB and file descriptors that so many reconnections cost after ten of them; the camera is another process."""

    def used() -> tuple[float, int]:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024, len(os.listdir("/proc/self/fd"))

    command = [sys.executable, "-c", _CAMERA]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as camera:
        assert camera.stdin is not None
        assert camera.stdout is not None
        try:
            with _open(camera.stdout.readline().strip()) as source:
                frames = iter(source)
                before = (0.0, 0)
                for cycle in range(10 + reconnections):
                    next(frames)
                    done = source.status().reconnects
                    camera.stdin.write("again\n")
                    camera.stdin.flush()
                    while source.status().reconnects == done:
                        next(frames)
                    before = used() if cycle == 9 else before
                after = used()
        finally:
            camera.stdin.close()
            camera.wait(5)
    return after[0] - before[0], after[1] - before[1]


@pytest.mark.release
def test_eighty_reconnections_leak_nothing(record_property: Callable[[str, object], None]) -> None:
    grown_mib, descriptors = _leaks(80)
    record_property("grown_mib", round(grown_mib, 1))
    assert grown_mib <= 10
    assert descriptors <= 1


def test_parameter_sets_may_come_with_the_pictures_alone() -> None:
    class Bare(FakeRtspCamera):
        def _parameter_sets(self) -> str:
            return ""

    with Bare(fps=30) as camera, _open(camera.uri) as source:
        frames = iter(source)
        numbers = [number_of(next(frames).image_rgb) for _ in range(10)]
    assert -1 not in numbers
    assert numbers == sorted(set(numbers))


def test_a_late_picture_that_was_held_back_is_not_shown() -> None:
    """When a camera falls silent, nothing comes out of the decoder any more."""
    with FakeRtspCamera(fps=30) as camera, _open(camera.uri) as source:
        frames = iter(source)
        for _ in range(10):
            next(frames)
        camera.fail("silent")
        silent = camera.number
        time.sleep(1.6)
        camera.heal()
        assert number_of(next(frames).image_rgb) > silent


def test_pictures_that_arrive_out_of_order() -> None:
    """B-frames come after the frame that they stand before; each keeps the time at which it came."""

    class Reordering(FakeRtspCamera):
        encoding: ClassVar[dict[str, str]] = {"bf": "2", "b-adapt": "0", "g": "9", "rc-lookahead": "0"}

    with Reordering(fps=30) as camera, _open(camera.uri) as source:
        frames = []
        for frame in source:
            frames.append((frame, time.monotonic()))
            if len(frames) == 45:
                break
        assert source.status().reconnects == 0
    numbers = [number_of(frame.image_rgb) for frame, _ in frames]
    assert -1 not in numbers
    assert numbers == sorted(set(numbers))
    assert all(before.pts_s < after.pts_s for (before, _), (after, _) in pairwise(frames))
    ages_s = [now_s - frame.captured_s for frame, now_s in frames]
    assert min(ages_s) >= 0
    assert max(ages_s) <= 1


@pytest.mark.parametrize("mode", ["silent", "closed", "garbage"])
def test_close_ends_the_iteration_at_once_whatever_ffmpeg_does(mode: str) -> None:
    with FakeRtspCamera() as camera:
        camera.fail(mode)
        source = _open(camera.uri)
        ended_s: list[float] = []

        def consume() -> None:
            for _ in source:
                pass
            ended_s.append(time.monotonic())

        thread = threading.Thread(target=consume)
        thread.start()
        time.sleep(0.3)
        asked_s = time.monotonic()
        source.close()
        thread.join(2)
        assert ended_s
        assert ended_s[0] - asked_s < 0.5
        reader = source._reader
        assert reader is not None
    reader.join(12)
    assert not reader.is_alive()


def test_hostile_passwords_arrive_as_they_are() -> None:
    """FFmpeg is given the address with every reserved character escaped, and answers the challenge with the true password."""
    for password in ("p@ss:w/o?r#d%41", "пароль", "a b&c=d+e"):
        with FakeRtspCamera() as camera:
            camera.fail("401")
            with _open(camera.uri.replace("//", f"//ann:{quote(password, safe='')}@")) as source:
                watching = threading.Thread(target=lambda source=source: list(source))
                watching.start()
                ends_s = time.monotonic() + 5
                wanted = b"Authorization: Basic " + base64.b64encode(f"ann:{password}".encode())
                while not any(wanted in request for request in camera.requests) and time.monotonic() < ends_s:
                    time.sleep(0.02)
                assert any(wanted in request for request in camera.requests), camera.requests[-1:]
            watching.join(5)
