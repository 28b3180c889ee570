"""Restoration: one generator, a discriminator of whole volumes, and losses by weight.

A config makes it a published method: DAGAN (U-Net, bce, NMSE, frequency, perceptual), RED-WGAN and WGAN-VGG
(convolutions at full resolution, WGAN-GP with several critic updates, perceptual), low-dose CT by residual (Wolterink
2017), thin slices from thick ones (total variation along D).
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss, interpolated_penalty
from hagan3d.losses.perceptual import content_loss
from hagan3d.losses.restoration import frequency_l2, gradient_difference, nmse, slice_tv
from hagan3d.losses.voxels import l1, l2
from hagan3d.methods.feature_losses import FeatureLossMethod
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.restore.config import RestoreConfig
from hagan3d.methods.restore.networks import RestoreNetworks


class Restore(FeatureLossMethod):
    """Restoration: the discriminator in every step, the generator in some."""

    settings: RestoreConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        penalised = ("d",) if self.settings.objective == "wgan-gp" else ()
        shares = {"perceptual": self.settings.perceptual_share}
        d_learns = self.is_adversarial or self.uses_extractor("discriminator")
        every = self.settings.critic_steps if d_learns else 1
        g = Phase("g", ("g",), self.g_loss, self.train.lr_g, self._g_weights(), shares, every=every)
        d = Phase("d", ("d",), self.d_loss, self.train.lr_d, {"gp": self.settings.gp_weight}, penalised=penalised)
        return [g, d] if d_learns else [g]

    @property
    def compares_features(self) -> bool:
        """Whether there is a perceptual term."""
        return self.settings.perceptual_share > 0

    def g_loss(self, nets: RestoreNetworks, batch: PairBatch) -> Terms:
        """Generator loss: adversarial term plus every error term with a weight."""
        settings, real, mask = self.settings, batch.target, self.loss_mask(batch)
        fake = self.cache.put("fake", batch, nets.generate(batch.source))
        terms = {"gan": g_loss(settings.objective, nets.d(fake))} if self.is_adversarial else Terms()
        if settings.l1_weight:
            terms["l1"] = l1(fake, real, mask)
        if settings.l2_weight:
            terms["l2"] = l2(fake, real, mask)
        if settings.nmse_weight:
            terms["nmse"] = nmse(fake, real, mask)
        if settings.gradient_weight:
            terms["gradient"] = gradient_difference(fake, real)
        if settings.frequency_weight:
            terms["frequency"] = frequency_l2(fake, real)
        if settings.slice_tv_weight:
            terms["slice_tv"] = slice_tv(fake, real, settings.slice_tv)
        if self.compares_features:
            terms["perceptual"] = content_loss(*(self.feature_maps(nets, batch, x) for x in (fake, real)))
        return terms

    def discriminator_maps(self, nets: RestoreNetworks, batch: PairBatch, x: Tensor) -> list[Tensor]:
        """Return the feature maps of ``x`` by the average of the discriminator."""
        return nets.f.features(x)

    def _g_weights(self) -> dict[str, float]:
        """Weights of the generator's terms."""
        settings = self.settings
        return {
            "gan": settings.adversarial_weight,
            "l1": settings.l1_weight,
            "l2": settings.l2_weight,
            "nmse": settings.nmse_weight,
            "gradient": settings.gradient_weight,
            "frequency": settings.frequency_weight,
            "slice_tv": settings.slice_tv_weight,
        }

    def d_loss(self, nets: RestoreNetworks, batch: PairBatch) -> Terms:
        """Discriminator loss on targets and restored volumes, with gradient penalty for wgan-gp."""
        fake = self.cache.pop("fake", batch, torch.no_grad()(partial(nets.generate, batch.source)))
        terms = {"gan": d_loss(self.settings.objective, nets.d(batch.target), nets.d(fake))}
        if self.settings.objective == "wgan-gp":
            penalty = interpolated_penalty(
                lambda inputs: nets.d(*inputs), [batch.target], [fake], batch.uniform("mix", 1)
            )
            terms["gp"] = penalty
        return terms
