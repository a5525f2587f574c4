"""The examples run as they are, stay short, and say in one line what they lack."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("cv2")

from jetlens.backends import BACKENDS
from jetlens.errors import BackendError, InputError, ModelError, WeightsError
from jetlens.media import open_sink, open_source
from jetlens.predictor import load

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PROGRAMS = sorted(EXAMPLES.rglob("*.py"))
Example = Callable[[str], ModuleType]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Example:
    """Imports an example by its path, with its folder on the path as when it is run."""
    import importlib.util

    def imported(name: str) -> ModuleType:
        path = EXAMPLES / name
        monkeypatch.syspath_prepend(str(path.parent))
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module

    return imported


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with open_source("test://orange-line?frames=4&size=180x320") as source, open_sink(path, source.info) as sink:
        for frame in source:
            sink.write(frame)
    return path


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 40


def test_a_segmentation_network_is_exported_at_512(example: Example, tmp_path: Path) -> None:
    program = example("realtime_segmentation/build_onnx.py")
    program.build("random", "lraspp_mobilenet_v3_large", str(tmp_path / "segmentation.onnx"))
    with load(tmp_path / "segmentation.onnx", "onnxruntime") as predictor:
        assert predictor.spec.preprocess.size_hw == (512, 512)
        assert predictor.spec.preprocess.mean == pytest.approx((123.675, 116.28, 103.53))
        assert len(predictor.spec.labels) == 21
    with pytest.raises(WeightsError, match="no such file"):
        program.build(str(tmp_path / "no.pth"))


def test_a_video_is_coloured_with_rate_latency_and_classes(
    example: Example, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example("realtime_segmentation/torch_seg.py").run("pytorch", str(clip), str(tmp_path / "out.mp4"), "orange-segment")
    assert re.search(r"4 frames, \d+\.\d FPS on average, on pytorch", capsys.readouterr().out)
    with open_source(clip) as before, open_source(tmp_path / "out.mp4") as after:
        pairs = [(a.image_rgb.astype(int), b.image_rgb.astype(int)) for a, b in zip(before, after, strict=True)]
    assert len(pairs) == 4
    first, drawn = pairs[-1]
    assert drawn.shape == first.shape
    assert np.abs(drawn - first)[:30, :80].mean() > 20  # the HUD's corner
    assert np.abs(drawn - first).mean() > 2


def test_what_is_missing_is_an_error(example: Example, clip: Path, tmp_path: Path) -> None:
    run = example("realtime_segmentation/torch_seg.py").run
    with pytest.raises(InputError, match="no such file"):
        run("pytorch", str(tmp_path / "no.mp4"), str(tmp_path / "out.mp4"), "orange-segment")
    with pytest.raises(ModelError, match="no such model file"):
        run("pytorch", str(clip), str(tmp_path / "out.mp4"), "no.onnx")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.skipif(BACKENDS.load("tensorrt").unavailable() is None, reason="TensorRT is here")
def test_without_tensorrt_nothing_else_runs_in_its_place(example: Example, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="tensorrt"):
        example("realtime_segmentation/torch_seg.py").run("tensorrt", str(clip), str(tmp_path / "out.mp4"), "orange-segment")
    program = EXAMPLES / "realtime_segmentation" / "trt_seg.py"
    done = subprocess.run(
        [sys.executable, program, clip, tmp_path / "out.mp4", "orange-segment"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"trt_seg: tensorrt .*\n", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network that crops, small and with random weights."""
    from jetlens.export.onnx import export_model
    from jetlens.export.trained import network_to_export

    path = tmp_path_factory.mktemp("classifier") / "classifier.onnx"
    network, spec = network_to_export("mobilenet_v3_small", untrained=True, size_hw=(64, 64))
    export_model(network, spec, path, allow_random=True)
    return str(path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    wave = (127 + 120 * np.sin(np.arange(200)[:, None, None] / 9 + np.arange(120)[None, :, None] / 5 + np.arange(3))).astype(np.uint8)
    Image.fromarray(wave).save(path)
    return str(path)


def test_another_resizing_changes_the_outputs_and_the_same_does_not(
    example: Example, classifier: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example("measuring_faults/resizing.py").main(picture, classifier)
    off = [float(text) for text in re.findall(r"off by (\S+) at most", capsys.readouterr().out)]
    assert off[:2] == [0, 0]
    assert off[2] > 0


def test_the_first_call_and_the_two_changes_are_measured_here(
    example: Example, classifier: str, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example("measuring_faults/first_call.py").main(picture, classifier)
    said = capsys.readouterr().out
    assert len(re.findall(r"first call \d+\.\d ms, then \d+\.\d ms", said)) == 2
    example("measuring_faults/two_changes.py").main(picture, classifier)
    said = capsys.readouterr().out
    ends, machine, runtime = (float(text) for text in re.findall(r"(\d+\.\d+)(?: times;|, the|$)", said.splitlines()[-1]))
    assert ends == pytest.approx(machine * runtime, abs=0.01 + 0.01 * (machine + runtime))  # each is rounded to two places


@pytest.mark.parametrize(
    "name", ["onnxruntime_plain.py", *(f"measuring_faults/{name}.py" for name in ("first_call", "resizing", "two_changes"))]
)
def test_without_arguments_a_program_says_what_it_takes(name: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "PICTURE" in done.stderr
    assert "Traceback" not in done.stderr
