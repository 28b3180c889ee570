"""Losses of label maps that are predicted as probabilities."""

from torch import Tensor

SMOOTH = 1e-5  # voxels: a label that is neither there nor predicted has Dice 1


def dice_loss(probabilities: Tensor, wanted: Tensor) -> Tensor:
    """1 - Dice, the mean over volumes and labels but the first, a scalar.

    It reads no value of a tensor, as MONAI's does, so that a step can be counted without any.

    Args:
        probabilities: ``[B, K, D, H, W]``, label 0 (background) first.
        wanted: The same of 0 and 1.

    Source: Milletari et al., V-Net, 3DV 2016, with sums of probabilities (not of their squares) below.
    """
    made, true = (x[:, 1:].flatten(2) for x in (probabilities, wanted))
    made, true = (x.float() if x.dtype.itemsize < 4 else x for x in (made, true))
    both = (made * true).sum(2)
    return 1 - ((2 * both + SMOOTH) / (made.sum(2) + true.sum(2) + SMOOTH)).mean()
