"""Streams in their modes: every frame counted once, its age and the wall time real, and a row that cannot run says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import CASE, FACTS, measurement
from bench_runs import run as made_run

from jetlens.bench import streams
from jetlens.bench.files import read_run, write_run
from jetlens.bench.inputs import Pictures
from jetlens.bench.modes import find_stream, orange_video, stream_cases, stream_figures
from jetlens.bench.records import Block, Case, Measurement, Run
from jetlens.bench.runner import InProcess, Plan, measure
from jetlens.bench.streams import StreamWork
from jetlens.device.proc import Memory
from jetlens.errors import BackendError, DataError, InputError, UnknownNameError, UsageError
from jetlens.predictor import model_path
from jetlens.spec import read_model

pytest.importorskip("onnxruntime")
MODEL = model_path("orange-grade")
SPEC = read_model(MODEL)[1]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with orange_video(tmp_path_factory.mktemp("video"), frames=24, size_hw=(96, 128)) as path:
        yield path


def case(mode: Any, backend: str = "onnxruntime") -> Case:
    return Case("orange-grade", backend, "fp32", mode=mode)


def opened(folder: Path, mode: str, uri: str, **changed: Any) -> StreamWork:
    stream = {"uri": uri, "live": False, "frames": None, "folder": str(folder), **changed}
    return StreamWork(case(mode), MODEL, stream, threads=1)


@pytest.mark.parametrize("mode", ["single", "threads"])
def test_a_video_goes_through_whole_and_is_counted_once(mode: str, video: Path, tmp_path: Path) -> None:
    work = opened(tmp_path, mode, str(video))
    try:
        block = work.block("video", 0.5)
    finally:
        work.close()
    assert block.items == len(block.calls_ms) == 24
    assert all(0 < age <= 1000 * block.wall_s for age in block.calls_ms)
    assert {"decode", "infer", "draw", "encode"} <= set(block.busy_s)
    assert all(busy >= 0 for busy in block.busy_s.values())
    (encoded,) = tmp_path.glob("*.mp4")
    assert find_stream(str(encoded), live=False).frames == 24


def test_in_one_thread_the_stages_fill_the_wall_time(video: Path, tmp_path: Path) -> None:
    """A single-frame loop does one thing at a time: its stages cannot be busy for longer than it lasts."""
    work = opened(tmp_path, "single", str(video))
    try:
        block = work.block("video", 0.5)
    finally:
        work.close()
    assert sum(block.busy_s.values()) <= block.wall_s


@pytest.mark.parametrize("mode", ["single", "threads"])
def test_the_first_frames_of_a_video_are_enough(mode: str, video: Path, tmp_path: Path) -> None:
    work = opened(tmp_path, mode, str(video), frames=5)
    try:
        assert work.block("video", 0.5).items == 5
    finally:
        work.close()


@pytest.mark.parametrize("mode", ["single", "threads"])
def test_a_camera_is_measured_for_so_long_and_its_rate_is_no_higher(mode: str, tmp_path: Path) -> None:
    work = opened(tmp_path, mode, "test://orange-line?live=1&size=96x128&fps=25&loop=2", live=True)
    try:
        block = work.block("live", 0.6)
    finally:
        work.close()
    assert block.wall_s >= 0.6
    assert 1 <= block.items / block.wall_s < 40
    assert block.items == len(block.calls_ms)


def test_threads_that_have_no_memory_say_so(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Memory(**{**dict.fromkeys(Memory.__slots__), "available_mib": 0})  # type: ignore[arg-type]
    monkeypatch.setattr(streams, "read_memory", lambda: short)
    with pytest.raises(BackendError, match="memory is short: frames between the threads may take"):
        opened(tmp_path, "threads", str(video))
    opened(tmp_path, "single", str(video)).close()


def test_the_cases_are_every_runtime_in_every_mode_and_tensorrt_is_named_where_it_is_absent() -> None:
    cases = stream_cases("m", ["onnxruntime", "tensorrt"], ["fp32", "bf16"], ["single", "threads", "deepstream"])
    titles = [row.title for row in cases]
    assert titles[:2] == ["onnxruntime fp32 single", "onnxruntime fp32 threads"]
    assert titles[-1] == "deepstream fp32"
    assert len(titles) == 9
    assert any(row.backend == "tensorrt" for row in stream_cases("m", None, ["fp32"], ["single"]))
    with pytest.raises(UsageError, match="--modes 'fast'"):
        stream_cases("m", None, ["fp32"], ["fast"])
    with pytest.raises(UnknownNameError):
        stream_cases("m", ["onnxruntimee"], ["fp32"], ["single"])


def test_a_camera_is_no_video_and_a_video_no_camera(video: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--scenario video --video"):
        find_stream(str(video), live=True)
    with pytest.raises(InputError, match="--scenario live --camera"):
        find_stream("test://orange-line?live=1&size=64x64", live=False)
    with pytest.raises(InputError, match="no such file"):
        find_stream(str(tmp_path / "absent.mp4"), live=False)
    found = find_stream(str(video), live=False, frames=7)
    assert (found.size_hw, found.frames, len(found.sha256)) == ((96, 128), 7, 64)


def test_a_run_takes_turns_and_its_record_reads_back(video: Path, tmp_path: Path) -> None:
    cases = (case("single"), case("threads"), case("single", "absent"))
    plan = Plan(
        cases,
        {cases[0]: MODEL, cases[1]: MODEL, cases[2]: BackendError("absent is not installed")},
        Pictures((), ()),
        scenario="video",
        stream=find_stream(str(video), live=False, frames=6).plan(SPEC),
        scope="full",
        blocks=2,
        threads=1,
        worker=InProcess,
    )
    run = measure(plan)
    assert run.complete
    assert "open" not in run.stream
    single, threads, absent = run.measurements
    assert [len(row.blocks) for row in run.measurements] == [2, 2, 0]
    assert [stream_figures(run, row).frames for row in (single, threads)] == [12, 12]  # type: ignore[union-attr]
    assert absent.refused == "absent is not installed"
    assert stream_figures(run, absent) is None
    write_run(tmp_path / "run.json", run)
    assert read_run(tmp_path / "run.json", streams=True) == run
    with pytest.raises(DataError, match=r"holds whole streams .*take single calls"):
        read_run(tmp_path / "run.json")


def stream_run(*blocks: Block, provider: str = "CPUExecutionProvider", gpu: dict[str, Any] | None = None) -> tuple[Run, Measurement]:
    from dataclasses import replace

    row = measurement(*blocks, case=case("single"), facts=replace(FACTS, provider=provider))
    return made_run(row, scenario="live", scope="full", stream={"gpu": gpu or {}, "live": True, "fps": 30.0}), row


def test_the_average_rate_is_frames_over_wall_time_and_no_mean_of_rates() -> None:
    """L13: a slow second and a quick one; the mean of the two rates would say 55."""
    blocks = (Block(0, 1.0, 10, (100.0,) * 10, busy_s={"infer": 0.9}), Block(1, 1.0, 100, (10.0,) * 100, dropped=10, busy_s={"draw": 0.5}))
    found = stream_figures(*stream_run(*blocks, Block(2, 2.0, 10, (1.0,) * 10)))
    assert found is not None
    assert (found.fps, found.lowest_fps, found.highest_fps) == (30.0, 5.0, 100.0)
    assert found.dropped == pytest.approx(10 / 130)
    assert found.busiest == ("infer", 0.9 / 4)
    assert (found.p50_ms, found.tflops) == (10.0, None)


def test_what_a_pipeline_does_not_tell_is_not_known() -> None:
    found = stream_figures(*stream_run(Block(0, 2.0, 60, ()), provider="nvinfer (TensorRT)", gpu={"fp32": 0.2358, "fp16": 0.4716}))
    assert found is not None
    assert (found.fps, found.p50_ms, found.p99_ms, found.busiest, found.tflops) == (30.0, None, None, None, 0.2358)


def test_records_of_before_streams_are_still_read(tmp_path: Path) -> None:
    import json

    path = tmp_path / "old.json"
    write_run(path, made_run(measurement(Block(0, 1.0, 1, (5.0,)))))
    old = json.loads(path.read_text())
    del old["stream"], old["measurements"][0]["case"]["mode"], old["measurements"][0]["blocks"][0]["busy_s"]
    path.write_text(json.dumps(old))
    run = read_run(path)
    assert run.measurements[0].case == CASE
    assert run.stream == {}
