import threading
import weakref

import numpy as np
import pytest
from made_pipeline import coded_frame

from jetlens.serve import feed as feed_module
from jetlens.serve.feed import Feed, encode_jpeg


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class KeepsAll(Feed):
    """The naive way: a queue of all frames for the viewer to come."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[object] = []

    def show(self, frame) -> None:
        self.queue.append(frame)
        super().show(frame)


def frames_alive(feed: Feed, count: int = 200) -> int:
    """How many of so many frames still exist while a viewer stands at the first of them."""
    alive = []
    with feed.viewer(["a"]) as viewer:
        for index in range(count):
            frame = coded_frame(index, "a", (9, 9, 9), (24, 32))
            alive.append(weakref.ref(frame.image_rgb))
            feed.show(frame)
            if index == 0:
                assert viewer.next(1.0) is not None
            del frame
        return sum(one() is not None for one in alive)


def test_nobody_waits_for_a_slow_viewer_and_nothing_piles_up() -> None:
    assert frames_alive(Feed()) <= 2
    assert frames_alive(KeepsAll()) == 200  # the check sees what it is for


def test_who_comes_late_gets_the_newest_and_none_twice() -> None:
    clock = Clock()
    feed = Feed(clock)
    with feed.viewer(["a"]) as viewer:
        for index in range(7):
            feed.show(coded_frame(index, "a", (9, 9, 9)))
        picture = viewer.next(0.0)
        assert picture is not None
        assert picture.frame.index == 6
        clock.now_s += 1.0
        assert viewer.next(0.0) is None
        feed.show(coded_frame(7, "a", (9, 9, 9)))
        picture = viewer.next(0.0)
        assert picture is not None
        assert picture.frame.index == 7


def test_a_frame_is_encoded_once_for_all_and_never_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    monkeypatch.setattr(feed_module, "encode_jpeg", lambda image: encoded.append(1) or encode_jpeg(image))
    feed = Feed()
    assert not feed.wanted("a")
    feed.show(coded_frame(0, "a", (9, 9, 9)))
    assert encoded == []
    got = []

    def look() -> None:
        with feed.viewer(["a"]) as viewer:
            ready.wait()
            got.append(viewer.next(5.0))

    ready = threading.Barrier(9)
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    ready.wait()
    assert feed.wanted("a")
    assert not feed.wanted("b")
    feed.show(coded_frame(1, "a", (9, 9, 9)))
    for thread in threads:
        thread.join()
    assert [one.frame.index for one in got] == [1] * 8
    assert len(encoded) == 1
    assert not feed.wanted("a")


def test_streams_take_turns() -> None:
    clock = Clock()
    feed = Feed(clock)
    seen = []
    with feed.viewer(["a", "b", "c"]) as viewer:
        for index in range(12):
            for name in "abc":
                feed.show(coded_frame(index, name, (9, 9, 9)))
            clock.now_s += 0.05
            picture = viewer.next(0.0)
            assert picture is not None
            seen.append(picture.frame.stream)
    assert sorted(seen) == sorted("abc" * 4)


def test_a_fast_stream_is_shown_at_most_30_times_a_second() -> None:
    clock = Clock()
    feed = Feed(clock)
    shown = 0
    with feed.viewer(["a"]) as viewer:
        for index in range(1000):
            feed.show(coded_frame(index, "a", (9, 9, 9), (8, 8)))
            shown += viewer.next(0.0) is not None
            clock.now_s += 0.001
    assert 25 <= shown <= 30


def test_an_old_picture_is_not_shown_as_new() -> None:
    clock = Clock()
    feed = Feed(clock)
    with feed.viewer(["a"]):
        feed.show(coded_frame(3, "a", (9, 9, 9)))
    clock.now_s += 1.0
    frame = feed.frame("a", 0.0)  # a page that is loaded again while the stream is paused
    assert frame is not None
    assert frame.index == 3
    clock.now_s += 60.0
    assert feed.frame("a", 0.0) is None


def test_closing_wakes_who_waits() -> None:
    feed = Feed()
    with feed.viewer(["a"]) as viewer:
        threading.Timer(0.05, feed.close).start()
        assert viewer.next(30.0) is None
    assert feed.closed


@pytest.mark.parametrize(
    ("size_hw", "sent_hw"), [((90, 160), (90, 160)), ((1080, 1920), (1080, 1920)), ((2160, 3840), (1080, 1920)), ((1, 5000), (1, 1667))]
)
@pytest.mark.parametrize("with_cv2", [True, False])
def test_jpeg_of_any_size(size_hw: tuple[int, int], sent_hw: tuple[int, int], with_cv2: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from PIL import Image

    if not with_cv2:
        monkeypatch.setattr(feed_module, "cv2_if_there", lambda: None)
    image = np.full((*size_hw, 3), (200, 100, 30), np.uint8)
    picture = np.asarray(Image.open(io.BytesIO(encode_jpeg(image))))
    assert picture.shape[:2] == sent_hw
    assert np.abs(picture.astype(int) - (200, 100, 30)).max() <= 4
