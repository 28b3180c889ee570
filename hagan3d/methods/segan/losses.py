"""SegAN: segmentation by a Dice loss and a multi-scale L1 loss of a critic's features of masked images.

Source: Xue et al., SegAN: Adversarial Network with Multi-scale L1 Loss for Medical Image Segmentation, Neuroinformatics
16, 2018. Instead of one critic per label there is one for all, whose input is the masked images concatenated.
With ``critic: pairs`` it is the conditional GAN of Rezaei et al., A Conditional Adversarial Network for Semantic
Segmentation of Brain Tumor, BrainLes 2017: a discriminator of images with their true or predicted label maps.
"""

from functools import partial

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.perceptual import multiscale_l1
from hagan3d.losses.segmentation import dice_loss
from hagan3d.losses.voxels import l1
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.segan.config import SegANConfig
from hagan3d.methods.segan.networks import SegANNetworks
from hagan3d.methods.translation import TranslationMethod


class SegAN(TranslationMethod):
    """SegAN: the segmentation network, then the critic on the same maps."""

    settings: SegANConfig
    predicts_labels = True

    def phases(self) -> list[Phase]:
        """Return the updates of one step."""
        settings = self.settings
        weights = {"dice": settings.dice_weight, "l1": settings.l1_weight, "gan": settings.adversarial_weight}
        weights = {term: weight for term, weight in weights.items() if weight}
        phases = [Phase("g", ("g",), self.g_loss, self.train.lr_g, weights)]
        return [*phases, Phase("d", ("d",), self.d_loss, self.train.lr_d)] if self.is_adversarial else phases

    def check_store(self, store: Store) -> None:
        """Raise InputError unless the store has pairs of volumes and label maps with the labels of the settings."""
        super().check_store(store)
        if not (store.has_label_maps and store.has_sources):
            raise InputError(
                f"{store.path}: method segan needs pairs of volumes and label maps; make them with "
                "`hagan3d prepare --pairs volumes/ labels/ --intensity labels --window 0 K`, K the largest label"
            )
        labels = round(float(store.intervals[:, 0, 1].max())) + 1
        if labels != self.settings.labels:
            raise InputError(
                f"{store.path}: its maps have {labels} labels, with the background, but segan.labels is "
                f"{self.settings.labels}; use --segan.labels {labels}"
            )

    def g_loss(self, nets: SegANNetworks, batch: PairBatch) -> Terms:
        """Segmentation loss: Dice or L1 plus the multi-scale L1 feature distance (eq. 2) or D(image, labels)."""
        target = nets.one_hot(batch.target)
        fake = self.cache.put("fake", batch, nets.probabilities(batch.source))
        terms = {}
        if self.settings.dice_weight:
            terms["dice"] = dice_loss(fake, target, self.loss_mask(batch))
        if self.settings.l1_weight:
            terms["l1"] = l1(fake, target, self.loss_mask(batch))
        if self.is_adversarial and nets.has_pairs:
            terms["gan"] = g_loss("bce", nets.d(torch.cat([batch.source, fake], dim=1)))
        elif self.is_adversarial:
            terms["gan"] = _distance(nets, batch.source, fake, target)
        return terms

    def d_loss(self, nets: SegANNetworks, batch: PairBatch) -> Terms:
        """Critic loss: minus the multi-scale L1 feature distance (eq. 1), bounded by weight clipping.

        With pairs: the discriminator's loss on (image, true labels) and (image, predicted labels).
        """
        fake = self.cache.pop("fake", batch, torch.no_grad()(partial(nets.probabilities, batch.source)))
        target = nets.one_hot(batch.target)
        if not nets.has_pairs:
            return {"gan": -_distance(nets, batch.source, fake, target)}
        real, generated = (nets.d(torch.cat([batch.source, x], dim=1)) for x in (target, fake))
        return {"gan": d_loss("bce", real, generated)}


def _distance(nets: SegANNetworks, source: Tensor, fake: Tensor, target: Tensor) -> Tensor:
    """Multi-scale L1 distance between the critic's features of the image masked by predicted and by true labels."""
    f_fake, f_target = (nets.d(nets.masked(source, probabilities)) for probabilities in (fake, target))
    return multiscale_l1(f_fake, f_target)
