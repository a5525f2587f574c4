"""Edges, colours and keypoints: what they find in pictures of which it is known, and streams frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

cv2 = pytest.importorskip("cv2")

from jetlens.errors import GateError, InputError, OutputError, UnknownNameError, UsageError  # noqa: E402
from jetlens.learn import colors as colors_module  # noqa: E402
from jetlens.learn.colors import Colors, hue_range, plain_gray_and_hsv  # noqa: E402
from jetlens.learn.edges import Edges  # noqa: E402
from jetlens.learn.keypoints import METHODS, Keypoints, match, turned  # noqa: E402
from jetlens.learn.pictures import gray_levels, open_input, picture, place, reduced, stills  # noqa: E402
from jetlens.learn.showing import default_output, show_picture, show_stream  # noqa: E402
from jetlens.learn.views import Look, Panel, mosaic  # noqa: E402
from jetlens.media import open_source  # noqa: E402

RNG = np.random.default_rng(1)


def square() -> np.ndarray:
    image = np.zeros((80, 120, 3), np.uint8)
    image[20:60, 40:90] = 200
    return image


def test_edges_lie_around_a_square() -> None:
    look = Edges(sigma=0)(square())
    canny = np.argwhere(look.panels[-1].image[..., 0] > 0)
    assert len(canny) > 150
    near = [min(abs(r - 20), abs(r - 59), abs(c - 40), abs(c - 89)) for r, c in canny.tolist()]
    assert max(near) <= 1
    assert look.numbers["gradient_max"] == pytest.approx(200 * np.hypot(3, 3), rel=0.35)
    assert Edges()(np.full((40, 40, 3), 90, np.uint8)).numbers["canny_share"] == 0
    with pytest.raises(UsageError):
        Edges(low=3, high=2)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_formulas_are_what_opencv_computes(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    assert max(Colors()(image).numbers["largest_difference"].values()) <= 2


def test_bgr_taken_for_rgb_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the mistake that OpenCV's users make most."""
    image = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    swapped = lambda picture: plain_gray_and_hsv(picture[..., ::-1])  # noqa: E731
    monkeypatch.setattr(colors_module, "plain_gray_and_hsv", swapped)
    with pytest.raises(GateError, match="by OpenCV is off"):
        Colors()(image)


@pytest.mark.parametrize(("hue", "rgb", "share"), [
    ((340, 20), (255, 0, 0), 1), ((10, 50), (255, 140, 0), 1), ((10, 50), (0, 0, 255), 0), ((10, 50), (128, 128, 128), 0),
])  # fmt: skip
def test_a_colour_is_found_by_its_hue(hue, rgb, share) -> None:
    image = np.broadcast_to(np.array(rgb, np.uint8), (8, 8, 3)).copy()
    assert Colors(hue)(image).numbers["hue_share"] == share


def test_words_are_read() -> None:
    assert hue_range("340-20.5") == (340.0, 20.5)
    assert place("3, 4", (5, 5)) == (3, 4)
    for text in ("red", "10", "10-400", "-5-10"):
        with pytest.raises(UsageError):
            hue_range(text)
    for text in ("5", "1,2,3", "5,0", "a,b"):
        with pytest.raises(UsageError):
            place(text, (5, 5))


@pytest.mark.parametrize("method", METHODS)
def test_matches_of_a_turned_picture_are_right(method: str) -> None:
    image = stills(1)[0]
    look = Keypoints(method=method)(image)
    assert look.numbers["matches"] > 50
    assert look.numbers["good"] > 0.8 * look.numbers["matches"]
    assert look.numbers["judged_by"] == "truth"
    # Negative control: held against another turn, they are wrong.
    other, truth = turned(image)
    assert match(image, other, method, truth + np.array([[0, 0, 9], [0, 0, 0]])).good.mean() < 0.05
    # Without the truth the homography finds nearly the same ones.
    fitted = match(image, other, method)
    assert fitted.good.mean() > 0.8


def test_keypoints_of_little() -> None:
    even = np.full((40, 60, 3), 77, np.uint8)
    assert Keypoints()(even).numbers == {"points": {"ORB": 0, "SIFT": 0, "Shi-Tomasi": 0}, "matches": 0, "good": 0, "judged_by": "truth"}
    with pytest.raises(InputError, match="too small"):
        Keypoints()(even[:7])
    with pytest.raises(InputError, match="too small"):
        Keypoints(other=even[:, :3])(even)
    with pytest.raises(UnknownNameError):
        Keypoints(method="surf")


def test_a_stream_is_matched_with_the_frame_before(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with open_source("test://orange-line?frames=6&size=180x320") as source:
        assert default_output("keypoints", source) == Path("keypoints.mp4")
        lesson = show_stream(Keypoints(stream=True), source, tmp_path / "k.mp4", frames=4)
    assert lesson.numbers["frames"] == 4
    assert lesson.numbers["average"]["good"] > 10
    with open_source(tmp_path / "k.mp4") as written:
        assert written.info.size_hw[1] in (1278, 1280)
        assert len(list(written)) == 4


def test_a_folder_of_pictures_gives_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, size in (("a", (64, 48)), ("b", (40, 80))):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    opened, _ = open_input(str(tmp_path / "in"))
    with opened as source:
        assert default_output("edges", source) == Path("edges")
        lesson = show_stream(Edges(), source, tmp_path / "out")
    assert lesson.numbers["frames"] == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.png", "000001.png"]


def test_a_stream_that_breaks_off_keeps_what_came(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(square()).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    opened, _ = open_input(str(tmp_path / "*.png"))
    with opened as source, pytest.raises(InputError, match="1 of 2 images"):
        show_stream(Colors(), source, tmp_path / "out")
    assert (tmp_path / "out" / "000000.png").is_file()


def test_pictures_are_written_whole(tmp_path: Path) -> None:
    for view in (Edges(), Colors(), Keypoints()):
        lesson = show_picture(view, stills(1)[0], tmp_path / f"{view.name}.jpg")
        with Image.open(lesson.files[0]) as image:
            assert 1500 < image.width <= 1600
        assert len(view.text) >= 4
    with pytest.raises(OutputError, match=r"\.png"):
        show_picture(Edges(), square(), tmp_path / "x.txt")


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 4), st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_a_mosaic_holds_all_its_panels(count: int, columns: int, size: tuple[int, int]) -> None:
    panel = Panel("p", np.full((*size, 3), 200, np.uint8))
    whole = mosaic(Look([panel] * count, columns, (), {}, (panel,)), 400)
    assert whole.shape[1] <= 400
    assert 0 < whole.shape[0] <= 1206 * (count + 1)


def test_inputs(tmp_path: Path) -> None:
    Image.fromarray(square()).save(tmp_path / "a.png")
    image, name = picture(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(image, square())
    assert name == str(tmp_path / "a.png")
    with pytest.raises(InputError, match="takes one picture"):
        picture("test://orange-line?frames=2")
    assert reduced(np.zeros((10, 3000, 3), np.uint8)).shape[1] == 640
    assert reduced(square()) is not None
    assert float(gray_levels(square()).max()) == 200
