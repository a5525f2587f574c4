"""The real sets beside the checkout read without a problem, and their two kinds of truth agree."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from jetlens.data import open_dataset
from jetlens.data.check import check_dataset
from jetlens.data.layouts.cifar10 import Cifar10
from jetlens.data.maskfile import read_mask
from jetlens.imagefile import image_size
from jetlens.results import Detections


def _unpacked(shared_data: Path, folder: Path, name: str) -> Path:
    archive = shared_data / "datasets" / f"{name}.tar"
    if not archive.is_file():
        pytest.skip(f"the set is not here: {archive}")
    with tarfile.open(archive) as tar:
        # Python 3.10 of some boards has no filter; the archive is one of ours.
        tar.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def test_penn_fudan(shared_data: Path, tmp_path: Path) -> None:
    root = _unpacked(shared_data, tmp_path, "pennfudan")
    report = check_dataset(root)
    assert (report.layout, report.pictures, report.problems) == ("penn-fudan", 170, ())
    boxes = open_dataset(root, "detection")
    total = near = 0
    for index in range(len(boxes)):
        sample = boxes[index]
        assert isinstance(sample.truth, Detections)
        assert isinstance(sample.image, Path)
        total += len(sample.truth)
        people = read_mask(root / "PedMasks" / f"{sample.image.stem}_mask.png", image_size(sample.image))
        for box in sample.truth.xyxy if index < 40 else ():
            # Some person's mask has this box, within two pixels.
            for person in range(1, int(people.max()) + 1):
                rows, columns = np.nonzero(people == person)
                around = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                if abs(around - box).max() <= 2:
                    near += 1
                    break
    assert total == 423
    first = sum(len(boxes[i].truth) for i in range(40))  # type: ignore[arg-type]
    assert near > 0.9 * first


def test_camvid(shared_data: Path, tmp_path: Path) -> None:
    _unpacked(shared_data, tmp_path, "camvid_test")
    root = _unpacked(shared_data, tmp_path, "camvid_train184_val101")
    for split, count in (("train", 184), ("val", 101), ("test", 233)):
        assert len(open_dataset(root, split=split)) == count  # type: ignore[arg-type]
    sample = open_dataset(root, split="val")[0]
    assert set(np.unique(sample.truth)) <= {*range(11), 255}  # type: ignore[arg-type]


def test_coco_photos_with_polygons(shared_data: Path, tmp_path: Path) -> None:
    root = _unpacked(shared_data, tmp_path, "coco_val2017_64") / "instance_segmentation"
    (root / "images").symlink_to("../images")
    report = check_dataset(root)
    codes = [problem.code for problem in report.problems]
    assert set(codes) <= {"empty-class", "missing-label"}
    assert codes.count("missing-label") == 14
    # The polygons were made of the semantic masks: most pixels agree.
    dataset = open_dataset(root, "segmentation", "val")
    agree = labelled = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        assert isinstance(sample.image, Path)
        file = root.parent / "semantic_segmentation" / "masks" / "val2017" / f"{sample.image.stem}.png"
        if file.is_file():
            semantic = read_mask(file, image_size(sample.image))
            truth = np.asarray(sample.truth, np.int64) - 1
            agree += int((semantic == truth)[truth > 0].sum())
            labelled += int((truth > 0).sum())
    assert agree / labelled > 0.95


def test_the_jpeg_copy_of_cifar10(shared_data: Path) -> None:
    folder = shared_data / "datasets" / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"the set is not here: {folder}")
    dataset = open_dataset(folder)
    assert isinstance(dataset, Cifar10)
    assert (len(dataset), dataset.labels[3]) == (60_000, "cat")
    assert [np.asarray(dataset[i].truth).item() for i in (0, 49_999, 50_000)] == [0, 9, 0]
    train, val, test = (open_dataset(folder, split=split) for split in ("train", "val", "test"))  # type: ignore[arg-type]
    assert len(train) + len(val) == 50_000
    assert 4700 < len(val) < 5300
    assert len(test) == 10_000
    assert "JPEG" in dataset.origin
