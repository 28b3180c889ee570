"""Window arithmetic of G^H: which slices along D each layer computes, for training, inference and whole volumes.

A 3^3 convolution reads one slice beyond each end of what it computes. A window of A is therefore cut with a halo, each
convolution drops (trims) the slices that later ones do not need, and slices outside the volume are set to zero before
every convolution, because that is what zero padding is in the whole volume. So a window equals its slices of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Slices along D of one feature map of G^H."""

    first: int | Tensor
    """First slice, or one per volume ``[B]``; negative where the halo reaches below the volume."""
    count: int
    """Number of slices, the halo included."""
    total: int
    """Slices of the whole volume at this layer."""
    trim: int
    """Slices that the convolution into this map leaves out at each end of D."""

    @property
    def outside(self) -> tuple[int, int]:
        """Slices below and above the volume, of a window with one start for all volumes."""
        assert isinstance(self.first, int)
        return max(0, -self.first), max(0, self.first + self.count - self.total)

    def zero_outside_(self, x: Tensor) -> Tensor:
        """Set the slices of ``x [B, C, count, H, W]`` that lie outside the volume to zero, in place."""
        if isinstance(self.first, Tensor):
            # A mask and not a slice: every volume has its own start, and reading it would make the host wait.
            slices = self.first[:, None] + torch.arange(self.count, device=self.first.device)
            inside = ((slices >= 0) & (slices < self.total))[:, None, :, None, None]
            return x.mul_(inside.to(x.dtype))
        below, above = self.outside
        if below:
            x[:, :, :below] = 0
        if above:
            x[:, :, self.count - above :] = 0
        return x


def window_plan(scales: Sequence[int], start: int | Tensor | None, depth: int, total: int) -> list[Window]:
    """Return the window of every feature map of G^H: A first, then the output of each layer.

    Args:
        scales: Upsampling factor of each layer, 1 or 2.
        start: First slice of A: an int, one per volume ``[B]``, or None for the whole volume: no halo, no trim.
        depth: Slices of A per window; ignored where ``start`` is None.
        total: Slices of A.
    """
    if start is None:
        start, depth, halos = 0, total, [0] * (len(scales) + 1)
    else:
        halos = halos_of(scales)
    plan = [Window(start - halos[0], depth + 2 * halos[0], total, trim=0)]
    for scale, halo, next_halo in zip(scales, halos, halos[1:], strict=False):
        x = plan[-1]
        trim = scale * halo - next_halo  # of the halo after upsampling, the next layers need next_halo slices
        plan.append(Window(scale * x.first + trim, scale * x.count - 2 * trim, scale * x.total, trim))
    return plan


def halos_of(scales: Sequence[int]) -> list[int]:
    """Return the slices needed beyond each end of a window: in A, then in the output of each layer (the last: 0)."""
    halos = [0]
    for scale in reversed(scales):
        halos.insert(0, -(-(halos[0] + 1) // scale))  # one slice more for the kernel, then to the coarser grid
    return halos
