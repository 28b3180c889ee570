"""CycleGAN: translation without pairs, by volumes that must come back as they were.

Source: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn import functional as F

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.methods.cache import Kept
from hagan3d.methods.cyclegan.networks import CycleNetworks
from hagan3d.methods.phase import Phase, Recipe, Terms

WAYS = (("source", "target"), ("target", "source"))


def recipe(config: Config) -> Recipe:
    """Return the updates of one step: both generators, then both critics."""
    train, kept = config.train, Kept()
    return Recipe(
        [
            Phase("g", ("g_target", "g_source"), partial(g_losses, config, kept), train.lr_g),
            Phase("d", ("d_target", "d_source"), partial(d_losses, config, kept), train.lr_d),
        ]
    )


def g_losses(config: Config, kept: Kept, nets: CycleNetworks, batch: PairBatch) -> Iterator[Terms]:
    """Go to the other domain and back, be taken for it there, and leave alone what is there already.

    A group of terms for each way, and one for each domain.
    """
    weights = config.translation.cycle
    for origin, aim in WAYS:
        real = getattr(batch, origin)
        fake = nets.generate(aim, real)
        kept.leave(aim, batch, fake)
        adversarial = g_loss(config.train.objective, nets[f"d_{aim}"](fake))
        back = F.l1_loss(nets.generate(origin, fake), real)
        weight = config.translation.adversarial_weight
        yield {f"gan_{aim}": weight * adversarial, f"cycle_{origin}": weights.cycle_weight * back}
    for _, aim in WAYS if weights.identity_weight else ():
        real = getattr(batch, aim)
        if nets[f"g_{aim}"].in_channels == real.shape[1]:
            yield {f"identity_{aim}": weights.identity_weight * F.l1_loss(nets.generate(aim, real), real)}


def d_losses(config: Config, kept: Kept, nets: CycleNetworks, batch: PairBatch) -> Iterator[Terms]:
    """Tell real volumes of each domain from generated ones, some of them generated in earlier steps."""
    numbers = [batch.step * config.train.batch_size + sample for sample in batch.samples]
    for origin, aim in WAYS:
        make = torch.no_grad()(partial(nets.generate, aim, getattr(batch, origin)))
        fake = nets.mixed(aim, kept.take(aim, batch, make), numbers, batch.uniform(aim, 2).tolist())
        critic = nets[f"d_{aim}"]
        yield {f"gan_{aim}": d_loss(config.train.objective, critic(getattr(batch, aim)), critic(fake))}
