"""What the networks of every model have in common: names, and how much the backward pass keeps."""

from typing import cast

from torch import nn


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
