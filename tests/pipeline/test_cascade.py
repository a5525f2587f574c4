import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetlens.data.orange_line import GRADES, still
from jetlens.errors import UsageError
from jetlens.ops.boxes import iou_matrix
from jetlens.pipeline.cascade import Cascade, defect_ratios, whole_pixels
from jetlens.predictor import Predictor, load
from jetlens.results import Detections

SEED = 2_500_000


@pytest.fixture(scope="module")
def predictors():
    with (
        load("orange-detect", threads=1) as detector,
        load("orange-grade", threads=1) as grader,
        load("orange-segment", threads=1) as segmenter,
    ):
        yield detector, grader, segmenter


def test_fruit_are_found_graded_and_their_defects_measured(predictors: tuple[Predictor, ...]) -> None:
    cascade = Cascade(*predictors)
    found = right = 0
    for seed in range(SEED, SEED + 4):
        image, truth = still(seed)
        before = image.copy()
        inspection = cascade(image)
        assert np.array_equal(image, before)
        assert inspection.objects.labels == GRADES
        iou = iou_matrix(truth.xyxy, inspection.objects.xyxy)
        for row, overlaps in enumerate(iou):
            best = int(overlaps.argmax())
            if overlaps[best] > 0.8:
                found += 1
                right += int(inspection.objects.class_id[best]) == int(truth.grade[row])
                assert inspection.defect_ratio[best] == pytest.approx(truth.defect_ratio[row], abs=0.06)
    assert found >= 35
    assert right >= 0.95 * found


def test_a_picture_without_fruit_gives_no_rows(predictors: tuple[Predictor, ...]) -> None:
    inspection = Cascade(*predictors)(np.full((120, 200, 3), 90, np.uint8))
    assert len(inspection.objects) == 0
    assert inspection.defect_ratio.shape == (0,)
    assert inspection.segmentation.mask.shape == (120, 200)


def test_a_model_of_another_task_is_refused(predictors: tuple[Predictor, ...]) -> None:
    detector, grader, _ = predictors
    with pytest.raises(UsageError, match="needs a model for segmentation; orange-grade is for classification"):
        Cascade(detector, grader, grader)


@given(arrays(np.float32, (5, 4), elements=st.floats(-50, 250, width=32)))
def test_boxes_become_whole_pixels_inside_the_picture(xyxy: np.ndarray) -> None:
    xyxy = np.concatenate([np.minimum(xyxy[:, :2], xyxy[:, 2:]), np.maximum(xyxy[:, :2], xyxy[:, 2:])], axis=1)
    boxes = whole_pixels(Detections(xyxy, np.ones(5, np.float32), np.zeros(5, np.int64), (100, 200)))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 200).all()
    assert (boxes[:, 3] <= 100).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_the_share_is_of_the_ellipse_in_the_box() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[0:10, 0:10] = 2
    ratios = defect_ratios(mask, np.array([[0, 0, 20, 20], [20, 20, 40, 40], [0, 0, 10, 10]]))
    assert ratios == pytest.approx([100 / (400 * np.pi / 4), 0.0, 1.0])
