"""CycleGAN: unpaired translation with cycle consistency.

Source: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.
"""

from collections.abc import Iterator
from functools import partial

import torch

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.errors import InputError
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.voxels import l1
from hagan3d.methods.cyclegan.config import CycleGANConfig
from hagan3d.methods.cyclegan.networks import CycleGANNetworks
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.translation import TranslationMethod

DIRECTIONS = (("source", "target"), ("target", "source"))


class CycleGAN(TranslationMethod):
    """CycleGAN: both generators, then both discriminators."""

    settings: CycleGANConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        settings = self.settings
        kinds = {
            "gan": settings.adversarial_weight,
            "cycle": settings.cycle_weight,
            "identity": settings.identity_weight,
        }
        weights = {f"{term}_{domain}": weight for term, weight in kinds.items() for domain in ("source", "target")}
        phases = [Phase("g", ("g_target", "g_source"), self.g_loss, self.train.lr_g, weights)]
        if self.is_adversarial:
            phases.append(Phase("d", ("d_target", "d_source"), self.d_loss, self.train.lr_d))
        return phases

    def check_ranks(self, world_size: int) -> None:
        """Raise InputError if several ranks would each have an image pool of their own."""
        if self.settings.pool and world_size > 1:
            raise InputError(f"cyclegan.pool {self.settings.pool}: works on one rank; set it to 0 for several")

    def g_loss(self, nets: CycleGANNetworks, batch: PairBatch) -> Iterator[Terms]:
        """Generator loss: adversarial, cycle-consistency (eq. 2) and identity (section 5.2) terms.

        One group of terms for each direction, and one for each identity.
        """
        mask = self.loss_mask(batch)
        for origin, aim in DIRECTIONS:
            real = getattr(batch, origin)
            fake = self.cache.put(aim, batch, nets.generate(aim, real))
            gan = {f"gan_{aim}": g_loss(self.settings.objective, nets[f"d_{aim}"](fake))} if self.is_adversarial else {}
            yield {**gan, f"cycle_{origin}": l1(nets.generate(origin, fake), real, mask)}
        for _, aim in DIRECTIONS if self.settings.identity_weight else ():
            real = getattr(batch, aim)
            if nets[f"g_{aim}"].in_channels == real.shape[1]:  # else the generator cannot take its own domain
                yield {f"identity_{aim}": l1(nets.generate(aim, real), real, mask)}

    def d_loss(self, nets: CycleGANNetworks, batch: PairBatch) -> Iterator[Terms]:
        """Discriminator loss of each domain, on real volumes and on fakes from the image pool."""
        numbers = [batch.step * self.train.batch_size + sample for sample in batch.samples]
        for origin, aim in DIRECTIONS:
            make = torch.no_grad()(partial(nets.generate, aim, getattr(batch, origin)))
            new = self.cache.pop(aim, batch, make)
            fake = nets.from_pool(aim, new, numbers, batch.uniform(aim, 2).tolist())
            critic = nets[f"d_{aim}"]
            yield {f"gan_{aim}": d_loss(self.settings.objective, critic(getattr(batch, aim)), critic(fake))}
