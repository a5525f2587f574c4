"""The cases of a command: backends times precisions times devices, batches and lanes; the file each runs; the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from jetlens.backends import BACKENDS
from jetlens.backends.base import Device, Precision
from jetlens.bench.records import Case
from jetlens.device import find_gpus
from jetlens.errors import JetlensError, UnknownNameError
from jetlens.graph import read_graph
from jetlens.precision import ensure
from jetlens.predictor import precision_path

__all__ = ["case_paths", "devices_of", "installed_backends", "make_cases", "own_precision", "reference_case"]

_REFERENCES = ("onnxruntime", "openvino", "pytorch")
_BOTH: tuple[Device, ...] = ("cpu", "cuda")
_ON_BOTH = ("onnxruntime", "pytorch")


def installed_backends() -> list[str]:
    """The backends that can be used here."""
    return [name for name in BACKENDS if BACKENDS.load(name).unavailable() is None]


def devices_of(backend: str) -> tuple[Device, ...]:
    """Where a backend is measured if nothing is said: on the CPU and the GPU, where there is one and it runs on both."""
    return _BOTH if backend in _ON_BOTH and find_gpus() else ("auto",)


def own_precision(path: Path) -> Precision | None:
    """fp32 for an fp32 graph, so that no runtime takes another unasked; None for a graph that says itself what it is."""
    return "fp32" if read_graph(path.read_bytes(), str(path)).precision == "fp32" else None


def make_cases(
    model: str,
    backends: Sequence[str],
    precisions: Sequence[Precision | None],
    *,
    devices: Sequence[Device] = (),
    batches: Sequence[int] = (1,),
    lanes: Sequence[int] = (1,),
) -> tuple[Case, ...]:
    """Every combination, backend by backend.

    Raises:
        UnknownNameError: there is no backend of that name.
    """
    unknown = [name for name in backends if name not in BACKENDS]
    if unknown:
        raise UnknownNameError("backend", unknown[0], BACKENDS)
    rows = [
        Case(model, backend, precision, device, batch, lane)
        for backend in backends
        for precision, device, batch, lane in product(precisions, devices or devices_of(backend), batches, lanes)
    ]
    return tuple(dict.fromkeys(rows))


def reference_case(model: str, path: Path) -> Case | None:
    """The model in its own precision on the CPU, on the first runtime that is installed; None where none is."""
    here = installed_backends()
    name = next((name for name in _REFERENCES if name in here), None)
    if name is None:
        return None
    return Case(model, name, own_precision(path), devices_of(name)[0])


def case_paths(cases: Sequence[Case], path: Path, said: Callable[[str], None]) -> dict[Case, Path | JetlensError]:
    """The file that each case runs; what keeps a precision from being made is that case's failure and no other's."""
    found: dict[Precision | None, Path | JetlensError] = {}
    for case in cases:
        if case.precision not in found:
            found[case.precision] = _path(path, case.precision, said)
    return {case: found[case.precision] for case in cases}


def _path(path: Path, precision: Precision | None, said: Callable[[str], None]) -> Path | JetlensError:
    if precision not in ("fp16", "int8"):
        return path
    try:
        return precision_path(path, precision)
    except JetlensError:
        said(f"takes the {precision} graph from the cache, or makes it")
    try:
        return ensure(path, precision, report=said)
    except JetlensError as error:
        return error
