import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetlens.errors import ModelError, SidecarError
from jetlens.spec import ModelSpec, PreprocessSpec, TensorSpec, read_model, sidecar_path, write_sidecar

SPEC = ModelSpec(
    name="tiny",
    task="classification",
    labels=("a", "", "c"),
    preprocess=PreprocessSpec(size_hw=(8, 8), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)),
    decoder="logits",
    inputs=(TensorSpec("images", "uint8", ("N", 8, 8, 3)),),
)

sizes = st.integers(1, 4096)
grey = st.floats(0, 255, allow_nan=False)


@given(
    st.tuples(sizes, sizes),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from(["antialias", "linear"]),
    st.tuples(grey, grey, grey),
    st.lists(st.text(max_size=12), max_size=5),
)
def test_a_sidecar_reads_back_as_it_was_written(size, resize, filter_, mean, labels) -> None:
    spec = ModelSpec(
        name="x",
        task="detection",
        labels=tuple(labels),
        preprocess=PreprocessSpec(size, resize=resize, filter=filter_, mean=mean),
        decoder="detections",
    )
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_labels_with_gaps() -> None:
    assert [SPEC.label(i) for i in (-1, 0, 1, 2, 3)] == ["class -1", "a", "class 1", "c", "class 3"]


def test_a_pair_is_read_and_another_model_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"the model")
    written = write_sidecar(model, SPEC)
    assert read_model(model) == (b"the model", written)
    model.write_bytes(b"another model")
    with pytest.raises(SidecarError, match="belongs to another file"):
        read_model(model)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        read_model(tmp_path / "absent.onnx")
    model = tmp_path / "m.onnx"
    model.touch()
    with pytest.raises(ModelError, match="is empty"):
        read_model(model)
    model.write_bytes(b"x")
    with pytest.raises(SidecarError, match="jetlens adopt"):
        read_model(model)


def changed(**changes: object) -> str:
    return json.dumps({**json.loads(SPEC.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not valid JSON"),
        ("[1, 2]", "not a jetlens sidecar"),
        ("{}", "not a jetlens sidecar"),
        (changed(jetlens_sidecar=99), "not a jetlens sidecar"),
        (changed(colour="red"), "unknown key 'colour'"),
        (changed(task="poetry"), "task is 'poetry'; allowed: classification, detection, segmentation"),
        (changed(preprocess=None), "must be a JSON object"),
        (changed(preprocess={"size_hw": [8, 8], "resize": "squash"}), "preprocess.resize is 'squash'; allowed: stretch, letterbox, crop"),
        (changed(preprocess={"size_hw": [0, 8]}), "at least 1 pixel"),
        (changed(preprocess={"size_hw": [8, 8], "std": [1, 0, 1]}), "every value must be above 0"),
        (changed(preprocess={"size_hw": [8, 8], "mean": [1]}), "needs 3 of each"),
        (changed(preprocess={"size_hw": 8}), "."),
        (changed(preprocess={"size_hw": [8, "wide"]}), "."),
        (changed(labels=7), "."),
        (changed(inputs=[{"name": "x"}]), "."),
    ],
)
def test_a_malformed_sidecar_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(SidecarError, match=message) as caught:
        ModelSpec.from_json(text, origin="m.onnx.json")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_no_half_written_sidecar_is_left(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    write_sidecar(model, SPEC)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", sidecar_path(model).name]


def test_a_value_that_is_not_allowed_is_called_by_its_file() -> None:
    with pytest.raises(SidecarError, match=r"^net\.onnx\.json: task is 'pose'"):
        ModelSpec.from_json(changed(task="pose"), origin="net.onnx.json")
