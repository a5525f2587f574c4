"""`jetlens run`: sources in, results in every sink, and an end that leaves whole files."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jetlens.backends.base import RunFacts
from jetlens.cli import main
from jetlens.frame import Frame
from jetlens.media import StreamInfo, open_sink, open_source
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

FILE = "test://orange-line?frames=12&size=64x96&seed={}"
CAMERA = "test://orange-line?live=1&fps=30&frames=30&size=64x96&loop=10&seed={}"
ENDLESS = "test://orange-line?frames=100000&size=64x96"


class FakeSession:
    """One plum in every picture."""

    inputs = (TensorSpec("images", "uint8", ("N", 32, 48, 3)),)
    facts = RunFacts("fake", "1", "CPU", "none", "fp32")

    def __init__(self, task: str) -> None:
        self.task = task
        self.outputs = (
            TensorSpec("detections", "float32", ("N", 1, 6)) if task == "detection" else TensorSpec("logits", "float32", ("N", 2)),
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        if self.task == "classification":
            return {"logits": np.zeros((len(pixels), 2), np.float32)}
        return {"detections": np.tile(np.array([4, 4, 30, 20, 0.9, 1], np.float32), (len(pixels), 1, 1))}

    def close(self) -> None: ...

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None: ...


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in tmp_path with a fake model named after its task: exit code, stdout, stderr."""
    from jetlens.cli import run as module

    def load(model: str, backend: str, device: str, *, options: TaskOptions, **_: object) -> Predictor:
        task, _, own = model.partition("@")
        shape, decoder = PreprocessSpec((32, 48), filter="linear"), "detections" if task == "detection" else "logits"
        spec = ModelSpec(model, task, ("a", "plum"), shape, decoder, confidence=float(own or 0.5))  # type: ignore[arg-type]
        return Predictor(TASKS.load(task)(spec, options), FakeSession(task))  # type: ignore[arg-type]

    monkeypatch.setattr(module, "load", load)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: str = "detection") -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["run", "--model", model, *arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return run


def frames_in(path: str | Path) -> int:
    with open_source(path) as source:
        return len(list(source))


def lines_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_two_files_into_videos_and_json_lines(run: Run) -> None:
    pytest.importorskip("av")
    code, out, _ = run(FILE.format(1), FILE.format(2), "--output", "out.mp4", "--output", "lines/out.jsonl")
    assert code == 0
    assert [frames_in(f"out-{number}.mp4") for number in (1, 2)] == [12, 12]
    assert "-> out-1.mp4" in out
    assert "12 frames captured = 12 answered + none dropped" in out
    rows = lines_in(Path("lines/out.jsonl").read_text())
    for seed in (1, 2):
        mine = [row for row in rows if row["stream"] == FILE.format(seed)]
        assert [row["index"] for row in mine] == list(range(12))
        assert all(row["age_ms"] > 0 and row["detections"][0]["label"] == "plum" for row in mine)


def test_a_folder_takes_a_video_or_pictures_of_each_stream(run: Run) -> None:
    pytest.importorskip("av")
    assert run(FILE.format(1), FILE.format(2), "--output", "all")[0] == 0
    assert sorted(path.name for path in Path("all").iterdir()) == ["01-orange-line.mp4", "02-orange-line.mp4"]
    assert run(FILE.format(1), "--output", "frames", "--images")[0] == 0
    assert sorted(path.name for path in Path("frames/01-orange-line").iterdir()) == [f"{index:06d}.png" for index in range(12)]


def test_segments_are_whole_files_that_follow_each_other(run: Run) -> None:
    pytest.importorskip("av")
    code, out, _ = run(FILE.format(1) + "&fps=8", "--output", "cut.mkv", "--segment-seconds", "0.5")
    assert code == 0
    assert [frames_in(f"cut-{number:04d}.mkv") for number in (1, 2, 3)] == [4, 4, 4]
    assert "-> cut-0003.mkv" in out


def test_json_alone_stands_on_stdout(run: Run) -> None:
    code, out, err = run(FILE.format(1), "--json", "--track")
    assert code == 0
    rows = lines_in(out)
    assert [row["index"] for row in rows] == list(range(12))
    assert {row["detections"][0]["tracker_id"] for row in rows} == {1}
    assert "12 answered" in err


def test_cameras_in_batches_until_they_end(run: Run) -> None:
    code, out, _ = run(CAMERA.format(1), CAMERA.format(2), "--batch-wait", "40", "--max-batch", "2")
    assert code == 0
    accounts = re.findall(r": (\d+) frames captured = (\d+) answered \+ (none dropped|.*?);", out)
    assert len(accounts) == 2
    for captured, answered, dropped in accounts:
        assert int(captured) == int(answered) + sum(map(int, re.findall(r"(\d+) (?:dropped|lost)", dropped)))
        assert int(answered) > 0


def test_a_duration_ends_what_has_no_end(run: Run) -> None:
    code, out, _ = run(ENDLESS, "--duration", "1", "--output", "a.mkv")
    assert code == 0
    assert int(re.findall(r"= (\d+) answered", out)[0]) == frames_in("a.mkv")


def test_a_camera_that_cannot_be_reached_is_said_without_its_password(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, out, err = run(f"http://me:secretword@127.0.0.1:{port}/a.mjpg?token=secretword", "--duration", "1.5")
    assert code == 1
    assert "no picture came from http://127.0.0.1" in err
    assert "secretword" not in out + err


def test_cameras_that_never_open_end_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a duration it would wait for ever; one that works keeps it going."""
    from jetlens.cli import live_loop

    monkeypatch.setattr(live_loop, "OPEN_S", 0.5)
    monkeypatch.setattr(live_loop, "STATUS_EVERY_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    dead = f"http://me:secretword@127.0.0.1:{port}/a.mjpg?token=secretword"
    start_s = time.monotonic()
    code, out, err = run(dead, dead)
    assert (code, time.monotonic() - start_s < 10) == (1, True)
    assert f"no picture came from http://127.0.0.1:{port}/a.mjpg?... within" in err
    assert "refused" in err.splitlines()[-1]
    assert "secretword" not in out + err
    assert run(dead, CAMERA.format(1), "--duration", "2")[0] == 0


def test_a_file_whose_frames_the_model_failed_on_is_no_success(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]
    answer = FakeSession.run

    def sometimes(self: FakeSession, inputs: Any) -> Any:
        count[0] += 1
        if count[0] in (3, 5):
            raise ValueError("a bad moment")
        return answer(self, inputs)

    monkeypatch.setattr(FakeSession, "run", sometimes)
    code, out, err = run(FILE.format(1))
    assert code == 1
    assert "12 frames captured = 10 answered + 2 dropped (model failed)" in out
    assert err.splitlines()[-1] == f"jetlens: the model failed: no answer for 2 frames of {FILE.format(1)}"


def test_a_rate_is_held_by_looking_at_fewer_frames(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = FakeSession.run

    def slow(self: FakeSession, inputs: Any) -> Any:
        time.sleep(0.08)
        return answer(self, inputs)

    monkeypatch.setattr(FakeSession, "run", slow)
    monkeypatch.setattr("jetlens.pipeline.adaptive._FALL_S", 0.5)
    monkeypatch.setattr("jetlens.pipeline.adaptive.model_path", Path)
    camera = CAMERA.format(1).replace("frames=30", "frames=200")
    code, out, err = run(camera, "--track", "--hold-fps", "25", "--duration", "5", "--output", "o.jsonl")
    assert code == 0, err
    assert "holds 25 FPS: every frame, then every 2nd frame, then every 3rd frame" in out
    assert re.search(r"quality: every frame -> every 2nd frame: 1\d\.\d of \d\d\.\d FPS", err)
    assert "quality changed 1 times to hold the rate" in out
    rows = lines_in(Path("o.jsonl").read_text())
    between = [row for row in rows if not row["inferred"]]
    assert len(between) > 10
    assert all(row["detections"][0]["tracker_id"] == 1 for row in between)


def test_streams_out_are_numbered_before_the_query_and_no_secret_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from jetlens.pipeline import outputs

    class Sink:
        note = ""

        def __init__(self, uri: str, info: StreamInfo) -> None:
            opened.append(uri)

        def write(self, frame: Frame) -> None: ...

        def close(self) -> None: ...

    opened: list[str] = []
    monkeypatch.setattr(outputs, "RtspSink", Sink)
    address = "rtsp://me:secretword@127.0.0.1:9/live?token=secretword"
    code, out, err = run(FILE.format(1), FILE.format(2), "--output", address)
    assert code == 0
    assert opened == [address.replace("live", f"live-{number}") for number in (1, 2)]
    assert "secretword" not in out + err


def test_without_a_flag_the_models_own_confidence_holds_for_boxes_and_tracks(run: Run) -> None:
    def seen(*arguments: str) -> list[int]:
        return [len(row["detections"]) for row in lines_in(run(FILE.format(1), "--json", *arguments, model="detection@0.95")[1])]

    assert seen() == seen("--track") == [0] * 12
    assert seen("--confidence", "0.5") == seen("--track", "--confidence", "0.5") == [1] * 12


def test_counting_and_events(run: Run) -> None:
    rules = ("--line", "50,0,50,64", "--zone", "0,0,96,0,96,64,0,64", "--events", "happened/events.jsonl")
    code, out, _ = run(FILE.format(1), *rules, "--images", "--output", "seen")
    assert code == 0
    with open_source("seen/01-orange-line/000003.png") as drawn:
        (frame,) = drawn
    assert frame.image_rgb[60, 50].tolist() == [255, 225, 60]  # the line
    assert frame.image_rgb[60, 0].tolist() == [255, 225, 60]  # an edge of the zone
    assert "line 1: 0 forward, 0 backward" in out
    assert "zone 1: 1 entered, 1 inside" in out
    events = lines_in(Path("happened/events.jsonl").read_text())
    assert [event["event"] for event in events] == ["zone-entered"]


def test_events_that_nobody_takes_are_accounted_for_and_hold_up_nothing(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    rules = (
        "--zone",
        "0,0,96,0,96,64,0,64",
        "--webhook",
        f"http://127.0.0.1:{port}/secret",
        "--mqtt",
        f"mqtt://me:secret@127.0.0.1:{port}/t",
    )
    code, out, err = run(FILE.format(1), *rules)
    assert code == 0
    assert f"http://127.0.0.1:{port}: 1 event sent = 1 failed; last trouble: Connection refused" in out
    assert f"mqtt://127.0.0.1:{port}: 1 event sent = 1 dropped; last trouble: Connection refused" in out
    assert "secret" not in out + err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("missing.mp4",), 1, "missing.mp4: no such file"),
        (("nope://x",), 2, "nope"),
        ((FILE.format(1), "--output", "out.gif"), 2, "give a video (.mp4"),
        ((FILE.format(1), "--output", "ftp://me:secret@box/out"), 2, "results go to files, folders and rtsp://"),
        ((FILE.format(1), "--images"), 2, "--output frames"),
        ((FILE.format(1), "--images", "--output", "f", "--segment-seconds", "3"), 2, "--images"),
        ((FILE.format(1), "--line", "1,2,3"), 2, "--line '1,2,3': give 2 points"),
        ((FILE.format(1), "--zone", "1,2,3,4"), 2, "give 3 or more points"),
        ((FILE.format(1), "--batch-wait", "41"), 2, "equal to 40"),
        ((FILE.format(1), "--hold-fps", "20"), 2, "--hold-fps holds the rate of cameras"),
        (("missing.mp4", "--webhook", "ftp://me:secret@box/in"), 2, "the webhook's address"),
        (("missing.mp4", "--mqtt", "mqtt://me:secret@box"), 2, "the MQTT broker's address needs one topic"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    ended, out, err = run(*arguments)
    assert ended == code
    assert said in err
    assert "secret" not in err
    assert "captured" not in out
    assert len(err.strip().splitlines()) == 1


def test_tracking_needs_a_detector(run: Run) -> None:
    code, _, err = run(FILE.format(1), "--track", model="classification")
    assert (code, "classification is for classification" in err) == (2, True)


def test_one_source_that_fails_is_named_and_the_other_is_done(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("av")
    with open_sink("whole.mkv", StreamInfo((64, 96), 25.0, None, "", "")) as sink:
        for index in range(40):
            sink.write(Frame(np.random.default_rng(index).integers(0, 255, (64, 96, 3), np.uint8), index, index / 25, 0.0, ""))
    Path("cut.mkv").write_bytes(Path("whole.mkv").read_bytes()[:30_000])
    code, _, err = run("cut.mkv", "whole.mkv", "--output", "out")
    assert code == 1
    assert "cut or damaged" in err
    assert "1 of 2 sources failed" in err
    assert frames_in("out/02-whole.mp4") == 40


def test_a_window_without_a_display_names_the_remedy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.delenv("DISPLAY", raising=False)
    from jetlens.registry import require

    if "headless" not in str(getattr(require("cv2", extra="cpu"), "__file__", "")) and os.environ.get("WAYLAND_DISPLAY"):
        pytest.skip("there is a display")
    code, _, err = run(FILE.format(1), "--window")
    assert code == 1
    assert "--view 8080" in err


def test_the_windows_keys() -> None:
    """q quits, p pauses, s saves; driven through a stand-in for OpenCV."""
    from jetlens.pipeline.window import Window

    class Cv2:
        WINDOW_NORMAL, WND_PROP_VISIBLE, error = 0, 4, RuntimeError
        shown: list[str]

        def __init__(self) -> None:
            self.keys, self.shown = [-1, ord("p"), ord("s"), ord("q")], []

        def namedWindow(self, *_: object) -> None: ...  # noqa: N802
        def destroyWindow(self, *_: object) -> None: ...  # noqa: N802
        def destroyAllWindows(self) -> None: ...  # noqa: N802

        def imshow(self, name: str, image: NDArray[np.uint8]) -> None:
            self.shown.append(name)
            assert image[0, 0].tolist() == [3, 2, 1]

        def waitKey(self, _: int) -> int:  # noqa: N802
            return self.keys.pop(0)

        def getWindowProperty(self, *_: object) -> float:  # noqa: N802
            return 1.0

    import sys as system

    cv2, paused, said = Cv2(), [], []
    before = system.modules.get("cv2")
    system.modules["cv2"] = cv2  # type: ignore[assignment]
    try:
        window = Window(lambda: paused.append(1), Path("/nonexistent"), said.append)
    finally:
        del system.modules["cv2"]
        if before is not None:
            system.modules["cv2"] = before
    image = np.full((4, 4, 3), (1, 2, 3), np.uint8)
    window.show(Frame(image, 0, 0.0, 0.0, "a"), None)  # type: ignore[arg-type]
    assert window.wanted("a")
    assert window.poll()
    assert window.poll()
    assert paused == [1]
    with pytest.raises(Exception, match="cannot be written"):
        window.poll()
    assert not window.poll()
    assert cv2.shown == ["a"]


# --- V8: Ctrl-C and SIGTERM -----------------------------------------------------------------------------------------------------------------


@contextmanager
def silent_camera(*, pictures: int = 0) -> Iterator[str]:
    """An MJPEG camera that accepts and says nothing, or gives a few pictures and then nothing."""
    import io

    from PIL import Image as PillowImage

    content = io.BytesIO()
    PillowImage.fromarray(np.full((64, 96, 3), 90, np.uint8)).save(content, "JPEG")
    part = b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(content.getvalue()), content.getvalue())
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            held.append(connection)
            if pictures:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
                for _ in range(pictures):
                    connection.sendall(part)
                    time.sleep(0.03)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/stream.mjpg"
    finally:
        server.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        server.close()
        for connection in held:
            connection.close()


LIVE = "test://orange-line?live=1&fps=30&size=120x160&loop=20"
LARGE = "test://orange-line?frames=100000&size=360x640"
STATES: dict[str, tuple[tuple[str, ...], int, str | None, float]] = {
    # what is run, how many of its streams give pictures, the file to look at, seconds from 10 results of each until it is stopped
    "opening": (("SILENT", "--output", "a.mp4"), 0, None, 0.5),
    "stalled": (("STALLING", "--output", "a.mp4"), 1, "a.mp4", 2.0),
    "writing": ((LIVE, "--output", "a.mp4"), 1, "a.mp4", 0.5),
    "mid-batch": (
        (*(f"{LIVE}&seed={n}" for n in (1, 2, 3)), "--max-batch", "3", "--batch-wait", "40", "--output", "a.mkv"),
        3,
        "a-2.mkv",
        0.3,
    ),
    "segments": ((LIVE, "--output", "a.mp4", "--segment-seconds", "0.5"), 1, "a-0001.mp4", 0.6),
    "a file": ((LARGE, "--output", "a.mp4"), 1, "a.mp4", 0.2),
    "beside a silent camera": (("SILENT", LIVE, "--output", "a.mp4"), 1, "a-2.mp4", 0.3),
    "json": ((LIVE,), 1, "log.jsonl", 0.1),
}


def wait_for_results(log: Path, streams: int) -> None:
    """Until each stream has ten results."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        text = log.read_text() if log.exists() else ""
        counts = Counter(line.partition('"index"')[0] for line in text.splitlines())
        if sum(count >= 10 for count in counts.values()) >= streams:
            return
        time.sleep(0.02)
    raise AssertionError("it gives no results")


def stop(state: str, number: signal.Signals, folder: Path) -> tuple[int, float]:
    """Runs the command in a process of its own and stops it: exit code and seconds until it was gone; its file is checked."""
    arguments, streams, file, after_s = STATES[state]
    with silent_camera() as silent, silent_camera(pictures=20) as stalling:
        places = {"SILENT": silent, "STALLING": stalling}
        command = [
            sys.executable,
            "-m",
            "jetlens",
            "run",
            *(places.get(word, word) for word in arguments),
            "--output",
            "log.jsonl",
            "--threads",
            "1",
        ]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        try:
            assert process.stdout is not None
            process.stdout.readline()  # the model is loaded
            wait_for_results(folder / "log.jsonl", streams)
            time.sleep(after_s)
            assert process.poll() is None, "it ended by itself"
            start_s = time.monotonic()
            process.send_signal(number)
            process.communicate(timeout=20)
            took_s = time.monotonic() - start_s
        finally:
            process.kill()
            process.wait()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nothing of its session is left
    assert not list(folder.glob(".*part*"))
    if file is not None:
        check_whole(folder / file)
    return process.returncode, took_s


def check_whole(path: Path) -> None:
    """A video that plays to its end and can be searched, or whole JSON lines."""
    if path.suffix == ".jsonl":
        assert len(lines_in(path.read_text())) > 5
        return
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        assert container.duration  # the index is there
        assert sum(1 for _ in container.decode(video=0)) >= 5


@pytest.mark.parametrize(
    ("state", "number"), [("stalled", signal.SIGTERM), ("writing", signal.SIGINT), ("a file", signal.SIGTERM), ("opening", signal.SIGINT)]
)
def test_a_signal_leaves_whole_files(state: str, number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("av")
    pytest.importorskip("onnxruntime")
    code, _ = stop(state, number, tmp_path)
    # Cameras have no end of their own; a file was cut short.
    assert code == (128 + number if state == "a file" else 0)


@pytest.mark.release
def test_eight_states_ten_times(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """V8: Ctrl-C and SIGTERM in 8 states: gone within 2 s, nothing left behind, files whole."""
    pytest.importorskip("av")
    slow, worst_s = [], 0.0
    for turn in range(10):
        for state in STATES:
            folder = tmp_path / f"{turn}-{state}"
            folder.mkdir()
            _, took_s = stop(state, (signal.SIGINT, signal.SIGTERM)[turn % 2], folder)
            worst_s = max(worst_s, took_s)
            if took_s > 2:
                slow.append((state, round(took_s, 2)))
    record_property("stopped in time", f"{80 - len(slow)}/80")
    record_property("slowest s", round(worst_s, 2))
    assert slow == []


def test_negative_control_a_plain_loop_leaves_a_file_that_does_not_play(tmp_path: Path) -> None:
    """`while True: writer.write(frame)` under SIGTERM."""
    av = pytest.importorskip("av")
    program = """
import av, numpy as np, time
container = av.open("a.mp4", "w"); stream = container.add_stream("mpeg4", rate=30)
stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
index = 0
while True:
    for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((120, 160, 3), index % 255, np.uint8))): container.mux(packet)
    index += 1
    if index == 50: print("on", flush=True)
    time.sleep(0.001)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=20)
    with pytest.raises((av.error.FFmpegError, AssertionError)):
        check_whole(tmp_path / "a.mp4")


def test_a_model_that_never_answers_does_not_hold_the_end_up(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    """The files are completed, and the process ends without waiting for the thread."""
    pytest.importorskip("av")
    from jetlens.cli import live_loop

    release, count = threading.Event(), [0]

    def stuck(self: FakeSession, inputs: Any) -> Any:
        count[0] += 1
        if count[0] > 10:
            release.wait()
        return {"detections": np.zeros((1, 1, 6), np.float32)}

    monkeypatch.setattr(FakeSession, "run", stuck)
    monkeypatch.setattr(live_loop, "DRAIN_S", 0.2)

    def exit_at_once(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(live_loop.os, "_exit", exit_at_once)
    try:
        code, _, err = run(ENDLESS, "--output", "a.mp4", "--duration", "2")
    finally:
        release.set()
    assert code == 1
    assert "did not answer in time" in err
    check_whole(tmp_path / "a.mp4")
