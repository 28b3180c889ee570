"""pix2pix: image-to-image translation with a conditional GAN.

Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.voxels import l1
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.pix2pix.config import Pix2PixConfig
from hagan3d.methods.pix2pix.networks import Pix2PixNetworks
from hagan3d.methods.translation import TranslationMethod


class Pix2Pix(TranslationMethod):
    """pix2pix: the generator, then the discriminator on the same fakes."""

    settings: Pix2PixConfig

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        settings = self.settings
        weights = {"l1": settings.l1_weight, "labels": settings.label_weight, "gan": settings.adversarial_weight}
        phases = [Phase("g", ("g",), self.g_loss, self.train.lr_g, weights)]
        return [*phases, Phase("d", ("d",), self.d_loss, self.train.lr_d)] if self.is_adversarial else phases

    def g_loss(self, nets: Pix2PixNetworks, batch: PairBatch) -> Terms:
        """Generator loss: L1 to the target plus the conditional adversarial term D(source, fake) (eq. 4).

        With a label map, the L1 loss is that of the images, and Dice loss plus cross-entropy that of the labels.
        """
        fake = self.cache.put("fake", batch, self._generate(nets, batch))
        terms = {"l1": l1(self.images(fake), self.images(batch.target), self.loss_mask(batch))}
        terms |= self.label_terms(fake, batch)
        if self.is_adversarial:
            terms["gan"] = g_loss(self.settings.objective, nets.d(torch.cat([batch.source, fake], dim=1)))
        return terms

    def d_loss(self, nets: Pix2PixNetworks, batch: PairBatch) -> Terms:
        """Discriminator loss on (source, target) and (source, fake) pairs (eq. 1)."""
        fake = self.cache.pop("fake", batch, torch.no_grad()(partial(self._generate, nets, batch)))
        real, generated = (nets.d(torch.cat([batch.source, x], dim=1)) for x in (batch.target, fake))
        return {"gan": d_loss(self.settings.objective, real, generated)}

    def _generate(self, nets: Pix2PixNetworks, batch: PairBatch) -> Tensor:
        """Translate the sources; dropout is the noise z of the paper."""
        if not self.settings.dropout:
            return nets.generate(batch.source)
        return nets.generate(batch.source, [int(number * 2**31) for number in batch.uniform("dropout", 1)[:, 0]])
