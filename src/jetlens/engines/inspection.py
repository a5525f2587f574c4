"""What is inside a finished engine: its tensors, and the precisions that its layers really run in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jetlens.engines.api import dtype_name
from jetlens.spec import TensorSpec

__all__ = ["Inspection", "inspect_layers", "layer_report", "tensor_row", "tensor_rows"]

# What the inspector calls a type: its short name alone, or inside the description of a memory layout.
_TYPES = (
    (re.compile(r"\bBF16\b|BFloat16", re.I), "bf16"),
    (re.compile(r"\bFP16\b|\bHalf\b|Float16", re.I), "fp16"),
    (re.compile(r"\bFP8\b", re.I), "fp8"),
    (re.compile(r"\bFP32\b|\bFloat\b|Float32", re.I), "fp32"),
    (re.compile(r"\bUInt8\b", re.I), "uint8"),
    (re.compile(r"\bInt8\b", re.I), "int8"),
    (re.compile(r"\bInt32\b", re.I), "int32"),
    (re.compile(r"\bInt64\b", re.I), "int64"),
    (re.compile(r"\bBool\b", re.I), "bool"),
)
_REAL = ("fp32", "fp16", "bf16", "int8", "fp8")
_PRODUCTS = re.compile(
    r"convolution|\bconv|gemm|matmul|matrixmultiply|matrix_multiply|fullyconnected|fprop|implicit_gemm|correlation", re.I
)
_MYELIN = re.compile(r"__myl_\w*(Conv|MatMul|Gemm|Mma|Fc)", re.I)
_MOVES = ("reformat", "copy", "shuffle", "constant", "cast", "signal", "wait")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the engine inspector tells.

    Attributes:
        layers: number of layers by the type of their first output.
        heavy: number of convolutions and matrix products by the type of their first input, which is what they multiply in.
        tf32: how many of the heavy layers run in TensorFloat-32.
    """

    layers: Mapping[str, int]
    heavy: Mapping[str, int]
    tf32: int = 0

    def precision(self) -> str:
        """What the heavy layers run in, int8 if any does, else what most do, of a tie not fp32; empty where the inspector names no types."""
        counted = self.heavy or {kind: count for kind, count in self.layers.items() if kind in _REAL}
        if counted.get("int8"):
            return "int8"
        return max(counted, key=lambda kind: (counted[kind], kind != "fp32")) if counted else ""

    def runs_in(self, precision: str) -> bool:
        """Whether any heavy layer runs in a precision; any layer, where none can be told to be heavy."""
        return bool((self.heavy or self.layers).get(precision))

    def summary(self) -> str:
        """The heavy layers by type in words."""
        counted = self.heavy or self.layers
        what = "convolutions and products" if self.heavy else "layers"
        return f"{what}: {', '.join(f'{count} {kind}' for kind, count in sorted(counted.items())) or 'none that it names'}"


def inspect_layers(text: str) -> Inspection:
    """Counts the layers in the inspector's JSON, which may hold control characters; what it leaves out or garbles counts as unnamed."""
    try:
        content = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        content = None
    rows = content.get("Layers") if isinstance(content, dict) else None
    layers: Counter[str] = Counter()
    heavy: Counter[str] = Counter()
    tf32 = 0
    for row in rows if isinstance(rows, list) else ():
        # Without detailed profiling verbosity a layer is its name alone.
        if not isinstance(row, dict) or _moves(row):
            continue
        output = _type(row, "Outputs")
        if output:
            layers[output] += 1
        first = _type(row, "Inputs")
        if _is_heavy(row) and first:
            heavy[first] += 1
            tf32 += "tf32" in _word(row, "TacticName").lower()
    return Inspection(dict(layers), dict(heavy), tf32)


def layer_report(tensorrt: Any, engine: Any) -> Inspection:
    """Counts the layers of an engine that was built with detailed profiling verbosity."""
    inspector = engine.create_engine_inspector()
    shapes = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT and any(axis < 0 for axis in engine.get_tensor_shape(name)):
            shapes[name] = engine.get_tensor_profile_shape(name, 0)[1]
    context = engine.create_execution_context() if shapes else None
    if context is not None:
        # While shapes are open the inspector names no types.
        for name, shape in shapes.items():
            context.set_input_shape(name, shape)
        inspector.execution_context = context
    return inspect_layers(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))


def tensor_rows(tensorrt: Any, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an engine, with ``"N"`` for a batch axis that the profile leaves free."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        row = tensor_row(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
        (inputs if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT else outputs).append(row)
    return tuple(inputs), tuple(outputs)


def tensor_row(name: str, dtype: Any, shape: Any) -> TensorSpec:
    """One tensor of an engine or a network."""
    axes = tuple(int(axis) for axis in shape)
    return TensorSpec(name, dtype_name(dtype), tuple(("N" if i == 0 else f"axis{i}") if axis < 0 else axis for i, axis in enumerate(axes)))


def _word(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _moves(row: Mapping[str, Any]) -> bool:
    kind = _word(row, "LayerType").lower()
    return kind.startswith(_MOVES) or kind == "noop"


def _is_heavy(row: Mapping[str, Any]) -> bool:
    kinds = " ".join(_word(row, key) for key in ("LayerType", "ParameterType", "TacticName"))
    return bool(_PRODUCTS.search(kinds) or _MYELIN.search(_word(row, "Name")))


def _type(row: Mapping[str, Any], side: str) -> str:
    """The type of the first tensor on one side that has one."""
    tensors = row.get(side)
    for tensor in tensors if isinstance(tensors, list) else ():
        described = _word(tensor, "Format/Datatype") if isinstance(tensor, dict) else ""
        for pattern, name in _TYPES:
            if pattern.search(described):
                return name
    return ""
