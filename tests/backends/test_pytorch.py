"""The pytorch backend against ONNX's own conformance cases, ONNX Runtime and real models."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetlens.backends.base import SessionOptions
from jetlens.errors import BackendError, JetlensError, ModelError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from jetlens.backends.pytorch import PyTorch  # noqa: E402
from jetlens.backends.pytorch.graph import OPERATORS, compile_graph  # noqa: E402

ONE_THREAD = SessionOptions(device="cpu", threads=1)
TYPES = {1, 2, 3, 5, 6, 7, 9, 10, 11}

# Variants that are refused with a ModelError, or whose reference differs from every runtime.
LEFT_OUT = (
    "_dilations",  # average pooling
    "training",
    "argmax_2d_precomputed",
    "blocked",
    "batch_dim",
    "empty_set",
    "not_larger",
    "not_smaller",
    "tf_crop",
    "antialias",
    "exclude_outside",
    "scatter_elements_with_",
    "scatternd_m",
    "scatternd_add",
    "scales_linear_align_corners",  # the reference divides by a fractional length; ONNX Runtime and torch do not
    "scales_cubic_align_corners",
    "test_layer_normalization_",  # three outputs; test_layers below has the one that networks use
    "test_not_",  # opset 1
)


def reference(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def compare(got: dict[str, np.ndarray], model: bytes, inputs: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
    session = reference(model)
    for row, want in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        have = got[row.name]
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        scale = max(1.0, float(np.abs(want.astype(np.float64)).max(initial=0)))
        np.testing.assert_allclose(have.astype(np.float64), want.astype(np.float64), rtol=0, atol=tolerance * scale, err_msg=row.name)


def conformance_cases() -> list[Any]:
    from onnx.backend.test.case import node as cases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cases.collect_testcases(None)
    chosen = []
    for case in found:
        graph = case.model.graph
        kinds = {row.type.tensor_type.elem_type for row in (*graph.input, *graph.output)}
        known = {row.op_type for row in graph.node} <= set(OPERATORS) and kinds <= TYPES
        if known and not any(word in case.name for word in LEFT_OUT):
            chosen.append(case)
    return chosen


def test_conformance_cases_of_onnx_itself() -> None:
    cases, seen, failures = conformance_cases(), set(), []
    for case in cases:
        seen |= {row.op_type for row in case.model.graph.node}
        try:
            program = compile_graph(case.model.SerializeToString(), torch.device("cpu"))
            for inputs, outputs in case.data_sets:
                arrays = [onnx.numpy_helper.to_array(row) if isinstance(row, onnx.TensorProto) else np.array(row) for row in inputs]
                with torch.inference_mode():
                    results = program.run([torch.from_numpy(row.copy()) for row in arrays])
                for have, row in zip(results, outputs, strict=False):
                    want = onnx.numpy_helper.to_array(row) if isinstance(row, onnx.TensorProto) else np.asarray(row)
                    assert (str(have.dtype).removeprefix("torch."), tuple(have.shape)) == (want.dtype.name, want.shape)
                    np.testing.assert_allclose(have.numpy(), want, rtol=case.rtol, atol=1e-2 if want.dtype == np.float16 else 1e-6)
        except (AssertionError, BackendError, ModelError) as error:
            failures.append(f"{case.name}: {error}")
    assert not failures, "\n".join(failures)
    assert len(cases) > 700
    assert len(seen) > 100


MODELS = (
    "deeplabv3_mnv2/deeplabv3_mnv2_dm05_pascal_fp32",
    "espnet_seg/espnet_p2q8_camvid_360x480",
    "fastestdet/FastestDet",
    "mlperf_tiny/ic_resnet8_cifar10",
    "mnist_cntk/mnist",
    "nanodet_m/nanodet_m",
    "squeezenet_derived/squeezenet1_1_caffe_fp32",
    "squeezenet_winml/SqueezeNet_fp16",
    "ultraface/version-slim-320",
    "yolox_nano/yolox_nano_bigisland",
    "yunet/yunet_n_320_320",
    "yunet/yunet_n_dynamic",
)


@pytest.mark.parametrize("name", MODELS)
def test_real_models_answer_as_in_onnx_runtime(shared_data: Path, name: str) -> None:
    model = (shared_data / "models" / f"{name}.onnx").read_bytes()
    with PyTorch.open(model, ONE_THREAD) as session:
        (spec,) = session.inputs
        shape = [axis if isinstance(axis, int) else (2, 3, 160, 192)[index] for index, axis in enumerate(spec.shape)]
        scale = 1.0 if "deeplab" in name else 255.0
        inputs = {spec.name: (np.random.default_rng(0).random(shape) * scale).astype(spec.dtype)}
        got = session.run(inputs)
        # Half precision is computed in half here and in single precision there.
        compare(got, model, inputs, 2e-3 if session.facts.precision == "fp16" else 1e-4)


def make(nodes: list[Any], shape: list[Any], opset: int, constants: dict[str, np.ndarray] | None = None, outputs: int = 1) -> bytes:
    rows = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    values = [onnx.helper.make_empty_tensor_value_info(f"y{index or ''}") for index in range(outputs)]
    graph = onnx.helper.make_graph(nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, shape)], values, rows)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model).SerializeToString()


def check(nodes: list[Any], shape: tuple[int, ...], opset: int, constants: dict[str, np.ndarray] | None = None, outputs: int = 1) -> None:
    model = make(nodes, list(shape), opset, constants, outputs)
    inputs = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    with PyTorch.open(model, ONE_THREAD) as session:
        compare(session.run(inputs), model, inputs)


node = onnx.helper.make_node


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17])
def test_softmax_of_each_opset(opset: int) -> None:
    check([node("Softmax", ["x"], ["y"])], (2, 3, 4), opset)
    check([node("LogSoftmax", ["x"], ["y"], axis=2)], (2, 3, 4), opset)


OLD_FORMS = [
    ([node("Slice", ["x"], ["y"], starts=[1, -2], ends=[2**31, 9], axes=[1, 3])], 9, {}),
    (
        [node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        10,
        {"s": ints(-1, 3), "e": ints(-(2**63) + 1, 0), "a": ints(2, 3), "t": ints(-1, -2)},
    ),
    ([node("Squeeze", ["x"], ["t"], axes=[0]), node("Unsqueeze", ["t"], ["y"], axes=[0, 4])], 11, {}),
    ([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 0], value=2.5)], 9, {}),
    ([node("Pad", ["x", "p"], ["y"], mode="reflect")], 11, {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}),
    ([node("Clip", ["x"], ["y"], min=-0.5, max=0.5)], 9, {}),
    ([node("Upsample", ["x", "s"], ["y"], mode="nearest")], 9, {"s": np.array([1, 1, 2, 2], np.float32)}),
    ([node("Upsample", ["x"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 3.0])], 7, {}),
    ([node("Resize", ["x", "s"], ["y"], mode="nearest")], 10, {"s": np.array([1, 1, 0.6, 1.7], np.float32)}),
    ([node("TopK", ["x"], ["y", "i"], k=2, axis=3)], 9, {}),
    ([node("ReduceSum", ["x"], ["y"], axes=[1, 3], keepdims=0)], 11, {}),
    ([node("Dropout", ["x"], ["y"], ratio=0.5)], 7, {}),
    ([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], auto_pad="SAME_LOWER")], 11, {}),
    ([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[0, 1, 2, 1], strides=[2, 2])], 11, {}),
    ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2])], 11, {}),
    ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], ceil_mode=1, strides=[2, 2])], 11, {}),
    ([node("LayerNormalization", ["x", "w", "b"], ["y"])], 17, {"w": np.arange(7, dtype=np.float32), "b": np.ones(7, np.float32)}),
    ([node("Resize", ["x", "", "", "n"], ["y"], mode="linear", coordinate_transformation_mode="asymmetric")], 13, {"n": ints(2, 3, 9, 4)}),
]


@pytest.mark.parametrize("index", range(len(OLD_FORMS)))
def test_forms_of_older_opsets(index: int) -> None:
    nodes, opset, constants = OLD_FORMS[index]
    check(nodes, (2, 3, 5, 7) if nodes[0].op_type != "Squeeze" else (1, 3, 5, 7), opset, constants)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_convolutions_of_any_geometry(data: st.DataObject) -> None:
    pick = data.draw
    groups = pick(st.sampled_from([1, 2]))
    kernel = pick(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    options: dict[str, Any] = {"group": groups, "strides": pick(st.tuples(st.integers(1, 3), st.integers(1, 2)))}
    if pick(st.booleans()):
        options["pads"] = pick(st.lists(st.integers(0, 2), min_size=4, max_size=4))
        options["dilations"] = pick(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    else:
        options["auto_pad"] = pick(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    weights = np.random.default_rng(2).normal(size=(4, 4 // groups, *kernel)).astype(np.float32)
    constants = {"w": weights, "b": np.arange(4, dtype=np.float32)}
    check([node("Conv", ["x", "w", "b"], ["y"], **options)], (2, 4, 9, 11), 13, constants)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_resizing_of_any_kind(data: st.DataObject) -> None:
    pick = data.draw
    mode = pick(st.sampled_from(["nearest", "linear"]))
    rule = pick(st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]))
    options = {"mode": mode, "coordinate_transformation_mode": rule}
    if mode == "nearest":
        options["nearest_mode"] = pick(st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]))
    constants = {"n": ints(1, 2, pick(st.integers(1, 20)), pick(st.integers(1, 20)))}
    check([node("Resize", ["x", "", "", "n"], ["y"], **options)], (1, 2, 8, 5), 13, constants)


def test_functions_of_the_model_itself_are_inlined() -> None:
    helper = onnx.helper
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    double = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opsets)
    values = [helper.make_tensor_value_info(name, 1, [3]) for name in ("x", "y")]
    graph = helper.make_graph([node("Twice", ["x"], ["y"], domain="own")], "g", values[:1], values[1:])
    model = helper.make_model(graph, functions=[double], opset_imports=opsets, ir_version=8).SerializeToString()
    with PyTorch.open(model, ONE_THREAD) as session:
        np.testing.assert_array_equal(session.run({"x": np.arange(3, dtype=np.float32)})["y"], [0, 2, 4])


def test_what_depends_on_constants_is_computed_once() -> None:
    nodes = [node("Add", ["a", "a"], ["b"]), node("Mul", ["b", "a"], ["c"]), node("Add", ["x", "c"], ["y"])]
    program = compile_graph(make(nodes, [2], 13, {"a": np.ones(2, np.float32)}), torch.device("cpu"))
    assert [step.op for step in program.steps] == ["Add"]
    assert sum(value is not None for value in program.template) == 1


def test_the_caller_owns_what_comes_back() -> None:
    nodes = [node("Identity", ["x"], ["y"]), node("Identity", ["a"], ["y1"]), node("Relu", ["x"], ["y2"]), node("Identity", ["y2"], ["y3"])]
    model = make(nodes, [3], 13, {"a": np.ones(3, np.float32)}, outputs=4)
    fed = np.arange(3, dtype=np.float32)
    fed.flags.writeable = False
    with PyTorch.open(model, ONE_THREAD) as session:
        first = session.run({"x": fed})
        for value in first.values():
            value += 100
        second = session.run({"x": fed})
    np.testing.assert_array_equal(fed, [0, 1, 2])
    assert [value[0] for value in first.values()] == [100, 101, 100, 100]
    assert [value[0] for value in second.values()] == [0, 1, 0, 0]


def test_intermediate_results_are_freed_at_their_last_use() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])]
    program = compile_graph(make(nodes, [2], 13), torch.device("cpu"))
    assert [len(step.dead) for step in program.steps] == [1, 0, 2]


def test_facts_come_from_torch() -> None:
    model = make([node("Relu", ["x"], ["y"])], [2], 13)
    before = torch.get_num_threads()
    with PyTorch.open(model, SessionOptions(device="auto", threads=2)) as session:
        session.run({"x": np.zeros(2, np.float32)})
        assert torch.get_num_threads() == before
        facts = session.facts
    expected = "torch cuda" if torch.cuda.is_available() else "torch cpu"
    assert (facts.backend, facts.version, facts.provider, facts.precision) == ("pytorch", torch.__version__, expected, "fp32")
    assert facts.device


def detector_tail() -> bytes:
    """Shape arithmetic on a dynamic batch, a ranking and a constant that is needed both as a shape and as a tensor."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["flat"]),
        node("TopK", ["flat", "k"], ["best", "index"], axis=1),
        node("Add", ["index", "rest"], ["moved"]),
        node("Mul", ["moved", "shape"], ["scaled"]),  # a shape among tensors
        node("Cast", ["scaled"], ["y"], to=1),
    ]
    constants = {"zero": np.array(0, np.int64), "axes": ints(0), "rest": ints(-1), "k": ints(2)}
    return make(nodes, ["N", 2, 3], 13, constants)


def test_on_a_gpu_shapes_stay_in_host_memory_and_nothing_is_read_back(shared_data: Path) -> None:
    """Torch's meta device stands for a GPU: like one it refuses tensors of two places in one call, and it has no values to read."""
    meta = torch.device("meta")
    models = [
        detector_tail(),
        *((shared_data / "models" / f"{name}.onnx").read_bytes() for name in ("ultraface/version-slim-320", MODELS[-1])),
    ]
    for model, shape in zip(models, ((2, 2, 3), (1, 3, 240, 320), (2, 3, 160, 192)), strict=True):
        program = compile_graph(model, meta)
        with torch.inference_mode():
            results = program.run([torch.empty(shape, device=meta)])
        assert {value.device.type for value in results} == {"meta"}
        want = reference(model).run(None, {program.inputs[0]: np.zeros(shape, np.float32)})
        assert [tuple(value.shape) for value in results] == [value.shape for value in want]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_answers_as_the_cpu(shared_data: Path, name: str) -> None:
    model = (shared_data / "models" / f"{name}.onnx").read_bytes()
    with PyTorch.open(model, SessionOptions(device="cuda")) as session:
        (spec,) = session.inputs
        shape = [axis if isinstance(axis, int) else (2, 3, 160, 192)[index] for index, axis in enumerate(spec.shape)]
        inputs = {spec.name: np.random.default_rng(0).random(shape).astype(spec.dtype)}
        compare(session.run(inputs), model, inputs, 2e-3 if session.facts.precision == "fp16" else 1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_fails_loudly() -> None:
    with pytest.raises(BackendError, match="cuda"):
        PyTorch.open(make([node("Relu", ["x"], ["y"])], [2], 13), SessionOptions(device="cuda"))


REFUSED = [
    (make([node("Det", ["x"], ["y"], name="weird")], [2, 2], 13), "Det.*weird.*onnxruntime"),
    (make([node("Relu", ["nothing"], ["y"])], [2], 13), "nothing"),
    (
        make([node("Resize", ["x", "", "s"], ["y"], antialias=1, mode="linear")], [1, 1, 4, 4], 18, {"s": np.ones(4, np.float32)}),
        "antialias",
    ),
    (b"not a model", "ONNX"),
    (b"", "ONNX"),
]


@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_graphs_that_cannot_run_say_why(index: int) -> None:
    model, words = REFUSED[index]
    with pytest.raises(ModelError, match=words) as caught:
        PyTorch.open(model, ONE_THREAD)
    assert len(str(caught.value)) <= 300


def damaged(shared_data: Path, seeds: range) -> list[bytes]:
    files = ("mnist_cntk/mnist", "mlperf_tiny/ic_resnet8_cifar10", "yunet/yunet_n_320_320")
    whole = [(shared_data / "models" / f"{name}.onnx").read_bytes() for name in files]
    mutants: list[bytes] = []
    for seed in seeds:
        draw = random.Random(seed)
        content = bytearray(draw.choice(whole))
        for _ in range(draw.choice([1, 3, 20])):
            # Most of the structure stands at the ends of these files, between them there are weights.
            place = draw.randrange(6000) if draw.random() < 0.5 else len(content) - 1 - draw.randrange(20000)
            content[place] = draw.randrange(256)
        mutants.append(bytes(content[: draw.randrange(len(content))] if draw.random() < 0.1 else content))
    return mutants


@pytest.mark.parametrize("seeds", [range(80), pytest.param(range(80, 2000), marks=pytest.mark.release)], ids=["80", "release"])
def test_damaged_models_end_in_an_answer_or_a_clear_error(shared_data: Path, seeds: range) -> None:
    refusals: list[str] = []
    for content in damaged(shared_data, seeds):
        try:
            with PyTorch.open(content, ONE_THREAD) as session:
                shapes = {row.name: [axis if isinstance(axis, int) else 1 for axis in row.shape] for row in session.inputs}
                if all(np.prod(shape) < 1e7 for shape in shapes.values()):
                    session.run({row.name: np.zeros(shapes[row.name], row.dtype) for row in session.inputs})
        except JetlensError as error:
            refusals.append(str(error))
    assert len(refusals) > len(seeds) // 4
    assert max(map(len, refusals)) <= 320


def test_inputs_that_do_not_fit_are_refused() -> None:
    with PyTorch.open(make([node("Relu", ["x"], ["y"])], ["N", 3], 13), ONE_THREAD) as session:
        for wrong in ({}, {"z": np.zeros((1, 3), np.float32)}, {"x": np.zeros((1, 3))}, {"x": np.zeros((1, 4), np.float32)}):
            with pytest.raises(BackendError):
                session.run(wrong)
    with pytest.raises(BackendError, match="closed"):
        session.run({"x": np.zeros((1, 3), np.float32)})
