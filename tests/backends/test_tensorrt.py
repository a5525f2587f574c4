"""The TensorRT session on a fake GPU: same answers as the graph, flat memory, nothing left behind, wrong use refused in words."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engines
import numpy as np
import pytest
from fake_cuda import FakeCudart
from fake_engines import CHW4, HOST, FakeTensorRt, Net, fake_engine
from nets import Arrays, assert_answers, classify, net, on_fake_gpu, pictures
from numpy.typing import NDArray

import jetlens.backends.tensorrt as backend
import tiny_graphs
from jetlens.backends.base import SessionOptions
from jetlens.backends.tensorrt import TensorRt, TensorRtSession, open_engine
from jetlens.backends.tensorrt.cuda import Cuda, load_cuda
from jetlens.backends.tensorrt.lanes import MOST_SHAPES
from jetlens.errors import BackendError, ModelError

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

import recorded_tensorrt
from recorded_tensorrt import VERSIONS as RECORDED
from recorded_tensorrt import RecordedTensorRt, Scene

VERSIONS = ("8.6.0", "10.3.0", "11.4.0")


@contextmanager
def session(
    monkeypatch: pytest.MonkeyPatch, which: Net, cudart: FakeCudart, version: str = "8.6.0", mapped: bool | None = None, **options: Any
) -> Iterator[TensorRtSession]:
    trt = on_fake_gpu(monkeypatch, cudart, which, version)
    made = open_engine(fake_engine(), SessionOptions(**options), mapped=mapped)
    with made:
        yield made
    gc.collect()
    assert cudart.living() == {}
    assert not len(trt.contexts)
    assert not len(trt.engines) or made._opened.engine is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("captures", [True, False])
def test_answers_equal_the_graphs_on_every_version_and_way(
    monkeypatch: pytest.MonkeyPatch, version: str, integrated: bool, captures: bool
) -> None:
    cudart = FakeCudart(integrated=integrated)
    cudart.capture_fails = not captures
    with session(monkeypatch, net(profile=(1, 2, 4)), cudart, version, lanes=2) as made:
        for i, batch in enumerate((1, 4, 2, 1, 3, 4)):
            assert_answers(made.run({"images": pictures(batch, i)}), pictures(batch, i))
        assert made.facts.version == version
        assert made.facts.device == "Fake H200"
        assert (made.facts.precision, made.facts.largest_batch) == ("fp16", 4)
        assert made.inputs[0].shape == ("N", 4, 4, 3)
        assert ("no CUDA graph" in " ".join(made.facts.notes)) is not captures
        assert (cudart.calls["cudaMemcpyAsync"] == 0) is integrated
        assert (cudart.launches > 0) is captures


@pytest.mark.parametrize("version", RECORDED)
def test_every_call_fits_the_recorded_bindings(monkeypatch: pytest.MonkeyPatch, shared_data: Path, version: str) -> None:
    """Names and signatures of six versions of the real module; the imitation computes nothing, so that the outputs stay zero."""
    cudart = FakeCudart()
    monkeypatch.setattr(recorded_tensorrt._Context, "active_optimization_profile", -1, raising=False)
    ran: list[Any] = []
    trt = RecordedTensorRt(shared_data / "tensorrt-api" / f"{version}.json", Scene(on_execute=lambda context, stream: ran.append(context)))
    monkeypatch.setattr(backend, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(backend, "load_cuda", lambda: Cuda(cudart))
    with open_engine(fake_engine(plan=b"plan"), SessionOptions()) as made:
        answers = made.run({"images": np.ones((3, 8, 12, 3), np.uint8)})
    assert answers["logits"].shape == (3, 3)
    assert {context.shapes["images"][0] for context in ran} == {1, 3}
    assert all(context.device_memory and set(context.addresses) == {"images", "logits"} for context in ran)


def counts(cudart: FakeCudart) -> dict[str, int]:
    takes = ("cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreate", "cudaGraphInstantiateWithFlags")
    return {**cudart.living(), **{name: cudart.calls[name] for name in takes}}


def flat(run: Callable[[int], object], cudart: FakeCudart, runs: int) -> bool:
    """Whether runs after the first few take nothing more."""
    for i in range(8):
        run(i)
    before = counts(cudart)
    for i in range(runs):
        run(i)
    return counts(cudart) == before


def test_ten_thousand_runs_take_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart()
    images = [pictures(batch, batch) for batch in (1, 2, 3, 4)]
    with session(monkeypatch, net(profile=(1, 2, 4)), cudart) as made:
        assert flat(lambda i: made.run({"images": images[i % 4]}), cudart, 10_000)
        assert cudart.launches == 10_008


def test_a_session_that_allocates_a_run_is_not_flat() -> None:
    cudart = FakeCudart()
    cuda = Cuda(cudart)
    assert not flat(lambda i: cuda.allocate(16), cudart, 10)
    for address in list(cudart.device):
        cuda.free(address)


def test_more_shapes_than_are_kept_make_room_and_still_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart()
    largest = MOST_SHAPES + 5
    with session(monkeypatch, net(profile=(1, 1, largest)), cudart) as made:
        for batch in (*range(1, largest + 1), *range(1, largest + 1), 1, 1):
            assert_answers(made.run({"images": pictures(batch, batch)}), pictures(batch, batch))
        assert len(cudart.executables) == MOST_SHAPES
        assert len(made._opened._tensorrt.contexts) == MOST_SHAPES


def test_a_plan_of_86_without_profile_sharing_runs_every_batch_on_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    with session(monkeypatch, net(profile=(1, 2, 4), shares=False), FakeCudart()) as made:
        for batch in (1, 4, 2, 2, 1):
            assert_answers(made.run({"images": pictures(batch, batch)}), pictures(batch, batch))
        assert len(made._opened._tensorrt.contexts) == 1
    cudart = FakeCudart()
    with (
        pytest.raises(BackendError, match="without profile sharing"),
        session(monkeypatch, net(profile=(1, 2, 4), shares=False), cudart, lanes=2),
    ):
        pass
    gc.collect()
    assert cudart.living() == {}


def test_batches_below_the_smallest_are_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[Any]] = []

    def watch(images: NDArray[Any]) -> Arrays:
        seen.append(images)
        return classify(images)

    with session(monkeypatch, net(profile=(3, 4, 8), compute=watch), FakeCudart()) as made:
        made.run({"images": pictures(8, 1)})
        assert_answers(made.run({"images": pictures(2, 2)}), pictures(2, 2))
        assert seen[-1].shape == (3, 4, 4, 3)
        assert not seen[-1][2].any()


def test_outputs_belong_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    with session(monkeypatch, net(), FakeCudart()) as made:
        first = made.run({"images": pictures(1, 1)})
        made.run({"images": pictures(1, 2)})
        assert_answers(first, pictures(1, 1))
        first["logits"][:] = 0


def test_the_input_is_read_before_submit_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    with session(monkeypatch, net(), FakeCudart(slow=1)) as made:
        images = pictures(1, 1)
        pending = made.submit({"images": images})
        images[:] = 0
        assert_answers(pending.result(), pictures(1, 1))


def test_arrays_that_are_not_contiguous_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with session(monkeypatch, net(profile=(1, 2, 4)), FakeCudart()) as made:
        images = pictures(8)[::2][:, ::-1]
        assert_answers(made.run({"images": images}), images)


def test_int64_of_the_graph_stays_int64_where_the_engine_has_int32(monkeypatch: pytest.MonkeyPatch) -> None:
    graph: Any = SimpleNamespace(outputs=(SimpleNamespace(name="best", dtype="int64"),))
    cudart = FakeCudart()
    trt = FakeTensorRt(
        cudart, Net({"images": ("FLOAT", (1, 3), True), "best": ("INT32", (1,), False)}, lambda images: {"best": images.argmax(1)})
    )
    monkeypatch.setattr(backend, "load_tensorrt", lambda: trt)
    monkeypatch.setattr(backend, "load_cuda", lambda: Cuda(cudart))
    with open_engine(fake_engine(), SessionOptions(), graph) as made:
        answer = made.run({"images": np.array([[1, 5, 2]], np.float32)})["best"]
        pending = made.submit({"images": np.array([[1, 5, 2]], np.float32)})
        assert answer.dtype == pending.view()["best"].dtype == np.int64
        assert made.outputs[0].dtype == "int64"
        assert answer.tolist() == [1]


WRONG = {
    "another type": ({"images": np.zeros((1, 4, 4, 3), np.float32)}, "takes uint8"),
    "another picture size": ({"images": np.zeros((1, 5, 4, 3), np.uint8)}, "takes uint8"),
    "another rank": ({"images": np.zeros((4, 4, 3), np.uint8)}, "takes uint8"),
    "another name": ({"picture": np.zeros((1, 4, 4, 3), np.uint8)}, "takes the inputs"),
    "one too many": ({"images": np.zeros((1, 4, 4, 3), np.uint8), "more": np.zeros(1)}, "takes the inputs"),
    "no picture": ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "0 was asked for|takes uint8"),
    "too many pictures": ({"images": np.zeros((5, 4, 4, 3), np.uint8)}, "5 was asked for|takes uint8"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("profile", [None, (1, 2, 4)])
def test_inputs_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, case: str, profile: tuple[int, int, int] | None) -> None:
    inputs, message = WRONG[case]
    with session(monkeypatch, net(profile=profile), FakeCudart()) as made:
        for call in (made.run, made.submit):
            with pytest.raises(BackendError, match=message) as caught:
                call(inputs)
            assert len(str(caught.value)) <= 285
        assert_answers(made.run({"images": pictures(1)}), pictures(1))


def test_a_fixed_batch_is_taken_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    with session(monkeypatch, net(batch=2), FakeCudart()) as made:
        assert made.facts.largest_batch is None
        assert_answers(made.run({"images": pictures(2)}), pictures(2))
        with pytest.raises(BackendError, match="takes uint8"):
            made.run({"images": pictures(1)})
        with pytest.raises(BackendError, match="takes 2 exactly"):
            made.lane()
        made.lane(2).release()


REFUSED = {
    "shapes from values": (
        net(compute=classify),
        {"found": 1, "tensors": {"images": ("UINT8", (1, 4), True), "boxes": ("FLOAT", (-1, 6), False)}},
        "depends on",
    ),
    "another free axis": (net(), {"tensors": {"images": ("UINT8", (1, -1, 4, 3), True)}}, "axes other than the batch"),
    "a type that NumPy has not": (net(), {"tensors": {"images": ("UINT8", (1, 4), True), "out": ("BF16", (1, 4), False)}}, "bfloat16"),
    "a shape tensor": (net(), {"locations": {"images": HOST}}, "lives on the host"),
    "a packed format": (net(), {"formats": {"images": CHW4}}, "CHW4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_engines_of_another_kind_are_refused_and_leave_nothing(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    which, changes, message = REFUSED[case]
    for name, value in changes.items():
        monkeypatch.setattr(which, name, value)
    cudart = FakeCudart()
    with pytest.raises(BackendError, match=message), session(monkeypatch, which, cudart):
        pass
    gc.collect()
    assert cudart.living() == {}


def test_another_precision_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(BackendError, match="precision int8 was asked for, but this graph runs in fp16"),
        session(monkeypatch, net(), FakeCudart(), precision="int8"),
    ):
        pass


def test_a_full_gpu_is_named_and_what_was_taken_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart(memory_limit=2000)
    with (
        pytest.raises(BackendError, match=r"cudaErrorMemoryAllocation: the GPU's memory is full.*fewer lanes"),
        session(monkeypatch, net(), cudart, lanes=4),
    ):
        pass
    gc.collect()
    assert cudart.living() == {}


def test_an_engine_that_fails_says_why_and_the_lane_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart()
    cudart.capture_fails = True
    with session(monkeypatch, net(), cudart) as made:
        made._opened._tensorrt.failures = 1
        with pytest.raises(BackendError, match="failed while it ran: the engine says no"):
            made.run({"images": pictures(1)})
        assert_answers(made.run({"images": pictures(1)}), pictures(1))


def test_a_closed_session_is_refused_and_lent_arrays_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    cudart = FakeCudart(slow=1)
    with session(monkeypatch, net(), cudart, lanes=3) as made:
        lane, pending, seen = made.lane(), made.submit({"images": pictures(1)}), made.submit({"images": pictures(1, 7)})
        answers = seen.view()
        made.close()
        made.close()
        calls = (partial(made.run, {"images": pictures(1)}), made.lane, partial(made.submit, lane), pending.result, pending.view, made.lane)
        for call in calls:
            with pytest.raises(BackendError, match="closed"):
                call()
        pending.release()
        lane.release()
        assert pending.done()
        # What a caller still holds is kept alive: no dangling pages.
        assert cudart.living().keys() == {"host"}
        lane.inputs["images"][:] = 1
        np.testing.assert_array_equal(answers["logits"], classify(pictures(1, 7))["logits"])
        del lane, answers, seen, pending, call, calls


def test_timings_are_measured_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    for captures in (True, False):
        cudart = FakeCudart(slow=1)
        cudart.capture_fails = not captures
        with session(monkeypatch, net(), cudart, timed=True) as made:
            pending = made.submit({"images": pictures(1)})
            assert pending.timings is None
            pending.result()
            # One copy in, one computing, four copies out, each with the event after it, at a millisecond a piece of work.
            assert pending.timings is not None
            assert (pending.timings.copy_in_ms, pending.timings.compute_ms, pending.timings.copy_out_ms) == (2, 2, 5)
    with session(monkeypatch, net(), FakeCudart()) as made:
        pending = made.submit({"images": pictures(1)})
        pending.result()
        assert pending.timings is None


def test_onnx_comes_from_the_cache_and_plans_from_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object]] = []
    cudart = FakeCudart()
    on_fake_gpu(monkeypatch, cudart, net())
    monkeypatch.setattr(TensorRt, "unavailable", classmethod(lambda cls: None))
    monkeypatch.setattr(backend, "obtain", lambda model, options, *, name, report: asked.append(("obtain", name)) or fake_engine())
    monkeypatch.setattr(backend, "trusted", lambda plan: asked.append(("trusted", plan)) or fake_engine(plan=plan))
    model = tiny_graphs.color_graph(spec=tiny_graphs.color_spec()).SerializeToString()
    for content in (model, b"ftrt plan of the user"):
        with TensorRt.open(content, SessionOptions()) as made:
            assert made.facts.backend == "tensorrt"
            assert any("engine built in 93 s: no engine yet" in note for note in made.facts.notes)
    assert asked == [("obtain", "colors"), ("trusted", b"ftrt plan of the user")]
    with pytest.raises(ModelError, match="not an ONNX model or is damaged"):
        TensorRt.open(model[:-20], SessionOptions())
    with pytest.raises(BackendError, match="NVIDIA GPUs only"):
        TensorRt.open(model, SessionOptions(device="cpu"))


def test_what_is_missing_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "installed", lambda name: False)
    assert "JetPack" in str(TensorRt.unavailable())
    with pytest.raises(BackendError, match="tensorrt is not installed"):
        TensorRt.open(b"", SessionOptions())
    monkeypatch.setattr(backend, "installed", lambda name: True)
    monkeypatch.setattr(backend, "cuda_python", lambda: None)
    assert "pip install cuda-python" in str(TensorRt.unavailable())
    monkeypatch.setattr(backend, "cuda_python", lambda: "cuda.bindings.runtime")
    monkeypatch.setattr(backend, "driver_problem", lambda: "no NVIDIA driver is installed")
    assert "driver" in str(TensorRt.unavailable())


def test_no_gpu_and_no_driver_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no GPU is visible"):
        Cuda(FakeCudart(devices=0)).call("cudaGetDeviceCount")

    class NoDriver(FakeCudart):
        def cudaGetDeviceCount(self) -> Any:  # noqa: N802
            raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(BackendError, match=r"dlopen.*driver installed"):
        Cuda(NoDriver()).call("cudaGetDeviceCount")
    monkeypatch.setattr("jetlens.backends.tensorrt.cuda.cuda_python", lambda: None)
    with pytest.raises(BackendError, match="pip install cuda-python"):
        load_cuda()


def test_the_driver_waits_and_not_cuda_python() -> None:
    """cuda-python's releases before 12.9.1 hold the GIL while they wait."""
    cudart = FakeCudart()
    cuda = Cuda(cudart)
    stream, waited, done = cuda.stream(), [], []
    cudart.slow = True
    cuda._block = lambda handle: (waited.append(handle), cudart.drain(stream))[0]  # type: ignore[assignment, return-value]
    wait = cuda.waiter(stream)
    wait()
    assert not waited
    stream.work += [lambda: done.append(1)] * 3
    wait()
    assert waited == [int(stream)]
    assert len(done) == 3


def test_a_fake_that_forgives_would_show_nothing() -> None:
    """The fake itself: memory that was freed, ranges that are too long and contexts that are gone are all found."""
    cudart = FakeCudart()
    cuda = Cuda(cudart)
    stream, page, address = cuda.stream(), cuda.pinned(8, mapped=False), cuda.allocate(8)
    cuda.copy(address, page.ctypes.data, 16, stream, to_device=True)
    with pytest.raises(AssertionError, match="not in living"):
        cuda.waiter(stream)()
    cuda.copy(address, page.ctypes.data, 8, stream, to_device=True)
    cuda.free(address)
    with pytest.raises(AssertionError, match="not in living"):
        cuda.waiter(stream)()
    trt = FakeTensorRt(cudart, fake_engines.Net({"x": ("FLOAT", (1,), True)}, lambda x: {}))
    context = fake_engines.CudaEngine8(
        trt, fake_engines.Net({"x": ("FLOAT", (1,), True)}, lambda x: {})
    ).create_execution_context_without_device_memory()
    context.device_memory = 1
    context.set_tensor_address("x", cuda.allocate(4))
    assert context.execute_async_v3(int(stream))
    context.set_tensor_address("x", 0)
    with pytest.raises(AssertionError, match="changed after"):
        cuda.waiter(stream)()
    assert context.execute_async_v3(int(stream))
    del context
    with pytest.raises(AssertionError, match="outlives"):
        cuda.waiter(stream)()
