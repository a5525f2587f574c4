"""The zoo: real pretrained networks answer as in torchvision itself; weights are never trusted; the cache heals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from jetlens.errors import UnknownNameError, UsageError, WeightsError
from jetlens.imagefile import load_image
from jetlens.predictor import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from jetlens.backends.base import SessionOptions  # noqa: E402
from jetlens.backends.onnxruntime import OnnxRuntime  # noqa: E402
from jetlens.backends.pytorch import PyTorch  # noqa: E402
from jetlens.export import zoo  # noqa: E402
from jetlens.export.onnx import export_model  # noqa: E402
from jetlens.export.trained import network_to_export  # noqa: E402
from jetlens.export.verify import box_deviation  # noqa: E402
from jetlens.export.zoo import ZOO, ensure, zoo_network  # noqa: E402
from jetlens.models.ssd import RawSsd  # noqa: E402
from jetlens.models.weights import read_weights  # noqa: E402

REAL = {
    "mobilenet_v2": "mobilenetv2_torchvision/mobilenet_v2_imagenet_tvnorm_fp16.pth",
    "squeezenet1_1": "squeezenet_derived/squeezenet1_1_imagenet_tvnorm_fp16.pth",
}
KNOWN = {"darknet/dog.jpg": ("malamute", 0.75), "coral/cat.png": ("Egyptian cat", 0.74)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETLENS_CACHE", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(cache / "torch"))


def torchvision_top(name: str, weights: Path, image: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Torchvision alone: its network, its transforms, its picture type."""
    from PIL import Image

    network = torchvision.models.get_model(name, weights=None)
    state = {key: value.float() if value.is_floating_point() else value for key, value in torch.load(weights, weights_only=True).items()}
    network.load_state_dict(state, strict=False)
    steps = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    with torch.inference_mode():
        probabilities = network.eval()(steps(Image.fromarray(image))[None]).softmax(1)[0]
    values, ids = probabilities.topk(5)
    return ids.tolist(), values.numpy()


@pytest.mark.parametrize("name", REAL)
def test_real_networks_answer_as_in_torchvision(shared_data: Path, name: str) -> None:
    weights = shared_data / "models" / REAL[name]
    model = ensure(name, weights)
    for backend in ("onnxruntime", "pytorch"):
        with load(model, backend=backend, device="cpu", threads=1) as predictor:
            for file, (label, confidence) in KNOWN.items():
                image = load_image(shared_data / "images" / file)
                answer = predictor(image)
                ids, values = torchvision_top(name, weights, image)
                assert list(answer.class_id[:5]) == ids
                np.testing.assert_allclose(answer.confidence[:5], values, atol=0.01)
                if name == "mobilenet_v2":
                    assert predictor.spec.label(ids[0]) == label
                    assert abs(float(answer.confidence[0]) - confidence) < 0.02


def test_exported_once_and_healed(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = shared_data / "models" / REAL["squeezenet1_1"]
    first = ensure("squeezenet1_1", weights)
    made = first.stat().st_mtime_ns
    calls: list[str] = []
    real = zoo.export_model
    monkeypatch.setattr(zoo, "export_model", lambda *given, **options: calls.append("export") or real(*given, **options))
    assert ensure("squeezenet1_1", weights) == first
    assert (calls, first.stat().st_mtime_ns) == ([], made)
    first.write_bytes(first.read_bytes()[:-100])
    assert ensure("squeezenet1_1", weights) == first
    assert calls == ["export"]
    assert sorted({row.suffix for row in first.parent.iterdir()}) == [".json", ".onnx"]


def test_other_weights_are_another_file(shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "models" / REAL["squeezenet1_1"]
    state = torch.load(weights, weights_only=True)
    state["classifier.1.bias"] = state["classifier.1.bias"] + 1
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "mine.pth")
    other = ensure("squeezenet1_1", tmp_path / "mine.pth")
    assert other != ensure("squeezenet1_1", weights)
    from jetlens.spec import read_model

    assert read_model(other)[1].weights["source"] == "file mine.pth for torchvision squeezenet1_1"


def test_offline_says_which_file_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*given: Any, **options: Any) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth.*--weights") as caught:
        ensure("resnet18")
    assert len(str(caught.value)) <= 300


def test_weights_with_another_hash_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def forged(request: Any, *given: Any, **options: Any) -> Any:
        class Reply:
            def __init__(self) -> None:
                self.left = [b"forged weights"]

            def info(self) -> Any:
                return type("Meta", (), {"get_all": lambda self, name: ["14"]})()

            def read(self, count: int = -1) -> bytes:
                return self.left.pop() if self.left else b""

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: object) -> None:
                return None

            close = __exit__

        return Reply()

    monkeypatch.setattr(torch.hub, "urlopen", forged)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torchvision.models.resnet18().state_dict(), cached)  # what torch itself would load from its cache without a look
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth: what came is damaged"):
        zoo_network("resnet18")
    assert capsys.readouterr().out == ""


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_hostile_weights_run_nothing(tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"layer": Hostile(canary)}, file)
    with pytest.raises(WeightsError, match=r"evil\.pth: .*\(it holds (posix|nt)\.system, pickled code that is not run\)"):
        read_weights(file)
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists(), "the control: the naive way does run it"


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut", b"\x80\x02]q\x00."])
def test_damaged_weights_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name) as caught:
            read_weights(tmp_path / name)
        assert len(str(caught.value)) <= 300 + len(str(tmp_path))
        if not content:
            assert "(it is empty)" in str(caught.value)
    if content == b"text":
        with pytest.raises(WeightsError, match="it is no PyTorch file"):
            read_weights(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no such"):
        read_weights(tmp_path / "absent.pth")


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing .*unexpected"):
        zoo_network("mobilenet_v3_small", tmp_path / "w.pth")


def test_safetensors_half_precision_and_prefix(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    network = torchvision.models.squeezenet1_1()
    state = {f"module.{key}": value.half() for key, value in network.state_dict().items()}
    safetensors.save_file(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert read.keys() == network.state_dict().keys()
    assert {value.dtype for value in read.values()} == {torch.float32}


def test_usage_errors() -> None:
    with pytest.raises(UnknownNameError, match="resnet18"):
        ensure("resnet81")
    for arguments in (
        ("resnet18", Path("w.pth"), True),
        ("x.onnx", None, False),
        ("w.pth", None, False),
        ("small_det", Path("w.pth"), False),
    ):
        with pytest.raises(UsageError):
            network_to_export(arguments[0], arguments[1], untrained=arguments[2])
    with pytest.raises(UsageError, match=r"w\.pth: no such file"):
        network_to_export("w.pth")


def test_every_row_follows_the_transforms_of_its_weights() -> None:
    for name, row in ZOO.items():
        entry = torchvision.models.get_model_weights(name)[row.weights]
        labels = zoo.labels(row.labels)
        assert len(labels) == len(entry.meta["categories"])
        if row.task != "classification":
            continue
        (crop,), (short,) = entry.transforms().crop_size, entry.transforms().resize_size
        spec = zoo._preprocess(row, entry, None)
        assert (spec.size_hw, spec.short_side, spec.resize) == ((crop, crop), short, "crop")
        assert spec.mean == pytest.approx([123.675, 116.28, 103.53])


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", pytest.param("ssd300_vgg16", marks=pytest.mark.release)])
def test_ssd_decodes_as_torchvision(name: str) -> None:
    """Random weights, but real statistics: boxes against torchvision's own coder and anchors, scores against its softmax."""
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    size = ZOO[name].size_hw
    assert size is not None
    whole = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=91).eval()
    raw = RawSsd(whole, size).eval()
    picture = torch.rand(1, 3, *size)
    with torch.inference_mode():
        features = list(whole.backbone(picture).values())
        (anchors,) = whole.anchor_generator(ImageList(picture, [size]), features)
        logits, boxes = raw(picture)
        boxes = boxes + torch.randn_like(boxes)
        xyxy, scores = raw.decode(logits, boxes)
        want = torchvision.ops.clip_boxes_to_image(whole.box_coder.decode_single(boxes[0], anchors), size)
    torch.testing.assert_close(xyxy[0], want, rtol=0, atol=1e-3)
    # The background's column is left out, and the sidecar's offset gives COCO's ids back.
    torch.testing.assert_close(scores[0], logits[0].softmax(-1)[:, 1:])
    assert zoo.zoo_network(name, pretrained=False)[1].label_offset == -1
    spec_mean = [value / 255 for value in zoo._preprocess(ZOO[name], None, whole).mean]
    assert spec_mean == pytest.approx(whole.transform.image_mean, abs=1e-6)


def awake(network: Any, size_hw: tuple[int, int]) -> Any:
    """Random weights with the statistics of real activations: without them deep networks answer 0 to everything."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    # Small inputs get more pictures: statistics of few values make a network that magnifies rounding.
    count, part = (8, 1) if size_hw[0] < 300 else (2, 2)
    with torch.no_grad():
        network.train()(torch.randn(count, 3, size_hw[0] // part, size_hw[1] // part))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.clamp_(min=float(module.running_var.mean()) / 2)
    return network.eval()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "ssdlite320_mobilenet_v3_large"])
def test_pytorch_backend_runs_the_graphs_of_the_zoo(tmp_path: Path, name: str) -> None:
    network, spec = zoo_network(name, pretrained=False)
    export_model(awake(network, spec.preprocess.size_hw), spec, tmp_path / "x.onnx", taps=True, allow_random=True)
    model = (tmp_path / ("x.taps.onnx" if spec.task != "classification" else "x.onnx")).read_bytes()
    pixels = np.random.default_rng(1).integers(0, 256, (2, *spec.preprocess.size_hw, 3), dtype=np.uint8)
    options = SessionOptions(device="cpu", threads=1)
    with OnnxRuntime.open(model, options) as first, PyTorch.open(model, options) as second:
        want, got = first.run({"images": pixels}), second.run({"images": pixels})
    assert "logits" in want
    assert want["logits"].std() > 1e-3
    for key in ("logits", "boxes"):
        if key in want:
            np.testing.assert_allclose(got[key], want[key], rtol=0, atol=1e-4 * max(1.0, float(np.abs(want[key]).max())))
    if "detections" in want:
        assert max(box_deviation(*pair) for pair in zip(want["detections"], got["detections"], strict=True)) <= 0.01
