"""MedGAN: translation by a cascade of U-Nets with perceptual, style and content losses.

Source: Armanious et al., MedGAN: Medical Image Translation using GANs, Computerized Medical Imaging and Graphics 79,
2020. The extractor of its style and content losses, a VGG-19 of slices, can be another network. With ``grey_source``
it is the stain-style transfer of Cho et al., Neural Stain-Style Transfer Learning using GAN for Histopathological
Images, 2017, whose feature-preserving loss is the content loss.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.perceptual import content_loss, feature_l1, style_loss
from hagan3d.losses.voxels import l1
from hagan3d.methods.feature_losses import FeatureLossMethod
from hagan3d.methods.medgan.config import MedGANConfig
from hagan3d.methods.medgan.networks import MedGANNetworks
from hagan3d.methods.phase import Phase, Terms
from hagan3d.networks.discriminators import PatchDiscriminator


class MedGAN(FeatureLossMethod):
    """MedGAN: the generator in every step, the discriminator in some."""

    settings: MedGANConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        settings = self.settings
        weights = {"gan": settings.adversarial_weight, "perceptual": settings.perceptual_weight}
        weights["labels"] = settings.label_weight
        shares = {"style": settings.style_share, "content": settings.content_share}
        shares = {term: share for term, share in shares.items() if share}
        phases = [Phase("g", ("g",), self.g_loss, self.train.lr_g, weights, shares)]
        if self.is_adversarial or self.settings.critic_features or self.uses_extractor("discriminator"):
            phases.append(Phase("d", ("d",), self.d_loss, self.train.lr_d, every=self.settings.critic_every))
        return phases

    @property
    def compares_features(self) -> bool:
        """Whether there is a style or a content term."""
        return bool(self.settings.style_share or self.settings.content_share)

    def g_loss(self, nets: MedGANNetworks, batch: PairBatch) -> Terms:
        """Generator loss: adversarial, perceptual (eq. 3), style (eq. 5) and content (eq. 6) terms.

        With a label map, volumes are compared by their images, and labels by Dice loss plus cross-entropy.
        """
        settings = self.settings
        fake = self.cache.put("fake", batch, nets.generate(batch.source))
        # layer 0 of the perceptual loss is the volume itself
        terms = {"perceptual": l1(self.images(fake), self.images(batch.target), self.loss_mask(batch))}
        terms |= self.label_terms(fake, batch)
        if self.is_adversarial or settings.critic_features:
            d_fake = _features(nets.d, nets.seen(batch.source), fake)
            if self.is_adversarial:
                terms["gan"] = g_loss(settings.objective, nets.d.logits(d_fake[-1]))
            if settings.critic_features:
                d_real = _features(nets.d, nets.seen(batch.source), batch.target)
                terms["perceptual"] = terms["perceptual"] + feature_l1(d_fake, d_real)
        if self.compares_features:
            f_fake, f_real = (self.feature_maps(nets, batch, x) for x in (fake, batch.target))
            if settings.style_share:
                terms["style"] = style_loss(f_fake, f_real)
            if settings.content_share:
                terms["content"] = content_loss(f_fake, f_real)
        return terms

    def discriminator_maps(self, nets: MedGANNetworks, batch: PairBatch, x: Tensor) -> list[Tensor]:
        """Return the feature maps of the pairs of sources and ``x`` by the average of the discriminator."""
        return _features(nets.f, nets.seen(batch.source), x)

    def d_loss(self, nets: MedGANNetworks, batch: PairBatch) -> Terms:
        """Discriminator loss on (source, target) and (source, fake) pairs."""
        fake = self.cache.pop("fake", batch, torch.no_grad()(partial(nets.generate, batch.source)))
        source = nets.seen(batch.source)
        real, generated = (nets.d(torch.cat([source, x], dim=1)) for x in (batch.target, fake))
        return {"gan": d_loss(self.settings.objective, real, generated)}


def _features(critic: PatchDiscriminator, source: Tensor, x: Tensor) -> list[Tensor]:
    """Feature maps of a discriminator for the pair of source and ``x``."""
    return critic.features(torch.cat([source, x], dim=1))
