import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import CHROMIUM, Browser
from made_pipeline import COLOURS, MadePipeline

from jetlens.serve import LivePage, live_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

TOKEN = "Correct-horse-7"
HOSTILE = (
    "<img src=x onerror=document.title='pwned'>",
    "</h2><script>document.title='pwned'</script>",
    "javascript:document.title='pwned'",
    "&lt;b&gt; \"' {{7*7}} ${7*7}",
)
SHAPES = {
    "wide": (1300, 900, False, False),
    "wide, dark": (1300, 900, True, False),
    "phone": (390, 844, False, True),
    "phone, dark": (390, 844, True, True),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as opened:
        yield opened


@pytest.fixture
def fresh(browser: Browser) -> Browser:
    browser.shape(1300, 900)
    # The page of the test before says once more that its server is gone.
    browser.open("about:blank")
    browser.until("location.href === 'about:blank'")
    browser.console.clear()
    browser.requested.clear()
    return browser


def pictures_of(number: int, at_least: int = 3) -> str:
    return f"Number(document.querySelectorAll('.stream')[{number}]?.dataset.pictures || 0) >= {at_least}"


def share_of(pixels: np.ndarray[Any, np.dtype[np.uint8]], colour: tuple[int, int, int]) -> float:
    return float((np.abs(pixels.astype(int) - colour).max(axis=-1) < 20).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_pictures_and_numbers_are_shown(fresh: Browser, shape: str, tmp_path: Path) -> None:
    width, height, dark, phone = SHAPES[shape]
    with MadePipeline(("front", "back"), fps=10) as pipeline, LivePage(pipeline, port=0, interval_s=0.2) as page:
        pipeline.page = page
        fresh.shape(width, height, dark=dark, phone=phone)
        fresh.open(page.url)
        fresh.until(pictures_of(1))
        fresh.until("/\\d %/.test(document.querySelector('[data-key=cpu_percent] output')?.textContent)")
        text = fresh.value("document.body.innerText")
        pixels = fresh.screenshot(tmp_path / "page.png", whole=phone)
        sizes = fresh.value("[document.documentElement.scrollWidth, innerWidth]")
        assert fresh.console == []
    for words in (
        "orange-detector",
        "onnxruntime fp32",
        "front",
        "back",
        "10.0 of 12.0",
        "88 ms",
        "41 ms",
        "newer frame 10, paused 2",
        "corrupt 3",
    ):
        assert words in text, words
    assert "2 × orange 0.97" in text
    assert min(share_of(pixels, COLOURS[0]), share_of(pixels, COLOURS[1])) > 0.05  # the pictures themselves
    ground = pixels[-4:, :4].mean()
    assert ground < 60 if dark else ground > 230
    assert sizes[0] <= sizes[1] == width  # nothing is wider than the screen
    assert all(url.startswith(page.url) for url in fresh.requested)


@contextmanager
def hostile_page(browser: Browser) -> Iterator[None]:
    """A page whose streams, faults and classes have names that try to be more than text."""
    with MadePipeline(HOSTILE, label=HOSTILE[0]) as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        for name in HOSTILE[:2]:
            pipeline.states[name] = ("stalled", HOSTILE[0])
        browser.open(page.url)
        browser.until(f"document.querySelectorAll('.found small').length >= {len(HOSTILE)}")
        yield


ELEMENTS_OF_NAMES = "document.querySelectorAll('h2 *, .reason *, .found li > :not(small), .counts *').length"


def test_names_from_elsewhere_stay_text(fresh: Browser) -> None:
    with hostile_page(fresh):
        assert fresh.value(ELEMENTS_OF_NAMES) == 0
        assert fresh.value("document.title") == "orange-detector - jetlens live"
        assert fresh.value("[...document.querySelectorAll('.stream h2')].map((title) => title.textContent)") == list(HOSTILE)
        assert fresh.console == []


def test_the_check_of_names_sees_a_page_that_writes_them_as_html(fresh: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in live_page._ASSETS.iterdir():
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace('"h2").textContent', '"h2").innerHTML'))
    monkeypatch.setattr(live_page, "_ASSETS", tmp_path)
    with hostile_page(fresh):
        assert fresh.value(ELEMENTS_OF_NAMES) > 0
        # Even then nothing runs: the policy allows no code but the page's own file.
        assert "pwned" not in fresh.value("document.title")


def test_pause_is_a_button(fresh: Browser) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        fresh.open(page.url)
        fresh.until(pictures_of(0))
        fresh.value("document.querySelector('#pause').click()")
        fresh.until("document.querySelector('#pause').textContent === 'Resume'")
        assert pipeline.paused
        fresh.until("document.querySelector('.over').textContent.startsWith('picture is') && !document.querySelector('.over').hidden")
        fresh.value("document.querySelector('#pause').click()")
        fresh.until("document.querySelector('#pause').textContent === 'Pause'")
        assert not pipeline.paused
        fresh.until("document.querySelector('.over').hidden")


def test_a_fault_is_shown_with_its_reason_and_the_picture_is_marked_old(fresh: Browser) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        fresh.open(page.url)
        fresh.until(pictures_of(0))
        pipeline.states["front"] = ("reconnecting", "connection refused")
        fresh.until("document.querySelector('.stream .state').textContent === 'reconnecting'")
        assert fresh.value("document.querySelector('.reason').textContent") == "connection refused"
        fresh.until("document.querySelector('.stream').classList.contains('old')")


def test_a_jetlens_that_ended_is_told(fresh: Browser) -> None:
    with MadePipeline() as pipeline:
        with LivePage(pipeline, port=0) as page:
            pipeline.page = page
            fresh.open(page.url)
            fresh.until(pictures_of(0))
        fresh.until("!document.querySelector('#lost').hidden")


def test_the_token_is_asked_for_once(fresh: Browser) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, "0.0.0.0", 0, TOKEN) as page:
        pipeline.page = page
        url = f"http://127.0.0.1:{page.access.port}/"
        fresh.open(url)
        fresh.until("document.querySelector('input[name=token]')")
        assert fresh.value("getComputedStyle(document.querySelector('form')).maxWidth") == "384px"  # its own style is allowed
        fresh.value("document.querySelector('input').value = 'wrong-token'; document.querySelector('form').submit()")
        fresh.until("location.search && document.readyState === 'complete' && document.querySelector('input[name=token]')")
        fresh.value(f"document.querySelector('input').value = '{TOKEN}'; document.querySelector('form').submit()")
        fresh.until(pictures_of(0))
        assert fresh.value("location.href") == url  # the token stands in it no more
        assert TOKEN not in fresh.value("document.cookie")
        fresh.open(url)
        fresh.until(pictures_of(0))


def test_an_mjpeg_stream_alone_is_a_picture_for_any_page_of_the_same_origin(fresh: Browser) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        fresh.open(page.url)
        fresh.until(pictures_of(0))
        fresh.value("document.body.replaceChildren(Object.assign(new Image(), {src: '/stream/0'}))")
        fresh.until("document.images[0].naturalWidth === 320")
        assert share_of(fresh.screenshot(), COLOURS[0]) > 0.02


def test_a_hidden_page_asks_for_no_pictures(fresh: Browser) -> None:
    with MadePipeline() as pipeline, LivePage(pipeline, port=0) as page:
        pipeline.page = page
        fresh.open(page.url)
        fresh.until(pictures_of(0))
        assert page.wanted("front")
        for hidden in (True, False):
            fresh.value(f"Object.defineProperty(document, 'hidden', {{value: {str(hidden).lower()}, configurable: true}})")
            fresh.value("document.dispatchEvent(new Event('visibilitychange')), 0")
            end_s = time.monotonic() + 20
            while page.wanted("front") == hidden and time.monotonic() < end_s:
                time.sleep(0.05)
            assert page.wanted("front") != hidden
