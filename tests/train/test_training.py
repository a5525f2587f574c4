"""The trainer: it learns each task, one seed gives one result, and what cannot work is refused at once."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("safetensors")

from train_cases import SIZES, history_of  # noqa: E402

from jetlens.checkpoint import load_checkpoint, load_into  # noqa: E402
from jetlens.errors import DataError, ModelError, TrainingError, UnknownNameError, UsageError  # noqa: E402
from jetlens.models import build  # noqa: E402
from jetlens.spec import PreprocessSpec  # noqa: E402
from jetlens.train import TrainConfig, train  # noqa: E402
from jetlens.train.config import complete, preprocess_of  # noqa: E402
from jetlens.train.loop import evaluate_samples  # noqa: E402
from jetlens.train.samples import LABELS, VALIDATION_SEED, encode, shots  # noqa: E402


def config_of(task, folder, **changes):
    config = TrainConfig(
        task=task, size_hw=SIZES[task], epochs=12, batch_size=4, device="cpu", output=folder, validate_every=4, pictures=False
    )
    return replace(config, **changes)


@pytest.mark.parametrize(("task", "falls_to"), [("classification", 0.9), ("detection", 0.8), ("segmentation", 0.9)])
def test_the_loss_falls(task, falls_to, splits, tmp_path):
    batch = 16 if task == "classification" else 4
    path = train(config_of(task, tmp_path, batch_size=batch), split=splits[task])
    history = history_of(path)
    assert [row["epoch"] for row in history] == [4, 8, 12]
    assert history[-1]["loss"] < falls_to * history[0]["loss"]
    assert history[-1]["done"] == 1.0


def test_a_checkpoint_says_how_it_was_made_and_answers_as_it_was_measured(splits, tmp_path):
    config = config_of("segmentation", tmp_path, epochs=2, validate_every=1, command="jetlens train ...", name="seg")
    path = train(config, split=splits["segmentation"])
    assert path.name == "seg.safetensors"
    tensors, meta = load_checkpoint(path)
    assert meta["labels"] == list(LABELS["segmentation"])
    assert meta["training"]["command"] == "jetlens train ..."
    spec = PreprocessSpec(**{key: tuple(value) if isinstance(value, list) else value for key, value in meta["preprocess"].items()})
    assert spec == preprocess_of(config)
    network = build(meta["model"], **meta["arguments"])
    load_into(network, tensors, str(path))
    again = evaluate_samples(network, config, splits["segmentation"].validation, LABELS["segmentation"])
    assert again["miou"] == pytest.approx(meta["accuracy"]["miou"], abs=1e-4)


def test_one_seed_gives_one_network_and_another_gives_another(splits, tmp_path):
    def weights(seed, name):
        config = config_of("classification", tmp_path, epochs=1, seed=seed, name=name, batch_size=16)
        return load_checkpoint(train(config, split=splits["classification"]))[0]

    first, second, other = weights(1, "a"), weights(1, "b"), weights(2, "c")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_it_draws_its_own_samples_from_other_seeds_than_it_validates_with(tmp_path):
    path = train(
        TrainConfig(
            task="classification",
            size_hw=(32, 32),
            samples=4,
            epochs=1,
            batch_size=8,
            workers=0,
            device="cpu",
            output=tmp_path,
            pictures=False,
        )
    )
    origin = load_checkpoint(path)[1]["training"]["data"]
    assert origin == f"orange-line seeds 0-3; validation seeds {VALIDATION_SEED}-{VALIDATION_SEED + 1}"


def test_the_recorded_score_is_of_the_first_stills_of_the_validation_part(tmp_path):
    from jetlens.data import open_dataset
    from jetlens.data.base import Subset
    from jetlens.train.score import final_score

    config = TrainConfig("segmentation", samples=4, size_hw=(96, 160), epochs=1, batch_size=4, workers=0, device="cpu", output=tmp_path)
    path = train(replace(config, pictures=False))
    tensors, meta = load_checkpoint(path)
    assert meta["accuracy"]["data"] == "2 samples: --data orange-line --split val --count 2"
    assert set(meta["training"]["chosen_by"]) == {"miou", "miou_foreground", "pixel_accuracy"}
    network = build(meta["model"], **meta["arguments"])
    load_into(network, tensors, str(path))
    part = Subset(open_dataset("orange-line", "segmentation", "val"), range(2), "two")
    score = final_score(
        network, "segmentation", LABELS["segmentation"], preprocess_of(config), map(part.__getitem__, range(2)), torch.device("cpu")
    )
    assert round(score.figures["miou"], 6) == meta["accuracy"]["miou"]


@pytest.mark.parametrize("minutes", [0.01, 1e-9])
def test_time_ends_a_run_which_leaves_a_checkpoint_however_short_it_was(splits, tmp_path, minutes):
    config = config_of("classification", tmp_path, epochs=100_000, minutes=minutes, batch_size=16, validate_every=100_000)
    assert train(config, split=splits["classification"]).is_file()


def test_cuda_without_a_gpu_is_refused(splits, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"device cuda: .*give --device cpu"):
        train(config_of("classification", tmp_path, device="cuda"), split=splits["classification"])


def test_a_loss_that_is_no_number_ends_the_run(splits, tmp_path):
    with pytest.raises(TrainingError, match="give a smaller --lr"):
        train(config_of("segmentation", tmp_path, lr=1e30), split=splits["segmentation"])


@pytest.mark.parametrize(("changes", "error", "what"), [
    ({"task": "x"}, UsageError, "allowed: classification"),
    ({"device": "tpu"}, UsageError, "allowed: auto, cpu, cuda"),
    ({"data": "cifar"}, DataError, "no such dataset"),
    ({"model": "resnet"}, UnknownNameError, "resnet18"),
    ({"optimizer": "rmsprop"}, UnknownNameError, "known: adam, adamw, sgd"),
    ({"schedule": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
    ({"momentum": -1.0}, UsageError, "0 or more"),
    ({"label_smoothing": 1.0}, UsageError, "below 1"),
    ({"task": "detection", "loss": "focal"}, UsageError, "detection has its own loss"),
    ({"task": "segmentation", "mixup": True}, UsageError, "mixup is for classification"),
    ({"transforms": "sample"}, UsageError, "goes with a folder"),
    ({"nesterov": True}, UsageError, "--optimizer sgd"),
    ({"amp": "fp16", "device": "cpu"}, UsageError, "needs a GPU"),
    ({"epochs": 0}, UsageError, "1 or more"),
    ({"epochs": "3"}, UsageError, "give a number"),
    ({"lr": 0.0}, UsageError, "above 0"),
    ({"size_hw": "64x64"}, UsageError, "height and width"),
    ({"size_hw": (50, 64)}, ModelError, "multiples of 32"),
    ({"model_arguments": {"depth": 3}}, UsageError, "'depth'"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused_before_anything_is_drawn(changes, error, what, tmp_path, monkeypatch):
    monkeypatch.setattr("jetlens.train.samples.render", lambda shot: pytest.fail("it began to draw"))
    with pytest.raises(error, match=what):
        train(replace(TrainConfig(task="classification", workers=0, output=tmp_path), **changes))


def test_shots_are_distinct_and_hold_video_frames():
    chosen = shots(100, 80)
    assert len(set(chosen)) == 80
    assert sum(shot.frame is not None for shot in chosen) == 20


@pytest.mark.parametrize("size", [(96, 160), (128, 128)])
def test_boxes_and_masks_stand_on_the_canvas_where_the_picture_does(size, pictures):
    import numpy as np

    image, truth = pictures[0]
    rng = np.random.default_rng(0)
    spec = preprocess_of(complete(TrainConfig(task="detection", size_hw=size)))
    samples = encode("detection", image, truth, spec, rng)
    scale = min(size[0] / 360, size[1] / 640)
    top = (size[0] - round(360 * scale)) // 2
    assert samples.truth["xyxy"][0, 0] == pytest.approx(truth.xyxy[0] * scale + [0, top, 0, top], abs=0.5)
    assert int((samples.truth["class_id"] >= 0).sum()) == len(truth)
    mask = encode("segmentation", image, truth, spec, rng).truth["mask"][0]
    assert mask.shape == size
    assert (mask[:top] == 255).all()
    ratio = np.count_nonzero(mask * (mask < 255)) / max(1, np.count_nonzero(truth.mask))
    assert ratio == pytest.approx(scale**2, rel=0.15)
