"""What the networks of every model have in common: names, and how much the backward pass keeps."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


class NetworkSet(nn.Module):
    """The networks of a model, each an attribute under its name."""

    averaged: tuple[str, ...] = ()
    """Networks whose weights are averaged while they learn."""

    def __getitem__(self, name: str) -> nn.Module:
        """Return a network by its name."""
        return cast(nn.Module, getattr(self, name))

    def names(self) -> list[str]:
        """Return the names of the networks."""
        return [name for name, _ in self.named_children()]

    def set_memory(self, recompute_norms: bool, checkpointing: bool) -> None:
        """Choose what the backward pass computes again: norms and activations, or whole levels of the networks."""
        for module in self.modules():
            for name, value in (("recompute", recompute_norms), ("checkpointing", checkpointing)):
                if hasattr(module, name):
                    setattr(module, name, value)

    def observed(self, moved: Sequence[str]) -> list[Tensor]:
        """Return what networks that ``moved`` have noted of their data: means over the processes, then, in `follow`."""
        return []

    def follow(self, moved: Sequence[str]) -> None:  # noqa: B027 - nothing follows unless a model says so
        """Do what follows from networks having ``moved``: let others follow them, keep weights within bounds."""

    def reached(self, step: int) -> None:  # noqa: B027 - most models are one at all steps
        """Be the model of a run after so many steps: parts that have not learned yet are left out in inference."""

    def elsewhere(self) -> list[Tensor]:
        """Return tensors of the state that are never on the device."""
        return []
