from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
from injected_faults import FAULTS, HONEST, MODELS, Engines, taken
from onnx import numpy_helper

from jetlens.deviation import judge

SET = 32
SEED = 7


@cache
def engines(task: str, count: int) -> Engines:
    return Engines(task, count)


@cache
def answers(task: str, count: int, kind: str) -> dict[str, Any]:
    made = engines(task, count)
    return {**HONEST, **FAULTS}[kind](made)


def passes(task: str, count: int, kind: str, numbers: Any) -> bool:
    made = engines(task, count)
    outputs = taken(answers(task, count, kind), numbers)
    precision = "fp32" if kind.startswith("fp32") else "fp16"
    return judge(task, taken(made.reference, numbers), outputs, precision, darker=taken(made.darker, numbers)).passed


def polygraphy(task: str, count: int, kind: str, tolerance: float) -> bool:
    """Polygraphy's default rule: every element is within the tolerance, absolute or relative."""
    made = engines(task, count)
    outputs = answers(task, count, kind)
    for name, expected in made.reference.items():
        off = np.abs(outputs[name].astype(float) - expected)
        if not ((off <= tolerance) | (off <= tolerance * np.abs(expected))).all():
            return False
    return True


def subsets(trials: int, count: int) -> list[Any]:
    rng = np.random.default_rng(SEED)
    return [rng.choice(count, min(SET, count), replace=False) for _ in range(trials)]


def test_every_fault_of_the_classifier_is_caught_and_no_honest_engine_is() -> None:
    numbers = np.arange(SET)
    assert [kind for kind in HONEST if not passes("classification", SET, kind, numbers)] == []
    assert [kind for kind in FAULTS if passes("classification", SET, kind, numbers)] == []


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_the_subtle_faults_of_the_others_too(task: str) -> None:
    numbers = np.arange(4)
    assert passes(task, 4, "fp16", numbers)
    assert [kind for kind in ("256 for 255", "scaled logits", "swapped classes", "resize filter") if passes(task, 4, kind, numbers)] == []


def test_fixed_tolerances_fail_one_way_or_the_other() -> None:
    """The control: at 1e-5 honest fp16 is refused, at 1e-2 a wrong scale passes."""
    assert not polygraphy("classification", SET, "fp16", 1e-5)
    assert polygraphy("classification", SET, "fp16", 1e-2)
    assert polygraphy("classification", SET, "256 for 255", 1e-1)


def broken(content: bytes, layer: int, value: float) -> bytes:
    """The model with one weight of one layer NaN or infinite."""
    model = onnx.load_model_from_string(content)
    heavy = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    name = heavy[layer * len(heavy) // 10].input[1]
    row = next(row for row in model.graph.initializer if row.name == name)
    weights = numpy_helper.to_array(row).copy()
    weights.reshape(-1)[0] = value
    row.CopyFrom(numpy_helper.from_array(weights, name))
    return model.SerializeToString()


def named(task: str, layer: int, value: float) -> bool:
    """Whether a layer that gives NaN or infinity is refused in words: also where the graph answers with class ids, which hide it."""
    made = engines(task, 4)
    outputs = made.run(broken(made.content, layer, value), made.batch)
    verdict = judge(task, made.reference, outputs, "fp32", darker=made.darker, names=["first", "second", "third", "fourth"])
    return not verdict.passed


def test_one_broken_weight_is_named() -> None:
    assert named("classification", 1, np.nan)
    assert named("segmentation", 5, np.inf)
    made = engines("segmentation", 4)
    outputs = {**made.reference, "logits": made.reference["logits"].copy()}
    outputs["logits"][2, 0, 5, 5] = np.nan
    verdict = judge("segmentation", made.reference, outputs, "fp32", names=["first", "second", "third", "fourth"])
    assert verdict.why == "output 'logits' holds 1 values that are NaN or infinite (NaN), first for third"


def test_infinity_that_masks_in_both_is_no_fault() -> None:
    scores = np.array([[1.0, -np.inf, 2.0], [3.0, -np.inf, 0.5]], np.float32)
    assert judge("classification", {"logits": scores}, {"logits": scores.copy()}, "fp32").passed


@pytest.mark.release
def test_broken_layers(record_property: Any) -> None:
    """N2: NaN and infinity at 30 layers."""
    found = [named(task, layer, value) for task in MODELS for layer in range(10) for value in (np.nan, np.inf)]
    record_property("layers with NaN or infinity refused", f"{sum(found)}/{len(found)}")
    assert all(found)


@pytest.mark.release
def test_faults_by_engine_and_by_picture(record_property: Any) -> None:
    """N1: 15 faults, 40 pictures, 3 tasks."""
    count = 40
    engine_caught = engine_trials = clean_refused = clean_trials = 0
    caught = shown = alarms = honest = 0
    missed: list[str] = []
    for task in MODELS:
        for kind in HONEST:
            for numbers in subsets(17, count):
                clean_trials += 1
                clean_refused += not passes(task, count, kind, numbers)
            for number in range(count):
                honest += 1
                alarms += not passes(task, count, kind, [number])
        for kind in FAULTS:
            for numbers in subsets(3, count):
                engine_trials += 1
                found = not passes(task, count, kind, numbers)
                engine_caught += found
                if not found:
                    missed.append(f"{task}: {kind}")
            single = [not passes(task, count, kind, [number]) for number in range(count)]
            shown += count
            caught += sum(single)
            if sum(single) < count:
                missed.append(f"{task}: {kind} on {count - sum(single)} pictures")
    record_property("faulty engines caught", f"{engine_caught}/{engine_trials}")
    record_property("clean engines refused", f"{clean_refused}/{clean_trials}")
    record_property("faulty pictures caught", f"{caught}/{shown}")
    record_property("clean pictures refused", f"{alarms}/{honest}")
    print(engine_caught, engine_trials, clean_refused, clean_trials, caught, shown, alarms, honest, missed)
    assert engine_caught == engine_trials, missed
    assert clean_trials >= 200
    assert clean_refused == 0
    assert caught >= 0.98 * shown, missed
    assert alarms <= 0.01 * honest
