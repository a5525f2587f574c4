"""Validation never shares a picture with training, and no picture changes sides."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tiny_sets

from jetlens.data import Dataset, open_dataset


def _content(dataset: Dataset) -> set[bytes]:
    return {image.read_bytes() for image in (dataset[i].image for i in range(len(dataset))) if isinstance(image, Path)}


def test_equal_pictures_are_on_one_side(tmp_path: Path) -> None:
    root = tiny_sets.image_folder(tmp_path / "set", ("a", "b", "c"), each=60)
    for number, file in enumerate(sorted(root.rglob("*.png"))[::3]):
        shutil.copy(file, root / "c" / f"copy{number}.png")
    train, val = _content(open_dataset(root, split="train")), _content(open_dataset(root, split="val"))
    assert not train & val
    assert 5 <= len(val) <= 40
    # The negative control: a split by place shares pictures.
    files = sorted(root.rglob("*.png"))
    order = np.random.default_rng(0).permutation(len(files))
    held = {files[i].read_bytes() for i in order[: len(files) // 10]}
    assert held & {files[i].read_bytes() for i in order[len(files) // 10 :]}


def test_no_picture_changes_sides_when_others_come_or_are_renamed(tmp_path: Path) -> None:
    root = tiny_sets.image_folder(tmp_path / "set", ("a", "b"), each=60)
    train, val = _content(open_dataset(root, split="train")), _content(open_dataset(root, split="val"))
    tiny_sets.image_folder(root, ("c", "d"), each=50)
    for file in sorted((root / "a").iterdir()):
        file.rename(file.with_name(f"new_{file.name}"))
    later_train, later_val = _content(open_dataset(root, split="train")), _content(open_dataset(root, split="val"))
    assert train <= later_train
    assert val <= later_val


def test_the_fraction_is_kept(tmp_path: Path) -> None:
    root = tiny_sets.cifar10_binary(tmp_path)
    for fraction in (0.2, 0.5):
        val = open_dataset(root, split="val", val_fraction=fraction)
        assert abs(len(val) - 40 * fraction) < 12
    assert len(open_dataset(root, split="test")) == 20
    few = tiny_sets.image_folder(tmp_path / "few", ("a", "b"), each=1)
    assert [len(open_dataset(few, split=split, val_fraction=1e-9)) for split in ("train", "val")] == [1, 1]  # type: ignore[arg-type]


def test_own_parts_are_kept(tmp_path: Path) -> None:
    for part, each in (("train", 5), ("valid", 3), ("test", 2)):
        tiny_sets.image_folder(tmp_path / part, ("a", "b"), each=each, first=1000 * each)
    assert [len(open_dataset(tmp_path, split=split)) for split in ("train", "val", "test", "all")] == [10, 6, 4, 20]  # type: ignore[arg-type]


def test_what_is_in_both_own_parts_is_left_to_validation(tmp_path: Path) -> None:
    for part, each in (("train", 5), ("val", 3)):
        tiny_sets.image_folder(tmp_path / part, ("a", "b"), each=each, first=1000 * each)
    for name in ("a", "b"):
        doubled = next((tmp_path / "val" / name).iterdir())
        shutil.copy(doubled, tmp_path / "train" / name / "again.png")
    # The negative control: the folders themselves share two pictures.
    folders = [{file.read_bytes() for file in (tmp_path / part).rglob("*.png")} for part in ("train", "val")]
    assert len(folders[0] & folders[1]) == 2
    train, val = open_dataset(tmp_path, split="train"), open_dataset(tmp_path, split="val")
    assert (len(train), len(val)) == (10, 6)
    assert not _content(train) & _content(val)
