"""How far the intensities of two volumes are apart, wherever in a neighbourhood they lie."""

import math

from torch import Tensor

SIDE = 8  # voxels: of the blocks


def sorted_l1(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of sorted intensities, of the whole and of blocks of up to 8^3 voxels, added.

    That is the 1-Wasserstein distance of two histograms, mean over volumes, and mean over blocks. Voxel by voxel, an L1
    loss is lowest at the median: what is somewhere, but cannot be told where, such as patches of destroyed lung, is
    best left out. Here it costs as much as its amount is wrong. In the whole, dark lung and the air about the body can
    stand for each other; within a block they cannot.

    Args:
        fake: Volumes or sub-volumes ``[B, C, D, H, W]``; its gradient moves every voxel towards the intensities of the
            same ranks.
        real: As many numbers.

    Source: Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.6 (measures on a line).
    """
    whole = _distance(fake.flatten(1), real.flatten(1))
    return whole + _distance(_blocks(fake), _blocks(real))


def _distance(fake: Tensor, real: Tensor) -> Tensor:
    """Compare rows ``[N, voxels]``, each sorted."""
    ranked_fake, ranked_real = (x.float().sort(dim=1, stable=True).values for x in (fake, real))
    return (ranked_fake - ranked_real).abs().mean()


def _blocks(x: Tensor) -> Tensor:
    """Cut ``[B, C, D, H, W]`` into blocks, a row each, whose sides divide those of ``x``."""
    for axis in (2, 4, 6):
        side = math.gcd(x.shape[axis], SIDE)
        x = x.unflatten(axis, (-1, side))
    return x.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(0, 4)
