"""MedGAN: U-Nets in a row, whose result shall have the features of the target, in the critic and in an extractor.

Source: Armanious et al., MedGAN: Medical Image Translation using GANs, Computerized Medical Imaging and Graphics 79,
2020. A frozen average of the critic stands in for its VGG-19, which is made for 2D photographs.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.perceptual import content_loss, feature_l1, style_loss
from hagan3d.methods.cache import Kept
from hagan3d.methods.medgan.networks import MedganNetworks
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.networks.discriminators import PatchDiscriminator


def recipe(config: Config) -> Recipe:
    """Return the updates: the generator in every step, its critic in some."""
    train, kept = config.train, Kept()
    every = config.translation.medgan.critic_every
    return Recipe(
        [
            Phase("g", ("g",), partial(g_losses, config, kept), train.lr_g),
            Phase("d", ("d",), partial(d_losses, config, kept), train.lr_d, every=every),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: MedganNetworks, batch: PairBatch) -> Terms:
    """Be taken for the target, and have its features."""
    weights, fake = config.translation.medgan, nets.generate(batch.source)
    kept.leave("fake", batch, fake)
    made, wanted = (_features(nets.d, batch.source, x) for x in (fake, batch.target))
    seen, aim = (_features(nets.f, batch.source, x) for x in (fake, batch.target))
    adversarial = g_loss(config.train.objective, nets.d.logits(made[-1]))
    return {
        "gan": config.translation.adversarial_weight * adversarial,
        "perceptual": weights.perceptual_weight * feature_l1([fake, *made], [batch.target, *wanted]),
        "style": weights.style_weight * style_loss(seen, aim),
        "content": weights.content_weight * content_loss(seen, aim),
    }


def d_losses(config: Config, kept: Kept, nets: MedganNetworks, batch: PairBatch) -> Terms:
    """Tell true pairs from translated ones."""
    fake = kept.take("fake", batch, torch.no_grad()(partial(nets.generate, batch.source)))
    real, made = (nets.d(torch.cat([batch.source, x], dim=1)) for x in (batch.target, fake))
    return {"gan": d_loss(config.train.objective, real, made)}


def _features(critic: PatchDiscriminator, source: Tensor, x: Tensor) -> list[Tensor]:
    """What the layers of a critic make of source and ``x`` together."""
    return critic.features(torch.cat([source, x], dim=1))
