"""The worker on a real TensorRT: TensorRT-RTX parses and builds on a machine without a GPU, for a GPU elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetlens.device import find_gpus
from jetlens.engines.build import Worker, build
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError, ModelError
from jetlens.spec import TensorSpec

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'jetlens[trt-rtx]'")
onnx = pytest.importorskip("onnx")

MODELS = Path(__file__).parents[2] / "src/jetlens/assets/models"
AHEAD = Worker(module="tensorrt_rtx", capability="SM89", heartbeat_s=0.3)


def run(model: bytes, **options: Any) -> Any:
    return build(model, BuildOptions(**options), name="net", timing_cache=None, report=lambda line: None, worker=AHEAD)


def graph(operator: str = "Conv", *, domain: str = "", half: bool = False, axes: tuple[int | str, ...] = ("N", 3, 8, 8)) -> bytes:
    """One node between float tensors, in fp16 inside if asked."""
    helper, kinds = onnx.helper, onnx.TensorProto
    kind = kinds.FLOAT16 if half else kinds.FLOAT
    weights = helper.make_tensor("weights", kind, [4, 3, 1, 1], [0.5] * 12)
    inner = helper.make_node(operator, ["x", "weights"], ["y"], "the_node", domain=domain)
    nodes = [helper.make_node("Cast", ["images"], ["x"], to=kind), inner, helper.make_node("Cast", ["y"], ["out"], to=kinds.FLOAT)]
    taken = helper.make_tensor_value_info("images", kinds.FLOAT, list(axes))
    given = helper.make_tensor_value_info("out", kinds.FLOAT, [axes[0], 4, *axes[2:]])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph(nodes, "net", [taken], [given], [weights]), opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def test_a_shipped_model_builds(tmp_path: Path) -> None:
    model = (MODELS / "cifar10-basic.onnx").read_bytes()
    said: list[str] = []
    cache = tmp_path / "layers.cache"
    plan, facts = build(model, BuildOptions(batch=(1, 2, 4)), name="cifar10", timing_cache=cache, report=said.append, worker=AHEAD)
    assert plan
    assert facts.inputs == (TensorSpec("images", "uint8", ("N", 32, 32, 3)),)
    assert facts.outputs == (TensorSpec("logits", "float32", ("N", 10)),)
    assert (facts.precision, facts.workspace_mib) == ("fp32", 1024)
    assert facts.build_s > 0
    # Nothing is claimed of layers that nobody looked at.
    assert not facts.layers
    assert any("not opened here" in note for note in facts.notes)
    assert said[0] == "building a TensorRT engine of cifar10; minutes are usual"


def test_precision_is_the_graph_s(tmp_path: Path) -> None:
    assert run(graph(half=True))[1].precision == "fp16"
    assert run(graph())[1].precision == "fp32"


def test_unknown_operators_are_named() -> None:
    with pytest.raises(ModelError, match=r"TensorRT .* cannot run net: .*Wobble.*the_node"):
        run(graph("Wobble", domain="of.nobody"))


def test_dynamic_axes_are_named() -> None:
    with pytest.raises(ModelError, match=r"axis 2 \('height'\) of input 'images' is dynamic"):
        run(graph(axes=("N", 3, "height", 8)))
    with pytest.raises(ModelError, match="fixed at 2 and 1:4:8"):
        run(graph(axes=(2, 3, 8, 8)), batch=(1, 4, 8))


def test_what_is_no_graph() -> None:
    with pytest.raises(ModelError, match=r"TensorRT .* cannot run net"):
        run(b"junk" * 50)


def test_without_a_gpu_the_cause_is_named() -> None:
    """The same module asked for an engine of this machine."""
    if find_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"^TensorRT .*CUDA"):
        build(graph(), BuildOptions(), name="net", timing_cache=None, report=lambda line: None, worker=Worker(module="tensorrt_rtx"))
