"""The builder on a real TensorRT and a real GPU: precisions that are got, and failures that are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from plain_onnx import conv_graph, half_quantized_graph, huge_graph

from jetlens.engines import builder
from jetlens.engines.api import load_tensorrt, version_of
from jetlens.engines.build import build
from jetlens.engines.job import Job
from jetlens.engines.options import BuildOptions
from jetlens.errors import BackendError, ModelError
from jetlens.spec import TensorSpec

pytestmark = pytest.mark.gpu
CHANNELS = 512
"""TensorRT runs small convolutions of an fp16 graph in fp32 where that is quicker, as it did with 64 on an H200."""


def run(model: bytes, cache: Path | None = None, **options: Any) -> Any:
    return build(model, BuildOptions(**{"optimization_level": 1, **options}), name="net", timing_cache=cache, report=print)


def test_fp32_and_fp16_are_what_the_graph_says(record_property: Callable[[str, object], None]) -> None:
    """Some versions name no types where batches are free."""
    for half, precision in ((False, "fp32"), (True, "fp16")):
        plan, facts = run(conv_graph(half=half, channels=CHANNELS), batch=(2, 2, 2))
        record_property(precision, f"{len(plan)} bytes, {facts.build_s:.1f} s, {dict(facts.layers)}, {facts.notes}")
        print(precision, len(plan), facts)
        assert facts.precision == precision
        assert facts.layers.get(precision)
        _, facts = run(conv_graph(half=half, channels=CHANNELS), batch=(1, 2, 4))
        assert facts.precision == precision
        assert facts.inputs == (TensorSpec("images", "uint8", ("N", 32, 32, 3)),)
        assert facts.outputs == (TensorSpec("logits", "float32", ("N", CHANNELS)),)
        assert facts.device_memory_mib >= 0


def test_what_an_fp16_graph_keeps_in_fp32_stays_there() -> None:
    """What follows the last product overflows fp16; with the FP16 flag alone TensorRT 8.6 may compute it there."""
    tensorrt = load_tensorrt()
    seen: list[Any] = []
    original = builder._asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "_asked", lambda network, model: seen.append(original(network, model)) or seen[-1])
        _, facts = builder.make_plan(
            tensorrt,
            conv_graph(half=True, channels=CHANNELS, tail=True),
            Job("net", BuildOptions(optimization_level=1), "tensorrt"),
            progress=print,
        )
    print("asked", seen, "layers", dict(facts.layers))
    assert seen[0].half
    assert seen[0].fp32_nodes == {"scale"}
    # A weakly typed network reads fp32 everywhere before the build.
    assert seen[0].half_heavy == (not version_of(tensorrt).precision_flags)
    assert facts.precision == "fp16"
    assert facts.layers.get("fp32")


def test_the_timing_cache_and_the_options_are_taken(tmp_path: Path) -> None:
    cache = tmp_path / "layers.cache"
    run(conv_graph(), cache)
    assert cache.stat().st_size > 0
    _, facts = run(conv_graph(), cache, version_compatible=True, workspace_mib=64)
    assert facts.workspace_mib == 64
    assert (tmp_path / "durations.json").is_file()
    cache.write_bytes(b"junk" * 100)
    run(conv_graph(), cache)
    assert cache.read_bytes()[:4] != b"junk"


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(ModelError) as caught:
        run(conv_graph(operator="of.nobody.Wobble"))
    print(caught.value)
    assert "Wobble" in str(caught.value)
    assert "second_conv" in str(caught.value)


def test_a_precision_that_nothing_runs_in_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"is an int8 graph and TensorRT .* runs none of it in int8") as caught:
        run(half_quantized_graph())
    print(caught.value)
    tensorrt = load_tensorrt()
    if not version_of(tensorrt).precision_flags:
        return

    def hold_everything(tensorrt: Any, network: Any, nodes: frozenset[str]) -> None:
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            if layer.type.name in ("CONVOLUTION", "ACTIVATION", "REDUCE", "POOLING"):
                layer.precision = tensorrt.DataType.FLOAT
                layer.set_output_type(0, tensorrt.DataType.FLOAT)

    monkeypatch.setattr(builder, "_hold_fp32", hold_everything)
    with pytest.raises(BackendError, match=r"is an fp16 graph and TensorRT .* runs none of it in fp16") as caught:
        builder.make_plan(
            tensorrt, conv_graph(half=True, channels=CHANNELS), Job("net", BuildOptions(optimization_level=1), "tensorrt"), progress=print
        )
    print(caught.value)


@contextmanager
def memory_taken(left: int) -> Iterator[None]:
    """Takes the GPU's free memory but for some bytes."""
    from cuda.bindings import runtime

    error, free, _ = runtime.cudaMemGetInfo()
    assert not int(error)
    error, address = runtime.cudaMalloc(max(0, free - left))
    assert not int(error)
    try:
        yield
    finally:
        runtime.cudaFree(address)


def test_a_memory_hog_is_named(record_property: Callable[[str, object], None]) -> None:
    """Goal C7 on the GPU: 5 of 5."""
    named = 0
    for attempt in range(5):
        workspace_mib = 1 if attempt else 1024
        # A context of the child alone takes some 500 MiB.
        with memory_taken(left=3 << 30), pytest.raises(BackendError) as caught:
            run(huge_graph(), workspace_mib=workspace_mib)
        print(caught.value)
        named += "ran out of memory" in str(caught.value)
    record_property("named", f"{named}/5")
    assert named == 5


def test_a_full_gpu_is_named() -> None:
    """No room even for the child's CUDA context, which TensorRT does not say."""
    with memory_taken(left=200 << 20), pytest.raises(BackendError, match="ran out of memory") as caught:
        run(conv_graph(), workspace_mib=1)
    print(caught.value)
