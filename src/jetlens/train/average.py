"""Average: the exponential moving average of a network's weights, the ones that are validated and saved."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Average"]


class Average:
    """The exponential moving average of a network's weights and statistics; young averages forget faster."""

    def __init__(self, network: nn.Module, twin: nn.Module, decay: float) -> None:
        self.twin = twin.requires_grad_(False).eval()
        self.twin.load_state_dict(network.state_dict())
        self.updates = 0
        self._source = network
        self._decay = decay
        pairs = list(zip(self.twin.state_dict().values(), network.state_dict().values(), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for mean, value in pairs if mean.is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self._decay, self.updates / (self.updates + 10))
        torch._foreach_lerp_(self._means, self._values, 1 - decay)
        for mean, value in self._counters:
            mean.copy_(value)

    @torch.no_grad()
    def copy(self) -> None:
        """Takes the weights as they are, for a run without averaging."""
        self.twin.load_state_dict(dict(zip(self.twin.state_dict(), self._source.state_dict().values(), strict=True)))
