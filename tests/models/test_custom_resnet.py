"""custom_resnet: parameters, sizes, depths, and torchvision's ResNet as its oracle."""

import pytest

torch = pytest.importorskip("torch")

from jetlens.errors import ModelError, UsageError  # noqa: E402
from jetlens.models import build  # noqa: E402

torch.set_num_threads(1)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("arguments", "parameters"), [
    ({}, 11_173_962),
    ({"stem": "imagenet"}, 11_181_642),
    ({"depth": 34}, 21_282_122),
    ({"blocks": [3, 3, 3], "widths": [16, 32, 64]}, 272_474),
])  # fmt: skip
def test_the_parameters_are_those_of_the_papers(arguments, parameters):
    """The last row is ResNet-20 of He et al. 2016: 0.27 M."""
    assert count(build("custom_resnet", **arguments)) == parameters


@pytest.mark.parametrize("depth", [18, 34])
def test_with_the_stem_of_imagenet_it_is_torchvisions(depth):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = getattr(models, f"resnet{depth}")(num_classes=7).eval()
    ours = build("custom_resnet", num_classes=7, depth=depth, stem="imagenet").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_initial_weights_are_spread_as_torchvisions():
    models = pytest.importorskip("torchvision.models")
    ours, theirs = build("custom_resnet", stem="imagenet").state_dict(), models.resnet18(num_classes=10).state_dict()
    for name, value in theirs.items():
        if value.ndim == 4:
            assert float(ours[name].std()) == pytest.approx(float(value.std()), rel=0.05)


@pytest.mark.parametrize(("size", "channels", "arguments"), [
    ((32, 32), 3, {}),
    ((28, 28), 1, {"depth": 10}),
    ((33, 47), 3, {"depth": 10, "pool": "max"}),
    ((64, 96), 3, {"depth": 10, "stem": "imagenet"}),
    ((224, 224), 3, {"depth": 10, "stem": "imagenet", "pool": "avg"}),
    ((8, 8), 3, {"depth": 10, "pool": "avg"}),
])  # fmt: skip
def test_it_takes_every_size(size, channels, arguments):
    network = build("custom_resnet", num_classes=5, in_channels=channels, **arguments).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, channels, *size)).shape == (2, 5)


@pytest.mark.parametrize(("make", "error", "what"), [
    (lambda: build("custom_resnet", depth=50), UsageError, "depth is 50; allowed: 10, 18, 34"),
    (lambda: build("custom_resnet", blocks=[2, 2], widths=[64]), UsageError, "one number of 1 or more for each stage"),
    (lambda: build("custom_resnet", blocks=[2, 0]), UsageError, "one number of 1 or more for each stage"),
    (lambda: build("custom_resnet", stem="big"), UsageError, "stem is 'big'; allowed: cifar, imagenet"),
    (lambda: build("custom_resnet")(torch.zeros(1, 3, 7, 32)), ModelError, "at least 8x8, not 7x32"),
    (lambda: build("custom_resnet", stem="imagenet")(torch.zeros(1, 3, 28, 28)), ModelError, "at least 32x32, not 28x28"),
])  # fmt: skip
def test_what_it_cannot_do_is_explained(make, error, what):
    with pytest.raises(error, match=what):
        make()
