"""UNIT: translation without pairs through a latent space that both domains share.

Source: Liu et al., Unsupervised Image-to-Image Translation Networks, NeurIPS 2017.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.restoration import charbonnier
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.methods.unit.networks import UnitNetworks

WAYS = (("source", "target"), ("target", "source"))


def recipe(config: Config) -> Recipe:
    """Return the updates of one step: encoders and decoders, then both critics."""
    train, kept = config.train, Kept()
    return Recipe(
        [
            Phase("g", UnitNetworks.averaged, partial(g_losses, config, kept), train.lr_g),
            Phase("d", ("d_source", "d_target"), partial(d_losses, config, kept), train.lr_d),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: UnitNetworks, batch: PairBatch) -> Iterator[Terms]:
    """Encode and decode within a domain, go to the other and back, and be taken for it there; a group for each way."""
    weights, error = config.translation.unit, charbonnier if config.translation.unit.charbonnier else F.l1_loss
    for origin, aim in WAYS:
        real = getattr(batch, origin)
        mean = nets.encode(origin, real)
        z = _drawn(mean, batch, origin)
        fake = nets.decode(aim, z)
        kept.leave(aim, batch, fake)
        mean_of_fake = nets.encode(aim, fake)
        back = nets.decode(origin, _drawn(mean_of_fake, batch, f"back to {origin}"))
        adversarial = g_loss(config.train.objective, nets[f"d_{aim}"](fake))
        yield {
            f"l1_{origin}": weights.reconstruction_weight * error(nets.decode(origin, z), real),
            f"kl_{origin}": weights.kl_weight * mean.square().mean(),
            f"gan_{aim}": config.translation.adversarial_weight * adversarial,
            f"cycle_{origin}": weights.cycle_weight * error(back, real),
            f"cycle_kl_{origin}": weights.cycle_kl_weight * mean_of_fake.square().mean(),
        }


def d_losses(config: Config, kept: Kept, nets: UnitNetworks, batch: PairBatch) -> Iterator[Terms]:
    """Tell real volumes of each domain from translated ones."""
    for origin, aim in WAYS:
        fake = kept.take(aim, batch, partial(_translated, nets, batch, origin, aim))
        critic = nets[f"d_{aim}"]
        yield {f"gan_{aim}": d_loss(config.train.objective, critic(getattr(batch, aim)), critic(fake))}


def _drawn(mean: Tensor, batch: PairBatch, name: str) -> Tensor:
    """Draw latents of unit deviation about their means ``[B, C, d, h, w]``."""
    return mean + batch.normal(name, mean[0].numel()).view_as(mean)


@torch.no_grad()
def _translated(nets: UnitNetworks, batch: PairBatch, origin: str, aim: str) -> Tensor:
    return nets.decode(aim, _drawn(nets.encode(origin, getattr(batch, origin)), batch, origin))
