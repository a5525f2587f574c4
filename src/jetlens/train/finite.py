"""What to do about a loss that is no number: notice it within one step, and name the layer that it began in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Watch", "first_bad"]


class Watch:
    """Says whether losses are finite: on the CPU at once, on a GPU one step later, so that the GPU never waits."""

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._pending: tuple[Tensor, Any] | None = None

    def good(self, value: Tensor) -> bool:
        """Whether this value, or on a GPU the one before, is finite."""
        if not self._late:
            return math.isfinite(value.item())
        answer = self.settled()
        kept = torch.empty((), dtype=value.dtype, pin_memory=True)
        kept.copy_(value, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = (kept, event)
        return answer

    def settled(self) -> bool:
        """Whether the last value is finite, now."""
        if self._pending is None:
            return True
        kept, event = self._pending
        self._pending = None
        event.synchronize()
        return math.isfinite(float(kept))


def first_bad(network: nn.Module, loss_of: Callable[[], Tensor], images: Tensor) -> str:
    """Where not-a-number or infinity begins, in words: a weight, the pictures, a layer's output, or a weight's gradient."""
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"weight {name}"
    if not bool(torch.isfinite(images).all()):
        return "the pictures themselves"
    found: list[str] = []
    kinds = {module: f"layer {name or 'the network itself'} ({type(module).__name__})" for name, module in network.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        parts = output if isinstance(output, (tuple, list)) else [output]
        if not found and any(isinstance(part, Tensor) and not bool(torch.isfinite(part).all()) for part in parts):
            found.append(kinds[module])

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        network.zero_grad(set_to_none=True)
        loss = loss_of()
        if not found and bool(torch.isfinite(loss)):
            loss.backward()  # type: ignore[no-untyped-call]
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return found[0]
    wrong = [name for name, p in network.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    # Gradients run backwards: the last layer that has a bad one is the first that made it.
    return f"gradient of {wrong[-1]}" if wrong else "the loss itself"
