"""Translation of phase contrast to differential interference contrast (DIC) microscopy.

Source: Han and Yin, Transferring Microscopy Image Modalities with Conditional Generative Adversarial Networks, MICCAI
2017: the generator sees the image, a mask of its cells and noise; one discriminator compares pairs of image and target,
the other pairs of mask and target.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.voxels import l1
from hagan3d.methods.microscopy.config import MicroscopyConfig
from hagan3d.methods.microscopy.networks import MicroscopyNetworks
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.translation import TranslationMethod


class Microscopy(TranslationMethod):
    """The generator, then both discriminators on the same fakes."""

    settings: MicroscopyConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        settings, adversarial = self.settings, self.settings.adversarial_weight
        weights = {"l1": settings.l1_weight}
        if not self.is_adversarial:
            return [Phase("g", ("g",), self.g_loss, self.train.lr_g, weights)]
        weights |= {"gan_image": adversarial, "gan_mask": adversarial * settings.mask_weight}
        return [
            Phase("g", ("g",), self.g_loss, self.train.lr_g, weights),
            Phase("d", ("d_image", "d_mask"), self.d_loss, self.train.lr_d),
        ]

    def g_loss(self, nets: MicroscopyNetworks, batch: PairBatch) -> Terms:
        """Generator loss: L1 to the target, and the adversarial terms of (image, fake) and (mask, fake)."""
        fake = self.cache.put("fake", batch, self._generate(nets, batch))
        terms = {"l1": l1(fake, batch.target, self.loss_mask(batch))}
        if self.is_adversarial:
            image, mask = nets.split(batch.source)
            terms["gan_image"] = g_loss(self.settings.objective, nets.d_image(torch.cat([image, fake], dim=1)))
            terms["gan_mask"] = g_loss(self.settings.objective, nets.d_mask(torch.cat([mask, fake], dim=1)))
        return terms

    def d_loss(self, nets: MicroscopyNetworks, batch: PairBatch) -> Terms:
        """Loss of each discriminator on pairs with the target and pairs with the fake."""
        fake = self.cache.pop("fake", batch, torch.no_grad()(partial(self._generate, nets, batch)))
        image, mask = nets.split(batch.source)
        terms = {}
        for name, d, condition in (("gan_image", nets.d_image, image), ("gan_mask", nets.d_mask, mask)):
            real, generated = (d(torch.cat([condition, x], dim=1)) for x in (batch.target, fake))
            terms[name] = d_loss(self.settings.objective, real, generated)
        return terms

    def _generate(self, nets: MicroscopyNetworks, batch: PairBatch) -> Tensor:
        """Translate the sources with new noise."""
        return nets.generate(batch.source, [int(number * 2**31) for number in batch.uniform("noise", 1)[:, 0]])
