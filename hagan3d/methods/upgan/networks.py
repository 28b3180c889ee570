"""The cascade of UP-GAN: stages that predict a volume and its uncertainty, each guided by the one before."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.networks.translation import Translation, TranslationNetworks, added, widened
from hagan3d.ops import ggd_guide, ggd_log_sigma, ggd_mean_sigma, ggd_sigma
from hagan3d.ops.ggd_reference import LOG_SCALE_BOUNDS, LOG_SHAPE_BOUNDS


class Prediction(NamedTuple):
    """What a stage says, in at least float32."""

    mean: Tensor
    """``[B, Ct, D, H, W]``."""
    log_scale: Tensor | None
    """ln alpha ``[B, 1, D, H, W]``, unbounded; None in a cascade without guide."""
    log_shape: Tensor | None
    """ln beta."""


class Stage(nn.Module):
    """A residual U-Net with heads for the prediction, ln alpha and ln beta.

    The last two begin as constants, ``initial_error`` and a shape of 1, which is that mean error's Laplace density; a
    residual prediction begins as the source.
    """

    def __init__(self, in_channels: int, model: TranslationConfig, levels: int) -> None:
        """Build a stage that sees ``in_channels`` volumes, the last of them the source."""
        super().__init__()
        self.adds_source = model.residual
        uncertain = model.cascade.guide != "none"
        heads = [model.target_channels, 1, 1] if uncertain else [model.target_channels]
        self.unet = ResidualUNet(in_channels, heads, width=model.width, levels=levels, norm=model.norm)
        biases = [None, math.log(model.cascade.initial_error), 0.0]
        for head, bias in zip(self.unet.heads, biases, strict=False):
            if bias is not None or self.adds_source:
                nn.init.zeros_(cast(Tensor, head.weight))
                nn.init.constant_(cast(Tensor, head.bias), bias or 0.0)

    def forward(self, x: Tensor, source: Tensor) -> Prediction:
        """Predict from ``x [B, C, D, H, W]``, which holds ``source`` too."""
        mean, *uncertainty = (widened(out) for out in self.unet(x))
        if self.adds_source:
            mean = added(mean, source)
        return Prediction(mean, *(uncertainty or (None, None)))


class CascadeNetworks(TranslationNetworks):
    """Stages ``g_1``, ``g_2``, ... and their critics ``d_1``, ``d_2``, ..."""

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        cascade = model.cascade
        self.guide, self.num_stages, self.stage_steps = cascade.guide, cascade.stages, cascade.stage_steps
        self.used = cascade.stages
        self.num_voxels = math.prod(size) * model.target_channels
        levels = num_levels(size, model.levels)
        handed = model.target_channels + {"mean": 1, "paper": 1, "channels": 2, "none": 0}[self.guide]
        for stage in range(1, self.num_stages + 1):
            in_channels = model.source_channels + (handed if stage > 1 else 0)
            self.add_module(f"g_{stage}", Stage(in_channels, model, levels))
            critic = PatchDiscriminator(model.target_channels, width=model.critic_width, layers=model.critic_layers)
            self.add_module(f"d_{stage}", critic)
        self.averaged = tuple(f"g_{stage}" for stage in range(1, self.num_stages + 1))

    @property
    def num_statistics(self) -> int:  # type: ignore[override]
        """Mean sigmas that `translate` needs of a whole volume: one for each stage but the last that is used."""
        return self.used - 1 if self.guide in ("mean", "paper") else 0

    def reached(self, step: int) -> None:
        """Translate by the stages that are done after so many steps, or by the first before that."""
        self.used = max(1, min(self.num_stages, step // self.stage_steps))

    def predict(self, stage: int, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Prediction:
        """Return what ``stage`` (from 1 up) predicts, by way of all stages before it.

        Args:
            stage: Up to `num_stages`.
            source: ``[B, Cs, D, H, W]``.
            statistics: Mean sigma ``[B]`` after each stage; None: that of ``source``.
        """
        return self[f"g_{stage}"](self.input_of(stage, source, statistics), source)

    def input_of(self, stage: int, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Tensor:
        """Return what ``stage`` sees: what the stage before it hands on, and the source."""
        x = source
        for before in range(1, stage):
            mean_sigma = statistics[before - 1] if statistics else None
            x = torch.cat([*self.handed(self[f"g_{before}"](x, source), mean_sigma), source], dim=1)
        return x

    def handed(self, prediction: Prediction, mean_sigma: Tensor | None = None) -> list[Tensor]:
        """Return what the next stage sees of a prediction besides the source.

        Source: Upadhyay et al., MICCAI 2021, section 2.2, with the mean of sigma in place of the sum by default.
        """
        mean, log_scale, log_shape = prediction
        if log_scale is None or log_shape is None:
            return [mean]
        if self.guide == "channels":
            return [mean, _bounded(log_scale, LOG_SCALE_BOUNDS).exp(), _bounded(log_shape, LOG_SHAPE_BOUNDS).exp()]
        weighted = ggd_guide(mean, log_scale, log_shape, mean_sigma)
        if self.guide == "paper":
            weighted = weighted / self.num_voxels
        return [weighted, ggd_log_sigma(log_scale, log_shape)]

    def mean_sigma(self, prediction: Prediction) -> Tensor:
        """Return the mean sigma of a prediction ``[B]``."""
        assert prediction.log_scale is not None and prediction.log_shape is not None
        return ggd_mean_sigma(prediction.log_scale, prediction.log_shape)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source [B, Cs, D, H, W]``; see `TranslationNetworks`."""
        mean, log_scale, log_shape = self.predict(self.used, source, statistics)
        if log_scale is None or log_shape is None:
            return Translation(mean)
        alpha = _bounded(log_scale, LOG_SCALE_BOUNDS).exp().expand_as(mean)
        beta = _bounded(log_shape, LOG_SHAPE_BOUNDS).exp().expand_as(mean)
        return Translation(mean, alpha, beta, ggd_sigma(log_scale, log_shape).expand_as(mean))

    def statistic_map(self, source: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Return sigma after the first stage whose mean sigma is not in ``statistics``."""
        if len(statistics) >= self.num_statistics:
            return super().statistic_map(source, statistics)
        _, log_scale, log_shape = self.predict(len(statistics) + 1, source, statistics)
        assert log_scale is not None and log_shape is not None
        return ggd_sigma(log_scale, log_shape)


def _bounded(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Clamp to where the likelihood takes the value as it is."""
    return x.clamp(*bounds)
