"""UP-GAN: progressive translation guided by predicted uncertainty.

Source: Upadhyay et al., Uncertainty-guided Progressive GANs for Medical Image Translation, MICCAI 2021, with its
likelihood corrected (see `hagan3d.ops.ggd`), earlier stages frozen, and all stages fine-tuned jointly at the end.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.losses.voxels import l1
from hagan3d.methods.phase import Phase, Terms
from hagan3d.methods.translation import TranslationMethod
from hagan3d.methods.upgan.config import UPGANConfig
from hagan3d.methods.upgan.networks import Prediction, UPGANNetworks
from hagan3d.ops import ggd_nll


class UPGAN(TranslationMethod):
    """UP-GAN: generator and discriminator of each stage in its steps, then those of all stages jointly."""

    settings: UPGANConfig

    def phases(self) -> list[Phase]:
        """Return the updates of all stages and of the joint fine-tuning."""
        settings, train = self.settings, self.train
        stages = range(1, settings.stages + 1)
        phases = []
        for stage in stages:
            steps: dict[str, Any] = {"first": (stage - 1) * settings.stage_steps, "end": stage * settings.stage_steps}
            g, d = partial(self.stage_g_loss, stage), partial(self.d_loss, [stage])
            weights = partial(stage_weights, settings, stage)
            phases.append(Phase(f"g_{stage}", (f"g_{stage}",), g, train.lr_g, weights, **steps, measures=("sigma",)))
            if self.is_adversarial:
                phases.append(Phase(f"d_{stage}", (f"d_{stage}",), d, train.lr_d, **steps))
        rate, first = settings.tuning_rate, settings.tuning_from
        measures = tuple(f"sigma_{stage}" for stage in stages)
        all_g, all_d = (tuple(f"{kind}_{stage}" for stage in stages) for kind in "gd")
        last = stage_weights(settings, settings.stages, first)
        joint = {f"{term}_{stage}": weight for stage in stages for term, weight in last.items()}
        phases.append(Phase("g", all_g, self.joint_g_loss, rate * train.lr_g, joint, measures=measures, first=first))
        if self.is_adversarial:
            phases.append(Phase("d", all_d, partial(self.d_loss, list(stages)), rate * train.lr_d, first=first))
        return phases

    def stage_g_loss(self, stage: int, nets: UPGANNetworks, batch: PairBatch) -> Terms:
        """Generator loss of one stage; the stages before it are frozen."""
        with torch.no_grad():
            x = nets.stage_input(stage, batch.source)
        return self.prediction_terms(stage, nets, batch, nets[f"g_{stage}"](x, batch.source))

    def joint_g_loss(self, nets: UPGANNetworks, batch: PairBatch) -> Iterator[Terms]:
        """Generator loss of the joint fine-tuning: one group per stage, with gradients through the stages before it."""
        for stage in range(1, nets.num_stages + 1):
            terms = self.prediction_terms(stage, nets, batch, nets.predict(stage, batch.source))
            yield {f"{name}_{stage}": term for name, term in terms.items()}

    def d_loss(self, stages: list[int], nets: UPGANNetworks, batch: PairBatch) -> Iterator[Terms]:
        """Discriminator loss on targets and predictions; one group per stage."""
        for stage in stages:
            fake = self.cache.pop(f"fake_{stage}", batch, partial(_predicted_mean, nets, stage, batch.source))
            critic = nets[f"d_{stage}"]
            yield {f"gan_{stage}": d_loss(self.settings.objective, critic(batch.target), critic(fake))}

    def prediction_terms(self, stage: int, nets: UPGANNetworks, batch: PairBatch, prediction: Prediction) -> Terms:
        """Terms of a prediction: L1, adversarial, GGD negative log-likelihood of the error inside the mask (eq. 4).

        The mean sigma is added as a measure.
        """
        settings, (mean, log_scale, log_shape) = self.settings, prediction
        self.cache.put(f"fake_{stage}", batch, mean)
        terms = {"l1": l1(mean, batch.target, self.loss_mask(batch))}
        if self.is_adversarial:
            terms["gan"] = g_loss(settings.objective, nets[f"d_{stage}"](mean))
        if log_scale is None or log_shape is None:
            return terms
        terms["nll"] = _masked_nll(mean - batch.target, log_scale, log_shape, batch.mask)
        return terms | {"sigma": nets.mean_sigma(prediction).detach().mean()}


def _masked_nll(error: Tensor, log_scale: Tensor, log_shape: Tensor, mask: Tensor | None) -> Tensor:
    """GGD negative log-likelihood, averaged over the mask of each volume, then over volumes.

    The mean of means lets micro-batches add up to the batch, whatever the size of their masks.
    """
    if mask is None:
        return ggd_nll(error, log_scale, log_shape)
    volumes = zip(*(x.split(1) for x in (error, log_scale, log_shape, mask)), strict=True)
    return torch.stack([ggd_nll(*volume) for volume in volumes]).mean()


def stage_weights(settings: UPGANConfig, stage: int, step: int) -> dict[str, float]:
    """Return the weights of the terms of a stage at a step: those of its part of the stage; in fine-tuning the last."""
    done = (step - (stage - 1) * settings.stage_steps) / settings.stage_steps
    first, second, _ = settings.parts
    part = 2 if step >= settings.tuning_from else 0 if done < first else 1 if done < first + second else 2
    return {
        "l1": settings.l1_weights[part],
        "gan": settings.adversarial_weight,
        "nll": settings.nll_weights[part],
    }


@torch.no_grad()
def _predicted_mean(nets: UPGANNetworks, stage: int, source: Tensor) -> Tensor:
    return nets.predict(stage, source).mean
