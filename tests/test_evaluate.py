"""Evaluation: exact scores of predictors whose answers are known, and datasets that do not fit are named."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image as PillowImage

from jetlens.cli import main
from jetlens.data.matching import match_labels
from jetlens.data.samples import TEST_SEED, Sample, orange_line_samples
from jetlens.errors import DataError, MissingDependencyError, ModelError, UsageError
from jetlens.evaluate import dataset, evaluate
from jetlens.imagefile import load_image
from jetlens.labels import labels as shipped_labels
from jetlens.predictor import load
from jetlens.results import Classification, Detections, Segmentation
from jetlens.spec import ModelSpec, PreprocessSpec
from tiny_graphs import BLUE, GREEN, RED, color_graph, color_spec, write_pair

SMALL_HW = (90, 160)


class Fixed:
    """Answers with what it was given, picture after picture."""

    twin = None

    def __init__(self, task: str, labels: tuple[str, ...], answers: list[Any]) -> None:
        self.spec = ModelSpec("fixed", task, labels, PreprocessSpec((8, 8)), "x")  # type: ignore[arg-type]
        self._answers = iter(answers)

    def __call__(self, image: Any) -> Any:
        return next(self._answers)


def _classified(*ids: int) -> Classification:
    return Classification(np.array(ids), np.linspace(0.9, 0.1, len(ids), dtype=np.float32), (8, 8))


def _boxes(*rows: tuple[float, float, float, float], confidence: float = 1.0) -> Detections:
    count = len(rows)
    return Detections(
        np.array(rows, np.float32).reshape(-1, 4), np.full(count, confidence, np.float32), np.zeros(count, np.int64), (50, 50)
    )


def test_classification_counts() -> None:
    truths, answers = [0, 0, 1, 2], [_classified(0, 1, 2), _classified(1, 0, 2), _classified(1, 2, 0), _classified(0, 1, 2)]
    samples = [Sample(RED, truth, str(i)) for i, truth in enumerate(truths)]
    result = evaluate(Fixed("classification", ("a", "b", "c"), answers), samples)  # type: ignore[arg-type]
    assert (result.metric, result.score, result.count) == ("top1", 0.5, 4)
    assert [row["support"] for row in result.classes] == [2, 1, 1]
    assert [row["recall"] for row in result.classes] == [0.5, 1.0, 0.0]
    assert result.interval is not None
    assert result.interval[0] < 0.5 < result.interval[1]


def test_detection_counts() -> None:
    truths = [_boxes((0, 0, 10, 10), (20, 20, 40, 40)), _boxes((5, 5, 15, 15))]
    samples = [Sample(RED, truth, str(i)) for i, truth in enumerate(truths)]
    perfect = evaluate(Fixed("detection", ("orange",), truths), samples)  # type: ignore[arg-type]
    assert (perfect.metric, perfect.score, perfect.count) == ("map50", 1.0, 2)
    half = evaluate(Fixed("detection", ("orange",), [_boxes((0, 0, 10, 10)), _boxes()]), samples)  # type: ignore[arg-type]
    assert half.score == pytest.approx(34 / 101, abs=1e-6)
    assert half.classes[0]["boxes"] == 3


def test_a_package_that_a_score_needs_is_missed_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    samples = iter([Sample(RED, 0, str(number)) for number in range(3)])
    with pytest.raises(MissingDependencyError, match="mAP needs faster_coco_eval"):
        evaluate(Fixed("detection", ("a",), []), samples)  # type: ignore[arg-type]
    assert evaluate(Fixed("classification", ("a",), [_classified(0)] * 3), samples).count == 3  # type: ignore[arg-type]


def test_segmentation_counts_pixels_over_all_pictures() -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[:2] = 1
    wrong = truth.copy()
    wrong[0, 0] = 0
    labels = ("background", "spot")
    samples = [Sample(RED, truth, "0"), Sample(RED, truth, "1")]
    result = evaluate(Fixed("segmentation", labels, [Segmentation(truth, labels), Segmentation(wrong, labels)]), samples)  # type: ignore[arg-type]
    assert result.metrics["pixel_accuracy"] == pytest.approx(31 / 32)
    assert result.score == pytest.approx((16 / 17 + 15 / 16) / 2)
    assert result.interval is not None
    assert result.interval[0] <= result.score <= result.interval[1]
    assert result.metrics["miou_foreground"] == pytest.approx(15 / 16)


def _argmax_pair(folder: Path) -> Path:
    """A segmenter of two classes whose scores are the square roots of how much redder than half a pixel is, and of its blue."""
    helper, tensor = onnx.helper, onnx.TensorProto
    levels = np.array([[1, 0, 0], [0, 0, 1]], np.float32).reshape(2, 3, 1, 1) / 255
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=tensor.FLOAT),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "levels", "less"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["mask"], axis=1, keepdims=0),
    ]
    values = [onnx.numpy_helper.from_array(levels, "levels"), onnx.numpy_helper.from_array(np.float32([-0.5, 0]), "less")]
    taken = helper.make_tensor_value_info("images", tensor.UINT8, ["N", 8, 12, 3])
    given = helper.make_tensor_value_info("mask", tensor.INT64, ["N", 8, 12])
    graph = helper.make_graph(nodes, "halves", [taken], [given], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rule = PreprocessSpec((8, 12), resize="stretch", baked=True)
    return write_pair(folder, model, ModelSpec("halves", "segmentation", ("red", "blue"), rule, "mask"), "halves.onnx")


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "pytorch"])
def test_nan_that_an_argmax_hides_is_an_error_and_no_score(tmp_path: Path, backend: str, at: int) -> None:
    pytest.importorskip(backend.replace("pytorch", "torch"))
    truth = np.zeros(RED.shape[:2], np.uint8)
    pictures = [RED] * 6
    with load(_argmax_pair(tmp_path), backend, threads=1) as predictor:
        assert evaluate(predictor, [Sample(picture, truth, "p") for picture in pictures]).score == 1
        pictures[at] = GREEN
        # The control: green's first score is the root of a negative number, and yet it is answered.
        assert set(np.unique(predictor(GREEN).mask)) <= {0, 1}
        for count in (6, at + 1):
            with pytest.raises(ModelError, match=r"halves: 96 of 192 scores 'scores' behind the graph's ArgMax are NaN or infinite"):
                evaluate(predictor, [Sample(picture, truth, "p") for picture in pictures[:count]])


def test_a_truth_of_another_task_is_named() -> None:
    with pytest.raises(DataError, match="class id"):
        evaluate(Fixed("classification", ("a",), [_classified(0)]), [Sample(RED, _boxes(), "p")])  # type: ignore[arg-type]


def test_no_picture_is_an_error_and_no_score() -> None:
    with pytest.raises(DataError, match="empty"):
        evaluate(Fixed("classification", ("a",), []), [])  # type: ignore[arg-type]


def test_the_orange_line_gives_each_task_its_truth() -> None:
    grades = list(orange_line_samples("classification", 3, SMALL_HW))
    boxes = list(orange_line_samples("detection", 3, SMALL_HW))
    masks = list(orange_line_samples("segmentation", 3, SMALL_HW))
    assert len(grades) == sum(len(sample.truth) for sample in boxes)  # type: ignore[arg-type]
    for sample in masks:
        assert isinstance(sample.truth, np.ndarray)
        assert sample.truth.shape == SMALL_HW == sample.image.shape[:2]  # type: ignore[union-attr]
    assert all(isinstance(sample.truth, int) for sample in grades)
    assert boxes[0].name == f"orange-line:{TEST_SEED}"
    # A crop is exactly the pixels of its true box.
    left, top, right, bottom = boxes[0].truth.xyxy[0].astype(int)  # type: ignore[union-attr]
    np.testing.assert_array_equal(grades[0].image, boxes[0].image[top:bottom, left:right])  # type: ignore[index]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "colours"
    for name, picture in (("Red", RED), ("n01440764_green", GREEN), ("2", BLUE)):
        (root / name).mkdir(parents=True)
        for number in range(4):
            PillowImage.fromarray(picture).save(root / name / f"{number}.png")
    (root / ".cache").mkdir()
    (root / "readme.txt").write_text("no picture")
    return root


def _with_labels(*labels: str, task: str = "classification") -> ModelSpec:
    return ModelSpec("fixed", task, labels, PreprocessSpec((8, 8)), "x")  # type: ignore[arg-type]


def test_an_image_folder_matches_names_and_ids(folder: Path) -> None:
    samples = list(dataset(folder, _with_labels("red, crimson", "green", "blue")))
    assert sorted(sample.truth for sample in samples) == [0] * 4 + [1] * 4 + [2] * 4  # type: ignore[type-var]
    assert len({sample.truth for sample in dataset(folder, _with_labels("red", "green", "blue"), 3)}) == 3  # type: ignore[misc]


def test_a_folder_that_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'Red'"):
        dataset(folder, _with_labels("cat", "dog", "green"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no picture"):
        dataset(tmp_path / "bare", _with_labels("a"))
    with pytest.raises(DataError, match="no such dataset"):
        dataset(tmp_path / "absent", _with_labels("a"))


def test_dataset_refuses_what_has_no_truth(folder: Path) -> None:
    spec = replace(color_spec(), task="detection", decoder="detections")
    with pytest.raises(UsageError, match="no truth for detection"):
        dataset(folder, spec)
    with pytest.raises(UsageError, match="--size"):
        dataset(folder, color_spec(), size_hw=(10, 10))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_backend_scores_the_same(tmp_path: Path, folder: Path, backend: str) -> None:
    with load(write_pair(tmp_path, color_graph()), backend, threads=1) as predictor:
        result = evaluate(predictor, dataset(folder, predictor.spec))
    assert (result.score, result.count) == (1.0, 12)


def test_the_command_prints_score_and_count_and_names_unreadable_files(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_pair(tmp_path, color_graph())

    def run(*flags: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", str(model), "--data", str(folder), "--backend", "onnxruntime", "--threads", "1", *flags])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    code, out, err = run()
    assert (code, err) == (0, "")
    assert "top1 1.0000 (0.7575-1.0000) on 12 pictures" in out
    assert "CPUExecutionProvider fp32" in out
    (folder / "Red" / "0.png").write_bytes(b"")
    code, out, err = run("--json")
    facts = json.loads(out)
    assert (code, facts["images"], facts["score"], len(facts["skipped"])) == (1, 11, 1.0, 1)
    assert facts["provider"] == "CPUExecutionProvider"
    assert "0.png" in err
    code, out, _ = run("--count", "6", "--json")
    assert json.loads(out)["images"] + len(json.loads(out)["skipped"]) == 6


def _yolo_set(root: Path, names: tuple[str, ...]) -> Path:
    for k in range(3):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "labels").mkdir(exist_ok=True)
        pixels = np.full((50, 50, 3), 80 * k, np.uint8)
        PillowImage.fromarray(pixels).save(root / "images" / f"{k}.png")
        (root / "labels" / f"{k}.txt").write_text("".join(f"{i} 0.5 0.5 0.4 0.2\n" for i in range(len(names))))
    (root / "data.yaml").write_text("val: images\nnames: [" + ", ".join(names) + "]\n")
    return root


class Perfect:
    """Answers with the truth of the samples that it was made from."""

    twin = None

    def __init__(self, spec: ModelSpec, samples: Any) -> None:
        self.spec = spec
        self._answers = {str(sample.image): sample.truth for sample in samples}

    def __call__(self, image: Any) -> Any:
        load_image(image)
        return self._answers[str(image)]


@pytest.mark.parametrize("names", ["coco80", "coco91"])
def test_boxes_are_matched_to_the_models_labels_by_name(tmp_path: Path, names: str) -> None:
    root = _yolo_set(tmp_path, ("tvmonitor", "Traffic_Light", "person"))
    spec = _with_labels(*shipped_labels(names), task="detection")
    samples = dataset(root, spec)
    truth = next(iter(samples)).truth
    assert isinstance(truth, Detections)
    assert [spec.labels[i] for i in truth.class_id] == ["tv", "traffic light", "person"]
    result = evaluate(Perfect(spec, samples), samples)  # type: ignore[arg-type]
    assert (result.score, result.count, [row["label"] for row in result.classes]) == (1.0, 3, ["person", "traffic light", "tv"])
    with pytest.raises(DataError, match=r"1 of its 3 classes .*'tvmonitor'"):
        dataset(root, _with_labels("person", "traffic light", task="detection"))


@pytest.mark.parametrize("names", ["imagenet", "coco80", "coco91", "voc", "cityscapes", "cifar10"])
def test_every_shipped_label_is_itself(names: str) -> None:
    ours = shipped_labels(names)
    named = [i for i, label in enumerate(ours) if label]
    assert match_labels([ours[i] for i in named], ours, names).tolist() == named


def test_vocs_words_are_cocos() -> None:
    ours = shipped_labels("coco80")
    found = match_labels(shipped_labels("voc")[1:], ours, "voc")
    assert [ours[i] for i in found[[0, 8, 10, 13, 17, 19]]] == ["airplane", "chair", "dining table", "motorcycle", "couch", "tv"]


def test_a_picture_or_label_that_is_bad_is_named_and_left_out(tmp_path: Path) -> None:
    root = _yolo_set(tmp_path, ("person",))
    spec = _with_labels("person", task="detection")
    predictor = Perfect(spec, list(dataset(root, spec)))
    (root / "images" / "0.png").write_bytes(b"broken")
    (root / "labels" / "1.txt").write_text("0 nan 0.5 0.1 0.1\n")
    result = evaluate(predictor, dataset(root, spec))  # type: ignore[arg-type]
    assert (result.count, len(result.skipped), result.score) == (1, 2, 1.0)
    assert "0.png" in result.skipped[0]
    assert "1.txt" in result.skipped[1]


def test_masks_are_matched_and_void_pixels_do_not_count(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((8, 8), np.uint8)
    mask[:4], mask[7] = 1, 2
    PillowImage.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images" / "0.png")
    PillowImage.fromarray(mask).save(tmp_path / "masks" / "0.png")
    (tmp_path / "labels.txt").write_text("background\nspot\nvoid\n")
    labels = ("spot", "other", "background")
    samples = dataset(tmp_path, _with_labels(*labels, task="segmentation"))
    expected = np.full((8, 8), 2, np.uint8)
    expected[:4] = 0
    expected[7] = 255
    np.testing.assert_array_equal(next(iter(samples)).truth, expected)
    answer = np.where(expected == 255, 1, expected).astype(np.uint8)
    result = evaluate(Fixed("segmentation", labels, [Segmentation(answer, labels)]), samples)  # type: ignore[arg-type]
    assert (result.score, result.metrics["pixel_accuracy"]) == (1.0, 1.0)


def test_the_datasets_own_test_part_is_taken_then_its_validation(folder: Path, tmp_path: Path) -> None:
    spec = _with_labels("red", "green", "blue")
    root = tmp_path / "parts"
    for part in ("train", "val", "test"):
        shutil.copytree(folder, root / part)
    for file in (path for path in (root / "train").rglob("*") if path.is_file()):
        file.write_bytes(file.read_bytes() + b"\0")  # other bytes, the same picture: what validation holds too is left out of training
    for split, count in ((None, 12), ("train", 12), ("all", 36)):
        assert len(list(dataset(root, spec, split=split))) == count  # type: ignore[arg-type]
    assert "test" in dataset(root, spec).origin  # type: ignore[attr-defined]
    shutil.rmtree(root / "test")
    assert "val" in dataset(root, spec).origin  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="test part"):
        dataset(root, spec, split="test")


def test_the_real_photos_of_coco_are_matched(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "datasets" / "coco_val2017_64.tar"
    if not archive.is_file():
        pytest.skip(f"the photos are not here: {archive}")
    with tarfile.open(archive) as tar:
        for member in tar:
            if "images/" in member.name or "object_detection" in member.name:
                tar.extract(member, tmp_path)
    root = tmp_path / "coco_val2017_first128"
    (root / "object_detection" / "images").symlink_to("../images")
    spec = _with_labels(*shipped_labels("coco91"), task="detection")
    samples = dataset(root / "object_detection", spec)
    result = evaluate(Perfect(spec, samples), samples)  # type: ignore[arg-type]
    assert (result.count, result.skipped) == (64, ())
    assert result.score > 0.999
