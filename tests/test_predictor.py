"""The predictor feeds what the sidecar says, refuses what contradicts it, and answers alike one by one and in batches."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

import jetlens.predictor as predictor_module
from jetlens.backends import choice
from jetlens.backends.base import RunFacts, SessionOptions
from jetlens.choice import Choice, machine_name, write_choice
from jetlens.errors import BackendError, JetlensError, ModelError, SidecarError, UnknownNameError, UsageError
from jetlens.frame import Frame
from jetlens.predictor import Predictor, load, model_path, precision_path
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec, sidecar_path
from jetlens.tasks.classification import ClassificationTask
from tiny_graphs import BLUE, GREEN, RED, SIZE_HW, color_graph, color_spec, write_pair

PICTURES = [RED, GREEN, BLUE]
COLORS = ["red", "green", "blue"]


class SpySession:
    """A session that keeps what it was fed and answers the mean of each row's channels."""

    def __init__(self, batch: int | str = "N", largest_batch: int | None = None) -> None:
        self.inputs = (TensorSpec("images", "uint8", (batch, *SIZE_HW, 3)),)
        self.outputs = (TensorSpec("logits", "float32", (batch, 3)),)
        self.facts = RunFacts("spy", "1", "none", "none", "fp32", largest_batch)
        self.fed: list[np.ndarray] = []
        self.closed = False

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.fed.append(inputs["images"])
        return {"logits": inputs["images"].astype(np.float32).mean((1, 2)) / 25}

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> SpySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _spied(batch: int | str = "N", largest_batch: int | None = None) -> tuple[Predictor, SpySession]:
    session = SpySession(batch, largest_batch)
    return Predictor(ClassificationTask(color_spec()), session), session


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    return write_pair(tmp_path, color_graph())


@pytest.mark.parametrize("backend", ["auto", "onnxruntime", "openvino"])
def test_answers_and_says_what_runs(colors: Path, backend: str) -> None:
    with load(colors, backend, threads=1) as predictor:
        assert [predictor(picture).label for picture in PICTURES] == COLORS
        assert predictor.facts.backend == ("onnxruntime" if backend == "auto" else backend)
        assert predictor.chosen.startswith(predictor.facts.backend)
        assert ("auto" in predictor.chosen) == (backend == "auto")


def test_a_path_and_its_pixels_answer_alike(colors: Path, tmp_path: Path) -> None:
    file = tmp_path / "green.png"
    PillowImage.fromarray(GREEN).save(file)
    with load(colors, threads=1) as predictor:
        results = [predictor(GREEN), predictor(file), predictor(str(file))]
    for result in results:
        assert (result.label, result.size_hw) == ("green", (20, 30))
        np.testing.assert_array_equal(result.confidence, results[0].confidence)


def test_timed_gives_the_three_steps(colors: Path) -> None:
    with load(colors, threads=1) as predictor:
        prediction, timings = predictor.timed(BLUE)
    assert prediction.label == "blue"
    assert min(timings.preprocess_ms, timings.infer_ms, timings.postprocess_ms) > 0
    assert timings.total_ms == pytest.approx(timings.preprocess_ms + timings.infer_ms + timings.postprocess_ms)


def test_stream_pairs_each_frame_with_its_answer_and_is_lazy(colors: Path) -> None:
    taken = []

    def frames() -> Any:
        for index, picture in enumerate(PICTURES):
            taken.append(index)
            yield Frame(picture, index, index / 30, 0.0, "test")

    with load(colors, threads=1) as predictor:
        stream = predictor.stream(frames())
        frame, answer = next(stream)
        assert (frame.index, answer.label, taken) == (0, "red", [0])
        assert [(f.index, p.label) for f, p in stream] == [(1, "green"), (2, "blue")]


@settings(max_examples=30, deadline=None)
@given(fixed=st.one_of(st.just("N"), st.integers(1, 5)), order=st.lists(st.integers(0, 2), min_size=0, max_size=11))
def test_any_number_of_pictures_runs_on_any_batch_axis(fixed: int | str, order: list[int]) -> None:
    predictor, session = _spied(fixed)
    answers = predictor.batch([PICTURES[i] for i in order])
    assert [a.label for a in answers] == [COLORS[i] for i in order]
    runs = (bool(order) if fixed == "N" else -(-len(order) // fixed)) if order else 0
    assert len(session.fed) == runs
    assert fixed == "N" or all(len(array) == fixed for array in session.fed)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_batches_answer_as_single_pictures(tmp_path: Path, backend: str) -> None:
    generator = np.random.default_rng(7)
    pictures = [
        generator.integers(0, 256, (h, w, 3), np.uint8)
        for h, w in ((9, 9), (50, 20), (8, 12), (300, 1), (1, 40), (64, 64), (7, 5), (33, 31))
    ]
    for batch in ("N", 1, 3):
        path = write_pair(tmp_path, color_graph(batch=batch), name=f"b{batch}.onnx")
        with load(path, backend, precision="fp32", threads=1) as predictor:
            alone = [predictor(p) for p in pictures]
            together = predictor.batch(pictures)
            again = predictor.batch(pictures)
        for one, two, three in zip(alone, together, again, strict=True):
            np.testing.assert_allclose(one.confidence, two.confidence, rtol=1e-5)
            np.testing.assert_array_equal(two.confidence, three.confidence)
            assert one.size_hw == two.size_hw


@pytest.mark.parametrize(("count", "fed"), [(2, [2]), (4, [4]), (9, [4, 4, 1])])
def test_no_run_is_larger_than_the_session_takes(count: int, fed: list[int]) -> None:
    predictor, session = _spied(largest_batch=4)
    order = [index % 3 for index in range(count)]
    answers = predictor.batch([PICTURES[index] for index in order])
    assert [answer.label for answer in answers] == [COLORS[index] for index in order]  # type: ignore[attr-defined]
    assert [len(array) for array in session.fed] == fed


def test_a_precision_opens_the_graph_that_has_it(tmp_path: Path) -> None:
    model = write_pair(tmp_path, color_graph())
    assert precision_path(model, None) == precision_path(model, "bf16") == model
    with pytest.raises(ModelError, match=r"colors\.fp16\.onnx is not beside it; make it: jetlens export .*--precision fp16"):
        precision_path(model, "fp16")
    (tmp_path / "colors.fp16.onnx").write_bytes(b"made")
    assert precision_path(model, "fp16") == tmp_path / "colors.fp16.onnx"


def test_what_the_bench_chose_is_used_until_something_else_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    model = write_pair(tmp_path, color_graph())
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    choice = Choice(digest, machine_name(), str(model), "openvino", "fp32", "auto", 1, 1, "the fastest here", "2026-11-21")
    write_choice(model, choice)
    with load(model, threads=1) as predictor:
        assert predictor.facts.backend == "openvino"
        assert predictor.chosen == "openvino (chosen by jetlens bench: the fastest here)"
    with load(model, "onnxruntime", threads=1) as predictor:
        assert predictor.chosen == "onnxruntime"
    write_choice(model, replace(choice, file=str(tmp_path / "gone.onnx")))
    with load(model, threads=1) as predictor:
        assert predictor.facts.backend == "onnxruntime"


def test_one_buffer_serves_every_call() -> None:
    """Negative control: preprocessing without a buffer makes a new array each time."""
    predictor, session = _spied()
    for picture in PICTURES * 3:
        predictor(picture)
    assert len({array.__array_interface__["data"][0] for array in session.fed}) == 1
    naive = [predictor.task.preprocess([picture]).array for picture in PICTURES]
    assert len({array.__array_interface__["data"][0] for array in naive}) == 3


def test_a_host_normalised_graph_answers_as_the_baked_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    picture = generator.integers(0, 256, (40, 50, 3), np.uint8)
    for half in (False, True):
        bare = color_spec(baked=False)
        if half:
            bare = replace(bare, preprocess=replace(bare.preprocess, dtype="float16"))
        baked_file = write_pair(tmp_path, color_graph(half=half), name=f"baked{half}.onnx")
        bare_file = write_pair(tmp_path, color_graph(baked=False, half=half), bare, f"bare{half}.onnx")
        with load(baked_file, "onnxruntime", threads=1) as first, load(bare_file, "onnxruntime", threads=1) as second:
            np.testing.assert_allclose(first(picture).confidence, second(picture).confidence, atol=2e-3 if half else 1e-6)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((1, 5, 5, 3), np.uint8),
        [[1, 2, 3]],
        None,
    ],
)
def test_what_is_no_picture_is_named(colors: Path, image: Any) -> None:
    with load(colors, threads=1) as predictor, pytest.raises(UsageError, match="uint8 RGB"):
        predictor(image)


def _tensors(name: str, dtype: str, *shape: int | str) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name, dtype, shape),)


RULE = color_spec().preprocess
MISMATCHES: dict[str, dict[str, Any]] = {
    "other size": {"preprocess": replace(RULE, size_hw=(12, 8))},
    "half size": {"preprocess": replace(RULE, size_hw=(4, 6))},
    "host normalises": {"preprocess": replace(RULE, baked=False)},
    "divided by 256": {"preprocess": replace(RULE, std=(256.0,) * 3)},
    "divided by 255": {"preprocess": replace(RULE, std=(255.0,) * 3)},
    "another mean": {"preprocess": replace(RULE, mean=(123.7, 116.3, 103.5))},
    "bgr": {"preprocess": replace(RULE, channel_order="bgr")},
    "grey": {"preprocess": PreprocessSpec(SIZE_HW, channel_order="gray", mean=(0.0,), std=(1.0,))},
    "letterbox": {"preprocess": replace(RULE, resize="letterbox")},
    "crop": {"preprocess": replace(RULE, resize="crop")},
    "crop of a larger side": {"preprocess": replace(RULE, resize="crop", short_side=10)},
    "another filter": {"preprocess": replace(RULE, filter="linear")},
    "another anchor": {"preprocess": replace(RULE, anchor="top-left")},
    "another padding": {"preprocess": replace(RULE, pad_value=0)},
    "nhwc": {"preprocess": replace(RULE, layout="nhwc")},
    "half floats": {"preprocess": replace(RULE, dtype="float16")},
    "another task": {"task": "segmentation", "decoder": "logits"},
    "another decoder": {"decoder": "probabilities"},
    "another output": {"decoder_options": {"output": "scores"}},
    "shifted labels": {"label_offset": 1},
    "input's name": {"inputs": _tensors("input", "uint8", "N", *SIZE_HW, 3)},
    "input's type": {"inputs": _tensors("images", "float32", "N", *SIZE_HW, 3)},
    "output's name": {"outputs": _tensors("scores", "float32", "N", 3)},
    "output's type": {"outputs": _tensors("logits", "float16", "N", 3)},
    "number of classes": {"outputs": _tensors("logits", "float32", "N", 1000)},
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_sidecar_that_contradicts_its_graph_is_refused_at_load(tmp_path: Path, case: str) -> None:
    """Negative control: without the check the pictures are fed, and for most of these an answer comes out."""
    wrong = replace(color_spec(), **MISMATCHES[case])
    path = write_pair(tmp_path, color_graph(spec=color_spec()), wrong)
    with pytest.raises(SidecarError) as caught:
        load(path, "onnxruntime", threads=1)
    message = str(caught.value)
    assert len(message) <= 300
    assert "\n" not in message


def test_without_the_contract_in_the_graph_wrong_numbers_pass_silently(tmp_path: Path) -> None:
    """The control of the test above: 12 of its cases load and answer when nothing but shapes can be compared."""
    passed = 0
    for number, changes in enumerate(MISMATCHES.values()):
        path = write_pair(tmp_path, color_graph(), replace(color_spec(), **changes), f"m{number}.onnx")
        try:
            with load(path, "onnxruntime", threads=1) as predictor:
                predictor(RED)
                passed += 1
        except JetlensError:
            pass
    assert passed >= 12


def test_what_is_the_users_to_change_is_not_refused(tmp_path: Path) -> None:
    changed = replace(color_spec(), labels=("rouge", "vert", "bleu"), confidence=0.1, iou=0.9, name="couleurs", accuracy={"top1": 1.0})
    with load(write_pair(tmp_path, color_graph(spec=color_spec()), changed), threads=1) as predictor:
        assert predictor(RED).label == "rouge"


def test_graph_that_takes_two_pictures_is_refused() -> None:
    session = SpySession()
    session.inputs = session.inputs * 2
    with pytest.raises(ModelError, match="2 inputs"):
        Predictor(ClassificationTask(color_spec()), session)


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.release)])
def test_the_hash_is_checked_before_anything_parses_the_file(
    colors: Path, monkeypatch: pytest.MonkeyPatch, count: int, record_property: Callable[[str, object], None]
) -> None:
    """Every damaged file is refused by its hash. Negative control: with a sidecar written anew, many of them load and answer."""
    parsed = []
    monkeypatch.setattr(predictor_module, "read_graph", lambda content: parsed.append(content))
    good = colors.read_bytes()
    generator = np.random.default_rng(11)
    mutants = []
    for _ in range(count):
        damaged = bytearray(good)
        damaged[generator.integers(0, len(good))] ^= int(generator.integers(1, 256))
        mutants.append(bytes(damaged))
        colors.write_bytes(damaged)
        with pytest.raises(SidecarError, match="another file"):
            load(colors)
    assert not parsed
    record_property("damaged files refused before parsing", f"{len(mutants)}/{count}")
    monkeypatch.undo()
    answered = longest = 0
    for mutant in mutants[:60]:
        spec = ModelSpec.from_json(sidecar_path(colors).read_bytes())
        colors.write_bytes(mutant)
        sidecar_path(colors).write_text(replace(spec, sha256=hashlib.sha256(mutant).hexdigest()).to_json())
        try:
            with load(colors, "onnxruntime", threads=1) as predictor:
                answered += predictor(RED) is not None
        except JetlensError as error:
            longest = max(longest, len(str(error)))
    assert answered >= 5
    assert longest <= 300


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.release)])
def test_repeats_are_bit_equal(colors: Path, count: int) -> None:
    for backend in ("onnxruntime", "openvino"):
        with load(colors, backend, threads=1) as predictor:
            answers = {predictor(GREEN).confidence.tobytes() for _ in range(count)}
        assert len(answers) == 1


class TestModelPath:
    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("net.pth", "jetlens export"),
            ("net.pt", "jetlens export"),
            ("net.safetensors", "jetlens export"),
            ("notes.txt", "not an .onnx file"),
            ("colors.onnx.json", "sidecar"),
            ("net.tflite", "another framework"),
            ("LICENSE", "not an .onnx file"),
        ],
    )
    def test_other_files_say_what_to_do(self, tmp_path: Path, name: str, said: str) -> None:
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ModelError, match=said) as caught:
            model_path(tmp_path / name)
        assert name in str(caught.value)

    def test_missing_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such model file"):
            model_path(tmp_path / "absent.onnx")
        with pytest.raises(ModelError, match="no such model file"):
            model_path("absent.onnx")
        for odd in ("x" * 500 + ".onnx", "a/" + "b" * 500, "a\0b.onnx"):
            with pytest.raises(ModelError, match="no such model file") as caught:
                model_path(odd)
            assert len(str(caught.value)) <= 300
        with pytest.raises(ModelError, match="folder"):
            model_path(tmp_path)

    def test_a_file_is_itself_however_it_is_named(self, colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(colors.parent)
        assert model_path(colors) == colors
        assert model_path(str(colors)) == colors
        assert model_path(colors.name) == Path(colors.name)

    def test_an_unknown_name_lists_the_known_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(predictor_module, "resolve", lambda target: {"resnet18": "row"})
        with pytest.raises(UnknownNameError, match="resnet18") as caught:
            model_path("resnet19")
        assert "did you mean 'resnet18'" in str(caught.value)
        assert ".onnx file" in str(caught.value)

    def test_an_unknown_name_fits_a_line_whatever_it_is(self) -> None:
        for name in ("deeplabv3_resnet5", "x" * 500, "", "größe"):
            with pytest.raises(UnknownNameError, match="known: ") as caught:
                model_path(name)
            assert len(str(caught.value)) <= 300

    def test_weights_go_with_networks_by_name_alone(self, colors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        calls = []
        answers = {"jetlens.export.zoo:ZOO": {"resnet18": "row"}, "jetlens.export.zoo:ensure": lambda *a: calls.append(a) or colors}
        monkeypatch.setattr(predictor_module, "resolve", answers.__getitem__)
        assert model_path("resnet18", tmp_path / "w.pth") == colors
        assert calls == [("resnet18", tmp_path / "w.pth")]
        with pytest.raises(UsageError, match="--weights"):
            model_path(colors, tmp_path / "w.pth")


class TestChoice:
    def test_unknown_backend_lists_the_known(self, colors: Path) -> None:
        with pytest.raises(UnknownNameError, match=r"auto.*onnxruntime.*openvino") as caught:
            load(colors, "onnxruntme")
        assert "did you mean 'onnxruntime'" in str(caught.value)

    def test_auto_passes_over_what_is_not_installed_and_says_so(self, colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with load(colors, threads=1) as predictor:
            assert predictor.facts.backend == "openvino"
            assert "not onnxruntime: onnxruntime is not installed" in predictor.chosen

    def test_auto_takes_the_backend_that_has_the_precision(self, colors: Path) -> None:
        from jetlens.backends.openvino import import_openvino

        if "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this CPU has no bfloat16 instructions")
        with load(colors, precision="bf16", threads=1) as predictor:
            assert (predictor.facts.backend, predictor.facts.precision) == ("openvino", "bf16")

    def test_a_graph_that_no_backend_takes_is_the_models_fault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "AUTO_ORDER", ("onnxruntime", "openvino"))
        graph = color_graph()
        graph.graph.node[-1].op_type = "NoSuchOperator"
        with pytest.raises(ModelError, match="NoSuchOperator"):
            load(write_pair(tmp_path, graph))

    def test_auto_for_a_device_that_is_not_here_says_how_to_get_it(self, colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(choice, "AUTO_ORDER", ("onnxruntime", "openvino"))
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has the CUDA provider")
        with pytest.raises(BackendError, match="onnxruntime-gpu"):
            load(colors, device="cuda")

    def test_none_installed(self, colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for package in ("onnxruntime", "openvino"):
            monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr(choice, "AUTO_ORDER", ("onnxruntime", "openvino"))
        with pytest.raises(BackendError, match=r"pip install 'jetlens\[cpu\]'"):
            load(colors)

    def test_a_session_is_closed_when_its_model_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        session = SpySession()
        session.outputs = ()
        monkeypatch.setattr(predictor_module, "open_session", lambda content, backend, options: (session, "spy"))
        spec = replace(color_spec(), outputs=_tensors("logits", "float32", "N", 3))
        with pytest.raises(SidecarError):
            load(write_pair(tmp_path, color_graph(), spec))
        assert session.closed

    def test_options_reach_the_backend(self, colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(
            predictor_module, "open_session", lambda content, backend, options: (seen.append(options), (SpySession(), "spy"))[1]
        )
        load(colors, device="cpu", precision="fp32", threads=2)
        assert seen == [SessionOptions("cpu", "fp32", 2)]
