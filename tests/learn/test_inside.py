"""Looking into models: layers, maps and class activation, of graphs and of PyTorch networks alike; and the lessons made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("matplotlib")

from jetlens.backends.base import SessionOptions  # noqa: E402
from jetlens.backends.choice import open_session  # noqa: E402
from jetlens.checkpoint import save_checkpoint  # noqa: E402
from jetlens.errors import UnknownNameError, UsageError  # noqa: E402
from jetlens.export.onnx import export_model  # noqa: E402
from jetlens.learn.architecture import NetworkOptions, architecture  # noqa: E402
from jetlens.learn.features import features, layer_list  # noqa: E402
from jetlens.learn.inside import class_named, look_inside, seen_by  # noqa: E402
from jetlens.learn.inside_onnx import InsideOnnx, channel_gradients  # noqa: E402
from jetlens.learn.normalization import NORMS, group_count, normalise, normalization  # noqa: E402
from jetlens.learn.onnx_graph import OnnxGraph  # noqa: E402
from jetlens.learn.pictures import fruit, fruits  # noqa: E402
from jetlens.learn.pooling import pool, pooling  # noqa: E402
from jetlens.models import build  # noqa: E402
from jetlens.models.features import class_activation, feature_maps  # noqa: E402
from jetlens.predictor import load, model_path  # noqa: E402
from jetlens.spec import ModelSpec, PreprocessSpec  # noqa: E402

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def orange() -> np.ndarray:
    return fruit()


@pytest.fixture(scope="module")
def grade() -> InsideOnnx:
    return InsideOnnx("orange-grade")


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.nn.Module, PreprocessSpec]:
    """One small residual network as a checkpoint and as a graph: its head averages, so its map is a CAM."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("residual")
    arguments = {"num_classes": 3, "depth": 10, "widths": [8, 8, 12, 16]}
    network = build("custom_resnet", **arguments).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # fresh ones leave equal biases, which a graph keeps once
                for values, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    values.uniform_(low, high)
    rule = PreprocessSpec((64, 64), mean=(120.0, 110.0, 100.0), std=(60.0, 60.0, 60.0))
    meta = {
        "model": "custom_resnet", "arguments": arguments, "task": "classification", "labels": LABELS, "training": {},
        "preprocess": {"size_hw": rule.size_hw, "mean": rule.mean, "std": rule.std},
    }  # fmt: skip
    save_checkpoint(folder / "net.safetensors", network.state_dict(), meta)
    export_model(network, ModelSpec("net", "classification", LABELS, rule, ""), folder / "net.onnx", allow_random=True)
    return folder / "net.onnx", folder / "net.safetensors", network, rule


def test_layers_and_maps_are_the_networks_own(residual, orange) -> None:
    graph, checkpoint, _, _ = residual
    first, second = look_inside(str(graph)), look_inside(str(checkpoint))
    assert first.layers["layer4.0.conv2"] == second.layers["layer4.0.conv2"] == (16, 8, 8)
    maps = first.maps([orange, orange[:, ::-1].copy()], "act1")
    assert maps.shape == (2, 8, 64, 64)
    np.testing.assert_allclose(maps, second.maps([orange, orange[:, ::-1].copy()], "act1"), atol=1e-4)
    assert "act1" in first.activations
    assert "act1" in second.activations
    assert len(layer_list(first)) == len(first.layers)


@pytest.mark.parametrize("class_id", [0, 2])
def test_forward_differences_give_what_backpropagation_gives(residual, orange, class_id) -> None:
    graph, checkpoint, _, _ = residual
    first = look_inside(str(graph)).class_activation(orange, class_id, None)
    second = look_inside(str(checkpoint)).class_activation(orange, class_id, None)
    assert first.heat.shape == second.heat.shape == (8, 8)
    np.testing.assert_allclose(first.heat, second.heat, atol=2e-3)
    assert first.class_id == second.class_id == class_id
    assert first.confidence == pytest.approx(second.confidence, abs=1e-4)
    assert first.method.startswith("class activation map (CAM, Zhou et al. 2016)")
    assert second.method == first.method
    earlier = look_inside(str(checkpoint)).class_activation(orange, class_id, "layer3")
    assert earlier.method.startswith("Grad-CAM (Selvaraju et al. 2017), the gradients by backpropagation")


def test_a_head_without_average_is_grad_cam_and_as_exact(grade, orange) -> None:
    """The same tail of the graph in PyTorch: the gradients that autograd finds, averaged over each map."""
    from jetlens.backends.pytorch.graph import compile_graph

    found = grade.class_activation(orange, None, None)
    assert found.method.startswith("Grad-CAM (Selvaraju et al. 2017)")
    name, tail = grade._start(None, "logits")
    maps = grade.maps([orange], name)
    tensor = torch.tensor(maps, requires_grad=True)
    (logits,) = compile_graph(tail, torch.device("cpu")).run([tensor])
    (gradient,) = torch.autograd.grad(logits[0, found.class_id], tensor)
    with open_session(tail, "onnxruntime", SessionOptions(device="cpu"))[0] as session:
        mine = channel_gradients(session, maps, found.class_id, 32)
        one_by_one = channel_gradients(session, maps, found.class_id, 1)
    theirs = gradient.mean(dim=(2, 3))[0].numpy()
    assert np.abs(mine - theirs).max() < 0.01 * np.abs(theirs).max()
    np.testing.assert_allclose(mine, one_by_one, atol=1e-4 * np.abs(theirs).max())
    heat = np.maximum((theirs[:, None, None] * maps[0]).sum(axis=0), 0)
    assert np.abs(found.heat - heat / heat.max()).max() < 1e-3


def test_the_class_and_its_confidence_are_the_predictors(grade, orange) -> None:
    with load("orange-grade", "onnxruntime") as predictor:
        prediction = predictor(orange)
    found = grade.class_activation(orange, None, None)
    assert (found.class_id, grade.spec.labels[found.class_id]) == (int(prediction.class_id[0]), "ulcer")
    assert found.confidence == pytest.approx(float(prediction.confidence[0]), abs=1e-4)


def test_a_layer_that_a_shortcut_passes_is_refused(residual, orange) -> None:
    inside = look_inside(str(residual[0]))
    with pytest.raises(UsageError, match="passed by a shortcut"):
        inside.class_activation(orange, 0, "layer4.0.conv2")
    with pytest.raises(UnknownNameError, match="layer with feature maps"):
        inside.class_activation(orange, 0, "layer9")
    with pytest.raises(UsageError, match="class id is 7; allowed: 0 to 2"):
        inside.class_activation(orange, 7, None)


def test_classes_are_found_by_name(grade) -> None:
    assert class_named(grade.spec, "Wind Scarring") == 3
    assert class_named(grade.spec, "2") == 2
    assert class_named(grade.spec, None) is None
    for text in ("4", "banana"):
        with pytest.raises(UnknownNameError):
            class_named(grade.spec, text)
    with pytest.raises(UsageError, match="needs a classifier"):
        class_named(InsideOnnx("orange-segment").spec, "0")


def test_features_writes_maps_and_heat(tmp_path, grade, orange) -> None:
    lesson = features(grade, orange, tmp_path / "f.png")
    assert [path.name for path in lesson.files] == ["f.png", "f-cam.png"]
    assert all(path.stat().st_size > 30_000 for path in lesson.files)
    assert lesson.numbers["shape"] == [32, 64, 64]
    assert np.max(lesson.numbers["class_activation"]["heat"]) == 1
    assert seen_by(grade.spec, orange).shape == (448, 448, 3)
    segment = InsideOnnx("orange-segment")
    assert len(features(segment, orange, tmp_path / "s.png", layer="context.4").files) == 1
    with pytest.raises(UnknownNameError):
        features(segment, orange, tmp_path / "s.png", layer="nothing")


def test_models_functions_agree_with_the_view(residual, orange) -> None:
    _, checkpoint, network, _ = residual
    inside = look_inside(str(checkpoint))
    pixels = inside._pixels(orange)
    np.testing.assert_array_equal(inside.maps([orange], "act1")[0], feature_maps(network, pixels, "act1"))
    heat, _ = class_activation(network, pixels, 1, "layer4")
    np.testing.assert_array_equal(inside.class_activation(orange, 1, "layer4").heat, heat)


def test_pooling(tmp_path, grade, orange) -> None:
    lesson = pooling(grade, orange, tmp_path / "p.png", window=3, stride=2)
    assert lesson.numbers["pooled_shape"] == [31, 31]
    assert len(lesson.numbers["largest_difference"]) == 6
    assert max(lesson.numbers["largest_difference"].values()) <= 1e-5
    values = np.array(lesson.numbers["window_values"])
    assert lesson.numbers["window_max"] == values.max()
    assert values.shape == (3, 3)
    table = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(pool(table, 2, 2, np.max), [[5, 7], [13, 15]])
    np.testing.assert_array_equal(pool(table, 2, 2, np.mean), [[2.5, 4.5], [10.5, 12.5]])
    with pytest.raises(UsageError, match="numbered from 0"):
        pooling(grade, orange, tmp_path / "p.png", channel=32)
    with pytest.raises(UsageError, match="no more than its sides"):
        pooling(grade, orange, tmp_path / "p.png", layer="AveragePool", window=5)


def test_normalisation(tmp_path, grade) -> None:
    lesson = normalization(grade, fruits(3), tmp_path / "n.png", groups=4)
    assert len(lesson.numbers["largest_difference"]) == 8
    assert max(lesson.numbers["largest_difference"].values()) <= 1e-5
    x = np.random.default_rng(0).normal(2, 3, (3, 8, 5, 6))
    for kind, (_, axes) in NORMS.items():
        answer = normalise(x, kind, 4)
        sets = answer.reshape(3, 4, 2, 5, 6) if kind == "group" else answer
        assert np.abs(sets.mean(axis=axes)).max() < 1e-12
        assert np.abs(sets.std(axis=axes) - 1).max() < 1e-5
        # Negative control: none of the others' sets are normal.
        assert kind == "instance" or np.abs(answer.mean(axis=(2, 3))).max() > 1e-3
    assert (group_count(24, None), group_count(7, None), group_count(12, 3)) == (8, 1, 3)
    with pytest.raises(UsageError, match="equal groups"):
        group_count(8, 3)


def test_even_pictures_are_no_false_alarm(tmp_path, grade) -> None:
    even = np.full((30, 40, 3), 130, np.uint8)
    assert normalization(grade, [even], tmp_path / "n.png").files
    assert pooling(grade, even, tmp_path / "p.png").files
    assert features(grade, even, tmp_path / "f.png").files


def test_basic_cnn_has_its_parameters(tmp_path) -> None:
    lesson = architecture("BasicCNN", tmp_path / "a.png", NetworkOptions(classes=10))
    assert lesson.numbers["parameters"] == 1_147_914
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert architecture("MobileNetV2", tmp_path / "a.png").numbers["parameters"] == 3_504_872
    assert architecture("shufflenet_v2_x0_5", tmp_path / "a.png", NetworkOptions(size_hw=(64, 64))).numbers["parameters"] == 1_366_792


def test_a_graph_counts_what_its_network_counts(residual, tmp_path) -> None:
    graph, checkpoint, network, _ = residual
    first, second = (architecture(str(path), tmp_path / "a.png").numbers for path in (graph, checkpoint))
    assert first["macs"] == second["macs"]
    # Batch norms are folded into the convolutions: of weight and bias a bias is left.
    norms = sum(module.num_features for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert first["parameters"] == second["parameters"] - norms
    kinds = {row["kind"] for row in first["layers"]}
    assert {"Conv2d", "Linear", "ReLU", "Add"} <= kinds
    assert not any(row["name"].startswith("jetlens.") for row in first["layers"])


def test_wrong_networks_are_told(tmp_path) -> None:
    path = tmp_path / "a.png"
    for model, options, words in (
        ("nonsense", NetworkOptions(), "unknown network"),
        ("orange-grade", NetworkOptions(classes=3), "graph as it is"),
        ("orange-grade", NetworkOptions(size_hw=(32, 32)), "no other size"),
        ("shufflenet_v2_x0_5", NetworkOptions(channels=1), "colour pictures"),
        ("no_such_module:make", NetworkOptions(size_hw=(8, 8)), "no module"),
        ("no_such_module:make", NetworkOptions(), "--size"),
    ):
        with pytest.raises(UsageError, match=words):
            architecture(model, path, options)


def test_the_tail_of_a_graph_gives_its_answer(grade, orange) -> None:
    graph = OnnxGraph(model_path("orange-grade").read_bytes(), "orange-grade")
    assert graph.tail("images", "nothing") is None
    found = grade._graph.run(grade._task.preprocess([orange]).array, [grade._values["features.1.2"], "logits"])
    tail = grade._graph.tail(grade._values["features.1.2"], "logits")
    with open_session(tail, "onnxruntime", SessionOptions(device="cpu"))[0] as session:
        answer = session.run({session.inputs[0].name: found[grade._values["features.1.2"]]})
    np.testing.assert_allclose(answer["logits"], found["logits"], atol=1e-4)
