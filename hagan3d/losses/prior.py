"""Regularization of encoded latents towards the prior."""

from torch import Tensor
from torch.nn import functional as F


def prior_distance(z: Tensor) -> Tensor:
    """Mean squared cosine of pairs of latents plus mean squared deviation of each mean square from 1, a scalar.

    Two independent standard normal latents of n dimensions have cosine 0 and mean squares 1, each up to about
    ``n ** -0.5``. A component that all latents share is penalized, whatever their norm.

    Args:
        z: Latents ``[B, n]``, B even: rows 2k and 2k + 1 are compared, and no others, so that micro-batches add up to
            the batch.
    """
    z = z.float()
    cosine = F.cosine_similarity(z[0::2], z[1::2])
    return cosine.square().mean() + (z.square().mean(1) - 1).square().mean()
