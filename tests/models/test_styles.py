"""Norm, activation and pool on our own networks: what they build, and that each exports and answers as PyTorch does."""

import hashlib
import io
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jetlens.errors import UsageError  # noqa: E402
from jetlens.models import MODELS, build  # noqa: E402
from jetlens.models.style import ChannelNorm  # noqa: E402

torch.set_num_threads(1)

SMALL = {
    "basic_cnn": ({}, (32, 32)),
    "custom_resnet": ({"depth": 10, "widths": [16, 24, 32, 48]}, (32, 32)),
    "small_det": ({"size_hw": (64, 64)}, (64, 64)),
    "small_seg": ({}, (32, 48)),
}
CHOICES = [
    {"norm": "group", "activation": "leaky_relu", "pool": "max"},
    {"norm": "layer", "activation": "elu", "pool": "avg"},
    {"norm": "batch", "activation": "elu", "pool": "max"},
]
ROWS = [(name, choice) for name in SMALL for choice in CHOICES]


def make(name, **choice):
    """A network whose norms have learnt something, so that a wrong one shows."""
    torch.manual_seed(0)
    network = build(name, **SMALL[name][0], **choice).eval()
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                value.uniform_(0.5, 1.5) if key.endswith(("weight", "running_var")) else value.uniform_(-0.3, 0.3)
    return network


def onnx_bytes(network, x, opset=17):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dynamo": False} if "dynamo" in torch.onnx.export.__code__.co_varnames else {}
        torch.onnx.export(
            network, (x,), buffer, opset_version=opset, input_names=["x"], dynamic_axes={"x": {0: "N"}}, do_constant_folding=True, **options
        )
    return buffer.getvalue()


def outputs(network, x):
    with torch.no_grad():
        answer = network(x)
    return [part.numpy() for part in (answer if isinstance(answer, tuple) else (answer,))]


@pytest.mark.parametrize(("name", "choice"), ROWS)
def test_every_choice_exports_and_answers_as_pytorch(name, choice):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    network = make(name, **choice)
    model = onnx_bytes(network, torch.zeros(2, 3, *SMALL[name][1]))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = torch.randn(3, 3, *SMALL[name][1])
    expected = outputs(network, x)
    for ours, theirs in zip(session.run(None, {"x": x.numpy()}), expected, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize(("name", "choice"), [row for row in ROWS if row[1]["norm"] != "batch"])
def test_every_choice_parses_in_tensorrt(name, choice):
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'jetlens[trt-rtx]'")
    pytest.importorskip("onnx")
    model = onnx_bytes(make(name, **choice), torch.zeros(2, 3, *SMALL[name][1]))
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model), [parser.get_error(index).desc() for index in range(parser.num_errors)]


@pytest.mark.parametrize("choice", CHOICES[:2])
def test_without_batch_norm_a_picture_does_not_depend_on_its_batch(choice):
    for name, (_, size) in SMALL.items():
        network = build(name, **SMALL[name][0], **choice)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        x = torch.randn(3, 3, *size)
        for alone, together in zip(outputs(network, x[:1]), outputs(network, x), strict=True):
            assert np.allclose(alone, together[:1], atol=1e-4), name


def test_with_batch_norm_it_does():
    network = build("small_seg")
    x = torch.randn(3, 3, 32, 48)
    assert not np.allclose(outputs(network, x[:1])[0], outputs(network, x)[0][:1], atol=1e-4)


def test_layer_norm_normalises_the_channels_of_each_pixel():
    norm = ChannelNorm(6)
    x = torch.randn(2, 6, 3, 4) * 5 + 2
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
        centred = x - x.mean(dim=1, keepdim=True)
        expected = centred / (centred.pow(2).mean(dim=1, keepdim=True) + norm.eps).sqrt()
        torch.testing.assert_close(norm(x), expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1))


@pytest.mark.parametrize(("name", "names"), [
    ("basic_cnn", "dc83e77e2958"), ("small_det", "931067a68af1"), ("small_seg", "537386702fa0"),
])  # fmt: skip
def test_the_defaults_are_the_networks_that_the_shipped_checkpoints_were_trained_with(name, names):
    """The names of all tensors as they were before there was a choice; a checkpoint stands or falls with them."""
    assert hashlib.sha256("".join(build(name).state_dict()).encode()).hexdigest()[:12] == names
    chosen = build(name, norm="batch", activation="relu", pool="max" if name == "basic_cnn" else "stride")
    build(name).load_state_dict(chosen.state_dict())


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_pooling_takes_the_place_of_strides(pool):
    for name in ("custom_resnet", "small_det", "small_seg"):
        network = build(name, **SMALL[name][0], pool=pool)
        assert all(module.stride == (1, 1) for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        kinds = {type(module).__name__ for module in network.modules()}
        assert ("MaxPool2d" if pool == "max" else "AvgPool2d") in kinds
        assert [a.shape for a in outputs(network.eval(), torch.zeros(1, 3, *SMALL[name][1]))] == [
            a.shape for a in outputs(build(name, **SMALL[name][0]).eval(), torch.zeros(1, 3, *SMALL[name][1]))
        ]


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(("key", "value"), [("norm", "instance"), ("activation", "gelu"), ("pool", "median")])
def test_unknown_choices_are_explained(name, key, value):
    with pytest.raises(UsageError, match=f"{key} is '{value}'; allowed: "):
        build(name, **{key: value})


def test_basic_cnn_halves_by_pooling_only():
    with pytest.raises(UsageError, match=r"pool is 'stride'.*allowed: max, avg"):
        build("basic_cnn", pool="stride")
