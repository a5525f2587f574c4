"""Tiny datasets in every layout, for tests."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE_HW = (48, 64)
VOC_LABELS = ("dog", "car")


def picture(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> NDArray[np.uint8]:
    """Smooth noise, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size_hw[1], size_hw[0]), Image.Resampling.BICUBIC))


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def save_mask(path: Path, mask: NDArray[np.uint8]) -> Path:
    """A palette PNG, as VOC has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask).convert("P")
    image.putdata(mask.ravel().tolist())
    image.putpalette([value for i in range(256) for value in (i, 255 - i, i)])
    image.save(path)
    return path


def image_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 4, first: int = 0) -> Path:
    for number, name in enumerate(classes):
        for k in range(each):
            save(root / name / f"{k}.png", picture(first + 100 * number + k))
    return root


def cifar_rows(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count).tolist()


def cifar10_binary(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        data, labels = cifar_rows(20, number)
        np.concatenate([np.array(labels, np.uint8)[:, None], data], axis=1).tofile(folder / f"{name}.bin")
    return root


def cifar10_pickled(root: Path, protocol: int) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        data, labels = cifar_rows(20, number)
        batch = {b"batch_label": b"batch", b"labels": labels, b"data": data, b"filenames": [b"x.png"] * 20}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    return root


def coco(root: Path) -> Path:
    """Category ids 3 and 17; a box with a polygon, one with packed run lengths, and a crowd with plain ones, in two parts."""
    categories = [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}]
    for part, first in (("train2017", 0), ("val2017", 3)):
        images, annotations = [], []
        for k in range(first, first + 3):
            save(root / part / f"{k:012d}.jpg", picture(k))
            images.append({"id": k, "file_name": f"{k:012d}.jpg", "height": 48, "width": 64})
            polygon = [10, 5, 30, 5, 30, 25, 10, 25]
            shared = {"image_id": k, "iscrowd": 0}
            annotations.append({"id": 10 * k, "category_id": 17, "bbox": [10, 5, 20, 20], "segmentation": [polygon], **shared})
            # 48 rows a column: 40 columns without, then 6 of the first column's rows, then the rest.
            runs = {"size": [48, 64], "counts": [40 * 48, 6, 48 * 24 - 6]}
            annotations.append({"id": 10 * k + 1, "category_id": 3, "bbox": [40, 0, 1, 6], "segmentation": runs, **shared})
            crowd = {"size": [48, 64], "counts": [0, 96, 48 * 62]}
            annotations.append(
                {"id": 10 * k + 2, "category_id": 3, "bbox": [0, 0, 2, 48], "segmentation": crowd, "image_id": k, "iscrowd": 1}
            )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    (root / "annotations" / "captions_val2017.json").write_text("{}")
    return root


def yolo(root: Path, *, polygons: bool = False) -> Path:
    for part, seeds in (("train", range(4)), ("val", range(4, 6))):
        for k in seeds:
            save(root / "images" / part / f"{k}.png", picture(k))
            (root / "labels" / part).mkdir(parents=True, exist_ok=True)
            line = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75" if polygons else "1 0.5 0.5 0.5 0.5"
            (root / "labels" / part / f"{k}.txt").write_text(line + "\n0 0.1 0.1 0.1 0.1\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train  # here\nval: images/val\nnames:\n  0: apple\n  1: pear\n")
    return root


def voc_xml(name: str, boxes: list[tuple[str, tuple[float, float, float, float]]], size_hw: tuple[int, int] = SIZE_HW) -> str:
    rows = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for label, (a, b, c, d) in boxes
    )
    size = f"<size><width>{size_hw[1]}</width><height>{size_hw[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}{rows}</annotation>"


def voc(root: Path, count: int = 6) -> Path:
    """Two boxes a picture and their filled masks (ids 12 and 7 of VOC), the border ignored."""
    home = root / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    names = [f"{k:04d}" for k in range(count)]
    for k, name in enumerate(names):
        save(home / "JPEGImages" / f"{name}.jpg", picture(k))
        (home / "Annotations" / f"{name}.xml").write_text(voc_xml(name, [("dog", (11, 6, 30, 25)), ("car", (41, 1, 64, 10))]))
        mask = np.zeros(SIZE_HW, np.uint8)
        mask[5:25, 10:30], mask[0:10, 40:64], mask[47] = 12, 7, 255
        save_mask(home / "SegmentationClass" / f"{name}.png", mask)
    for kind in ("Main", "Segmentation"):
        (home / "ImageSets" / kind / "train.txt").write_text("\n".join(names[:-2]))
        (home / "ImageSets" / kind / "val.txt").write_text("\n".join(names[-2:]))
    return root


def penn_fudan(root: Path) -> Path:
    for k in range(3):
        save(root / "PNGImages" / f"P{k}.png", picture(k))
        mask = np.zeros(SIZE_HW, np.uint8)
        mask[5:25, 10:30], mask[10:40, 40:50] = 1, 2
        save_mask(root / "PedMasks" / f"P{k}_mask.png", mask)
        (root / "Annotation").mkdir(exist_ok=True)
        (root / "Annotation" / f"P{k}.txt").write_text(
            'Image size (X x Y x C) : 64 x 48 x 3\nObjects with ground truth : 2 { "PASpersonWalking" "PASpersonWalking" }\n'
            'Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (11, 6) - (30, 25)\n'
            'Bounding box for object 2 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (41, 11) - (50, 40)\n'
        )
    return root


def camvid(root: Path) -> Path:
    for part, seeds in (("train", range(3)), ("val", range(3, 5)), ("test", range(5, 7))):
        for k in seeds:
            save(root / part / f"{k}.png", picture(k))
            mask = np.full(SIZE_HW, 3, np.uint8)
            mask[:10], mask[40:] = 0, 11
            save(root / f"{part}annot" / f"{k}.png", mask)
    return root


def masks(root: Path) -> Path:
    for k in range(4):
        save(root / "images" / f"{k}.jpg", picture(k))
        mask = np.zeros(SIZE_HW, np.uint8)
        mask[:10] = 1 + k % 2
        save_mask(root / "masks" / f"{k}.png", mask)
    (root / "labels.txt").write_text("background\nspot\nscratch\n")
    return root


def imagenet(root: Path) -> Path:
    for number, synset in enumerate(("n01440764", "n01443537", "n15075141")):
        for k in range(2):
            save(root / "train" / synset / f"{synset}_{k}.JPEG", picture(10 * number + k))
        save(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", picture(90 + number))
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000000,n15075141 1 2 3 4\n"
        "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8\nILSVRC2012_val_00000002,n01443537 1 2 3 4\n"
    )
    return root
