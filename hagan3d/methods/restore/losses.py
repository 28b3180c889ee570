"""Restoration: one generator, a discriminator of whole volumes, and losses by weight.

A config makes it a published method: DAGAN (U-Net, bce, NMSE, frequency, perceptual), RED-WGAN and WGAN-VGG
(convolutions at full resolution, WGAN-GP with several critic updates, perceptual), low-dose CT by residual (Wolterink
2017), thin slices from thick ones (total variation along D). The extractor is a moving average of the discriminator.
"""

from functools import partial

import torch

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss, interpolated_penalty
from hagan3d.losses.perceptual import content_loss
from hagan3d.losses.restoration import frequency_l2, nmse, slice_tv
from hagan3d.losses.voxels import l2
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.restore.config import RestoreConfig
from hagan3d.methods.restore.networks import RestoreNetworks
from hagan3d.methods.translation import TranslationMethod


class Restore(TranslationMethod):
    """Restoration: the discriminator in every step, the generator in some."""

    settings: RestoreConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        penalised = ("d",) if self.settings.objective == "wgan-gp" else ()
        return [
            Phase("g", ("g",), self.g_loss, self.train.lr_g, every=self.settings.critic_steps),
            Phase("d", ("d",), self.d_loss, self.train.lr_d, penalised=penalised),
        ]

    def g_loss(self, nets: RestoreNetworks, batch: PairBatch) -> Terms:
        """Generator loss: adversarial term plus every error term with a weight."""
        weights, real, mask = self.settings, batch.target, self.loss_mask(batch)
        fake = self.cache.put("fake", batch, nets.generate(batch.source))
        terms = {"gan": weights.adversarial_weight * g_loss(weights.objective, nets.d(fake))}
        if weights.l2_weight:
            terms["l2"] = weights.l2_weight * l2(fake, real, mask)
        if weights.nmse_weight:
            terms["nmse"] = weights.nmse_weight * nmse(fake, real, mask)
        if weights.frequency_weight:
            terms["frequency"] = weights.frequency_weight * frequency_l2(fake, real)
        if weights.slice_tv_weight:
            terms["slice_tv"] = weights.slice_tv_weight * slice_tv(fake, real, weights.slice_tv)
        if weights.perceptual_weight:
            distance = content_loss(nets.f.features(fake), nets.f.features(real))
            terms["perceptual"] = weights.perceptual_weight * distance
        return terms

    def d_loss(self, nets: RestoreNetworks, batch: PairBatch) -> Terms:
        """Discriminator loss on targets and restored volumes, with gradient penalty for wgan-gp."""
        fake = self.cache.pop("fake", batch, torch.no_grad()(partial(nets.generate, batch.source)))
        terms = {"gan": d_loss(self.settings.objective, nets.d(batch.target), nets.d(fake))}
        if self.settings.objective == "wgan-gp":
            penalty = interpolated_penalty(
                lambda inputs: nets.d(*inputs), [batch.target], [fake], batch.uniform("mix", 1)
            )
            terms["gp"] = self.settings.gp_weight * penalty
        return terms
