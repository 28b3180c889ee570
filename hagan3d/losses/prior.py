"""How far latents of real volumes are from those that volumes are generated from."""

from torch import Tensor
from torch.nn import functional as F


def prior_distance(z: Tensor) -> Tensor:
    """Squared cosine of neighbours in the batch, and squared distance of each mean square from 1: both means.

    Two standard normal latents of n numbers have a cosine of 0 and mean squares of 1, each to about ``n ** -0.5``. What
    all latents have in common costs, whatever their length.

    Args:
        z: Latents ``[B, n]``, B even: rows 2k and 2k + 1 are compared, and no others, so that parts of a batch can be
            worked through one by one.
    """
    z = z.float()
    cosine = F.cosine_similarity(z[0::2], z[1::2])
    return cosine.square().mean() + (z.square().mean(1) - 1).square().mean()
