"""Networks of UP-GAN: a cascade of stages that predict a volume and its uncertainty, each guided by the one before."""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hagan3d.config import Size
from hagan3d.methods.upgan.config import UPGANConfig
from hagan3d.networks.discriminators import PatchDiscriminator
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.networks.translation import Translation, TranslationNetworks, add_residual, to_float32
from hagan3d.ops import ggd_guide, ggd_log_sigma, ggd_mean_sigma, ggd_sigma
from hagan3d.ops.ggd_reference import LOG_SCALE_BOUNDS, LOG_SHAPE_BOUNDS


class Prediction(NamedTuple):
    """Output of a stage: mean, and logarithms of scale alpha and shape beta of the GGD; at least float32."""

    mean: Tensor
    """``[B, Ct, D, H, W]``."""
    log_scale: Tensor | None
    """ln alpha ``[B, 1, D, H, W]``, unbounded; None with ``guide: none``."""
    log_shape: Tensor | None
    """ln beta."""


class Stage(nn.Module):
    """A residual U-Net with heads for the mean, ln alpha and ln beta.

    The uncertainty heads start as constants, alpha = ``initial_error`` and beta = 1 (Laplace); a residual mean starts
    as the source.
    """

    def __init__(self, in_channels: int, settings: UPGANConfig, levels: int) -> None:
        """Build a stage for inputs of ``in_channels`` channels, the last of them the source."""
        super().__init__()
        self.residual = settings.residual
        predicts_uncertainty = settings.guide != "none"
        heads = [settings.target_channels, 1, 1] if predicts_uncertainty else [settings.target_channels]
        self.unet = ResidualUNet(in_channels, heads, width=settings.width, levels=levels, norm=settings.norm)
        biases = [None, math.log(settings.initial_error), 0.0]
        for head, bias in zip(self.unet.heads, biases, strict=False):
            if bias is not None or self.residual:
                nn.init.zeros_(cast(Tensor, head.weight))
                nn.init.constant_(cast(Tensor, head.bias), bias or 0.0)

    def forward(self, x: Tensor, source: Tensor) -> Prediction:
        """Predict from ``x [B, C, D, H, W]``, of which ``source`` is a part."""
        mean, *uncertainty = (to_float32(out) for out in self.unet(x))
        if self.residual:
            mean = add_residual(mean, source)
        return Prediction(mean, *(uncertainty or (None, None)))


class UPGANNetworks(TranslationNetworks):
    """Stages ``g_1``, ``g_2``, ... and their discriminators ``d_1``, ``d_2``, ..."""

    def __init__(self, size: Size, settings: UPGANConfig) -> None:
        """Build the networks for volumes or windows of ``size`` voxels."""
        super().__init__(size, settings)
        self.guide, self.num_stages, self.stage_steps = settings.guide, settings.stages, settings.stage_steps
        self.trained_stages, self.predicts_uncertainty = settings.stages, settings.guide != "none"
        self.num_voxels = math.prod(size) * settings.target_channels
        levels = num_levels(size, settings.levels)
        guide_channels = settings.target_channels + {"mean": 1, "paper": 0, "channels": 2, "none": 0}[self.guide]
        for stage in range(1, self.num_stages + 1):
            in_channels = settings.source_channels + (guide_channels if stage > 1 else 0)
            self.add_module(f"g_{stage}", Stage(in_channels, settings, levels))
            width, layers = settings.critic_width, settings.critic_layers
            self.add_module(f"d_{stage}", PatchDiscriminator(settings.target_channels, width=width, layers=layers))
        self.averaged = tuple(f"g_{stage}" for stage in range(1, self.num_stages + 1))

    @property
    def num_statistics(self) -> int:  # type: ignore[override]
        """Number of mean sigmas that `translate` needs of a whole volume: one per trained stage but the last."""
        return self.trained_stages - 1 if self.guide in ("mean", "paper") else 0

    def set_step(self, step: int) -> None:
        """Translate by the stages that are trained after ``step`` steps, at least by the first."""
        self.trained_stages = max(1, min(self.num_stages, step // self.stage_steps))

    def predict(self, stage: int, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Prediction:
        """Return the prediction of ``stage`` (from 1 up), computed through all stages before it.

        Args:
            stage: At most ``num_stages``.
            source: ``[B, Cs, D, H, W]``.
            statistics: Mean sigma ``[B]`` after each stage; None: that of ``source``.
        """
        return self[f"g_{stage}"](self.stage_input(stage, source, statistics), source)

    def stage_input(self, stage: int, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Tensor:
        """Return the input of ``stage``: the guide from the stage before it, concatenated with the source."""
        x = source
        for before in range(1, stage):
            mean_sigma = statistics[before - 1] if statistics else None
            x = torch.cat([*self.guide_of(self[f"g_{before}"](x, source), mean_sigma), source], dim=1)
        return x

    def guide_of(self, prediction: Prediction, mean_sigma: Tensor | None = None) -> list[Tensor]:
        """Return the uncertainty guide, the input of the next stage: the uncertainty-weighted prediction.

        Source: Upadhyay et al., MICCAI 2021, section 2.2. By default with the mean of sigma instead of the sum, which
        grows with the number of voxels and would make the input of the next stage vanish, and with ln sigma.
        """
        mean, log_scale, log_shape = prediction
        if log_scale is None or log_shape is None:
            return [mean]
        if self.guide == "channels":
            return [mean, log_scale.clamp(*LOG_SCALE_BOUNDS).exp(), log_shape.clamp(*LOG_SHAPE_BOUNDS).exp()]
        if self.guide == "paper":
            return [ggd_guide(mean, log_scale, log_shape, mean_sigma, limit=math.inf) / self.num_voxels]
        weighted = ggd_guide(mean, log_scale, log_shape, mean_sigma)
        return [weighted, ggd_log_sigma(log_scale, log_shape)]

    def mean_sigma(self, prediction: Prediction) -> Tensor:
        """Return the mean sigma of a prediction ``[B]``."""
        assert prediction.log_scale is not None and prediction.log_shape is not None
        return ggd_mean_sigma(prediction.log_scale, prediction.log_shape)

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source [B, Cs, D, H, W]``; see `TranslationNetworks`."""
        mean, log_scale, log_shape = self.predict(self.trained_stages, source, statistics)
        if log_scale is None or log_shape is None:
            return Translation(mean)
        # clamped to the range in which the likelihood takes the parameters as they are
        alpha = log_scale.clamp(*LOG_SCALE_BOUNDS).exp().expand_as(mean)
        beta = log_shape.clamp(*LOG_SHAPE_BOUNDS).exp().expand_as(mean)
        return Translation(mean, alpha, beta, ggd_sigma(log_scale, log_shape).expand_as(mean))

    def statistic_map(self, source: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Return sigma after the first stage whose mean sigma is not in ``statistics``."""
        if len(statistics) >= self.num_statistics:
            return super().statistic_map(source, statistics)
        _, log_scale, log_shape = self.predict(len(statistics) + 1, source, statistics)
        assert log_scale is not None and log_shape is not None
        return ggd_sigma(log_scale, log_shape)
