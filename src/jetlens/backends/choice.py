"""Which backend runs a model: the one asked for, or for ``auto`` the first that is there and can.

``auto`` takes TensorRT where the model's engine lies in the cache already, and never builds one, which takes minutes: that is asked for, by
``jetlens build`` or ``--backend tensorrt``. A TensorRT plan runs in TensorRT alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from jetlens.backends import BACKENDS
from jetlens.backends.base import Backend, Session, SessionOptions
from jetlens.backends.checks import is_plan
from jetlens.errors import BackendError, JetlensError, MissingDependencyError, ModelError, UnknownNameError
from jetlens.registry import installed, resolve

__all__ = ["AUTO_ORDER", "backend_names", "open_session"]

AUTO_ORDER = ("onnxruntime", "openvino", "pytorch")
"""ONNX Runtime first: it computes fp32 graphs in fp32 on every CPU and uses a GPU where there is one."""

_TENSORRT = "tensorrt"


def backend_names() -> tuple[str, ...]:
    """The names that ``--backend`` takes."""
    return ("auto", *BACKENDS)


def open_session(model: bytes, backend: str, options: SessionOptions) -> tuple[Session, str]:
    """A session and one line that says which backend it is and why.

    Raises:
        UnknownNameError: there is no backend of that name.
        BackendError: the backend is unavailable, or for ``auto`` none can do what was asked.
        ModelError: the runtime refuses the graph, or for ``auto`` all do.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise UnknownNameError("backend", backend, backend_names())
        return _load(backend).open(model, options), backend
    if is_plan(model):
        return _load(_TENSORRT).open(model, options), f"{_TENSORRT} (auto: it is a TensorRT engine)"
    absent: dict[str, str] = {}
    refusals: dict[str, JetlensError] = {}
    ready: Session | None = resolve("jetlens.backends.tensorrt:open_cached")(model, options) if installed(_TENSORRT) else None
    if ready is not None:
        return ready, f"{_TENSORRT} (auto: its engine is in the cache)"
    for name in AUTO_ORDER:
        try:
            missing = _load(name).unavailable()
            if missing:
                absent[name] = missing
                continue
            session = _load(name).open(model, options)
        except (BackendError, ModelError, MissingDependencyError) as error:
            refusals[name] = error
            continue
        return session, f"{name} (auto: {_because({**absent, **refusals})})"
    # A graph that one runtime refuses says more than a device or precision that the next does not have.
    for kind in (ModelError, JetlensError):
        for refusal in refusals.values():
            if isinstance(refusal, kind):
                raise refusal
    raise BackendError(f"no backend is installed ({', '.join(absent)} are known): pip install 'jetlens[cpu]', or see jetlens doctor")


def _load(name: str) -> type[Backend]:
    loaded: type[Backend] = BACKENDS.load(name)
    return loaded


def _because(passed_over: Mapping[str, str | JetlensError]) -> str:
    if not passed_over:
        return f"first of {', '.join(AUTO_ORDER)}"
    return "; ".join(f"not {name}: {str(why)[:80]}" for name, why in passed_over.items())
