"""The TensorRT session on a real GPU: answers, memory, lanes, batches and times."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetlens.backends import BACKENDS
from jetlens.backends.base import SessionOptions
from jetlens.backends.tensorrt import TensorRtSession, open_engine
from jetlens.backends.tensorrt.cuda import load_cuda
from jetlens.deviation import deviation
from jetlens.engines.cache import obtain
from jetlens.engines.options import BuildOptions
from jetlens.engines.plan import Engine
from jetlens.errors import BackendError
from jetlens.graph import read_graph
from jetlens.ops.buffers import BufferPool
from jetlens.spec import read_model
from tiny_graphs import SIZE_HW, color_graph

pytestmark = pytest.mark.gpu

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "jetlens" / "assets" / "models"
LARGEST = 8
RUNS = 10_000
_MIB = 1 << 20
MODEL = color_graph().SerializeToString()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A small engine with a free batch, built once for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return obtain(MODEL, BuildOptions(batch=(1, 2, LARGEST), optimization_level=1), name="colors")


@pytest.fixture(params=[False, True], ids=["copies", "mapped"])
def session(engine: Engine, request: pytest.FixtureRequest) -> Iterator[TensorRtSession]:
    """One lane, with copies and with mapped host memory."""
    with open_engine(engine, SessionOptions(), read_graph(MODEL), mapped=request.param) as opened:
        yield opened


def pictures(batch: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (batch, *SIZE_HW, 3), np.uint8)


def reference(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
    with BACKENDS.load("onnxruntime").open(MODEL, SessionOptions("cpu", threads=1)) as opened:
        return opened.run({"images": images})


def free_memory() -> int:
    cuda = load_cuda()
    cuda.call("cudaDeviceSynchronize")
    return int(cuda.call("cudaMemGetInfo"))


@pytest.mark.parametrize("name", [path.stem for path in sorted(SHIPPED.glob("*.onnx"))])
def test_the_networks_that_ship_answer_as_in_onnx_runtime(cache: Path, name: str, quick: SessionOptions) -> None:

    content, spec = read_model(SHIPPED / f"{name}.onnx")
    images = np.random.default_rng(0).integers(0, 256, (1, *spec.preprocess.size_hw, 3), np.uint8)
    with BACKENDS.load("onnxruntime").open(content, SessionOptions("cpu")) as opened:
        expected = opened.run({opened.inputs[0].name: images})
    with BACKENDS.load("tensorrt").open(content, quick) as opened:
        answers = opened.run({opened.inputs[0].name: images})
        assert opened.facts.precision == "fp32"
        assert not any("no CUDA graph" in note for note in opened.facts.notes), opened.facts.notes
    found = deviation(spec.task, expected, answers)
    assert found.get("top1_agreement", 1) == 1
    assert found.get("mask_agreement", 1) >= 0.99
    assert found.get("matched_boxes", 1) >= 0.95


def test_every_batch_equals_onnx_runtime_in_any_order(session: TensorRtSession) -> None:
    for i, batch in enumerate((1, 8, 2, 7, 3, 6, 4, 5, 1, 8, 2)):
        answers = session.run({"images": pictures(batch, i)})
        np.testing.assert_allclose(answers["logits"], reference(pictures(batch, i))["logits"], rtol=1e-2, atol=1e-2)
    assert not any("no CUDA graph" in note for note in session.facts.notes), session.facts.notes
    with pytest.raises(BackendError, match="takes 1 to 8"):
        session.run({"images": pictures(9)})


def test_mapped_memory_gives_the_very_answers_of_copies(engine: Engine) -> None:
    images = [pictures(batch, batch) for batch in (1, 3, 8)]
    answers = []
    for mapped in (False, True):
        with open_engine(engine, SessionOptions(), read_graph(MODEL), mapped=mapped) as opened:
            answers.append([opened.run({"images": row})["logits"] for row in images])
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


def test_device_memory_is_flat_over_ten_thousand_runs(session: TensorRtSession, record_property: Any) -> None:
    images = [pictures(batch, batch) for batch in range(1, LARGEST + 1)]
    for row in images:
        session.run({"images": row})
    before = free_memory()
    for i in range(RUNS):
        session.run({"images": images[i % LARGEST]})
    grown = before - free_memory()
    record_property("device_bytes_grown", grown)
    record_property("runs", f"{RUNS}/{RUNS}")
    assert grown <= 0


def test_memory_that_leaks_is_seen() -> None:
    """Negative control: the reading that the test above trusts does see what is taken and not given back."""
    cuda = load_cuda()
    before = free_memory()
    taken = [cuda.allocate(4 * _MIB) for _ in range(8)]
    assert before - free_memory() >= 16 * _MIB
    for address in taken:
        cuda.free(address)


def test_lanes_answer_as_one_lane_does(engine: Engine) -> None:
    with open_engine(engine, SessionOptions(), read_graph(MODEL)) as opened:
        expected = [opened.run({"images": pictures(1 + seed % LARGEST, seed)})["logits"] for seed in range(200)]
    with open_engine(engine, SessionOptions(lanes=3), read_graph(MODEL)) as opened:
        flying: list[tuple[int, Any]] = []
        for seed in range(200):
            if len(flying) == 3:
                done, pending = flying.pop(0)
                np.testing.assert_array_equal(pending.result()["logits"], expected[done])
            lane = opened.lane(1 + seed % LARGEST)
            lane.inputs["images"][:] = pictures(1 + seed % LARGEST, seed)
            flying.append((seed, opened.submit(lane)))
        for done, pending in flying:
            np.testing.assert_array_equal(pending.view()["logits"], expected[done])
            pending.release()
        held = [opened.lane() for _ in range(3)]
        with pytest.raises(BackendError, match="all 3 lanes"):
            opened.run({"images": pictures(1)})
        for lane in held:
            lane.release()


def test_lanes_read_pictures_where_they_lie(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a source that lends its memory again answer as copied ones do, while it writes the next ones."""
    monkeypatch.setattr("jetlens.backends.tensorrt.pages.LEAST_BYTES", 1)
    pool = BufferPool(64)
    with open_engine(engine, SessionOptions(lanes=3), read_graph(MODEL)) as opened:
        flight: deque[tuple[Any, NDArray[np.uint8]]] = deque()

        def take_one() -> None:
            pending, images = flight.popleft()
            np.testing.assert_allclose(pending.result()["logits"], opened_alone.run({"images": images})["logits"], rtol=1e-3, atol=1e-3)

        with open_engine(engine, SessionOptions(), read_graph(MODEL)) as opened_alone:
            for seed in range(300):
                images = pictures(1 + seed % LARGEST, seed)
                lane, lent = opened.lane(len(images)), [pool.take(images.shape[1:]) for _ in images]
                for own, image in zip(lent, images, strict=True):
                    own[...] = image
                lane.borrow("images", lent)
                flight.append((opened.submit(lane), images))
                del lent, own
                if len(flight) == 3:
                    take_one()
            while flight:
                take_one()
        assert opened._pages is not None
        assert any(owner.locked for owner in opened._pages._owners.values()), "no memory could be locked on this machine"


def test_others_wait_while_one_submits(engine: Engine) -> None:
    wrong: list[int] = []
    places = threading.Semaphore(3)
    with open_engine(engine, SessionOptions(lanes=3), read_graph(MODEL)) as opened:
        expected = [opened.run({"images": pictures(1, seed)})["logits"] for seed in range(100)]

        def wait(pending: Any, seed: int) -> None:
            answer = pending.result()["logits"]
            places.release()
            if not np.array_equal(answer, expected[seed]):
                wrong.append(seed)

        threads = []
        for seed in range(100):
            places.acquire()
            threads.append(threading.Thread(target=wait, args=(opened.submit({"images": pictures(1, seed)}), seed)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_times_on_the_device_add_up(engine: Engine) -> None:
    with open_engine(engine, SessionOptions(timed=True), read_graph(MODEL)) as opened:
        opened.submit({"images": pictures(LARGEST)}).result()
        start = perf_counter()
        pending = opened.submit({"images": pictures(LARGEST)})
        pending.result()
        wall_ms = (perf_counter() - start) * 1e3
        timings = pending.timings
    assert timings is not None
    parts = (timings.copy_in_ms, timings.compute_ms, timings.copy_out_ms)
    assert min(parts) >= 0
    assert timings.compute_ms > 0
    assert sum(parts) <= wall_ms


def test_a_precision_that_the_engine_has_not_is_refused(engine: Engine) -> None:
    with pytest.raises(BackendError, match="precision int8 was asked for"):
        open_engine(engine, SessionOptions(precision="int8"), read_graph(MODEL))
