"""Decoders of detection heads: boxes that are encoded as a family's network would answer come back exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.errors import ModelError, UnknownNameError
from jetlens.spec import ModelSpec, PreprocessSpec
from jetlens.tasks.heads import HEADS, Candidates

SIZE_HW = (96, 160)
CLASSES = 5
STRIDES = (8, 16, 32)
CELLS = [(row, column, stride) for stride in STRIDES for row in range(SIZE_HW[0] // stride) for column in range(SIZE_HW[1] // stride)]


def spec_of(decoder: str, *, options: dict[str, object] | None = None, classes: int = CLASSES, offset: int = 0) -> ModelSpec:
    labels = tuple(f"thing {i}" for i in range(classes))
    preprocess = PreprocessSpec(size_hw=SIZE_HW, baked=False)
    return ModelSpec("net", "detection", labels, preprocess, decoder, options or {}, label_offset=offset)


def decode(spec: ModelSpec, outputs: dict[str, np.ndarray], confidence: float = 0.4) -> list[Candidates]:
    return HEADS.load(spec.decoder)(outputs, spec, confidence)


@st.composite
def objects(draw: st.DrawFn) -> list[tuple[int, np.ndarray, int, float]]:
    """Objects as (cell, box cx cy w h in canvas pixels, class id, score), at most one a cell."""
    found = []
    for cell in draw(st.lists(st.integers(0, len(CELLS) - 1), max_size=6, unique=True)):
        row, column, stride = CELLS[cell]
        dx, dy = draw(st.floats(-0.4, 0.4)), draw(st.floats(-0.4, 0.4))
        width, height = draw(st.floats(0.9 * stride, 90)), draw(st.floats(0.9 * stride, 60))  # the cell's center is inside
        box = np.array([(column + 0.5 + dx) * stride, (row + 0.5 + dy) * stride, width, height], np.float32)
        found.append((cell, box, draw(st.integers(0, CLASSES - 1)), draw(st.floats(0.5, 0.99))))
    return found


def corners(box: np.ndarray) -> np.ndarray:
    return np.array([box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2])


def check(candidates: Candidates, truth: list[tuple[int, np.ndarray, int, float]], tolerance: float = 2e-3) -> None:
    """Every object is found once, with its class, score and box, and nothing else is."""
    assert candidates.xyxy.dtype == candidates.confidence.dtype == np.float32
    assert candidates.class_id.dtype == np.int64
    assert candidates.xyxy.shape == (len(truth), 4)
    got = sorted(zip(candidates.xyxy.tolist(), candidates.confidence.tolist(), candidates.class_id.tolist(), strict=True))
    want = sorted((corners(box).tolist(), score, class_id) for _, box, class_id, score in truth)
    for (box, score, class_id), (true_box, true_score, true_class) in zip(got, want, strict=True):
        np.testing.assert_allclose(box, true_box, atol=tolerance)
        assert score == pytest.approx(true_score, abs=1e-4)
        assert class_id == true_class


# One encoder a family: what a network would have to answer for these objects on a canvas with background everywhere else.


def encode_yolov5(truth: list) -> dict[str, np.ndarray]:
    rows = np.full((len(CELLS), 5 + CLASSES), 0.01, np.float32)
    for cell, box, class_id, score in truth:
        rows[cell, :4] = box
        rows[cell, 4] = 0.995
        rows[cell, 5 + class_id] = score / 0.995
    return {"output0": rows[None]}


def encode_yolov8(truth: list) -> dict[str, np.ndarray]:
    columns = np.full((4 + CLASSES, len(CELLS)), 0.01, np.float32)
    for cell, box, class_id, score in truth:
        columns[:4, cell] = box
        columns[4 + class_id, cell] = score
    return {"output0": columns[None]}


def encode_yolox(truth: list) -> dict[str, np.ndarray]:
    rows = encode_yolov5(truth)["output0"][0]
    for cell, box, _, _ in truth:
        row, column, stride = CELLS[cell]
        rows[cell, :4] = [box[0] / stride - column, box[1] / stride - row, np.log(box[2] / stride), np.log(box[3] / stride)]
    return {"output": rows[None]}


def encode_nanodet(truth: list, bins: int = 64) -> dict[str, np.ndarray]:
    scores = np.full((len(CELLS), CLASSES), 0.01, np.float32)
    sides = np.zeros((len(CELLS), 4, bins), np.float32)
    for cell, box, class_id, score in truth:
        row, column, stride = CELLS[cell]
        scores[cell, class_id] = score
        x, y = (column + 0.5) * stride, (row + 0.5) * stride
        left, top, right, bottom = corners(box)
        for side, distance in enumerate([x - left, y - top, right - x, bottom - y]):
            low = min(int(distance / stride), bins - 2)
            part = distance / stride - low
            sides[cell, side] = -40
            sides[cell, side, low] = np.log(max(1 - part, 1e-9))
            sides[cell, side, low + 1] = np.log(max(part, 1e-9))
    edges = np.cumsum([0] + [sum(1 for cell in CELLS if cell[2] == stride) for stride in STRIDES])
    outputs = {}
    for stride, first, last in zip(STRIDES, edges[:-1], edges[1:], strict=True):
        outputs[f"cls{stride}"] = scores[None, first:last]
        outputs[f"reg{stride}"] = sides[None, first:last].reshape(1, last - first, 4 * bins)
    return outputs


NANODET = {"scores": [f"cls{s}" for s in STRIDES], "boxes": [f"reg{s}" for s in STRIDES], "bins": 64}


def encode_yunet(truth: list) -> dict[str, np.ndarray]:
    boxes = encode_yolox(truth)["output"][0]
    outputs, first = {}, 0
    for stride in STRIDES:
        last = first + sum(1 for cell in CELLS if cell[2] == stride)
        outputs[f"bbox_{stride}"] = boxes[None, first:last, :4]
        score = np.full(last - first, 1e-4, np.float32)
        for cell, _, _, value in truth:
            if first <= cell < last:
                score[cell - first] = value
        # The class map may exceed 1 by a hair: it is clipped.
        outputs[f"cls_{stride}"] = np.full((1, last - first, 1), 1.0001, np.float32)
        outputs[f"obj_{stride}"] = (score**2)[None, :, None]
        outputs[f"kps_{stride}"] = np.zeros((1, last - first, 10), np.float32)
        first = last
    return outputs


def encode_ssd(truth: list) -> dict[str, np.ndarray]:
    height, width = SIZE_HW
    boxes = np.zeros((1, len(CELLS), 4), np.float32)
    scores = np.full((1, len(CELLS), CLASSES), 0.01, np.float32)
    for cell, box, class_id, score in truth:
        boxes[0, cell] = corners(box) / [width, height, width, height]
        scores[0, cell, class_id] = score
    return {"boxes": boxes, "scores": scores}


@pytest.mark.parametrize(
    ("decoder", "encode", "options"),
    [
        ("yolov5", encode_yolov5, {}),
        ("yolov8", encode_yolov8, {}),
        ("yolox", encode_yolox, {}),
        ("nanodet", encode_nanodet, NANODET),
        ("ssd", encode_ssd, {}),
    ],
)
@settings(max_examples=15, deadline=None)
@given(truth=objects())
def test_encoded_boxes_come_back(decoder, encode, options, truth):
    (candidates,) = decode(spec_of(decoder, options=options), encode(truth))
    check(candidates, truth, tolerance=0.02 if decoder == "nanodet" else 2e-3)


@settings(max_examples=15, deadline=None)
@given(truth=objects())
def test_yunet_boxes_come_back(truth):
    faces = [(cell, box, 0, score) for cell, box, _, score in truth]
    (candidates,) = decode(spec_of("yunet", classes=1), encode_yunet(faces))
    check(candidates, faces)


@settings(max_examples=15, deadline=None)
@given(
    cell=st.integers(0, 14),
    offset=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)),
    size=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
)
def test_fastestdet_boxes_come_back(cell, offset, size):
    rows, columns = 3, 5
    array = np.full((1, 5 + CLASSES, rows, columns), 0.01, np.float32)
    row, column = divmod(cell, columns)
    array[0, 0, row, column], array[0, 5 + 2, row, column] = 0.9, 0.8
    array[0, 1:3, row, column] = np.arctanh(offset)
    array[0, 3:5, row, column] = [np.log(s / (1 - s)) for s in size]
    box = np.array([(column + offset[0]) * 32, (row + offset[1]) * 32, size[0] * SIZE_HW[1], size[1] * SIZE_HW[0]], np.float32)
    (candidates,) = decode(spec_of("fastestdet"), {"758": array})
    check(candidates, [(cell, box, 2, 0.9**0.6 * 0.8**0.4)])


def test_ours_drops_padding_and_what_is_below():
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0] = [1, 2, 30, 40, 0.9, 3]
    rows[0, 1] = [5, 6, 50, 60, 0.3, 4]
    (candidates,) = decode(spec_of("detections"), {"detections": rows}, 0.4)
    assert candidates.xyxy.tolist() == [[1, 2, 30, 40]]
    assert candidates.class_id.tolist() == [3]
    assert len(decode(spec_of("detections"), {"detections": rows}, 0.0)[0]) == 2


@pytest.mark.parametrize("family", ["yolov5", "yolov8", "yolox", "ssd"])
def test_each_picture_of_a_batch_keeps_its_own_boxes(family):
    encode = globals()[f"encode_{family}"]
    first = [(3, np.array([30, 8, 20, 10], np.float32), 1, 0.9)]
    second = [(7, np.array([60, 5, 30, 12], np.float32), 4, 0.8), (60, np.array([20, 90, 8, 8], np.float32), 0, 0.7)]
    one, two = encode(first), encode(second)
    batch = {name: np.concatenate([one[name], two[name], one[name]]) for name in one}
    found = decode(spec_of(family), batch)
    assert len(found) == 3
    check(found[0], first)
    check(found[1], second)
    check(found[2], first)


def test_float16_outputs_become_float32():
    truth = [(3, np.array([30, 8, 20, 10], np.float32), 1, 0.9)]
    halves = {name: array.astype(np.float16) for name, array in encode_yolov8(truth).items()}
    (candidates,) = decode(spec_of("yolov8"), halves)
    assert candidates.xyxy.dtype == np.float32
    np.testing.assert_allclose(candidates.xyxy[0], [20, 3, 40, 13], atol=0.05)


def test_yolov8_is_read_in_both_layouts():
    truth = [(11, np.array([100, 8, 20, 10], np.float32), 2, 0.75)]
    flipped = {"output0": encode_yolov8(truth)["output0"].transpose(0, 2, 1)}
    check(decode(spec_of("yolov8"), flipped)[0], truth)


def test_yolox_decoded_option():
    truth = [(11, np.array([100, 8, 20, 10], np.float32), 2, 0.75)]
    check(decode(spec_of("yolox", options={"decoded": True}), encode_yolov5(truth))[0], truth)


def test_nanodet_plus_reads_one_joined_output():
    truth = [(11, np.array([92, 6, 20, 10], np.float32), 2, 0.75)]
    parts = encode_nanodet(truth, bins=8)
    joint = np.concatenate([np.concatenate([parts[f"cls{s}"], parts[f"reg{s}"]], axis=2) for s in STRIDES], axis=1)
    check(decode(spec_of("nanodet", options={"bins": 8}), {"output": joint})[0], truth, tolerance=0.02)


def test_ssd_layouts_activations_and_background():
    canvas_box = np.array([16, 24, 80, 60], np.float32)
    scale = np.array([160, 96, 160, 96], np.float32)
    unit = canvas_box / scale
    logits = np.array([[[0.0, 5.0, 1.0], [6.0, 0.0, 0.0]]], np.float32)
    powers = np.exp(logits[0, 0])
    for layout, row in {
        "xyxy": unit,
        "yxyx": unit[[1, 0, 3, 2]],
        "cxcywh": [(unit[0] + unit[2]) / 2, (unit[1] + unit[3]) / 2, unit[2] - unit[0], unit[3] - unit[1]],
    }.items():
        spec = spec_of("ssd", options={"corners": layout, "activation": "softmax", "boxes": "b", "scores": "s"}, classes=2, offset=1)
        (candidates,) = decode(spec, {"s": logits, "b": np.array([[row, [0, 0, 1, 1]]], np.float32)})
        np.testing.assert_allclose(candidates.xyxy, [canvas_box], atol=1e-3)
        assert candidates.class_id.tolist() == [1]
        assert candidates.confidence[0] == pytest.approx(powers[1] / powers.sum(), abs=1e-5)


def test_ssd_with_ids_as_tf_and_torchvision_answer():
    boxes = np.array([[0.25, 0.1, 0.5, 0.5], [0, 0, 1, 1]], np.float32)
    scores, ids = np.array([0.9, 0.8], np.float32), np.array([3, 0])
    names = {"boxes": "b", "scores": "s", "classes": "c"}
    spec = spec_of("ssd", options={**names, "corners": "yxyx"}, offset=1)
    (tf,) = decode(spec, {"b": boxes[None], "s": scores[None], "c": ids[None].astype(np.float32)})
    np.testing.assert_allclose(tf.xyxy, [[16, 24, 80, 48]], atol=1e-4)
    assert tf.class_id.tolist() == [3]
    spec = spec_of("ssd", options={**names, "normalised": False})
    (torchvision,) = decode(spec, {"b": boxes * 100, "s": scores, "c": ids})
    np.testing.assert_allclose(torchvision.xyxy, boxes * 100)
    assert torchvision.class_id.tolist() == [3, 0]


@pytest.mark.parametrize("family", ["detections", "yolov5", "yolov8", "yolox", "ssd"])
def test_nan_scores_are_an_error_and_not_an_empty_answer(family):
    outputs = {"detections": np.zeros((1, 9, 6), np.float32)} if family == "detections" else globals()[f"encode_{family}"]([])
    broken = {name: np.full_like(array, np.nan) for name, array in outputs.items()}
    # The naive threshold finds nothing to say: NaN is not above anything.
    assert not (next(iter(broken.values())) > 0.4).any()
    with pytest.raises(ModelError, match="NaN"):
        decode(spec_of(family), broken)


@pytest.mark.parametrize(
    ("decoder", "outputs", "says"),
    [
        ("yolox", {"output": np.zeros((1, 100, 10), np.float32)}, "100 anchors"),
        ("yolov5", {"output": np.zeros((1, 100), np.float32)}, "axes"),
        ("yolov8", {"output": np.zeros((1, 84, 100), np.float32)}, "5 classes"),
        ("ssd", {"a": np.zeros((1, 5, 4), np.float32)}, "boxes"),
        ("yunet", {"cls_8": np.zeros((1, 5, 1), np.float32)}, "cls_16"),
        ("nanodet", {"o": np.zeros((1, 5, 20), np.float32)}, "bins"),
        ("detections", {}, "detections"),
    ],
)
def test_outputs_of_another_family_are_refused_in_one_line(decoder, outputs, says):
    with pytest.raises(ModelError, match=says) as caught:
        decode(spec_of(decoder), outputs)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_unknown_decoder_names_the_nearest():
    with pytest.raises(UnknownNameError, match="yolov8"):
        HEADS.load("yolov9")


def test_every_row_of_the_table_loads():
    assert all(callable(HEADS.load(name)) for name in HEADS)
