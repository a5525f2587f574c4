"""A6: the engine of a four-class segmenter with GroupNorm and a bilinear pyramid is kept, loaded again, and answers as it did (lesson L7)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from jetlens.backends.base import SessionOptions
from jetlens.data.orange_line import still
from jetlens.engines.cache import obtain
from jetlens.engines.options import BuildOptions
from jetlens.predictor import load
from jetlens.spec import ModelSpec, PreprocessSpec

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
sys.path.insert(0, str(Path(__file__).parents[1] / "export"))


@pytest.mark.parametrize("size", ["tiny", "s12"])
def test_the_engine_that_was_kept_answers_as_the_one_that_was_built(cache: Path, quick: SessionOptions, tmp_path: Path, size: str) -> None:
    import poolformer_style

    from jetlens.export.onnx import export_model

    torch.manual_seed(0)
    network = getattr(poolformer_style, size)()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    network.load_state_dict(torch.load(tmp_path / "own.pth", weights_only=True))
    spec = ModelSpec("own", "segmentation", tuple("abcd"), PreprocessSpec((224, 224), std=(255.0,) * 3), "", weights={"source": "test"})
    model = tmp_path / "own.onnx"
    export_model(network.eval(), spec, model)
    build = quick.build or BuildOptions()
    assert [obtain(model.read_bytes(), build, name="own").reused for _ in range(2)] == [False, True]
    pictures = [still(seed, (224, 224))[0] for seed in range(3)]
    masks = []
    for backend in ("tensorrt", "tensorrt", "onnxruntime"):
        with load(model, backend, build=build) as predictor:
            masks.append(np.stack([predictor(picture).mask for picture in pictures]))  # type: ignore[union-attr]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] == masks[2]).mean() >= 0.999
