"""Training on a GPU: mixed precision, not-a-number within two steps, a real lack of memory, and a run that goes on."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

import train_cases  # noqa: E402

from jetlens.errors import TrainingError  # noqa: E402
from jetlens.train import TrainConfig, train  # noqa: E402
from jetlens.train.config import complete  # noqa: E402
from jetlens.train.parallel import World  # noqa: E402
from jetlens.train.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


def config_of(folder, task="classification", **changes):
    base = TrainConfig(
        task, size_hw=train_cases.SIZES[task], epochs=4, batch_size=16, device="cuda", output=folder, pictures=False, name="a"
    )
    return replace(base, **changes)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_the_loss_falls_in_every_precision(task, amp, splits, tmp_path):
    path = train(config_of(tmp_path, task, amp=amp, batch_size=4, epochs=10), split=splits[task])
    rows = train_cases.history_of(path)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_auto_is_the_gpu(splits, tmp_path):
    config = complete(config_of(tmp_path, device="auto"))
    from jetlens.train.parallel import choose_device

    assert choose_device(config.device).type == "cuda"


def test_not_a_number_stops_at_most_one_step_late_and_the_weights_stay(splits, tmp_path):
    trainer = Trainer(complete(config_of(tmp_path)), splits["classification"], World(0, 1, GPU), lambda event: None)
    trainer.fit()
    kept = trainer.checkpoint.read_bytes()
    weights, calls = {name: tensor.clone() for name, tensor in trainer.network.named_parameters()}, []
    trainer.steps, trainer.config = 1000, replace(trainer.config, epochs=100)

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan")

    trainer.network.features[1].register_forward_hook(poison)
    with pytest.raises(TrainingError, match=r"layer features\.1 "):
        trainer.fit()
    assert len(calls) <= 3
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.network.named_parameters())
    assert trainer.checkpoint.read_bytes() == kept


def test_a_real_lack_of_memory_makes_the_parts_smaller(splits, tmp_path):
    notes = []
    split = splits["segmentation"]
    config = complete(config_of(tmp_path, "segmentation", batch_size=8, epochs=1))
    trainer = Trainer(config, split, World(0, 1, GPU), lambda event: notes.append(event.note))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    images, truth = next(trainer.training.batches(trainer.order(0)[:1], 0))
    images = trainer.normalise(images)
    trainer.stepper.take(images, truth, 0.5, 1.0)
    total = torch.cuda.get_device_properties(0).total_memory
    room = (torch.cuda.memory_allocated() + torch.cuda.max_memory_allocated()) / 2
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        trainer.stepper.take(images, truth, 0.5, 1.0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.stepper.parts > 1
    assert any("out of memory" in note for note in notes)


def test_a_cut_off_run_goes_on(splits, tmp_path):
    class CutError(Exception):
        pass

    def cut(event):
        if event.metrics and event.epoch == 2:
            raise CutError

    config = config_of(tmp_path, save_steps=3, resume=True)
    with pytest.raises(CutError):
        train(config, cut, splits["classification"])
    rows = train_cases.rows_of(train(config, split=splits["classification"]))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
