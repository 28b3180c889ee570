"""How far the intensities of two volumes are apart, wherever in the volume they lie."""

from torch import Tensor


def sorted_l1(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of sorted intensities: the 1-Wasserstein distance of two histograms, mean over volumes.

    Voxel by voxel, an L1 loss is lowest at the median: what is somewhere, but cannot be told where, such as patches of
    destroyed lung, is best left out. Here it costs as much as its amount is wrong.

    Args:
        fake: Volumes or sub-volumes ``[B, C, D, H, W]``; its gradient moves every voxel towards the intensity of the
            same rank.
        real: As many numbers.

    Source: Peyre and Cuturi, Computational Optimal Transport, 2019, section 2.6 (measures on a line).
    """
    ranked_fake, ranked_real = (x.float().flatten(1).sort(dim=1, stable=True).values for x in (fake, real))
    return (ranked_fake - ranked_real).abs().mean()
