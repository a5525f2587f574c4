"""torchvision's networks: shapes, new heads, pretrained weights from files that may be wrong, and the SSD's loss against torchvision's."""

import hashlib

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from jetlens.errors import UnknownNameError, UsageError, WeightsError  # noqa: E402
from jetlens.models import PRETRAINED, build, canonical, pretrained  # noqa: E402
from jetlens.models import weights as weights_module  # noqa: E402
from jetlens.models.ssd import encode, match  # noqa: E402

torch.set_num_threads(1)

CLASSIFIERS = [name for name, row in PRETRAINED.items() if row.task == "classification"]
HEAVY = ("alexnet", "resnet50", "ssd300_vgg16", "deeplabv3_resnet50")


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "alexnet"])
def test_classifiers_give_logits(name):
    network = build(name, num_classes=5).eval()
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("name", list(PRETRAINED))
def test_every_network_builds_without_memory(name):
    """On torch's meta device: the layouts of all, also of the large ones, in no time."""
    row = PRETRAINED[name]
    with torch.device("meta"):
        network = build(name, num_classes=5)
        answer = network.eval()(torch.empty(1, 3, *row.size_hw))
    shapes = [tuple(part.shape) for part in (answer if isinstance(answer, tuple) else (answer,))]
    if row.task == "detection":
        anchors = 8732 if name == "ssd300_vgg16" else 3234
        assert shapes == [(1, anchors, 6), (1, anchors, 4)]
    else:
        assert shapes == [(1, 5) if row.task == "classification" else (1, 5, *row.size_hw)]


def test_mean_and_std_are_torchvisions():
    models = pytest.importorskip("torchvision.models")
    for name, row in PRETRAINED.items():
        entry = models.get_model_weights(name)[row.weights]
        if row.task == "detection":
            network = models.get_model(name, weights=None, weights_backbone=None) if name not in HEAVY else None
            mean, std = (
                (network.transform.image_mean, network.transform.image_std) if network else ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3)
            )
        else:
            mean, std = entry.transforms().mean, entry.transforms().std
        assert row.mean == pytest.approx([255 * value for value in mean], abs=1e-3), name
        assert row.std == pytest.approx([255 * value for value in std], abs=1e-3), name


def test_other_channels_and_short_names():
    assert build("mobilenet_v3_small", num_classes=3, in_channels=1).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 3)
    assert canonical("ssdlite320") == "ssdlite320_mobilenet_v3_large"
    network = build("lraspp", num_classes=4).eval()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 4, 64, 96)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "lraspp", "ssdlite320"])
def test_pretrained_weights_are_everywhere_but_in_the_head(name, tmp_path):
    torch.manual_seed(0)
    donor = build(name, num_classes=9)
    inner = donor.network if hasattr(donor, "network") else donor
    state = {key: value.half() if value.is_floating_point() else value for key, value in inner.state_dict().items()}
    torch.save(
        {"model": {f"module.{key}": value for key, value in state.items()} | {"module.aux_classifier.0.weight": torch.zeros(1)}},
        tmp_path / "w.pth",
    )
    network = pretrained(name, 4, tmp_path / "w.pth")
    inner = network.network if hasattr(network, "network") else network
    new = [key for key, value in inner.state_dict().items() if value.shape != state[key].shape]
    assert 1 <= len(new) <= 12
    for key, value in inner.state_dict().items():
        if key not in new:
            assert torch.equal(value, state[key].to(value.dtype)), key
    # Saved and built again by its name it is the same network: what a checkpoint needs.
    build(name, num_classes=4).load_state_dict(network.state_dict())


def test_the_head_is_new_also_for_as_many_classes(tmp_path):
    donor = build("mobilenet_v3_small", num_classes=4)
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    network = pretrained("mobilenet_v3_small", 4, tmp_path / "w.pth")
    assert torch.equal(network.features[0][0].weight, donor.features[0][0].weight)
    assert not torch.equal(network.classifier[3].weight, donor.classifier[3].weight)


def test_real_weights_answer_with_their_own_features(shared_data):
    path = shared_data / "models" / "mobilenetv2_torchvision" / "mobilenet_v2_imagenet_tvnorm_fp16.pth"
    if not path.is_file():
        pytest.skip(f"no {path}")
    network = pretrained("mobilenet_v2", 3, path).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    stored = torch.load(path, weights_only=True)
    assert torch.equal(network.features[0][0].weight, stored["features.0.0.weight"].float())


class _Bad:
    def __reduce__(self):
        import os

        return os.mkdir, ("/nonexistent/never",)


@pytest.mark.parametrize(("content", "what"), [
    (b"not a checkpoint", "damaged, or no file of plain tensors"),
    (_Bad(), "damaged, or no file of plain tensors"),
    ({"epoch": 3}, "no state_dict of tensors"),
    ({"features.0.0.weight": torch.zeros(3)}, "missing"),
    (None, "no such file of weights"),
])  # fmt: skip
def test_weights_that_cannot_be_used_are_explained(content, what, tmp_path):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=what) as caught:
        pretrained("mobilenet_v3_small", 4, path)
    assert len(str(caught.value)) <= 300 + len(str(path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(build("squeezenet1_1", num_classes=4).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"weights of another network than MobileNetV3: \d+ missing \(.* unexpected \("):
        pretrained("mobilenet_v3_small", 4, tmp_path / "w.pth")


def test_a_download_whose_hash_is_wrong_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(build("mobilenet_v3_small", num_classes=1000).state_dict(), tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()

    class Entry:
        url = "http://127.0.0.1:9/net-00000000.pth"

    (folder / "net-00000000.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"net-00000000.pth cannot be downloaded .*--weights net-00000000.pth"):
        weights_module.download(Entry)
    Entry.url = f"http://127.0.0.1:9/net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / Entry.url.rsplit("/", 1)[-1]).write_bytes(content)
    assert "features.0.0.weight" in weights_module.download(Entry)


@pytest.mark.parametrize(("make", "error", "what"), [
    (lambda: build("resnet19", num_classes=3), UnknownNameError, "did you mean 'resnet18'"),
    (lambda: pretrained("basic_cnn", 3), UnknownNameError, "network with pretrained weights"),
    (lambda: build("resnet18", num_classes=3, norm="group"), UsageError, "'norm'; it takes num_classes, in_channels, size_hw"),
    (lambda: build("resnet18", num_classes=0), UsageError, "num_classes is 0; give 1 or more"),
    (lambda: build("lraspp", num_classes=3, in_channels=1), UsageError, "takes colour pictures"),
    (lambda: build("ssdlite320", num_classes=3, size_hw=(288, 512)), UsageError, "takes 320x320 and no other size, not 288x512"),
])  # fmt: skip
def test_wrong_calls_are_explained(make, error, what):
    with pytest.raises(error, match=what):
        make()


@pytest.fixture(scope="module")
def ssd():
    """Our network and torchvision's around the same layers."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4).eval()
    from jetlens.models.ssd import RawSsd

    return RawSsd(theirs, (320, 320)).eval(), theirs


TRUTH = {
    "xyxy": torch.tensor([
        [[10.0, 20, 200, 180], [150, 160, 158, 170], [12, 22, 205, 178], [0, 0, 0, 0]],
        [[100.0, 100, 300, 310], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    ]),
    "class_id": torch.tensor([[0, 2, 1, -1], [1, -1, -1, -1], [-1, -1, -1, -1]]),
}  # fmt: skip


def test_the_ssd_loss_is_torchvisions(ssd):
    ours, theirs = ssd
    torch.manual_seed(1)
    logits, boxes = torch.randn(3, len(ours.anchors), 4), torch.randn(3, len(ours.anchors), 4) * 0.3
    from torchvision.ops import box_iou

    targets, matched = [], []
    for xyxy, class_id in zip(TRUTH["xyxy"], TRUTH["class_id"], strict=True):
        real = class_id >= 0
        targets.append({"boxes": xyxy[real], "labels": class_id[real] + 1})
        none = torch.full((len(ours.anchors),), -1, dtype=torch.int64)
        matched.append(theirs.proposal_matcher(box_iou(xyxy[real], ours.anchors)) if real.any() else none)
    for index in range(2):
        assert torch.equal(match(ours.anchors, TRUTH["xyxy"], TRUTH["class_id"])[index], matched[index])
    losses = theirs.compute_loss(targets, {"cls_logits": logits, "bbox_regression": boxes}, [ours.anchors] * 3, matched)
    torch.testing.assert_close(ours.loss(logits, boxes, TRUTH), losses["classification"] + losses["bbox_regression"])


def test_decode_undoes_encode_and_counts_no_background(ssd):
    ours, _ = ssd
    xyxy = TRUTH["xyxy"][:1, :1].expand(1, len(ours.anchors), 4)
    logits = torch.zeros(1, len(ours.anchors), 4)
    logits[..., 2] = 20.0
    boxes, scores = ours.decode(logits, encode(xyxy, ours.anchors, ours.weights))
    torch.testing.assert_close(boxes, xyxy, atol=1e-2, rtol=0)
    assert scores.shape == (1, len(ours.anchors), 3)
    assert bool((scores.argmax(-1) == 1).all())


def test_the_ssd_learns_one_picture():
    """The loss falls, and the answer is the box: what fine-tuning stands on."""
    torch.manual_seed(0)
    network = build("ssdlite320", num_classes=2).train()
    truth = {"xyxy": torch.tensor([[[64.0, 96, 224, 256]]]).repeat(2, 1, 1), "class_id": torch.tensor([[1], [1]])}
    images = torch.randn(2, 3, 320, 320) * 0.1
    images[:, :, 96:256, 64:224] += 2.0
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss = network.loss(*network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_batch_without_boxes_has_a_finite_loss(ssd):
    ours, _ = ssd
    logits, boxes = torch.zeros(1, len(ours.anchors), 4, requires_grad=True), torch.zeros(1, len(ours.anchors), 4)
    loss = ours.loss(logits, boxes, {"xyxy": torch.zeros(1, 0, 4), "class_id": torch.zeros(1, 0, dtype=torch.int64)})
    loss.backward()
    assert loss.item() == 0
