"""What goes wrong while it trains: not-a-number, too little memory, broken pictures; what stops early; what is written."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import train_cases  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from jetlens.checkpoint import load_checkpoint  # noqa: E402
from jetlens.data import Sample  # noqa: E402
from jetlens.errors import DataError, TrainingError  # noqa: E402
from jetlens.models import build  # noqa: E402
from jetlens.results import Detections  # noqa: E402
from jetlens.spec import PreprocessSpec  # noqa: E402
from jetlens.train import TrainConfig, train  # noqa: E402
from jetlens.train.config import complete  # noqa: E402
from jetlens.train.datasets import encode_sample  # noqa: E402
from jetlens.train.feed import Resident, Streamed, read_all  # noqa: E402
from jetlens.train.finite import first_bad  # noqa: E402
from jetlens.train.parallel import World  # noqa: E402
from jetlens.train.probe import overfit_one_batch, range_test  # noqa: E402
from jetlens.train.samples import Split  # noqa: E402
from jetlens.train.trainer import Trainer  # noqa: E402

CPU = torch.device("cpu")


def config_of(folder, **changes):
    base = TrainConfig("classification", size_hw=(32, 32), epochs=2, batch_size=32, device="cpu", output=folder, pictures=False, name="a")
    return replace(base, **changes)


def trainer_of(splits, folder, say=lambda event: None, **changes):
    config = complete(config_of(folder, **changes))
    return Trainer(config, splits["classification"], World(0, 1, CPU), say)


@pytest.mark.parametrize("layer", ["features.0.0", "features.1.1", "features.2", "hidden", "output"])
def test_not_a_number_stops_within_its_step_and_its_layer_is_named(layer, splits, tmp_path):
    trainer = trainer_of(splits, tmp_path, log_steps=1)
    trainer.fit()
    kept = trainer.checkpoint.read_bytes()
    trainer.steps, trainer.config, calls = 1000, replace(trainer.config, epochs=100), []
    weights = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan")

    trainer.network.get_submodule(layer).register_forward_hook(poison)
    with pytest.raises(TrainingError, match=f"layer {layer} .*kept checkpoints are untouched; give a smaller --lr"):
        trainer.fit()
    assert len(calls) == 2  # the step, and the search for the layer
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.network.named_parameters())
    assert trainer.checkpoint.read_bytes() == kept


def test_bad_weights_pictures_and_gradients_are_told_apart():
    images = torch.randn(2, 3, 32, 32)
    network = build("basic_cnn", num_classes=2)
    assert first_bad(network, lambda: network(images).sum(), images * float("inf")) == "the pictures themselves"
    assert first_bad(network, lambda: (network(images) * 0).sum().sqrt(), images).startswith("gradient of output")
    with torch.no_grad():
        network.hidden.bias[3] = float("nan")
    assert first_bad(network, lambda: network(images).sum(), images) == "weight hidden.bias"


def test_too_little_memory_halves_the_parts_and_says_so(splits, tmp_path):
    notes, seen = [], []
    trainer = trainer_of(splits, tmp_path, lambda event: notes.append(event.note), epochs=1)

    def small(module, inputs):
        if module.training and len(inputs[0]) > 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        seen.append(len(inputs[0]))

    trainer.network.register_forward_pre_hook(small)
    trainer.fit()
    assert trainer.stepper.parts == 4
    assert max(seen) == 8
    assert trainer.step == len(trainer.order(0))
    assert [note for note in notes if "out of memory" in note][-1].endswith("--accumulate 4)")
    trainer.network.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")), prepend=True)
    trainer.epoch = trainer.step = 0
    with pytest.raises(TrainingError, match="even with 2 pictures at a time"):
        trainer.train_epoch()


@pytest.mark.parametrize("changes", [{"accumulate": 4}, {"activation_checkpointing": True}])
def test_less_memory_gives_the_same_gradient(changes, splits, tmp_path):
    found = []
    for more in ({}, changes):
        trainer = trainer_of(splits, tmp_path, model="basic_cnn", model_arguments={"dropout": 0.0, "norm": "group"}, clip_norm=0.0, **more)
        images, truth = next(trainer.training.batches(trainer.order(0)[:1], 0))
        loss = trainer.stepper.take(trainer.normalise(images), truth, 0.5, 1.0)
        found.append((loss, [p.grad.clone() for p in trainer.network.parameters()]))
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), abs=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_early_stopping_ends_with_the_best_weights(splits, tmp_path, monkeypatch):
    trainer = trainer_of(splits, tmp_path, epochs=50, early_stop=3, ema=False)
    scores = iter([0.3, 0.6, 0.5, 0.6, 0.4, 0.9])
    kept = []
    monkeypatch.setattr(trainer.recipe, "figures", lambda counts: {"top1": next(scores)})
    plain = trainer.keep
    monkeypatch.setattr(
        trainer,
        "keep",
        lambda metrics, weights, *rest: (kept.append({k: v.clone() for k, v in weights.items()}), plain(metrics, weights, *rest)),
    )
    trainer.fit()
    assert [row["metrics"]["top1"] for row in trainer.history] == [0.3, 0.6, 0.5, 0.6, 0.4]
    saved = load_checkpoint(trainer.checkpoint)
    assert saved[1]["training"]["epoch"] == 2
    trainer.finish()
    assert all(torch.equal(tensor, trainer.average.twin.state_dict()[name]) for name, tensor in kept[-1].items())


class Folder:
    """Pictures on disk as a dataset; see jetlens.data.Dataset."""

    def __init__(self, task, folder, count=20):
        rng = np.random.default_rng(0)
        self.task, self.labels, self.origin, self.reads = task, ("a", "b"), "a test", 0
        self.files, self.truths = [], []
        for number in range(count):
            file = folder / f"{number:02}.png"
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(file)
            boxes = Detections(
                np.array([[4, 6, 30, 36]], np.float32)[: number % 2],
                np.ones(number % 2, np.float32),
                np.zeros(number % 2, np.int64),
                (40, 48),
                self.labels,
            )
            mask = np.zeros((40, 48), np.uint8)
            mask[6:36, 4:30] = 1
            self.files.append(file)
            self.truths.append({"classification": number % 2, "detection": boxes, "segmentation": mask}[task])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return Sample(self.files[index], self.truths[index], self.files[index].name)

    def mean_std(self):
        return None


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_streamed_batches_equal_resident_ones(task, tmp_path):
    data, spec = Folder(task, tmp_path), PreprocessSpec((32, 64), "letterbox")
    config = complete(TrainConfig(task, data=str(tmp_path), size_hw=(32, 64), workers=0))
    indices = [torch.tensor([3, 1, 7]), torch.tensor([0, 19])]
    resident = Resident(read_all(data, spec, config, print), CPU)
    for workers in (0, 2) if task == "detection" else (0,):
        streamed = Streamed(data, spec, replace(config, workers=workers), CPU, print)
        for _ in range(2):
            for ours, theirs in zip(resident.batches(indices, 0), streamed.batches(indices, 0), strict=True):
                assert torch.equal(ours[0], theirs[0])
                for key, tensor in theirs[1].items():
                    assert torch.equal(ours[1][key][:, : tensor.shape[1]] if tensor.ndim > 1 and key != "mask" else ours[1][key], tensor)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_transforms_move_boxes_and_masks_with_the_picture_the_same_way_each_time(task, tmp_path):
    from jetlens.train.transforms import transform

    data, spec = Folder(task, tmp_path, 2), PreprocessSpec((64, 64), "letterbox")
    config = complete(TrainConfig(task, data=str(tmp_path), size_hw=(64, 64), jitter=False, transforms="sample"))
    plain = encode_sample(task, data[1], spec)
    image = np.zeros((64, 64, 3), np.uint8)
    inside = plain.truth["mask"] == 1 if task == "segmentation" else None
    if task == "detection":
        x1, y1, x2, y2 = plain.truth["xyxy"][0].round().astype(int)
        inside = np.zeros((64, 64), bool)
        inside[y1:y2, x1:x2] = True
    image[inside] = 255
    marked = replace(plain, image=image)
    changed = [transform(marked, config, (0, 3, number)) for number in range(12)]
    again = transform(marked, config, (0, 3, 5))
    assert np.array_equal(changed[5].image, again.image)
    assert any(not np.array_equal(one.image, image) for one in changed)
    for one in changed:
        bright = one.image[..., 0] > 127
        bright &= ~((one.image[..., 0] > 100) & (one.image[..., 0] < 130))
        if task == "segmentation":
            assert np.mean((one.truth["mask"] == 1) == bright) > 0.97
        elif len(one.truth["xyxy"]):
            rows, columns = np.nonzero(bright.any(1))[0], np.nonzero(bright.any(0))[0]
            assert one.truth["xyxy"][0] == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=2.5)


def test_a_picture_that_breaks_later_is_named_once_and_the_run_goes_on(tmp_path):
    data, notes = Folder("classification", tmp_path, 24), []
    split = Split(data, data, data.labels, "a test")
    config = config_of(tmp_path / "runs", epochs=4, batch_size=8, transforms="sample", workers=0, data=str(tmp_path))

    def listen(event):
        notes.append(event.note)
        if event.metrics and event.epoch == 2:
            data.files[5].write_bytes(data.files[5].read_bytes()[:60])

    path = train(config, listen, split)
    assert len([note for note in notes if "05.png" in note and note.startswith("left out")]) == 2  # by training and by validation
    assert len(train_cases.history_of(path)) == 4
    kept = path.read_bytes()
    for file in data.files[:12]:
        file.write_bytes(b"broken")
    with pytest.raises(TrainingError, match=r"of 24 pictures cannot be used, the last: .*\.png"):
        train(replace(config, seed=1), listen, split)
    assert path.read_bytes() == kept
    for file in data.files:
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="no picture can be used"):
        read_all(data, PreprocessSpec((32, 32)), complete(config), print)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 9), st.integers(0, 50))
def test_every_picture_comes_once_an_epoch_in_an_order_that_seed_and_epoch_decide(batch_size, seed):
    class Only:
        order = Trainer.order

    only = Only()
    only.config, only.world, only.batch_size = TrainConfig("classification", seed=seed), World(0, 1, CPU), batch_size
    only.training = range(20)
    first = torch.cat(only.order(0)).tolist()
    assert len(set(first)) == len(first) >= 19
    assert first == torch.cat(only.order(0)).tolist() != torch.cat(only.order(1)).tolist()


def test_history_tables_and_event_files_say_the_same(splits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = train(config_of(tmp_path, tensorboard=True), split=splits["classification"])
    rows = train_cases.history_of(path)
    with (tmp_path / "a" / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["top1"]) for line in table] == [row["metrics"]["top1"] for row in rows]
    events = EventAccumulator(str(tmp_path / "a"))
    events.Reload()
    assert [event.value for event in events.Scalars("validation/top1")] == pytest.approx([row["metrics"]["top1"] for row in rows])
    classes = json.loads((tmp_path / "a" / "classes.json").read_text())
    assert sum(row["support"] for row in classes) == len(splits["classification"].validation)


def test_one_batch_is_learned_by_heart_and_wrong_settings_are_seen(splits, tmp_path):
    found = overfit_one_batch(config_of(tmp_path, batch_size=8), split=splits["classification"], steps=60)
    assert found.learned
    assert not overfit_one_batch(config_of(tmp_path, batch_size=8, lr=1e-9), split=splits["classification"], steps=5).learned


def test_the_range_test_finds_where_the_loss_explodes(splits, tmp_path):
    found = range_test(config_of(tmp_path, optimizer="sgd", clip_norm=0.0), split=splits["classification"], steps=40)
    assert found.rates == sorted(found.rates)
    assert 1e-7 < found.suggested < 1
    assert json.loads((tmp_path / "a" / "lr-range.json").read_text())["suggested"] == found.suggested
