"""Feature maps and class activation: what is captured, and the class activation map in its closed form."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jetlens.errors import UnknownNameError, UsageError  # noqa: E402
from jetlens.models import build  # noqa: E402
from jetlens.models.features import class_activation, feature_maps, map_layers  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def network():
    torch.manual_seed(1)
    return build("custom_resnet", num_classes=4, depth=10, widths=[8, 8, 12, 16])


def test_the_maps_are_those_of_the_layer(network):
    x = torch.randn(2, 3, 32, 32)
    maps = feature_maps(network, x, "layer2")
    inner = network.eval().act1(network.bn1(network.conv1(x)))
    expected = network.layer2(network.layer1(inner))
    assert maps.shape == (8, 16, 16)
    np.testing.assert_allclose(maps, expected[0].detach().numpy(), atol=1e-5)


def test_what_follows_in_place_does_not_change_them(network):
    x = torch.randn(1, 3, 32, 32)
    assert feature_maps(network, x, "bn1").min() < 0  # the ReLU after it works in place


@pytest.mark.parametrize("class_id", [None, 0, 3])
def test_over_an_averaging_head_it_is_the_class_activation_map(network, class_id):
    """Zhou et al. 2016: the output weights of the class, over the last maps."""
    x = torch.randn(1, 3, 32, 32)
    heat, chosen = class_activation(network, x, class_id)
    assert chosen == (class_id if class_id is not None else int(network.eval()(x).argmax()))
    maps = feature_maps(network, x, "layer4")
    cam = np.maximum(0, np.tensordot(network.fc.weight[chosen].detach().numpy(), maps, axes=1))
    assert cam.max() > 0
    np.testing.assert_allclose(heat, cam / cam.max(), atol=1e-5)


def test_it_works_for_other_heads_and_frozen_weights():
    network = build("basic_cnn", num_classes=3).requires_grad_(False).train()
    heat, chosen = class_activation(network, torch.randn(1, 3, 64, 64), 2)
    assert heat.shape == (8, 8)
    assert chosen == 2
    assert heat.min() >= 0
    assert heat.max() in (0.0, 1.0)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_layers_are_listed_in_order(network):
    layers = map_layers(network, torch.zeros(1, 3, 32, 32))
    assert list(layers)[:3] == ["conv1", "bn1", "act1"]
    assert layers["layer3"] == (12, 8, 8)
    assert "fc" not in layers


def test_what_cannot_be_shown_is_explained(network):
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(UnknownNameError, match="did you mean 'layer4"):
        feature_maps(network, x, "layer44")
    with pytest.raises(UsageError, match="class id is 4; allowed: 0 to 3"):
        class_activation(network, x, 4)
    with pytest.raises(UsageError, match="SmallSegmenter is no classifier"):
        class_activation(build("small_seg"), x)
    with pytest.raises(UsageError, match="no layer with maps larger than a pixel"):
        class_activation(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2)), x)
