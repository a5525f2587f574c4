"""make(), ensure(): files with their story in the sidecar, repairs that are told, and refusals that write nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from residual_graph import SIZE_HW, batches, centered, residual_graph, residual_spec, write_residual  # noqa: E402

from jetlens.errors import DataError, GateError, ModelError, UnknownNameError, UsageError  # noqa: E402
from jetlens.graph import read_graph  # noqa: E402
from jetlens.precision import Budget, ensure, make  # noqa: E402
from jetlens.precision.graph import Graph  # noqa: E402
from jetlens.precision.pictures import answers, calibration_pictures  # noqa: E402
from jetlens.precision.repair import groups, ranked  # noqa: E402
from jetlens.predictor import load, model_path  # noqa: E402
from jetlens.spec import METADATA_KEY, ModelSpec, read_model, sidecar_path, write_sidecar  # noqa: E402

LOOSE = Budget(agreement=0.5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty noisy pictures of differing colour."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(3)
    for k in range(40):
        tint = random.uniform(0.2, 1, 3)
        Image.fromarray((random.integers(0, 256, (*SIZE_HW, 3)) * tint).astype(np.uint8)).save(folder / f"{k:02d}.png")
    return folder


def test_int8_is_written_with_its_story(tmp_path: Path, photos: Path) -> None:
    model = write_residual(tmp_path)
    told: list[str] = []
    report = make(model, "int8", calibration=photos, budget=LOOSE, report=told.append)
    assert report.path == tmp_path / "residual.int8.onnx"
    content, spec = read_model(report.path)
    inside = ModelSpec.from_json(read_graph(content).metadata[METADATA_KEY])
    assert spec.precision == inside.precision == "int8"
    assert inside.weights == spec.weights
    assert spec.weights["source"] == "random"
    assert spec.weights["calibration_sha256"] == spec.weights["calibration"]["sha256"] == report.calibration["sha256"]
    assert spec.weights["precision"]["verdict"]["agreement"] == pytest.approx(report.steps[-1].verdict.agreement, abs=1e-5)
    assert (report.verdict, report.calibration["pictures"], report.data["pictures"]) == ("accepted", 20, 20)
    assert report.data["sha256"] != report.calibration["sha256"]
    assert any("calibrates on 20 pictures" in line for line in told)
    assert told[0] == "reads or draws its pictures"
    assert any(line.startswith("int8 answers ") for line in told)
    assert json.loads(json.dumps(report.to_dict()))["status"] == "accepted"
    assert "calibrated on 20 pictures" in "\n".join(report.lines())
    with load(model, "onnxruntime", precision="int8") as predictor:
        assert predictor.spec.precision == "int8"


def test_the_hash_is_that_of_the_pixels(tmp_path: Path, photos: Path) -> None:
    model = write_residual(tmp_path)

    def digest(folder: Path) -> str:
        return str(make(model, "int8", calibration=folder, budget=LOOSE).calibration["sha256"])

    other = tmp_path / "other"
    other.mkdir()
    for path in photos.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert digest(other) == digest(photos)
    first = np.asarray(Image.open(other / "00.png")).copy()
    first[0, 0, 0] ^= 1
    Image.fromarray(first).save(other / "00.png")
    assert digest(other) != digest(photos)


def test_fp16_needs_no_pictures_of_the_user(tmp_path: Path) -> None:
    report = make(write_residual(tmp_path, gain=3e5), "fp16", tmp_path / "half.onnx", budget=LOOSE)
    assert set(report.overflowing) == {"two.first", "two.relu", "two.second"}
    _, spec = read_model(tmp_path / "half.onnx")
    assert spec.precision == "fp16"
    assert spec.weights["precision"]["overflowing"] == list(report.overflowing)


def test_a_fixed_batch_is_calibrated_too(tmp_path: Path, photos: Path) -> None:
    report = make(write_residual(tmp_path, batch=3), "int8", calibration=photos, budget=LOOSE)
    assert report.path is not None
    assert read_graph(report.path.read_bytes()).inputs[0].shape[0] == 3


def broken_layer(folder: Path, photos: Path) -> Path:
    """A classifier of which int8 cannot hold one layer: a weight that meets nothing but zeros dwarfs all others of its channel."""
    model = residual_graph(seed=2)
    rows = {row.name: row for row in model.graph.initializer}
    values = {name: onnx.numpy_helper.to_array(rows[name]).copy() for name in ("stem.w", "stem.b", "one.first.w")}
    values["stem.w"][0] = values["stem.b"][0] = 0
    values["one.first.w"][:, 0, 0, 0] = 200
    for name, array in values.items():
        rows[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(photos.iterdir())])
    path = folder / "residual.onnx"
    path.write_bytes(centered(model, pictures).SerializeToString())
    write_sidecar(path, residual_spec())
    return path


def test_the_layer_that_int8_hurts_goes_back(tmp_path: Path, photos: Path) -> None:
    path = broken_layer(tmp_path, photos)
    report = make(path, "int8", calibration=photos, method="minmax", budget=Budget(agreement=0.9))
    first, last = report.steps[0], report.steps[-1]
    assert first.verdict.status == "refused"
    assert last.verdict.status == "accepted"
    assert "one.first" in report.put_back
    assert len(report.put_back) <= 3
    assert "one.first (error" in report.steps[1].group
    assert report.path is not None
    rows = {node.name: list(node.input) for node in Graph(report.path.read_bytes()).proto.node}
    assert not rows["one.first"][1].endswith(".dq")
    assert "of 7 layers are fp32 for accuracy" in "\n".join(report.lines())


def test_a_refusal_writes_nothing_and_names_its_figures(tmp_path: Path, photos: Path) -> None:
    model = write_residual(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        GateError, match=r"int8 is refused, even with 3 layers back in fp32: [\d.]+% of the answers.*nothing was written: take fp16"
    ) as raised:
        make(model, "int8", calibration=photos, budget=Budget(agreement=1.01))
    assert raised.value.exit_code == 3
    assert len(str(raised.value)) <= 300
    assert sorted(tmp_path.iterdir()) == before


def test_an_answer_that_is_no_number_is_refused_by_name(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jetlens.precision import making

    monkeypatch.setattr(making, "scales", lambda seen, method: dict.fromkeys(seen.largest, float("nan")))
    with pytest.raises(GateError, match=r"output 'logits' holds \d+ values that are NaN or infinite, first in layer one.out.dequantize"):
        make(write_residual(tmp_path), "int8", calibration=photos)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_seen_behind_a_mask(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argmax in the graph makes a class of them: without the scores beside it nothing shows."""
    content, spec = read_model(model_path("orange-segment"))
    graph = Graph(content)
    scores = next(node.input[0] for node in graph.proto.node if node.op_type == "ArgMax")
    graph.add_value("wrong", np.full((1,), value, np.float32))
    graph.insert({scores: [graph.onnx.helper.make_node("Add", [scores, "wrong"], ["spoilt"], "spoil")]})
    for node in graph.proto.node:
        if node.op_type == "ArgMax":
            node.input[0] = "spoilt"
    spoilt, pictures = graph.model.SerializeToString(), calibration_pictures("orange-line", spec, 2)
    with pytest.raises(ModelError, match=r"output 'spoilt' holds \d+ values that are NaN or infinite, first in layer spoil"):
        answers(spoilt, spec, pictures, labelled=False)
    monkeypatch.setattr(Graph, "with_scores", Graph.to_bytes)
    assert answers(spoilt, spec, pictures, labelled=False)


def test_what_is_missing_or_wrong_is_said(tmp_path: Path, photos: Path) -> None:
    model = write_residual(tmp_path)
    with pytest.raises(UsageError, match="--calibration FOLDER"):
        make(model, "int8")
    with pytest.raises(DataError, match="no such folder of pictures"):
        make(model, "int8", calibration=tmp_path / "absent")
    with pytest.raises(UnknownNameError, match="minmax"):
        make(model, "int8", calibration=photos, method="minimax")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="fp32 model itself"):
        make(model, "int8", model, calibration=photos)
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        make(model, "int8", tmp_path / "x.plan", calibration=photos)
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.png").write_bytes((photos / "00.png").read_bytes())
    with pytest.raises(DataError, match="one picture cannot both"):
        make(model, "int8", calibration=one)
    half = make(model, "fp16", budget=LOOSE).path
    assert half is not None
    with pytest.raises(ModelError, match="is fp16 already"):
        make(half, "int8", tmp_path / "y.onnx", calibration=photos)


def test_ensure_takes_what_is_there_and_makes_the_rest_once(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETLENS_CACHE", str(tmp_path / "cache"))
    model = write_residual(tmp_path)
    told: list[str] = []
    cached = ensure(model, "fp16", calibration=photos, report=told.append)
    assert cached.parent == tmp_path / "cache" / "models"
    assert told
    told.clear()
    assert ensure(model, "fp16", calibration=photos, report=told.append) == cached
    assert not told
    assert ensure(cached, "fp16") == cached
    sidecar_path(cached).unlink()
    assert ensure(model, "fp16", calibration=photos, report=told.append) == cached
    assert told
    beside = make(model, "fp16", calibration=photos).path
    assert ensure(model, "fp16") == beside


def test_groups_end_at_additions_and_are_few() -> None:
    graph = Graph(residual_graph().SerializeToString())
    convolutions = [node.name for node in graph.proto.node if node.op_type in ("Conv", "Gemm")]
    assert [part.nodes for part in groups(graph, convolutions)] == [(name,) for name in convolutions]
    many = [f"n{k}" for k in range(100)]
    helper = onnx.helper
    nodes = [helper.make_node("Relu", [f"t{k}"], [f"t{k + 1}"], f"n{k}") for k in range(100)]
    del graph.proto.node[:]
    graph.proto.node.extend(nodes)
    parts = groups(graph, many)
    assert len(parts) <= 32
    assert [name for part in parts for name in part.nodes] == many


def test_the_rank_is_that_of_the_error_each_causes_alone(tmp_path: Path) -> None:
    content = residual_graph().SerializeToString()

    def make_noisy(keep: object) -> bytes:
        """In place of quantizing: the weights of a layer that is not kept are rounded to a grid of its own."""
        graph = Graph(content)
        for name, step in (("stem", 0.01), ("one.second", 0.3), ("two.down", 0.1)):
            row = next(row for row in graph.proto.initializer if row.name == f"{name}.w")
            if name not in keep:  # type: ignore[operator]
                values = onnx.numpy_helper.to_array(row)
                row.CopyFrom(onnx.numpy_helper.from_array((np.round(values / step) * step).astype(np.float32), row.name))
        return graph.to_bytes()

    parts = groups(Graph(content), ["stem", "one.second", "two.down"])
    found = ranked(content, make_noisy, parts, batches())
    assert [part.nodes for part in found] == [("one.second",), ("two.down",), ("stem",)]
    assert found[0].error > found[1].error > found[2].error > 0
