"""The networks: parameters, shapes, sizes, and the decoder of the detector."""

import copy

import pytest

torch = pytest.importorskip("torch")

from jetlens.errors import ModelError, UnknownNameError, UsageError  # noqa: E402
from jetlens.models import MODELS, build  # noqa: E402

torch.set_num_threads(1)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_basic_cnn_has_the_parameters_of_the_source():
    assert count(build("basic_cnn", num_classes=10)) == 1_147_914


@pytest.mark.parametrize(("size", "channels", "classes"), [((32, 32), 3, 10), ((64, 64), 1, 4), ((224, 224), 3, 1000), ((64, 96), 3, 2)])
def test_basic_cnn_takes_every_size_that_divides(size, channels, classes):
    network = build("basic_cnn", num_classes=classes, in_channels=channels).eval()
    assert network(torch.zeros(2, channels, *size)).shape == (2, classes)


@pytest.mark.parametrize("side", [32, 64, 224])
def test_basic_cnn_pools_as_adaptive_pooling_does(side):
    network = build("basic_cnn").eval()
    x = torch.randn(1, 3, side, side)
    pooled = torch.nn.AdaptiveAvgPool2d(4)(network.features(x)).flatten(1)
    assert torch.allclose(network(x), network.output(torch.relu(network.hidden(pooled))), atol=1e-6)


def test_basic_cnn_refuses_a_size_that_would_not_export():
    with pytest.raises(ModelError, match="multiples of 32, not 60x64; the nearest is 64x64"):
        build("basic_cnn")(torch.zeros(1, 3, 60, 64))


@pytest.mark.parametrize("name", ["small_det", "small_seg"])
def test_the_compact_networks_are_compact(name):
    assert count(build(name)) < 1_000_000


@pytest.mark.parametrize(("size", "classes"), [((288, 512), 1), ((64, 96), 7)])
def test_small_det_answers_for_each_cell(size, classes):
    network = build("small_det", num_classes=classes, size_hw=size).eval()
    logits, raw = network(torch.zeros(2, 3, *size))
    anchors = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
    assert logits.shape == (2, anchors, classes)
    assert raw.shape == (2, anchors, 4)
    boxes, scores = (part.detach() for part in network.decode(logits, raw))
    assert boxes.shape == (2, anchors, 4)
    assert scores.shape == (2, anchors, classes)
    assert float(scores.min()) >= 0
    assert float(scores.max()) <= 1
    assert bool((boxes[..., 2:] > boxes[..., :2]).all())


def test_small_det_decodes_distances_from_the_cell_that_gave_them():
    network = build("small_det", num_classes=1, size_hw=(64, 96)).eval()
    anchors = len(network.centres)
    raw = torch.full((1, anchors, 4), -40.0)  # softplus: 0
    boxes, _ = network.decode(torch.zeros(1, anchors, 1), raw)
    # Row 1, column 2 of stride 8 (12 cells a row), then the first cell of stride 16 and of stride 32.
    assert boxes[0, 12 + 2].tolist() == [20.0, 12.0, 20.0, 12.0]
    assert boxes[0, 96].tolist() == [8.0, 8.0, 8.0, 8.0]
    assert boxes[0, 96 + 24].tolist() == [16.0, 16.0, 16.0, 16.0]
    raw[..., 2] = 3.0
    moved, _ = network.decode(torch.zeros(1, anchors, 1), raw)
    reach = float(torch.nn.functional.softplus(torch.tensor(3.0)))
    assert float(moved[0, 96, 2]) == pytest.approx(8 + 16 * reach)


def test_small_det_loads_its_weights_at_another_size():
    small, large = build("small_det", size_hw=(64, 64)), build("small_det", size_hw=(128, 160))
    large.load_state_dict(small.state_dict())


def test_small_det_sees_an_object_where_it_is():
    """The features of a cell lie over that cell: the logits that a bright square changes most are at the square."""
    torch.manual_seed(0)
    network = build("small_det", size_hw=(128, 128)).eval()
    blank = torch.zeros(1, 3, 128, 128)
    square = blank.clone()
    square[..., 88:104, 24:40] = 3.0
    changed = (network(square)[0] - network(blank)[0]).abs()[0, :256, 0].reshape(16, 16)
    row, column = divmod(int(changed.argmax()), 16)
    assert abs(row - 11.5) <= 2
    assert abs(column - 3.5) <= 2


@pytest.mark.parametrize("size", [(360, 640), (64, 80)])
def test_small_seg_answers_for_each_pixel(size):
    assert build("small_seg").eval()(torch.zeros(1, 3, *size)).shape == (1, 4, *size)


@pytest.mark.parametrize(("make", "what"), [
    (lambda: build("small_det", size_hw=(300, 512)), "multiples of 32, not 300x512"),
    (lambda: build("small_seg")(torch.zeros(1, 3, 100, 64)), "multiples of 8, not 100x64"),
])  # fmt: skip
def test_sizes_that_do_not_halve_are_refused(make, what):
    with pytest.raises(ModelError, match=what):
        make()


def test_one_seed_gives_one_network():
    for name in MODELS:
        torch.manual_seed(3)
        first = build(name).state_dict()
        torch.manual_seed(3)
        second = build(name).state_dict()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_wrong_names_are_explained():
    with pytest.raises(UnknownNameError, match="did you mean 'small_det'"):
        build("smal_det")
    with pytest.raises(UsageError, match=r"'width'; it takes num_classes, in_channels, dropout"):
        build("basic_cnn", width=3)


def test_small_det_answers_alike_in_training_and_in_use():
    """The levels of the pyramid differ in scale: statistics kept for all of them together, the naive way, are no level's own."""
    torch.manual_seed(0)
    network = build("small_det", size_hw=(128, 128), channels=[4, 8, 8, 8, 8], neck=8)
    with torch.no_grad():
        for scale, lateral in zip((0.2, 1.0, 8.0), network.laterals, strict=True):
            lateral[1].weight.fill_(scale)
        x = torch.randn(16, 3, 128, 128)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        trained = network.train()(x)[1]
        used = network.eval()(x)[1]
        naive = copy.deepcopy(network)
        for tower in (naive.class_tower, naive.box_tower):
            for name in ("running_mean", "running_var"):
                together = torch.stack([getattr(norm, name) for norm in tower.norms]).mean(dim=0)
                for norm in tower.norms:
                    getattr(norm, name).copy_(together)
        wrong = naive(x)[1]
    assert (wrong - trained).abs().mean() > 3 * (used - trained).abs().mean()
