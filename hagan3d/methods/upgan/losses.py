"""UP-GAN: stages that predict a volume and its uncertainty, each guided by the one before; trained in turn.

Source: Upadhyay et al., Uncertainty-guided Progressive GANs for Medical Image Translation, MICCAI 2021, with its
likelihood corrected (see `hagan3d.ops.ggd`), earlier stages frozen, and all stages tuned together at the end.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config, TranslationConfig
from hagan3d.data.batches.pairs import PairBatch
from hagan3d.losses.gan import d_loss, g_loss
from hagan3d.methods.cache import Kept
from hagan3d.methods.phase import Phase, Recipe, Terms
from hagan3d.methods.upgan.networks import CascadeNetworks, Prediction
from hagan3d.ops import ggd_nll


def recipe(config: Config) -> Recipe:
    """Return the updates: generator and critic of each stage in its steps, then those of all stages together."""
    train, model, kept = config.train, config.translation, Kept()
    cascade, stages = model.cascade, range(1, model.cascade.stages + 1)
    phases = []
    for stage in stages:
        first, end = (stage - 1) * cascade.stage_steps, stage * cascade.stage_steps
        learn, tell = partial(g_losses, config, kept, stage), partial(d_losses, config, kept, [stage])
        phases.append(Phase(f"g_{stage}", (f"g_{stage}",), learn, train.lr_g, ("sigma",), first, end))
        phases.append(Phase(f"d_{stage}", (f"d_{stage}",), tell, train.lr_d, first=first, end=end))
    rate, first = cascade.tuning_rate, cascade.tuning_from
    measures = tuple(f"sigma_{stage}" for stage in stages)
    every_g, every_d = (tuple(f"{kind}_{stage}" for stage in stages) for kind in "gd")
    tune, tell = partial(tuning_losses, config, kept), partial(d_losses, config, kept, list(stages))
    phases.append(Phase("g", every_g, tune, rate * train.lr_g, measures, first=first))
    phases.append(Phase("d", every_d, tell, rate * train.lr_d, first=first))
    return Recipe(phases)


def g_losses(config: Config, kept: Kept, stage: int, nets: CascadeNetworks, batch: PairBatch) -> Terms:
    """Let one stage predict, after those before it, which are frozen."""
    with torch.no_grad():
        x = nets.input_of(stage, batch.source)
    prediction = nets[f"g_{stage}"](x, batch.source)
    return stage_terms(config, kept, stage, nets, batch, prediction)


def tuning_losses(config: Config, kept: Kept, nets: CascadeNetworks, batch: PairBatch) -> Iterator[Terms]:
    """Let all stages predict; the loss of each is a group of its own, and moves the stages before it too."""
    for stage in range(1, nets.num_stages + 1):
        terms = stage_terms(config, kept, stage, nets, batch, nets.predict(stage, batch.source))
        yield {f"{name}_{stage}": term for name, term in terms.items()}


def d_losses(config: Config, kept: Kept, stages: list[int], nets: CascadeNetworks, batch: PairBatch) -> Iterator[Terms]:
    """Tell targets from predictions, patch by patch; one group per stage."""
    for stage in stages:
        fake = kept.take(f"fake_{stage}", batch, partial(_predicted, nets, stage, batch.source))
        critic = nets[f"d_{stage}"]
        yield {f"gan_{stage}": d_loss(config.train.objective, critic(batch.target), critic(fake))}


def stage_terms(
    config: Config, kept: Kept, stage: int, nets: CascadeNetworks, batch: PairBatch, prediction: Prediction
) -> Terms:
    """Return the loss of one stage: mean absolute error, likelihood of the error inside the mask, being taken for real.

    With it goes the mean sigma, which is measured alone.
    """
    mean, log_scale, log_shape = prediction
    kept.leave(f"fake_{stage}", batch, mean)
    l1_weight, nll_weight = weights_at(config.translation, stage, batch.step)
    adversarial = g_loss(config.train.objective, nets[f"d_{stage}"](mean))
    terms = {
        "l1": l1_weight * F.l1_loss(mean, batch.target),
        "gan": config.translation.adversarial_weight * adversarial,
    }
    if log_scale is None or log_shape is None:
        return terms
    terms["nll"] = nll_weight * _nll(mean - batch.target, log_scale, log_shape, batch.mask)
    return terms | {"sigma": nets.mean_sigma(prediction).detach().mean()}


def _nll(error: Tensor, log_scale: Tensor, log_shape: Tensor, mask: Tensor | None) -> Tensor:
    """Likelihood of the errors, averaged within the mask of each volume, then over volumes: parts then add up."""
    if mask is None:
        return ggd_nll(error, log_scale, log_shape)
    one_by_one = zip(*(x.split(1) for x in (error, log_scale, log_shape, mask)), strict=True)
    return torch.stack([ggd_nll(*volume) for volume in one_by_one]).mean()


def weights_at(model: TranslationConfig, stage: int, step: int) -> tuple[float, float]:
    """Return the weights of error and likelihood at a step: those of the part of the stage, or of tuning the last."""
    cascade = model.cascade
    done = (step - (stage - 1) * cascade.stage_steps) / cascade.stage_steps
    first, second, _ = cascade.parts
    part = 2 if step >= cascade.tuning_from else 0 if done < first else 1 if done < first + second else 2
    return cascade.l1_weights[part], cascade.nll_weights[part]


@torch.no_grad()
def _predicted(nets: CascadeNetworks, stage: int, source: Tensor) -> Tensor:
    return nets.predict(stage, source).mean
