"""pix2pix: a U-Net that translates, and a critic that judges source and target together, patch by patch.

Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.methods.pix2pix.networks import PairNetworks


def recipe(config: Config) -> Recipe:
    """Return the updates of one step: the generator, then its critic on the same volumes."""
    train, kept = config.train, Kept()
    return Recipe(
        [
            Phase("g", ("g",), partial(g_losses, config, kept), train.lr_g),
            Phase("d", ("d",), partial(d_losses, config, kept), train.lr_d),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: PairNetworks, batch: PairBatch) -> Terms:
    """Come close to the target, and be taken for it beside the source."""
    model, fake = config.translation, generate(config, nets, batch)
    kept.leave("fake", batch, fake)
    logits = nets.d(torch.cat([batch.source, fake], dim=1))
    return {
        "l1": model.l1_weight * F.l1_loss(fake, batch.target),
        "gan": model.adversarial_weight * g_loss(config.train.objective, logits),
    }


def d_losses(config: Config, kept: Kept, nets: PairNetworks, batch: PairBatch) -> Terms:
    """Tell true pairs from translated ones."""
    fake = kept.take("fake", batch, torch.no_grad()(partial(generate, config, nets, batch)))
    real, made = (nets.d(torch.cat([batch.source, x], dim=1)) for x in (batch.target, fake))
    return {"gan": d_loss(config.train.objective, real, made)}


def generate(config: Config, nets: PairNetworks, batch: PairBatch) -> Tensor:
    """Translate the sources, with dropout as noise where it is asked for."""
    if not config.translation.dropout:
        return nets.generate(batch.source)
    return nets.generate(batch.source, [int(number * 2**31) for number in batch.uniform("dropout", 1)[:, 0]])
