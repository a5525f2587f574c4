"""Overlays: what is drawn, what is left alone, with cv2 and without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens import overlay
from jetlens.ops.masks import voc_palette
from jetlens.overlay import BOX_COLOURS, box_colour, colour_mask, draw, draw_hud, draw_rules
from jetlens.results import Classification, Detections, Segmentation

SIZES = [(1, 1), (7, 9), (40, 30), (360, 640), (1080, 1920)]


@pytest.fixture(params=["cv2", "numpy"])
def _road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "cv2":
        pytest.importorskip("cv2")
    else:
        monkeypatch.setattr(overlay, "cv2_if_there", lambda: None)


def photo(hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*hw, 3), dtype=np.uint8)


def boxes(xyxy: list[list[float]], classes: list[int], hw: tuple[int, int] = (240, 320), **more: np.ndarray) -> Detections:
    scores = np.linspace(0.9, 0.5, len(xyxy), dtype=np.float32)
    return Detections(np.array(xyxy, np.float32).reshape(-1, 4), scores, np.array(classes, np.int64), hw, ("ant", "bee"), **more)


def naive_blend(image: np.ndarray, mask: np.ndarray, alpha: float) -> np.ndarray:
    blended = np.rint(image * (1 - alpha) + voc_palette()[mask] * alpha)
    return np.where((mask > 0)[..., None], blended, image)


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_classes_are_covered_and_the_background_is_not_darkened(alpha: float) -> None:
    image, mask = photo(), np.zeros((240, 320), np.uint8)
    mask[:70, 10:60], mask[100:130, 250:], mask[20:60, 200:230] = 1, 2, 255
    before = image.copy()
    result = draw(image, Segmentation(mask, ("background", "sound")), alpha=alpha)
    assert np.array_equal(image, before), "the picture was written into unasked"
    above_legend = slice(0, 160)
    expected = naive_blend(image, mask, alpha)
    assert np.abs(result[above_legend].astype(int) - expected[above_legend]).max() <= 1
    # Negative control: addWeighted over the whole frame, the way of source 004, darkens what is no class.
    darkened = np.rint(image * 0.4 + voc_palette()[mask] * 0.6)
    assert (np.abs(darkened - image)[mask == 0] > 1).any()


@pytest.mark.usefixtures("_road")
def test_background_alone_leaves_the_picture() -> None:
    image = photo()
    assert np.array_equal(draw(image, Segmentation(np.zeros((240, 320), np.uint8))), image)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(1, 400), st.integers(0, 99), st.floats(0, 1))
def test_both_roads_agree(height: int, width: int, seed: int, share: float) -> None:
    pytest.importorskip("cv2")
    rng = np.random.default_rng(seed)
    mask = (rng.integers(0, 6, (height, width)) * (rng.random((height, width)) < share)).astype(np.uint8)
    mask[:, width // 4 : -(-width // 2)] = 0
    image = photo((height, width))
    with_cv2 = draw(image, Segmentation(mask))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "cv2_if_there", lambda: None)
        without = draw(image, Segmentation(mask))
        palette = colour_mask(mask)
    assert np.abs(with_cv2.astype(int) - without).max() <= 1
    assert np.array_equal(colour_mask(mask), palette)
    assert np.array_equal(palette, voc_palette()[mask])


def test_boxes_stand_where_they_are() -> None:
    image = np.full((240, 320, 3), 90, np.uint8)
    result = draw(image, boxes([[100, 80, 200, 160]], [0]))
    assert result[80:160, 100].tolist() == [list(BOX_COLOURS[0])] * 80
    assert result[159, 100:200].tolist() == [list(BOX_COLOURS[0])] * 100
    assert result[159, 199].tolist() == list(BOX_COLOURS[0])
    assert (result[90:150, 110:190] == 90).all(), "the inside is touched"
    assert (result[165:, :] == 90).all()
    label = result[60:80, 100:160]
    assert (label == BOX_COLOURS[0]).all(axis=2).mean() > 0.3
    assert (label > 200).all(axis=2).any(), "no white letters on red"
    assert BOX_COLOURS[0][0] > 200
    assert max(BOX_COLOURS[0][1:]) < 80


def test_colours_go_by_class_and_come_again() -> None:
    assert box_colour(0) != box_colour(1)
    assert box_colour(len(BOX_COLOURS)) == box_colour(0)
    assert len(set(BOX_COLOURS)) == len(BOX_COLOURS)


def test_instance_masks_and_tracks_are_drawn() -> None:
    mask = np.zeros((1, 240, 320), bool)
    mask[0, 100:140, 120:180] = True
    image = np.full((240, 320, 3), 90, np.uint8)
    plain = draw(image, boxes([[100, 80, 200, 160]], [1]))
    result = draw(image, boxes([[100, 80, 200, 160]], [1], mask=mask, tracker_id=np.array([7])))
    assert np.abs(result[120, 150] - (np.array(box_colour(1)) * 0.6 + 90 * 0.4)).max() <= 1
    assert not np.array_equal(result[60:80], plain[60:80]), "the track's number is missing"


@pytest.mark.usefixtures("_road")
@pytest.mark.parametrize("hw", SIZES)
def test_every_size_and_place_is_drawn_in_place(hw: tuple[int, int]) -> None:
    height, width = hw
    wild = [[-50, -50, 2 * width, 2 * height], [0, 0, 0, 0], [width - 1, height - 1, width, height], [width, height, 5, 5], [0, 0, 2, 2]]
    ranking = Classification(np.array([1, 0, 5]), np.array([0.7, 0.2, 0.1], np.float32), hw, ("ant", "long " * 30))
    mask = np.random.default_rng(0).integers(0, 256, hw).astype(np.uint8)
    for prediction in (boxes(wild, [0, 1, 2, 30, 400], hw), ranking, Segmentation(mask), boxes([], [], hw)):
        image = photo(hw)
        expected = draw(image, prediction)
        out = np.zeros_like(image)
        assert draw(image, prediction, out=out) is out
        assert np.array_equal(out, expected)
        assert draw(image, prediction, out=image) is image
        assert np.array_equal(image, expected)
        assert draw_hud(image, ["FPS 31.2", "", "latency 12.3 ms  onnxruntime CPU fp32"]) is image


@pytest.mark.parametrize("height", [360, 720, 1080])
def test_hud_is_legible(height: int) -> None:
    for ground in (0, 128, 255):
        image = np.full((height, height * 16 // 9, 3), ground, np.uint8)
        draw_hud(image, ["FPS 31.2   latency 12.3 ms", "apples"])
        changed = np.argwhere((image != ground).any(axis=2))
        panel = image[: changed[:, 0].max() + 1, : changed[:, 1].max() + 1]
        assert height / 20 < panel.shape[0] < height / 5
        assert panel.shape[1] < image.shape[1] / 2
        letters = (panel > 200).all(axis=2)
        assert 0.02 < letters.mean() < 0.4
        assert np.median(panel) <= 64
        assert (image[panel.shape[0] :] == ground).all()
    # Another text is another picture.
    other = draw_hud(np.zeros((height, height * 16 // 9, 3), np.uint8), ["FPS 31.3   latency 12.3 ms", "apples"])
    same = draw_hud(np.zeros((height, height * 16 // 9, 3), np.uint8), ["FPS 31.2   latency 12.3 ms", "apples"])
    assert not np.array_equal(other, same)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_hud_hides_no_label(data: st.DataObject) -> None:
    lines, name = ["FPS 31.2", "", "onnxruntime fp32, CPUExecutionProvider"], "ant 0.90"
    left, top = data.draw(st.integers(0, 200), "left"), data.draw(st.integers(0, 120), "top")
    found = boxes([[left, top, left + data.draw(st.integers(1, 120)), top + data.draw(st.integers(1, 119))]], [0])
    ground = np.full((240, 320, 3), 90, np.uint8)
    tile = overlay._label(name, 12, BOX_COLOURS[0])

    def shows(image: np.ndarray) -> bool:
        corners = np.argwhere((image[: 241 - tile.shape[0], : 321 - tile.shape[1]] == tile[0, 0]).all(axis=2))
        return any(np.array_equal(image[y : y + tile.shape[0], x : x + tile.shape[1]], tile) for y, x in corners)

    # Negative control: labels that know of no HUD are covered by it.
    hidden = not shows(draw_hud(draw(ground, boxes([[5, 30, 90, 90]], [0])), lines))
    result = draw_hud(draw(ground, found, hud=lines), lines)
    assert hidden
    assert shows(result)
    letters = (draw_hud(np.zeros_like(ground), lines) == 255).all(axis=2)
    assert (result[letters] == 255).all()


def test_labels_stay_where_they_are_beside_the_hud() -> None:
    lines, found = ["FPS 31.2", "onnxruntime"], boxes([[150, 30, 250, 90], [10, 120, 90, 200]], [0, 1])
    assert np.array_equal(draw(photo(), found, hud=lines), draw(photo(), found))


def test_legend_names_what_is_there() -> None:
    image, mask = np.full((240, 320, 3), 90, np.uint8), np.zeros((240, 320), np.uint8)
    mask[:40, :40] = 3
    result = draw(image, Segmentation(mask, ("background", "a", "b", "wind scarring")))
    legend = result[200:, :150]
    assert (legend == voc_palette()[3]).all(axis=2).any()
    assert (legend > 200).all(axis=2).any()
    assert (result[60:200] == 90).all()


def test_lines_and_zones_are_drawn_where_they_are() -> None:
    line, zone = ((160.0, 0.0), (160.0, 240.0)), ((200.0, 20.0), (300.0, 20.0), (300.0, 100.0), (200.0, 100.0))
    image = np.full((240, 320, 3), 90, np.uint8)
    assert draw_rules(image, (), ()) is image
    assert (image == 90).all()
    changed = (draw_rules(image, (line,), (zone,)) != 90).any(axis=2)
    assert changed[:, 159:161].all()
    assert changed[20, 200:301].all()
    assert changed[20:101, 300].all()
    assert changed[120, 146:160].any(), "forward is the right hand of one who walks down: an arrow to the left"
    assert not changed[:110, :140].any()
    assert not changed[130:, 170:].any()
    for far in (-1e300, 1e12):
        draw_rules(image, (((far, 3.0), (far, 9.0)), ((3.0, 3.0), (far, far))), ())


def test_letters_beyond_ascii_are_drawn() -> None:
    image = photo()
    for text in ("апельсин", "naranja ñ", "橙子", "\x00\n\t", "🍊", ""):
        detections = Detections(np.array([[50, 80, 90, 120]], np.float32), np.ones(1, np.float32), np.zeros(1, int), (240, 320), (text,))
        assert draw(image, detections).shape == image.shape


def test_no_frame_sized_array_is_made_where_out_is_given() -> None:
    """Negative control: the same without ``out`` makes one."""
    import tracemalloc

    pytest.importorskip("cv2")
    image = photo((720, 1280))
    mask = np.zeros((720, 1280), np.uint8)
    mask[100:600, 100:1200] = 2
    for prediction in (Segmentation(mask), boxes([[100, 80, 900, 600]] * 5, [0, 1, 2, 3, 4], (720, 1280))):
        peaks = []
        for out in (image, None):
            draw(image, prediction, out=image)
            tracemalloc.start()
            draw(image, prediction, out=out)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[0] < image.nbytes / 4
        assert peaks[1] >= image.nbytes


def test_real_photo(shared_data) -> None:  # type: ignore[no-untyped-def]
    from PIL import Image

    image = np.array(Image.open(shared_data / "images" / "darknet" / "dog.jpg").convert("RGB"))
    result = draw(image, boxes([[130, 220, 310, 540], [465, 75, 690, 170]], [0, 1], image.shape[:2]))
    changed = (result != image).any(axis=2)
    assert 0.005 < changed.mean() < 0.05
    assert not changed[560:].any()
