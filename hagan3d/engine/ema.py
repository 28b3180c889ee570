"""Exponential moving average (EMA) of weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hagan3d.networks.spectral import spectral_vectors

WARM_UP = 10  # steps: the decay grows as (1 + step) / (WARM_UP + step) until it reaches its value


class EMA:
    """Exponential moving average of the weights of one network."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Initialize with the weights of ``network``; ``decay`` is per step."""
        self.network = network
        self.decay = decay
        self.state: dict[str, Tensor] = {key: value.detach().clone() for key, value in network.state_dict().items()}
        self.unit_vectors = spectral_vectors(network)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after ``step`` steps; the decay is warmed up."""
        decay = min(self.decay, (1 + step) / (WARM_UP + step))
        current = self.network.state_dict()
        torch._foreach_lerp_(list(self.state.values()), [current[key] for key in self.state], 1 - decay)
        if self.unit_vectors:  # means of unit vectors are shorter, and W / (u^T W v) would be too large
            vectors = [self.state[name] for name in self.unit_vectors]
            torch._foreach_div_(vectors, torch._foreach_norm(vectors))

    @torch.no_grad()
    def write_back(self) -> None:
        """Set the weights of the network to their average."""
        for key, value in self.network.state_dict().items():
            value.copy_(self.state[key])

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a saved average."""
        for key, value in self.state.items():
            value.copy_(state[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the average into the network inside this block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for key, value in self.network.state_dict(keep_vars=True).items():
            value.data, self.state[key] = self.state[key], value.data
