"""What the networks of all translation recipes can do: turn source volumes into target volumes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hagan3d.networks.network_set import NetworkSet

if TYPE_CHECKING:
    from hagan3d.networks.hierarchical import Anchor


@dataclass(frozen=True)
class Translation:
    """A target volume as predicted and, where a model says so, how sure it is: all ``[B, Ct, D, H, W]``."""

    mean: Tensor
    """The prediction, in units of [-1, 1]; it may leave that range."""
    alpha: Tensor | None = None
    """Scale of the generalized Gaussian of the error, in the same units."""
    beta: Tensor | None = None
    """Shape of it: 1 for Laplace, 2 for normal."""
    sigma: Tensor | None = None
    """Its standard deviation, in the same units."""


class TranslationNetworks(NetworkSet):
    """Networks of a translation recipe; those that translate take part in inference, critics do not.

    A model may need numbers that belong to a whole volume (UP-GAN: the mean of sigma after each stage but the last).
    Where a volume is translated window by window, they come first, one after the other::

        statistics = []
        while len(statistics) < networks.num_statistics:
            maps = [networks.statistic_map(window, statistics) for window in windows]
            statistics.append(mean over the voxels of the whole volume of maps)  # [B]
        networks.translate(window, statistics)
    """

    sees_whole = False
    """Whether a volume cannot be translated window by window."""
    num_statistics = 0
    """Numbers per volume that `translate` needs of a whole volume."""
    anchor: "Anchor | None"
    """Makes, of the low-resolution whole volume, what sources go with as further channels (`anchor.beside`)."""

    def __init__(self) -> None:
        """Have no anchor."""
        super().__init__()
        self.register_module("anchor", None)

    def learn_beside(self, anchor: "Anchor") -> None:
        """Take an anchor among the networks; all others must have been built for the channels that it adds."""
        self.anchor = anchor
        self.averaged = (*self.averaged, "anchor")

    @abstractmethod
    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source [B, Cs, D, H, W]`` in [-1, 1].

        Args:
            source: Whole volumes, or windows of them.
            statistics: Numbers ``[B]`` of the whole volumes; None: ``source`` is whole, and they are its own.
        """

    def finished(self, made: Translation) -> Translation:
        """Turn what `translate` gave, of windows after they were blended, into a translation that can be written."""
        return made

    def statistic_map(self, source: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Return ``[B, 1, D, H, W]``, whose mean over a volume is the first statistic that is not in ``statistics``."""
        raise ValueError(f"there are {self.num_statistics} statistics, and {len(statistics)} are given")


def added(made: Tensor, source: Tensor) -> Tensor:
    """Add what a network ``made [B, C, D, H, W]`` to the first ``C`` volumes it saw, which are its sources."""
    return made + source[:, : made.shape[1]]


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32, the type of what leaves a network."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
