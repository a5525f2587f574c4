"""Assignment, IoU and the geometry of augmentation, each against a plain computation."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from jetlens.train.augment import Augmentation, apply_warp, draw_warp, recolour, warp_boxes  # noqa: E402
from jetlens.train.detection import assign, pairwise_iou  # noqa: E402
from jetlens.train.losses import dice_loss  # noqa: E402

torch.set_num_threads(1)


def box(draw):
    x, y = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    return [x, y, x + draw(st.integers(1, 40)), y + draw(st.integers(1, 40))]


def plain_iou(a, b):
    grid = np.zeros((2, 100, 100), bool)
    for layer, (x1, y1, x2, y2) in zip(grid, (a, b), strict=True):
        layer[y1:y2, x1:x2] = True
    return (grid[0] & grid[1]).sum() / (grid[0] | grid[1]).sum()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_pairwise_iou_is_counted_pixels(data):
    a, b = ([box(data.draw) for _ in range(3)] for _ in range(2))
    found = pairwise_iou(torch.tensor([a]).float(), torch.tensor([b]).float())[0]
    for row in range(3):
        for column in range(3):
            assert float(found[row, column]) == pytest.approx(plain_iou(a[row], b[column]), abs=1e-5)


def scene():
    centres = (torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), -1).reshape(-1, 2) + 0.5) * 8.0
    true_xyxy = torch.tensor([[[4.0, 4.0, 28.0, 28.0], [30.0, 30.0, 60.0, 60.0], [0.0, 0.0, 0.0, 0.0]]])
    true_class = torch.tensor([[1, 0, -1]])
    return centres, true_xyxy, true_class


def test_anchors_inside_a_box_that_predict_it_become_its_own():
    centres, true_xyxy, true_class = scene()
    boxes = torch.cat([centres - 12, centres + 12], dim=1)[None]
    target, owner = assign(boxes, torch.full((1, 64, 2), 0.1), centres, true_xyxy, true_class)
    chosen = target.amax(-1)[0] > 0
    assert 0 < int(chosen.sum()) <= 26
    for anchor in torch.nonzero(chosen)[:, 0].tolist():
        x1, y1, x2, y2 = true_xyxy[0, owner[0, anchor]].tolist()
        x, y = centres[anchor].tolist()
        assert x1 < x < x2
        assert y1 < y < y2
        assert int(target[0, anchor].argmax()) == int(true_class[0, owner[0, anchor]])
    # The strongest target of a box is the IoU of its best anchor.
    best = pairwise_iou(true_xyxy, boxes)[0, 0].max()
    assert float(target[0, :, 1].max()) == pytest.approx(float(best), abs=1e-5)


def test_a_picture_without_boxes_has_no_targets():
    centres, true_xyxy, true_class = scene()
    boxes = torch.cat([centres - 12, centres + 12], dim=1)[None]
    target, _ = assign(boxes, torch.rand(1, 64, 2), centres, true_xyxy, torch.full_like(true_class, -1))
    assert float(target.abs().sum()) == 0


def test_boxes_follow_the_pixels_through_a_warp():
    torch.manual_seed(0)
    size = (96, 128)
    boxes = torch.tensor([[40.0, 30.0, 70.0, 60.0]]).repeat(16, 1)
    pictures = torch.zeros(16, 1, *size)
    pictures[:, :, 30:60, 40:70] = 1
    warp = draw_warp(16, Augmentation(share=1.0, shift=0.1), torch.device("cpu"))
    moved, class_id = warp_boxes(warp, boxes[:, None], torch.zeros(16, 1, dtype=torch.int64), size)
    shown = apply_warp(warp, pictures, "nearest", 0.0)[:, 0] > 0.5
    assert int((class_id == 0).sum()) >= 12
    for picture, found, kind in zip(shown, moved[:, 0], class_id[:, 0], strict=True):
        if kind == 0:
            rows, columns = torch.nonzero(picture.any(1))[:, 0], torch.nonzero(picture.any(0))[:, 0]
            seen = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            assert float((seen - found).abs().max()) <= 1.0


def test_a_warp_without_a_share_is_a_flip_at_most():
    torch.manual_seed(1)
    pictures = torch.rand(8, 3, 24, 32) * 255
    warped = apply_warp(draw_warp(8, Augmentation(share=0.0), torch.device("cpu")), pictures, "bilinear", 114.0)
    for before, after in zip(pictures, warped, strict=True):
        flips = (before, before.flip(1), before.flip(2), before.flip(1, 2))
        assert min(float((flip - after).abs().max()) for flip in flips) < 1e-2


def test_recoloured_pictures_stay_grey_levels():
    pictures = torch.rand(4, 3, 16, 16) * 255
    changed = recolour(pictures, Augmentation())
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255
    assert not torch.equal(changed, pictures)


def test_dice_is_zero_for_the_truth_and_high_for_its_opposite():
    mask = torch.randint(0, 4, (2, 16, 16))
    truth = torch.nn.functional.one_hot(mask, 4).movedim(-1, 1).float()
    assert float(dice_loss(truth, mask)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(truth.roll(1, dims=1), mask)) > 0.9
