"""`jetlens predict`: every kind of input, its output, and one clear line for what is wrong."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jetlens.backends.base import RunFacts
from jetlens.cli import main
from jetlens.frame import Frame
from jetlens.media import StreamInfo, open_sink, open_source
from jetlens.predictor import Predictor
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec
from jetlens.tasks import TASKS
from jetlens.tasks.base import TaskOptions

LABELS = ("back\x1b[31mground", "plum", "pear")
OUTPUTS = {
    "classification": ("logits", "logits", ("N", 3)),
    "detection": ("detections", "detections", ("N", 2, 6)),
    "segmentation": ("mask", "mask", ("N", 32, 48)),
}


class FakeSession:
    """Answers every task: plum for dark pictures, pear for bright ones."""

    inputs = (TensorSpec("images", "uint8", ("N", 32, 48, 3)),)
    facts = RunFacts("fake", "1", "CPU", "none", "fp32")

    def __init__(self, task: str) -> None:
        name, _, shape = OUTPUTS[task]
        self.task = task
        self.outputs = (TensorSpec(name, "int32" if task == "segmentation" else "float32", shape),)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        chosen = 1 + (pixels.mean(axis=(1, 2, 3)) > 128).astype(int)
        count = len(pixels)
        if self.task == "classification":
            return {"logits": np.eye(3, dtype=np.float32)[chosen] * 4}
        if self.task == "segmentation":
            mask = np.zeros((count, 32, 48), np.int32)
            mask[:, 8:24, 12:36] = chosen[:, None, None]
            return {"mask": mask}
        rows = np.zeros((count, 2, 6), np.float32)
        rows[:, 0] = (4, 4, 30, 20, 0.9, 1)
        rows[:, 0, 5] = chosen
        rows[:, 1] = (30, 20, 44, 30, 0.4, 1)
        return {"detections": rows}

    def close(self) -> None: ...

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None: ...


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in tmp_path with a fake model named after its task: exit code, stdout, stderr."""
    from jetlens.cli import predict

    def load(model: str, backend: str, device: str, *, options: TaskOptions, **_: object) -> Predictor:
        task, _, own = model.partition("@")
        shape = PreprocessSpec((32, 48), filter="linear")
        spec = ModelSpec(model, task, LABELS, shape, OUTPUTS[task][1], confidence=float(own or 0.5))  # type: ignore[arg-type]
        return Predictor(TASKS.load(task)(spec, options), FakeSession(task))  # type: ignore[arg-type]

    monkeypatch.setattr(predict, "load", load)
    monkeypatch.setattr(predict, "DEFAULT_MODEL", "detection")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model: str = "detection") -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["predict", "--model", model, *arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), out, err

    return run


def picture(path: str, level: int = 60, size_hw: tuple[int, int] = (64, 96)) -> bytes:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.full((*size_hw, 3), level, np.uint8)).save(path)
    return Path(path).read_bytes()


def video(path: str, frames: int = 12, size_hw: tuple[int, int] = (64, 96)) -> bytes:
    pytest.importorskip("av")
    with open_sink(path, StreamInfo(size_hw, 25.0, None, "", "")) as sink:
        for index in range(frames):
            image = np.random.default_rng(index).integers(0, 255, (*size_hw, 3), np.uint8)
            sink.write(Frame(image, index, index / 25, 0.0, ""))
    return Path(path).read_bytes()


def test_detection_of_an_image(run: Run) -> None:
    picture("a.png")
    code, out, err = run("a.png")
    assert (code, err) == (0, "")
    assert "96x64" in out
    assert "plum" in out
    assert "0.900" in out
    assert "8, 8, 60, 40" in out  # in the picture's own pixels
    assert "0.400" not in out  # below the default threshold
    assert "preprocess" in out
    drawn = np.asarray(PillowImage.open("predictions/a.png"))
    assert drawn.shape == (64, 96, 3)
    assert (drawn != 60).any()


def test_confidence_and_backend_are_shown(run: Run) -> None:
    picture("a.png")
    _, out, _ = run("a.png", "--confidence", "0.3")
    assert "0.400" in out
    assert "fake" in out


def test_without_a_flag_the_models_own_confidence_holds(run: Run) -> None:
    picture("a.png")
    assert "0.400" in run("a.png", model="detection@0.35")[1]
    assert "nothing found" in run("a.png", model="detection@0.95")[1]
    assert "0.900" in run("a.png", "--confidence", "0.5", model="detection@0.95")[1]


def test_classification_prints_index_name_and_time(run: Run) -> None:
    picture("bright.png", 200)
    code, out, _ = run("bright.png", "--repeat", "5", "--top", "2", model="classification")
    assert code == 0
    assert "class 2 pear" in out
    table = out.split("rank")[1]
    assert "plum" in table or "ground" in table
    times = next(line for line in out.splitlines() if line.startswith("first call"))
    assert times.count(".") == 6  # five calls and the median of the last four


def test_segmentation_counts_pixels_and_writes_the_colours(run: Run) -> None:
    picture("a.png", 60, (64, 96))
    code, out, _ = run("a.png", "--alpha", "0.5", model="segmentation")
    assert code == 0
    assert "1,536" in out
    assert "25.0000%" in out
    assert "75.0000%" in out
    blend, mask = (np.asarray(PillowImage.open(f"predictions/{name}")) for name in ("a.png", "a.mask.png"))
    assert tuple(mask[32, 48]) == (128, 0, 0)
    assert tuple(mask[0, 0]) == (0, 0, 0)
    assert np.abs(blend[20, 48].astype(int) - (94, 30, 30)).max() <= 1
    assert tuple(blend[0, 95]) == (60, 60, 60)


KEYS = {"classification": "top", "detection": "detections", "segmentation": "classes"}


@pytest.mark.parametrize("task", KEYS)
def test_json_is_one_object_a_picture_and_nothing_else(run: Run, task: str) -> None:
    picture("b/1.png")
    picture("b/2.png", 200)
    code, out, _ = run("b", "--json", model=task)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["path"] for row in rows] == ["b/1.png", "b/2.png"]
    assert all(list(row) == ["path", "size_hw", "task", "backend", "precision", KEYS[task]] for row in rows)
    assert rows[0]["size_hw"] == [64, 96]
    assert rows[0] != rows[1] | {"path": rows[0]["path"]}
    assert not Path("predictions").exists()


def test_json_with_output_writes_both(run: Run) -> None:
    picture("a.png")
    _, out, _ = run("a.png", "--json", "--output", "o", "--repeat", "3")
    assert len(json.loads(out)["times_ms"]) == 3
    assert Path("o/a.png").exists()


def test_a_folder_a_pattern_and_a_file_together(run: Run) -> None:
    for name in ("f/1.png", "f/10.png", "f/2.png", "g/x.jpg", "single.bmp"):
        picture(name)
    code, out, _ = run("f", "g/*.jpg", "single.bmp", "--json")
    assert code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["f/1.png", "f/2.png", "f/10.png", "g/x.jpg", "single.bmp"]


def test_a_broken_image_among_many_is_named_and_the_others_go_on(run: Run) -> None:
    for name in ("f/1.png", "f/2.png", "f/3.png"):
        picture(name)
    Path("f/2.png").write_bytes(Path("f/2.png").read_bytes()[:60])
    code, out, err = run("f", "none.png", "--json")
    assert code == 1
    assert len(out.splitlines()) == 2
    lines = err.splitlines()
    assert "f/2.png" in lines[0]
    assert "none.png" in lines[1]
    assert "2 of 4" in lines[2]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.jpg", "text"),
        ("empty.jpg", "empty"),
        ("folder", "no image"),
        ("none.jpg", "no such file"),
        ("*.gif", "no file"),
        ("t.mp4", "text"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_1(run: Run, name: str, words: str) -> None:
    Path("text.jpg").write_text("hello")
    Path("t.mp4").write_text("hello")
    Path("empty.jpg").touch()
    Path("folder").mkdir()
    code, out, err = run(name, "--json")
    assert code == 1
    assert out == ""
    assert err.startswith("jetlens: ")
    assert words in err
    assert err.count("\n") == 1
    assert len(err) <= 310


@pytest.mark.parametrize(
    "arguments",
    [["ftp://h/a.jpg"], ["a.png", "--device", "tpu"], ["a.png", "--precision", "int3"], [], ["test://none"], ["0"], ["/dev/video0"]],
)
def test_wrong_usage_is_exit_2(run: Run, arguments: list[str]) -> None:
    picture("a.png")
    assert run(*arguments)[0] == 2


def test_inputs_are_never_written_over(run: Run) -> None:
    before = picture("a.png")
    code, _, _ = run("a.png", "--output", ".", model="segmentation")
    assert code == 0
    assert Path("a.png").read_bytes() == before
    assert Path("a-2.png").exists()
    os.symlink("a.png", "link.png")
    os.link("a.png", "hard.png")
    run("a.png", "link.png", "hard.png", "--output", ".")
    assert Path("a.png").read_bytes() == before


def test_negative_control_writing_under_the_input_s_name_would_lose_it() -> None:
    entry, folder = Path("photos/a.png"), Path("photos")
    assert folder / entry.name == entry  # what a naive `output / input.name` gives


def test_equal_names_get_files_of_their_own(run: Run) -> None:
    for name in ("x/a.png", "y/a.png", "z/A.png", "z/a.mask.png"):
        picture(name)
    code, out, _ = run("x", "y", "z", model="segmentation")
    assert code == 0
    assert len({name.casefold() for name in os.listdir("predictions")}) == 8
    assert out.count("-> ") == 8


def test_a_video_gives_as_many_frames_at_the_same_rate_and_size(run: Run) -> None:
    before = video("v.mp4", 12)
    code, out, _ = run("v.mp4")
    assert code == 0
    with open_source("predictions/v.mp4") as source:
        assert (source.info.size_hw, source.info.fps) == ((64, 96), 25.0)
        assert len(list(source)) == 12
    last = out.splitlines()[-1]
    assert "decoded by pyav" in out
    assert "12 frames in" in last
    assert "FPS on average (frames / wall time)" in last
    said = re.search(r"in ([\d.]+) s = ([\d.]+) FPS", last)
    assert said is not None
    assert float(said[2]) == pytest.approx(12 / float(said[1]), rel=0.1)
    run("v.mp4", "--output", ".")
    assert Path("v.mp4").read_bytes() == before
    assert sorted(os.listdir(".")) == ["predictions", "v-2.mp4", "v.mp4"]


def test_a_video_with_a_decoder_of_choice(run: Run) -> None:
    video("clip.mp4")
    status, out, _ = run("clip.mp4#decoder=av", "--output", ".")
    assert status == 0
    assert "12 frames" in out
    assert sorted(path.name for path in Path().glob("*.mp4")) == ["clip-2.mp4", "clip.mp4"], "the input is never written over"
    status, _, err = run("clip.mp4#decoder=best")
    assert status == 2
    assert "known: auto, av, cv2" in err


def test_json_of_a_video_is_one_object_a_frame(run: Run) -> None:
    video("v.mp4", 5)
    code, out, err = run("v.mp4", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["pts_s"] for row in rows] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert "5 frames" in err


def test_a_cut_video_is_predicted_as_far_as_it_goes_then_exit_1(run: Run) -> None:
    video("v.mkv", 60)
    content = Path("v.mkv").read_bytes()
    Path("v.mkv").write_bytes(content[: len(content) // 2])
    code, out, err = run("v.mkv")
    assert code == 1
    assert "cut or damaged" in err
    written = int(out.splitlines()[-1].split(": ")[1].split()[0])
    assert 10 < written < 60
    with open_source("predictions/v.mp4") as source:
        assert len(list(source)) == written


def test_ctrl_c_leaves_a_video_that_plays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from jetlens.cli.progress import StreamProgress

    video("v.mp4", 40)
    advance = StreamProgress.advance

    def interrupted(self: StreamProgress) -> None:
        advance(self)
        if self.done == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(StreamProgress, "advance", interrupted)
    threads = threading.active_count()
    code, _, err = run("v.mp4")
    assert code == 130
    assert "9 frames" in err
    with open_source("predictions/v.mp4") as source:
        assert len(list(source)) == 9
    assert threading.active_count() == threads


def test_the_orange_line_by_its_address(run: Run) -> None:
    code, out, _ = run("test://orange-line?frames=2&size=64x96", "--json")
    assert code == 0
    assert len(out.splitlines()) == 2


def test_where_nothing_can_be_written(run: Run) -> None:
    picture("a.png")
    Path("file").write_text("")
    code, _, err = run("a.png", "--output", "file")
    assert code == 1
    assert "--output file" in err


def test_names_and_labels_cannot_drive_the_terminal(run: Run) -> None:
    name = "evil\x1b]0;title\x07\n[red]x.png"
    picture(name, 200)
    code, out, _ = run(name, model="segmentation")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[31m" in out  # the label, visibly
    assert all(char.isprintable() for written in os.listdir("predictions") for char in written)


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        thread = threading.Thread(target=instance.serve_forever)
        thread.start()
        yield f"http://user:secret@127.0.0.1:{instance.server_port}"
        instance.shutdown()
        thread.join()


def test_an_image_by_its_address(run: Run, server: str) -> None:
    picture("cat.png")
    Path("notes.txt").write_text("hello")
    code, out, _ = run(f"{server}/cat.png?token=hidden")
    assert code == 0
    assert Path("predictions/cat.png").exists()
    for name in ("none.png", "notes.txt"):
        code, _, err = run(f"{server}/{name}?token=hidden")
        assert code == 1
        assert "secret" not in out + err
        assert "hidden" not in out + err


def test_progress_is_plain_lines_away_from_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from jetlens.cli import progress

    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with progress.StreamProgress("film", 2) as shown:
        shown.advance()
    err = capfd.readouterr().err
    assert err.startswith("film: 1 of 2 frames")
    assert "\x1b" not in err


def test_help() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--help"])
    assert ended.value.code == 0


def test_repeat_is_refused_for_a_video(run: Run) -> None:
    code, _, err = run("test://orange-line?frames=2", "--repeat", "3")
    assert code == 2
    assert "--repeat times single pictures" in err
