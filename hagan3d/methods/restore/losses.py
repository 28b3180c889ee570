"""Restoration: one generator, a critic of whole volumes, and errors of volumes, spectra and features by weight.

Which method it is, a config says: DAGAN (U-Net, bce, NMSE, frequency, perceptual), RED-WGAN and WGAN-VGG (convolutions
at full resolution, Wasserstein distance with gradient penalty, several updates of the critic per update of the
generator, perceptual), low-dose CT by residual (Wolterink 2017), thin slices from thick ones (total variation of
neighbouring slices). A frozen average of the critic is the extractor.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, differentiable, g_loss, gradient_penalty
from hagan3d.losses.perceptual import content_loss
from hagan3d.losses.restoration import frequency_l2, nmse, slice_tv
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.methods.restore.networks import RestoreNetworks


def recipe(config: Config) -> Recipe:
    """Return the updates: the critic in every step, the generator in some."""
    train, kept = config.train, Kept()
    every, penalised = config.translation.restore.critic_steps, ("d",) if train.objective == "wgan-gp" else ()
    return Recipe(
        [
            Phase("g", ("g",), partial(g_losses, config, kept), train.lr_g, every=every),
            Phase("d", ("d",), partial(d_losses, config, kept), train.lr_d, penalised=penalised),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: RestoreNetworks, batch: PairBatch) -> Terms:
    """Come close to the target in all that has a weight, and be taken for real."""
    weights, fake, real = config.translation.restore, nets.generate(batch.source), batch.target
    kept.leave("fake", batch, fake)
    adversarial = g_loss(config.train.objective, nets.d(fake))
    terms = {"gan": config.translation.adversarial_weight * adversarial}
    if weights.l2_weight:
        terms["l2"] = weights.l2_weight * F.mse_loss(fake, real)
    if weights.nmse_weight:
        terms["nmse"] = weights.nmse_weight * nmse(fake, real)
    if weights.frequency_weight:
        terms["frequency"] = weights.frequency_weight * frequency_l2(fake, real)
    if weights.slice_tv_weight:
        terms["slice_tv"] = weights.slice_tv_weight * slice_tv(fake, real, weights.slice_tv)
    if weights.perceptual_weight:
        difference = content_loss(nets.f.features(fake), nets.f.features(real))
        terms["perceptual"] = weights.perceptual_weight * difference
    return terms


def d_losses(config: Config, kept: Kept, nets: RestoreNetworks, batch: PairBatch) -> Terms:
    """Tell targets from restored volumes."""
    fake = kept.take("fake", batch, torch.no_grad()(partial(nets.generate, batch.source)))
    terms = {"gan": d_loss(config.train.objective, nets.d(batch.target), nets.d(fake))}
    if config.train.objective == "wgan-gp":
        terms["gp"] = config.train.gp_weight * _penalty(nets, batch, fake)
    return terms


def _penalty(nets: RestoreNetworks, batch: PairBatch, fake: Tensor) -> Tensor:
    """Gradient penalty between targets and restored volumes, not under autocast, for its second derivative."""
    mix = torch.from_numpy(batch.uniform("mix", 1)).to(fake)[:, :, None, None, None]
    with torch.autocast(fake.device.type, enabled=False):
        between = differentiable(torch.lerp(batch.target.to(fake.dtype), fake, mix))
        return gradient_penalty(nets.d(between), [between])
