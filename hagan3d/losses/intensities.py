"""Distance between intensity distributions: L1 of sorted intensities."""

import math

from torch import Tensor

SIDE = 8  # voxels, largest side of a block


def sorted_l1(fake: Tensor, real: Tensor) -> Tensor:
    """L1 distance of sorted intensities of each channel, of whole volumes plus of blocks of up to 8^3 voxels, a scalar.

    It is the 1-Wasserstein distance between the histograms, averaged over volumes and over blocks. A voxel-wise L1 loss
    is minimal at the conditional median, so that structures whose position cannot be predicted (emphysema) vanish. This
    loss penalizes a wrong amount of them wherever they are. Over a whole volume, dark lung and background air could
    compensate each other; within a block they cannot.

    Args:
        fake: Volumes or sub-volumes ``[B, C, D, H, W]``; the gradient moves each voxel towards the real
            intensity of the same rank.
        real: The same shape.

    Source: Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.6 (measures on a line).
    """
    whole = _distance(fake.flatten(2).flatten(0, 1), real.flatten(2).flatten(0, 1))
    return whole + _distance(_blocks(fake), _blocks(real))


def _distance(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of rows ``[N, voxels]``, each sorted."""
    ranked_fake, ranked_real = (x.float().sort(dim=1, stable=True).values for x in (fake, real))
    return (ranked_fake - ranked_real).abs().mean()


def _blocks(x: Tensor) -> Tensor:
    """Cut ``[B, C, D, H, W]`` into blocks whose sides divide those of ``x``, one row each."""
    for axis in (2, 4, 6):
        side = math.gcd(x.shape[axis], SIDE)
        x = x.unflatten(axis, (-1, side))
    return x.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(0, 4)
