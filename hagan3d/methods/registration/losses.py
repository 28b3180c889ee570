"""Adversarial registration: numbers that move a volume onto another, known where the misalignment was simulated.

Source: Yan et al., Adversarial Image Registration with Application for MR and TRUS Image Fusion, MLMI 2018. The critic
compares a volume moved as it should be with the same volume moved as estimated: both are interpolated alike.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, differentiable, g_loss, gradient_penalty
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.methods.registration.networks import RegistrationNetworks
from hagan3d.ops.warp import AFFINE


def recipe(config: Config) -> Recipe:
    """Return the updates of one step: the regressor, then its critic on the same volumes."""
    train, kept = config.train, Kept()
    penalised = ("d",) if train.objective == "wgan-gp" else ()
    return Recipe(
        [
            Phase("g", ("g",), partial(g_losses, config, kept), train.lr_g),
            Phase("d", ("d",), partial(d_losses, config, kept), train.lr_d, penalised=penalised),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: RegistrationNetworks, batch: PairBatch) -> Terms:
    """Come close to the known numbers, and be taken for aligned."""
    model, numbers = config.translation, nets.estimate(batch.source)
    fake = nets.moved(batch.source, numbers)
    kept.leave("fake", batch, fake)
    adversarial = g_loss(config.train.objective, _logits(nets, batch, fake))
    return {
        "numbers": model.registration.numbers_weight * F.mse_loss(numbers, known(batch)[:, : numbers.shape[1]]),
        "gan": model.adversarial_weight * adversarial,
    }


def d_losses(config: Config, kept: Kept, nets: RegistrationNetworks, batch: PairBatch) -> Terms:
    """Tell volumes that were moved as they should be from those that were moved as estimated."""
    fake = kept.take("fake", batch, torch.no_grad()(lambda: nets.moved(batch.source, nets.estimate(batch.source))))
    real = nets.moved(batch.source, known(batch))
    terms = {"gan": d_loss(config.train.objective, _logits(nets, batch, real), _logits(nets, batch, fake))}
    if config.train.objective == "wgan-gp":
        mix = torch.from_numpy(batch.uniform("mix", 1)).to(fake)[:, :, None, None, None]
        with torch.autocast(fake.device.type, enabled=False):
            between = differentiable(torch.lerp(real.to(fake.dtype), fake, mix))
            penalty = gradient_penalty(_logits(nets, batch, between), [between])
        terms["gp"] = config.train.gp_weight * penalty
    return terms


def known(batch: PairBatch) -> Tensor:
    """Numbers that undo the simulated misalignments ``[B, 12]``; pairs without one lie as they should."""
    if batch.misalignment is None:
        return torch.zeros(len(batch), AFFINE, device=batch.device, dtype=batch.source.dtype)
    return batch.misalignment.to(batch.source.dtype)


def _logits(nets: RegistrationNetworks, batch: PairBatch, moved: Tensor) -> Tensor:
    """What the critic thinks of moved volumes beside fixed ones: the mean over patches ``[B]``."""
    fixed = batch.source[:, nets.moving :]
    return nets.d(torch.cat([moved, fixed.to(moved.dtype)], dim=1)).flatten(1).mean(1)
