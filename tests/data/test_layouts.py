"""Every layout: a tiny dataset is told, opened and read right; what is wrong is one line."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_sets
from PIL import Image

from jetlens.data import LAYOUTS, LabelError, compute_mean_std, open_dataset
from jetlens.data.layouts import Layout
from jetlens.data.layouts.cifar10 import download
from jetlens.data.opening import detect_layout, open_listed
from jetlens.data.statistics import CIFAR10_MEAN_STD, IMAGENET_MEAN_STD
from jetlens.errors import DataError, ImageError, JetlensError, NetworkError, UnknownNameError, UsageError
from jetlens.results import Detections

SETS: dict[str, Callable[[Path], Path]] = {
    "cifar10": tiny_sets.cifar10_binary,
    "coco": tiny_sets.coco,
    "voc": tiny_sets.voc,
    "penn-fudan": tiny_sets.penn_fudan,
    "yolo": tiny_sets.yolo,
    "masks": tiny_sets.masks,
    "imagenet": tiny_sets.imagenet,
    "image-folder": tiny_sets.image_folder,
}


def test_every_layout_has_a_tiny_set() -> None:
    assert set(SETS) == set(LAYOUTS)


@pytest.mark.parametrize("name", SETS)
def test_a_folder_tells_its_layout_and_reads(tmp_path: Path, name: str) -> None:
    root = SETS[name](tmp_path / "set")
    assert detect_layout(root).name == name
    layout: Layout = LAYOUTS.load(name)
    for task in layout.tasks(root):
        dataset = open_dataset(root, task)
        for index in range(len(dataset)):
            sample = dataset[index]
            pixels = np.asarray(Image.open(sample.image)) if isinstance(sample.image, Path) else sample.image
            if isinstance(sample.truth, int):
                assert 0 <= sample.truth < len(dataset.labels)
            elif isinstance(sample.truth, Detections):
                assert sample.truth.size_hw == pixels.shape[:2]
                assert sample.truth.labels == dataset.labels
            else:
                assert sample.truth.shape == pixels.shape[:2]
                assert set(np.unique(sample.truth)) <= {*range(len(dataset.labels)), 255}
        whole = {dataset[i].name for i in range(len(dataset))}
        parts = [{part[i].name for i in range(len(part))} for part in (open_dataset(root, task, split) for split in ("train", "val"))]
        assert parts[0]
        assert parts[1]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] <= whole


@pytest.mark.parametrize("name", SETS)
def test_a_wrong_path_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no dataset")
    (tmp_path / "set.tar").write_bytes(b"")
    for wrong in ("absent", "empty", "file.txt", "set.tar"):
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path / wrong, layout=name)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300
        with pytest.raises(DataError, match="is a file that is no dataset" if wrong == "file.txt" else None):
            open_dataset(tmp_path / wrong)


def test_wrong_names_list_the_known_ones(tmp_path: Path) -> None:
    root = tiny_sets.image_folder(tmp_path)
    with pytest.raises(UnknownNameError, match="voc"):
        open_dataset(root, layout="vox")
    with pytest.raises(UnknownNameError, match="train"):
        open_dataset(root, split="dev")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no truth for detection"):
        open_dataset(root, "detection")
    with pytest.raises(DataError, match="test part"):
        open_dataset(root, split="test")
    with pytest.raises(UsageError, match="val_fraction"):
        open_dataset(root, val_fraction=1.0)


def test_cifar10_in_all_its_forms_is_the_same(tmp_path: Path) -> None:
    binary = open_listed(tiny_sets.cifar10_binary(tmp_path / "bin"))
    data, labels = tiny_sets.cifar_rows(20, 1)
    np.testing.assert_array_equal(binary[23].image, data[3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert binary[23].truth == labels[3]
    assert [binary.parts.count(part) for part in ("train", "test")] == [40, 20]
    assert binary.mean_std() == CIFAR10_MEAN_STD
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        pickled = open_listed(tiny_sets.cifar10_pickled(tmp_path / str(protocol), protocol))
        for index in range(60):
            np.testing.assert_array_equal(pickled[index].image, binary[index].image)
            assert pickled[index].truth == binary[index].truth


def test_a_damaged_cifar10_is_named(tmp_path: Path) -> None:
    root = tiny_sets.cifar10_binary(tmp_path)
    file = root / "cifar-10-batches-bin" / "data_batch_1.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="whole number of records"):
        open_dataset(root)
    file.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(DataError, match="0 to 9"):
        open_dataset(root)


def test_the_download_is_only_asked_for_and_its_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(NetworkError, match="could not be downloaded"):
        download(tmp_path / "set")


def test_imagenet_knows_classes_by_synset(tmp_path: Path) -> None:
    dataset = open_listed(tiny_sets.imagenet(tmp_path / "set"))
    assert dataset.labels == ("tench", "goldfish", "toilet tissue")
    assert dataset.mean_std() == IMAGENET_MEAN_STD
    val = [(sample.name[-13:], sample.truth) for sample, part in zip(dataset, dataset.parts, strict=True) if part == "val"]
    assert val == [("00000000.JPEG", 2), ("00000001.JPEG", 0), ("00000002.JPEG", 1)]
    (tmp_path / "set" / "LOC_val_solution.csv").unlink()
    with pytest.raises(DataError, match="nothing says its class"):
        open_dataset(tmp_path / "set")
    (tmp_path / "set" / "val.txt").write_text("".join(f"ILSVRC2012_val_{k:08d}.JPEG {999 if k else 0}\n" for k in range(3)))
    assert [dataset.truth(i) for dataset in [open_listed(tmp_path / "set")] for i in range(6, 9)] == [0, 2, 2]


def test_coco_maps_gaps_and_keeps_crowds_out_of_boxes(tmp_path: Path) -> None:
    root = tiny_sets.coco(tmp_path)
    boxes = open_listed(root, "detection")
    assert boxes.labels == ("car", "cat")
    truth = boxes[0].truth
    assert isinstance(truth, Detections)
    assert truth.class_id.tolist() == [1, 0]
    np.testing.assert_array_equal(truth.xyxy, [[10, 5, 30, 25], [40, 0, 41, 6]])
    shapes = open_listed(root, "segmentation")
    assert shapes.labels == ("background", "car", "cat")
    expected = np.zeros((48, 64), np.uint8)
    expected[5:25, 10:30], expected[0:6, 40], expected[:, :2] = 2, 1, 1
    np.testing.assert_array_equal(shapes[0].truth, expected)
    alone = open_dataset(root / "annotations" / "instances_val2017.json", "detection")
    assert len(alone) == 3
    assert len(alone[0].truth) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"bbox": [1, 2, float("nan"), 4]}, "not-a-number"),
        ({"bbox": [1, 2, 3]}, "bad-label"),
        ({"bbox": [1, 2, 0, 4]}, "degenerate-box"),
        ({"bbox": [60, 2, 30, 4]}, "box-off-image"),
        ({"category_id": 4}, "unknown-class"),
    ],
)
def test_a_bad_coco_row_is_named_when_its_picture_is_read(tmp_path: Path, change: dict[str, object], code: str) -> None:
    root = tiny_sets.coco(tmp_path)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0].update(change)
    path.write_text(json.dumps(content))
    dataset = open_dataset(root, "detection")
    with pytest.raises(LabelError, match="000000000003") as caught:
        dataset[3]
    assert caught.value.code == code
    assert dataset[4]
    assert isinstance(pickle.dumps(caught.value), bytes)


def test_a_coco_file_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    root = tiny_sets.coco(tmp_path)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for wrong in ("../../etc/passwd", "/etc/passwd", "", 3):
        content["images"][0]["file_name"] = wrong
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match="file_name"):
            open_dataset(root)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="JSON"):
        open_dataset(root)


def test_yolo_reads_boxes_and_polygons(tmp_path: Path) -> None:
    boxes = open_listed(tiny_sets.yolo(tmp_path / "boxes"))
    truth = boxes[0].truth
    assert isinstance(truth, Detections)
    np.testing.assert_allclose(truth.xyxy, [[16, 12, 48, 36], [3.2, 2.4, 9.6, 7.2]], atol=1e-4)
    assert truth.class_id.tolist() == [1, 0]
    root = tiny_sets.yolo(tmp_path / "polygons", polygons=True)
    again = open_listed(root, "detection")[0].truth
    assert isinstance(again, Detections)
    np.testing.assert_allclose(again.xyxy, truth.xyxy, atol=1e-4)
    mask = open_listed(root, "segmentation")[0].truth
    assert isinstance(mask, np.ndarray)
    assert (mask == 2).sum() == 24 * 32
    assert (mask[12:36, 16:48] == 2).all()
    (root / "labels" / "train" / "0.txt").unlink()
    assert len(open_listed(root, "detection")[0].truth) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 0.5 0.5 0.2", "bad-label"),
        ("0 0.5 0.5 0.2 x", "bad-label"),
        ("0.5 0.5 0.5 0.2 0.2", "bad-label"),
        ("2 0.5 0.5 0.2 0.2", "unknown-class"),
        ("-1 0.5 0.5 0.2 0.2", "unknown-class"),
        ("0 nan 0.5 0.2 0.2", "not-a-number"),
        ("0 0.5 0.5 0 0.2", "degenerate-box"),
        ("0 1.5 0.5 0.2 0.2", "box-off-image"),
        ("1e999 0.5 0.5 0.2 0.2", "not-a-number"),
    ],
)
def test_a_bad_yolo_line_is_named(tmp_path: Path, line: str, code: str) -> None:
    root = tiny_sets.yolo(tmp_path)
    (root / "labels" / "train" / "0.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(LabelError, match=r"0\.txt") as caught:
        open_dataset(root)[0]
    assert caught.value.code == code


def test_voc_reads_boxes_and_palette_masks(tmp_path: Path) -> None:
    root = tiny_sets.voc(tmp_path)
    truth = open_listed(root, "detection")[0].truth
    assert isinstance(truth, Detections)
    np.testing.assert_array_equal(truth.xyxy, [[10, 5, 30, 25], [40, 0, 64, 10]])
    assert list(truth.names()) == ["dog", "car"]
    dataset = open_listed(root, "segmentation")
    mask = dataset[0].truth
    assert isinstance(mask, np.ndarray)
    assert set(np.unique(mask)) == {0, 7, 12, 255}
    assert (dataset.labels[12], dataset.labels[7]) == ("dog", "car")
    assert len(open_dataset(root, "detection", "val")) == 2


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    root = tiny_sets.voc(tmp_path)
    file = root / "VOCdevkit" / "VOC2012" / "Annotations" / "0000.xml"
    laughs = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 30))
    for text in (
        f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><annotation>&a29;</annotation>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><name>&a;</name></annotation>',
        "<annotation>" * 5000,
        "<annotation><object></annotation>",
        "\0\1\2",
        "",
    ):
        file.write_text(text)
        with pytest.raises(LabelError) as caught:
            open_dataset(root, "detection")[0]
        assert caught.value.code == "bad-label"


def test_camvid_void_is_ignored(tmp_path: Path) -> None:
    dataset = open_listed(tiny_sets.camvid(tmp_path))
    assert (len(dataset.labels), dataset.labels[3]) == (11, "road")
    assert set(np.unique(dataset[0].truth)) == {0, 3, 255}  # type: ignore[arg-type]
    assert [len(open_dataset(tmp_path, split=split)) for split in ("train", "val", "test")] == [3, 2, 2]  # type: ignore[arg-type]


def test_bad_masks_are_named(tmp_path: Path) -> None:
    root = tiny_sets.masks(tmp_path)
    file = root / "masks" / "0.png"
    dataset = open_dataset(root)
    good = file.read_bytes()

    def code() -> str:
        with pytest.raises((LabelError, ImageError), match=r"0\.png") as caught:
            dataset[0]
        return str(caught.value.code)  # type: ignore[attr-defined]

    tiny_sets.save_mask(file, np.zeros((10, 10), np.uint8))
    assert code() == "mask-size"
    tiny_sets.save_mask(file, np.full((48, 64), 9, np.uint8))
    assert code() == "unknown-mask-id"
    tiny_sets.save(file, tiny_sets.picture(1))
    assert code() == "mask-colors"
    file.write_bytes(good[: len(good) // 2])
    assert code() == "damaged"
    file.write_bytes(b"no picture")
    assert code() == "not-an-image"
    file.unlink()
    assert code() == "missing-mask"


def test_masks_without_a_list_of_labels_are_counted(tmp_path: Path) -> None:
    (tiny_sets.masks(tmp_path) / "labels.txt").unlink()
    assert open_dataset(tmp_path).labels == ("class 0", "class 1", "class 2")


def test_mean_and_std_are_those_of_the_pixels(tmp_path: Path) -> None:
    root = tiny_sets.image_folder(tmp_path)
    dataset = open_dataset(root)
    pixels = np.stack([np.asarray(Image.open(dataset[i].image)) for i in range(len(dataset))]).reshape(-1, 3)  # type: ignore[arg-type]
    mean, std = compute_mean_std(dataset, (48, 64), 100)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(std, pixels.std(axis=0), atol=1e-3)
    assert dataset.mean_std() is None
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="no picture can be read"):
        compute_mean_std(dataset)


def test_the_orange_line_is_a_dataset() -> None:
    for task in ("detection", "segmentation"):
        train, val, test = (open_dataset("orange-line", task, split) for split in ("train", "val", "test"))  # type: ignore[arg-type]
        assert (len(train), len(val), len(test)) == (1000, 100, 100)
        assert len({dataset[0].name for dataset in (train, val, test)}) == 3


def test_data_needs_no_torch(tmp_path: Path) -> None:
    root = tiny_sets.coco(tmp_path)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['cv2'] = None\n"
        "from jetlens.data import open_dataset, compute_mean_std\n"
        f"dataset = open_dataset({str(root)!r}, 'segmentation'); dataset[0]; compute_mean_std(dataset, (32, 32), 2); print(len(dataset))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "6"


def test_no_error_is_a_traceback(tmp_path: Path) -> None:
    """Whatever bytes stand in a dataset's files, errors are jetlens's own."""
    rng = np.random.default_rng(0)
    for name in ("coco", "voc", "penn-fudan", "yolo", "masks", "cifar10"):
        root = SETS[name](tmp_path / name)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for turn in range(25):
            file = files[int(rng.integers(len(files)))]
            good = file.read_bytes()
            bad = bytearray(good)
            for place in rng.integers(0, max(1, len(bad)), 4):
                bad[int(place) % len(bad)] = int(rng.integers(256))
            file.write_bytes(bytes(bad[: int(rng.integers(len(bad)))] if turn % 2 else bad))
            try:
                dataset = open_listed(root, layout=name)
            except JetlensError:
                file.write_bytes(good)
                continue
            for index in range(len(dataset)):
                try:
                    dataset[index]
                except (ImageError, DataError):
                    continue
            file.write_bytes(good)
