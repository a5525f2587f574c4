"""Learning-rate schedules and losses: the logged sequence is the closed form, focal with gamma 0 is cross-entropy."""

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from jetlens.errors import UnknownNameError, UsageError  # noqa: E402
from jetlens.train import TrainConfig, train  # noqa: E402
from jetlens.train.config import complete  # noqa: E402
from jetlens.train.losses import build_loss  # noqa: E402
from jetlens.train.schedules import build_schedule  # noqa: E402

BASE = TrainConfig("classification", size_hw=(32, 32))
STEPS, EPOCHS = 20, 5


def cosine(step):
    done = step / STEPS
    return max(done, 1e-3) / 0.05 if done < 0.05 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))


def one_cycle(step):
    done = step / STEPS
    if done < 0.3:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / 0.3))
    return 4e-6 + (1 - 4e-6) * 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))


CLOSED = {
    "constant": lambda step: 1.0,
    "cosine": cosine,
    "one-cycle": one_cycle,
    "step": lambda step: 0.5 ** (step * EPOCHS // STEPS // 2),
}


@pytest.mark.parametrize("name", CLOSED)
def test_the_logged_learning_rates_are_the_closed_form(name, splits, tmp_path):
    split = splits["classification"]
    batch = math.ceil(len(split.training) / (STEPS // EPOCHS))
    logged = {}
    config = replace(BASE, schedule=name, epochs=EPOCHS, batch_size=batch, step_epochs=2, step_factor=0.5, lr=0.01, log_steps=1)
    train(
        replace(config, output=tmp_path, device="cpu", pictures=False, validate_every=5),
        lambda event: logged.setdefault(event.step, event.lr),
        split,
    )
    assert sorted(logged) == list(range(1, STEPS + 1))
    assert [logged[step + 1] for step in range(STEPS)] == pytest.approx([0.01 * CLOSED[name](step) for step in range(STEPS)], rel=1e-12)


def test_plateau_drops_as_torch_does():
    schedule = build_schedule(replace(BASE, schedule="plateau", plateau=3, step_factor=0.5))
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=2, threshold=0)
    scores = [0.1, 0.3, 0.2, 0.3, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5]
    for score in scores:
        schedule.measured(score)
        theirs.step(score)
        assert schedule.factor(0.5) == optimizer.param_groups[0]["lr"]
    again = build_schedule(replace(BASE, schedule="plateau", plateau=3, step_factor=0.5))
    again.restore(schedule.state())
    assert again.factor(0) == schedule.factor(0) < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.0, 0.1]), st.booleans())
def test_focal_with_gamma_0_is_cross_entropy(seed, weighted, smoothing, pixels):
    torch.manual_seed(seed)
    shape = (3, 5, 4, 4) if pixels else (6, 5)
    logits, target = torch.randn(shape, dtype=torch.float64) * 4, torch.randint(0, 5, (shape[0], *shape[2:]))
    if pixels:
        target[0, 0] = 255
    weights = [0.5, 1, 2, 1, 3] if weighted else None
    config = replace(BASE, class_weights=weights, focal_gamma=0.0)
    plain = build_loss(replace(config, loss="cross-entropy"), 5, smoothing)(logits, target)
    assert float(build_loss(replace(config, loss="focal"), 5, smoothing)(logits, target)) == pytest.approx(float(plain), abs=1e-6)
    assert float(build_loss(replace(config, loss="focal", focal_gamma=2.0), 5, smoothing)(logits, target)) < float(plain)


def test_focal_has_a_gradient_where_the_network_is_certain():
    logits = torch.tensor([[60.0, -60.0], [0.0, 0.0]], requires_grad=True)
    build_loss(replace(BASE, loss="focal"), 2, 0.0)(logits, torch.tensor([0, 1])).backward()
    assert bool(torch.isfinite(logits.grad).all())


def mean_of_logits(logits, target):
    return logits.mean() * 0 + 7.0


def test_a_loss_of_the_users_own_and_what_is_none():
    config = replace(BASE, loss=f"{__name__}:mean_of_logits")
    assert float(build_loss(config, 3, 0.0)(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))) == 7.0
    with pytest.raises(UsageError, match="module:function"):
        build_loss(replace(BASE, loss="no_such_module:f"), 3, 0.0)
    with pytest.raises(UnknownNameError, match="cross-entropy"):
        complete(replace(BASE, loss="crossentropy"))
    with pytest.raises(UsageError, match="give 3 numbers"):
        build_loss(replace(BASE, class_weights=[1, 2]), 3, 0.0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("loss", ["cross-entropy", "focal", "dice"])
def test_every_optimizer_and_loss_learns(name, loss, splits, tmp_path):
    from train_cases import history_of

    config = replace(BASE, optimizer=name, loss=loss, lr=0.05 if name == "sgd" else 1e-3, nesterov=name == "sgd", epochs=4, batch_size=32)
    path = train(replace(config, output=tmp_path, device="cpu", pictures=False, weight_decay=0.0), split=splits["classification"])
    rows = history_of(path)
    assert rows[-1]["loss"] < rows[0]["loss"]
