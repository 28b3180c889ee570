"""Base class of the networks of a method: access by name, memory options, and hooks around updates."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self, cast

from torch import Tensor, nn

from hagan3d.config import Config


class NetworkSet(nn.Module):
    """The networks of a method, each an attribute under its name."""

    averaged: tuple[str, ...] = ()
    """Networks with an exponential moving average of their weights; at inference a translation has these alone."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Config, num_classes: int = 0) -> Self:
        """Build the networks for a run.

        Args:
            config: The run; ``config.method`` holds the settings of this method.
            num_classes: Classes of a conditional model, else 0.
        """

    def __getitem__(self, name: str) -> nn.Module:
        """Return a network by its name."""
        return cast(nn.Module, getattr(self, name))

    def names(self) -> list[str]:
        """Return the names of the networks."""
        return [name for name, _ in self.named_children()]

    def set_memory(self, recompute_norms: bool, checkpointing: bool) -> None:
        """Choose what the backward pass recomputes: norms and activations, or whole levels of the networks."""
        for module in self.modules():
            for name, value in (("recompute", recompute_norms), ("checkpointing", checkpointing)):
                if hasattr(module, name):
                    setattr(module, name, value)

    def collected_statistics(self, updated: Sequence[str]) -> list[Tensor]:
        """Return running statistics collected while ``updated`` networks learned.

        They are averaged over ranks in place before `after_update` is called.
        """
        return []

    def after_update(self, updated: Sequence[str]) -> None:  # noqa: B027 - optional hook
        """Apply what follows an update of networks: moving averages, weight clipping."""

    def set_step(self, step: int) -> None:  # noqa: B027 - optional hook
        """Set the training stage from the number of steps done, so that inference skips untrained stages."""

    def offloaded_state(self) -> list[Tensor]:
        """Return the tensors of the state that stay in host memory."""
        return []
