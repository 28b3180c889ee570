"""SegAN: label maps from volumes, by Dice and by the features of what the labels cut out.

Source: Xue et al., SegAN: Adversarial Network with Multi-scale L1 Loss for Medical Image Segmentation, Neuroinformatics
16, 2018. Instead of a critic for each label there is one, which sees what each of them cuts out side by side.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.perceptual import multiscale_l1
from hagan3d.losses.segmentation import dice_loss
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.methods.segan.networks import SeganNetworks


def recipe(config: Config) -> Recipe:
    """Return the updates of one step: the generator, then its critic on the same volumes."""
    train, kept = config.train, Kept()
    return Recipe(
        [
            Phase("g", ("g",), partial(g_losses, config, kept), train.lr_g),
            Phase("d", ("d",), partial(d_losses, kept), train.lr_d),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: SeganNetworks, batch: PairBatch) -> Terms:
    """Overlap with the labels of the target, and cut out what has the same features."""
    weights, made, wanted = config.translation, nets.probabilities(batch.source), nets.one_hot(batch.target)
    kept.leave("fake", batch, made)
    return {
        "dice": weights.segan.dice_weight * dice_loss(made, wanted),
        "gan": weights.adversarial_weight * _difference(nets, batch.source, made, wanted),
    }


def d_losses(kept: Kept, nets: SeganNetworks, batch: PairBatch) -> Terms:
    """Find features in which the two differ most; weights that are bounded bound them."""
    made = kept.take("fake", batch, torch.no_grad()(partial(nets.probabilities, batch.source)))
    return {"gan": -_difference(nets, batch.source, made, nets.one_hot(batch.target))}


def _difference(nets: SeganNetworks, source: Tensor, made: Tensor, wanted: Tensor) -> Tensor:
    """How far features of what ``made`` and ``wanted`` labels cut out of a volume lie apart, in all layers."""
    one, other = (nets.d(nets.cut_out(source, shares)) for shares in (made, wanted))
    return multiscale_l1(one, other)
