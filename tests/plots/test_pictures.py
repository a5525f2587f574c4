"""The pictures: PNG of a sensible size with something on it, whatever the labels; nothing global, nothing half written."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

matplotlib = pytest.importorskip("matplotlib")

from jetlens import plots  # noqa: E402
from jetlens.errors import OutputError, UsageError  # noqa: E402
from jetlens.plots.architecture import architecture_blocks  # noqa: E402

RNG = np.random.default_rng(0)
HISTORY = [
    {
        "epoch": e,
        "step": 9 * e,
        "done": e / 5,
        "loss": 2 / e,
        "val_loss": 2.2 / e,
        "lr": 1e-3 / e,
        "metrics": {"top1": 1 - 0.5 / e, "top5": 0.9},
    }
    for e in range(1, 6)
]


def counts(classes, extra=0):
    table = RNG.integers(0, 9, (classes, classes + extra))
    table[np.arange(classes), np.arange(classes)] += 50
    return table


def look(path):
    """The pixels of a PNG that is large enough and not empty: at least three clearly different colours."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    assert 150 <= height <= 3500
    assert 400 <= width <= 2200
    coarse = (pixels // 32).astype(np.int32) @ [64, 8, 1]
    assert np.count_nonzero(np.bincount(coarse.ravel())) >= 3
    assert (pixels < 128).any(axis=2).mean() > 0.0005
    assert (pixels[-1] == 255).mean() > 0.5  # a white margin: nothing is cut off below
    return pixels


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], [{**row, "metrics": None} for row in HISTORY], [
    {"epoch": 1, "loss": float("nan"), "top1": 0.2}, {"epoch": 2, "loss": 1.0, "top1": float("nan")}]])  # fmt: skip
def test_curves(tmp_path, history):
    look(plots.plot_curves(history, tmp_path / "curves.png", title="basic_cnn on $x_"))


def test_curves_take_metrics_in_the_row_and_grow(tmp_path):
    many = [{"epoch": e, "loss": 1.0, **{f"iou_{k}": 0.1 * k for k in range(12)}} for e in range(60)]
    look(plots.plot_curves(many, tmp_path / "many.png"))
    tall = look(plots.plot_curves(HISTORY, tmp_path / "three.png")).shape[0]
    assert look(plots.plot_curves([{"loss": 1.0}], tmp_path / "one.png")).shape[0] < tall


def test_range_test(tmp_path):
    rates = np.geomspace(1e-6, 1, 30).tolist()
    losses = [2.0 - i / 30 if i < 25 else 10.0**i for i in range(29)] + [float("nan")]
    look(plots.plot_range_test(rates, losses, tmp_path / "range.png", chosen=0.01))


@pytest.mark.parametrize(("classes", "extra"), [(2, 0), (10, 1), (24, 0), (70, 0)])
def test_confusion_and_class_scores(tmp_path, classes, extra):
    table = counts(classes, extra)
    table[:, 1] = 0  # never predicted
    labels = ["$weird_{\n", "", *(f"class with a very long name {i}" for i in range(classes - 2))]
    look(plots.plot_confusion(table, labels, tmp_path / "confusion.png"))
    look(plots.plot_class_scores(table, labels, tmp_path / "scores.png"))


def test_an_empty_matrix_can_be_drawn(tmp_path):
    plots.plot_confusion(np.zeros((3, 3), int), ["a", "b", "c"], tmp_path / "a.png")
    plots.plot_class_scores(np.zeros((3, 4), int), ["a", "b", "c"], tmp_path / "b.png")


@pytest.mark.parametrize("count", [1, 7, 40])
def test_worst(tmp_path, count):
    shapes = [(32, 32), (40, 60, 3), (90, 30, 3), (32, 32, 1)]
    rows = [
        plots.WorstRow(
            RNG.integers(0, 255, shapes[i % 4], dtype=np.uint8), "a long class name, with a synonym", "cat", 1 - i / 99, f"a/{i}.jpg"
        )
        for i in range(count)
    ]
    look(plots.plot_worst(rows, tmp_path / "worst.png"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (20, 16, 16), (100, 4, 9), (3, 60, 20)])
def test_feature_maps(tmp_path, shape):
    image = RNG.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    look(plots.plot_feature_maps(RNG.random(shape), tmp_path / "maps.png", image=image))


def test_flat_feature_maps(tmp_path):
    look(plots.plot_feature_maps(np.zeros((5, 8, 8)), tmp_path / "flat.png"))


@pytest.mark.parametrize("size", [(60, 90, 3), (200, 60, 3), (32, 32)])
def test_class_activation(tmp_path, size):
    image = RNG.integers(0, 255, size, dtype=np.uint8)
    look(plots.plot_class_activation(image, RNG.random((4, 5)), tmp_path / "cam.png"))


def test_the_hottest_place_is_where_the_heat_is(tmp_path):
    heat = np.zeros((4, 4))
    heat[0, 3] = 1.0
    pixels = look(plots.plot_class_activation(np.full((64, 64, 3), 90, np.uint8), heat, tmp_path / "cam.png")).astype(int)
    left, right = 0.52, 0.9
    part = pixels[:, int(left * pixels.shape[1]) : int(right * pixels.shape[1])]
    warm = (part[..., 0] - part[..., 2]) > 40
    rows, columns = np.nonzero(warm)
    assert rows.mean() < 0.45 * len(part)
    assert columns.mean() > 0.55 * part.shape[1]


def layer(name, kind, shape, parameters=0, macs=0, detail="", calls=1):
    return SimpleNamespace(name=name, kind=kind, output_shape=shape, parameters=parameters, macs=macs, detail=detail, calls=calls)


def test_repeated_blocks_are_one_with_a_count(tmp_path):
    rows = [layer("conv", "Conv2d", (1, 8, 9, 9), 80, 800, "3x3"), layer("norm", "BatchNorm2d", (1, 8, 9, 9), 16)]
    for stage in range(2):
        for block in range(3):
            for part, kind, detail in (("a", "Conv2d", "3x3"), ("b", "BatchNorm2d", ""), ("c", "ReLU", "")):
                rows.append(
                    layer(
                        f"stage{stage}.{block}.{part}", kind, (1, 8, 9 - stage, 9), 10 * (kind == "Conv2d"), 5 * (kind == "Conv2d"), detail
                    )
                )
    rows += [layer("drop", "Dropout", (1, 8)), layer("out", "Linear", (1, 2), 18, 16), layer("never", "Linear", (), 7, calls=0)]
    blocks = architecture_blocks(rows)
    assert [(block.name, block.repeats, block.parameters) for block in blocks] == [
        ("conv", 1, 96), ("stage0.0 to stage0.2", 3, 30), ("stage1.0 to stage1.2", 3, 30), ("out", 1, 18),
    ]  # fmt: skip
    assert blocks[0].content == "conv 3×3 → batch norm"
    assert blocks[1].output_shape == (8, 9, 9)
    look(plots.plot_architecture(rows, tmp_path / "architecture.png", input_shape=(3, 9, 9)))


@pytest.mark.parametrize(("name", "shape", "blocks"), [
    ("basic_cnn", (3, 32, 32), ["features.0", "features.1", "features.2", "hidden", "output"]),
    ("custom_resnet", (3, 32, 32), ["conv1", "layer1.0 to layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1",
                                    "avgpool", "fc"]),
])  # fmt: skip
def test_the_architecture_of_our_networks(tmp_path, name, shape, blocks):
    pytest.importorskip("torch")
    from jetlens.models import build
    from jetlens.models.summary import summary

    rows = summary(build(name), shape)
    found = architecture_blocks(rows)
    assert [block.name for block in found] == blocks
    assert sum(block.parameters for block in found) == sum(row.parameters for row in rows)
    assert sum(block.macs for block in found) == sum(row.macs for row in rows)
    look(plots.plot_architecture(rows, tmp_path / "architecture.png", title=name, input_shape=shape))


@pytest.mark.parametrize(("make", "what"), [
    (lambda path: plots.plot_curves([], path), "train for an epoch first"),
    (lambda path: plots.plot_range_test([1.0], [float("nan")], path), "start at a smaller learning rate"),
    (lambda path: plots.plot_confusion(np.zeros((3, 3)), ["a", "b"], path), r"shape \[3, 3\] for 2 labels"),
    (lambda path: plots.plot_worst([], path), "give at least one"),
    (lambda path: plots.plot_feature_maps(np.zeros((3, 3)), path), r"give \[channels, height, width\]"),
    (lambda path: plots.plot_class_activation(np.zeros((3, 3), np.uint8), np.zeros(3), path), r"give \[height, width\]"),
    (lambda path: plots.plot_architecture([], path), "no architecture to draw"),
])  # fmt: skip
def test_nothing_to_draw_is_explained(tmp_path, make, what):
    with pytest.raises(UsageError, match=what):
        make(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_nothing_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        plots.plot_curves(HISTORY, tmp_path / "file" / "x.png")


def test_the_users_matplotlib_is_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "black", "font.size": 40}):
        styled = plots.plot_curves(HISTORY, tmp_path / "a.png").read_bytes()
    assert dict(matplotlib.rcParams) == before
    assert styled == plots.plot_curves(HISTORY, tmp_path / "b.png").read_bytes()


def test_no_display_no_pyplot_no_torch():
    code = (
        "import sys, pathlib, tempfile; from jetlens import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.plot_curves([{'loss': 1.0}], pathlib.Path(tempfile.mkdtemp()) / 'x.png')\n"
        "print([name for name in ('torch', 'matplotlib.pyplot', 'tkinter') if name in sys.modules])"
    )
    reply = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"MPLBACKEND": "TkAgg", "PATH": ""}
    )
    assert reply.stdout.strip() == "[]"
    assert reply.stderr == ""
