"""Verification: an exported graph answers pictures as the PyTorch network behind it does, or it is not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jetlens.backends.base import SessionOptions
from jetlens.backends.onnxruntime import OnnxRuntime
from jetlens.data.orange_line import still
from jetlens.errors import BackendError, VerificationError
from jetlens.ops.images import normalize, resize_into
from jetlens.registry import require
from jetlens.spec import ModelSpec

if TYPE_CHECKING:
    from jetlens.export.deployable import Deployable

__all__ = [
    "BOX_TOLERANCE_PX",
    "MASK_AGREEMENT",
    "RAW_TOLERANCE",
    "Verification",
    "box_deviation",
    "raw_deviation",
    "verification_batches",
    "verify",
]

RAW_TOLERANCE = 1e-4
"""Of raw outputs, times max(1, the largest of the reference)."""

BOX_TOLERANCE_PX = 0.01
MASK_AGREEMENT = 0.9999
_DECODED = ("detections", "mask")

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Verification:
    """How far an exported graph is from PyTorch.

    Attributes:
        raw: largest deviation of logits and raw boxes, over max(1, the largest of the reference).
        box_px: largest deviation of a matched box's side in pixels; None where there are no boxes.
        mask_agreement: share of pixels with the same class; None where there are no masks.
        images: pictures compared.
    """

    raw: float
    box_px: float | None
    mask_agreement: float | None
    images: int

    @property
    def passed(self) -> bool:
        """Whether all figures are within their tolerance; NaN is not."""
        boxes = self.box_px is None or self.box_px <= BOX_TOLERANCE_PX
        return self.raw <= RAW_TOLERANCE and boxes and (self.mask_agreement is None or self.mask_agreement >= MASK_AGREEMENT)

    def __str__(self) -> str:
        parts = [f"raw outputs off by {self.raw:.1e} (allowed {RAW_TOLERANCE:.0e})"]
        if self.box_px is not None:
            parts.append(f"boxes by {self.box_px:.4f} px (allowed {BOX_TOLERANCE_PX})")
        if self.mask_agreement is not None:
            parts.append(f"masks agree on {self.mask_agreement:.4%} of the pixels (needed {MASK_AGREEMENT:.2%})")
        return ", ".join([*parts, f"{self.images} picture{'s' if self.images > 1 else ''}"])


def verification_batches(spec: ModelSpec, batch: int | str) -> list[NDArray[np.uint8]]:
    """Pictures uint8 [N, H, W, 3] at the network's size: one alone and three together where the batch axis is dynamic, else two batches."""
    sizes = (1, 3) if isinstance(batch, str) else (batch, batch)
    batches, seed = [], 4100
    for size in sizes:
        pixels = np.empty((size, *spec.preprocess.size_hw, 3), np.uint8)
        for canvas in pixels:
            seed += 1
            resize_into(still(seed, (240, 320))[0], spec.preprocess, canvas)
        batches.append(pixels)
    # Noise shakes what calm pictures leave asleep.
    batches[-1][-1] = np.random.default_rng(seed).integers(0, 256, batches[-1].shape[1:], dtype=np.uint8)
    return batches


def verify(reference: Deployable, spec: ModelSpec, graph: bytes, twin: bytes, batch: int | str) -> Verification:
    """Compares the graph and its twin with taps, on ONNX Runtime, with the network in PyTorch.

    The host's own steps normalise for the reference, so that baked ones are checked against them too.

    Raises:
        VerificationError: a figure is out of its tolerance; the message has them all.
    """
    try:
        result = _compare(reference, spec, graph, twin, batch)
    except BackendError as error:
        raise VerificationError(
            f"{spec.name}: the exported graph does not run on pictures of its own spec ({error}); nothing was kept"
        ) from None
    if not result.passed:
        raise VerificationError(f"{spec.name}: the exported graph does not answer as PyTorch does: {result}; nothing was kept")
    return result


def _compare(reference: Deployable, spec: ModelSpec, graph: bytes, twin: bytes, batch: int | str) -> Verification:
    torch = require("torch", extra="export", why="verification")
    raw, images = 0.0, 0
    boxes_px: list[float] = []
    agreements: list[NDArray[np.bool_]] = []
    options = SessionOptions(device="cpu")
    with OnnxRuntime.open(graph, options) as session, nullcontext(session) if twin is graph else OnnxRuntime.open(twin, options) as tapped:
        names = [row.name for row in tapped.outputs]
        name = session.inputs[0].name
        raw_names = names[1:] if spec.decoder in _DECODED else names
        for pixels in verification_batches(spec, batch):
            images += len(pixels)
            normalised = normalize(pixels, spec.preprocess)
            with torch.inference_mode():
                tensors = reference(torch.from_numpy(normalised))
            wanted = dict(zip(names, (value.numpy() for value in tensors), strict=True))
            fed = {name: pixels if spec.preprocess.baked else normalised}
            got = session.run(fed)
            raw = max(raw, _raw_deviation(wanted, got if tapped is session else tapped.run(fed), raw_names))
            decoded, want = got[names[0]], wanted[names[0]]
            if spec.decoder == "detections":
                boxes_px += [box_deviation(*pair) for pair in zip(want, decoded, strict=True)]
            elif spec.decoder == "mask":
                agreements.append((want == decoded).ravel() if want.shape == decoded.shape else np.zeros(1, np.bool_))
    agreement = float(np.concatenate(agreements).mean()) if agreements else None
    return Verification(raw, max(boxes_px, default=None), agreement, images)


def _raw_deviation(wanted: Mapping[str, Floats], got: Mapping[str, Floats], names: Sequence[str]) -> float:
    return max(raw_deviation(wanted[name], got[name]) for name in names)


def raw_deviation(want: Floats, got: Floats) -> float:
    """The largest difference over max(1, the largest of the reference); infinite for another shape or NaN."""
    if want.shape != got.shape or not np.isfinite(want).all() or not np.isfinite(got).all():
        return float("inf")
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    return float(np.abs(want.astype(np.float64) - got).max(initial=0)) / scale


def box_deviation(want: Floats, got: Floats) -> float:
    """The largest distance in pixels between matched rows [K, 6] of two lists of detections; infinite where one has no match.

    Rows match by class, confidence and box, whatever their order: equal confidences may be ranked either way, and of those at the
    end of the list either may have been cut off.
    """
    if want.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    return max(_unmatched_distance(want, got), _unmatched_distance(got, want))


def _unmatched_distance(rows: Floats, others: Floats) -> float:
    """The farthest that a row, ranked clearly above the end of the other list, is from its nearest match there."""
    certain = rows[rows[:, 4] > others[:, 4].min(initial=1.0) + 2 * RAW_TOLERANCE]
    if not len(certain):
        return 0.0
    apart = np.abs(certain[:, None, :4].astype(np.float64) - others[None, :, :4]).max(2)
    alike = (certain[:, None, 5] == others[None, :, 5]) & (np.abs(certain[:, None, 4] - others[None, :, 4]) <= RAW_TOLERANCE)
    return float(np.where(alike, apart, np.inf).min(1).max())
