"""UNIT: unpaired translation through a shared latent space.

Source: Liu et al., Unsupervised Image-to-Image Translation Networks, NeurIPS 2017.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.restoration import charbonnier
from hagan3d.losses.voxels import l1
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.translation import TranslationMethod
from hagan3d.methods.unit.config import UNITConfig
from hagan3d.methods.unit.networks import UNITNetworks

DIRECTIONS = (("source", "target"), ("target", "source"))


class UNIT(TranslationMethod):
    """UNIT: encoders and decoders of both domains, then both discriminators."""

    settings: UNITConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        settings = self.settings
        kinds = {
            "l1": settings.reconstruction_weight,
            "kl": settings.kl_weight,
            "gan": settings.adversarial_weight,
            "cycle": settings.cycle_weight,
            "cycle_kl": settings.cycle_kl_weight,
        }
        weights = {f"{term}_{domain}": weight for term, weight in kinds.items() for domain in ("source", "target")}
        phases = [Phase("g", UNITNetworks.averaged, self.g_loss, self.train.lr_g, weights)]
        if self.is_adversarial:
            phases.append(Phase("d", ("d_source", "d_target"), self.d_loss, self.train.lr_d))
        return phases

    def g_loss(self, nets: UNITNetworks, batch: PairBatch) -> Iterator[Terms]:
        """Loss of encoders and decoders: VAE (eq. 3), adversarial (eq. 4) and cycle-consistency (eq. 5) terms.

        One group of terms for each direction. With unit variance the KL term is the mean square of the latent mean.
        """
        error = partial(charbonnier if self.settings.charbonnier else l1, mask=self.loss_mask(batch))
        for origin, aim in DIRECTIONS:
            real = getattr(batch, origin)
            mean = nets.encode(origin, real)
            z = _sample(mean, batch, origin)
            fake = self.cache.put(aim, batch, nets.decode(aim, z))
            mean_of_fake = nets.encode(aim, fake)
            cycled = nets.decode(origin, _sample(mean_of_fake, batch, f"back to {origin}"))
            gan = {f"gan_{aim}": g_loss(self.settings.objective, nets[f"d_{aim}"](fake))} if self.is_adversarial else {}
            yield gan | {
                f"l1_{origin}": error(nets.decode(origin, z), real),
                f"kl_{origin}": mean.square().mean(),
                f"cycle_{origin}": error(cycled, real),
                f"cycle_kl_{origin}": mean_of_fake.square().mean(),
            }

    def d_loss(self, nets: UNITNetworks, batch: PairBatch) -> Iterator[Terms]:
        """Discriminator loss of each domain, on real and translated volumes."""
        for origin, aim in DIRECTIONS:
            fake = self.cache.pop(aim, batch, partial(_translate, nets, batch, origin, aim))
            critic = nets[f"d_{aim}"]
            yield {f"gan_{aim}": d_loss(self.settings.objective, critic(getattr(batch, aim)), critic(fake))}


def _sample(mean: Tensor, batch: PairBatch, name: str) -> Tensor:
    """Sample latents of unit variance around their means ``[B, C, d, h, w]`` (reparameterization)."""
    return mean + batch.normal(name, mean[0].numel()).view_as(mean)


@torch.no_grad()
def _translate(nets: UNITNetworks, batch: PairBatch, origin: str, aim: str) -> Tensor:
    return nets.decode(aim, _sample(nets.encode(origin, getattr(batch, origin)), batch, origin))
