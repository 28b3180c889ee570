"""The anchor of a recipe that learns on windows: it learns on low-resolution whole pairs, and windows go beside it.

It is part of no recipe: all phases of a recipe see sources with what the anchor says of them as further channels.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Losses, Phase, Recipe, Terms
from hagan3d.networks.hierarchical import beside
from hagan3d.networks.translation import TranslationNetworks


def anchored(config: Config, recipe: Recipe) -> Recipe:
    """Put the anchor's update before those of a recipe, whose losses then see windows beside the anchor.

    It learns as long as the recipe's first network: of UP-GAN, in the first stage. Later stages find it at rest.
    """
    kept = Kept()
    own = Phase("anchor", ("anchor",), partial(anchor_losses, kept), config.train.lr_g, end=recipe.phases[0].end)
    others = [replace(phase, losses=partial(window_losses, kept, phase.losses)) for phase in recipe.phases]
    return replace(recipe, phases=[own, *others])


def anchor_losses(kept: Kept, nets: TranslationNetworks, batch: PairBatch) -> Terms:
    """Come close to the low-resolution target."""
    assert nets.anchor is not None and batch.low_target is not None
    said = nets.anchor(batch.low_source)
    kept.leave("anchor", batch, said)
    return {"l1": F.l1_loss(said, batch.low_target)}


def window_losses(kept: Kept, losses: Losses, nets: TranslationNetworks, batch: PairBatch) -> Terms | Iterator[Terms]:
    """Return the losses of a phase on windows beside the anchor, which does not learn from them."""
    assert batch.start is not None
    said = kept.take("anchor", batch, partial(_say, nets, batch))
    kept.leave("anchor", batch, said)  # for the next phase of the step
    return losses(nets, replace(batch, source=beside(batch.source, said, batch.start)))


@torch.no_grad()
def _say(nets: TranslationNetworks, batch: PairBatch) -> Tensor:
    assert nets.anchor is not None and batch.low_source is not None
    return nets.anchor(batch.low_source)
