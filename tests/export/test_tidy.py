"""Tidied graphs are free of shape arithmetic and answer as before."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from jetlens.export.tidy import keep_outputs, tidy  # noqa: E402


class Head(torch.nn.Module):  # type: ignore[misc, name-defined]
    """What detectors and segmenters do with sizes: views that name the batch, resizing to another map's size, norms stretched over a map."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.coarse = torch.nn.Conv2d(6, 6, 3, stride=4, padding=1)

    def forward(self, x: Any) -> tuple[Any, Any]:
        fine = torch.nn.functional.normalize(self.fine(x))
        coarse = torch.nn.functional.interpolate(self.coarse(fine), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        count, _, height, width = fine.shape
        rows = (fine + coarse).view(count, -1, 2, height, width).permute(0, 3, 4, 1, 2).reshape(count, -1, 2)
        return rows, coarse.flatten(2)


def exported(dynamic: bool) -> Any:
    torch.manual_seed(0)
    axes = {"dynamic_axes": {name: {0: "N"} for name in ("x", "rows", "flat")}} if dynamic else {}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(2, 3, 32, 48),)
        torch.onnx.export(
            Head().eval(), example, buffer, dynamo=False, opset_version=17, input_names=["x"], output_names=["rows", "flat"], **axes
        )
    return onnx.load_model_from_string(buffer.getvalue())


def answers(model: Any, pixels: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [row.name for row in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": pixels}), strict=True))


def kinds(model: Any) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("dynamic", [True, False])
def test_numbers_stay_and_shape_arithmetic_goes(dynamic: bool) -> None:
    model = exported(dynamic)
    if dynamic:
        assert "Shape" in kinds(model), "the control: the exporter does leave shape arithmetic behind"
    before = model.SerializeToString()
    neat = tidy(onnx, model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(neat, full_check=True)
    assert not kinds(neat) & {"Shape", "Gather", "Slice", "Unsqueeze", "Identity"}
    for count in (1, 2, 5) if dynamic else (2,):
        pixels = np.random.default_rng(count).normal(size=(count, 3, 32, 48)).astype(np.float32)
        want, got = answers(model, pixels), answers(neat, pixels)
        assert want.keys() == got.keys()
        for name, array in want.items():
            # A resize by scales and one by sizes may round the last bit differently.
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-6)


def test_fewer_outputs_need_fewer_nodes() -> None:
    model = tidy(onnx, exported(True))
    smaller = keep_outputs(onnx, model, ("flat",))
    assert [row.name for row in smaller.graph.output] == ["flat"]
    assert len(smaller.graph.node) < len(model.graph.node)
    assert len(model.graph.output) == 2
    pixels = np.ones((1, 3, 32, 48), np.float32)
    np.testing.assert_array_equal(answers(smaller, pixels)["flat"], answers(model, pixels)["flat"])
