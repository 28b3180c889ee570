"""Base class of the networks of translation methods, and the low-resolution network of hierarchical training."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Config, FeatureLossConfig, Size, TranslationConfig
from hagan3d.networks.layers import label_channels
from hagan3d.networks.network_set import NetworkSet
from hagan3d.networks.residual_unet import ResidualUNet, num_levels
from hagan3d.ops import select_subvolume

ROUTES = {
    "a2b": ("source", "target"),
    "b2a": ("target", "source"),
    "cycle": ("source", "target", "source"),
    "reconstruct": ("source", "source"),
}
"""Domains that a translation passes through, by the name of its direction."""


@dataclass(frozen=True)
class Translation:
    """A predicted target volume and, if the model predicts it, its uncertainty: all ``[B, Ct, D, H, W]``."""

    mean: Tensor
    """The prediction, in units of [-1, 1]; values may leave that range."""
    alpha: Tensor | None = None
    """Scale of the generalized Gaussian distribution (GGD) of the error, same units."""
    beta: Tensor | None = None
    """Shape of the GGD: 1 for Laplace, 2 for normal."""
    sigma: Tensor | None = None
    """Standard deviation of the GGD, same units."""
    epistemic: Tensor | None = None
    """Of an ensemble: standard deviation of the predictions of its members, a part of sigma."""


class TranslationNetworks(NetworkSet):
    """Networks of a translation method; generators take part in inference, discriminators do not.

    A model may need statistics of whole volumes (UP-GAN: the mean of sigma after each stage but the last). If a volume
    is translated window by window, they are computed first, one after the other::

        statistics = []
        while len(statistics) < networks.num_statistics:
            maps = [networks.statistic_map(window, statistics) for window in windows]
            statistics.append(mean of the maps over all voxels of the volume)  # [B]
        networks.translate(window, statistics)
    """

    is_continuous = True
    """Whether translations have a mean: no label maps, no transforms."""
    has_dropout = False
    """Whether `dropout_seed` changes a translation."""
    dropout_seed: int | None = None
    """Seed of dropout at inference; None: without dropout."""
    predicts_uncertainty = False
    """Whether a translation has alpha, beta and sigma."""
    needs_whole_volume = False
    """Whether a volume cannot be translated window by window."""
    registers = False
    """Whether a source is a moving and a fixed image, and the translation the moving one on the grid of the fixed."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """If it registers: millimetres per voxel along D, H, W in which its transforms are."""
    directions: tuple[str, ...] = ("a2b",)
    """Directions in which it translates, keys of `ROUTES`."""
    direction = "a2b"
    """Direction in which `translate` works."""
    num_statistics = 0
    """Number of whole-volume statistics that `translate` needs."""
    low_resolution: "LowResolutionUNet | None"
    """In hierarchical training: predicts the whole volume at low resolution, as further channels of the source."""

    def __init__(self, size: Size, settings: Any) -> None:
        """Build the networks for volumes or windows of ``size`` voxels, without a low-resolution network."""
        super().__init__()
        self.register_module("low_resolution", None)

    @classmethod
    def from_config(cls, config: Config, num_classes: int = 0) -> Self:
        """Build the networks for what a run trains on: whole volumes, windows, or slices with their context."""
        data = config.data
        settings = replace(config.method, source_channels=config.method.source_channels * data.context)
        if data.window != "hierarchical":
            return cls(data.train_size, settings)
        extended = replace(settings, source_channels=settings.source_channels + settings.target_outputs)
        networks = cls(data.train_size, extended)
        networks.low_resolution = LowResolutionUNet(data.low_size, data.factor, settings)
        networks.averaged = (*networks.averaged, "low_resolution")
        return networks

    @abstractmethod
    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source [B, Cs, D, H, W]`` in [-1, 1].

        Args:
            source: Whole volumes, or windows of them.
            statistics: Statistics ``[B]`` of the whole volumes; None: ``source`` is whole, compute them from it.
        """

    def estimate(self, source: Tensor) -> Tensor:
        """If it registers: estimate the transform parameters ``[B, 6 or 12]`` of sources ``[B, Cs, D, H, W]``."""
        raise NotImplementedError

    def finalize(self, blended: Translation) -> Translation:
        """Turn an output of `translate`, after windows were blended, into the final translation."""
        return blended

    def statistic_map(self, source: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """Return ``[B, 1, D, H, W]``, whose mean over a volume is the first statistic not in ``statistics``."""
        raise ValueError(f"there are {self.num_statistics} statistics, and {len(statistics)} are given")


class ExtractorNetworks(TranslationNetworks):
    """Networks with a discriminator ``d`` and, with ``extractor discriminator``, its moving average ``f``.

    ``f`` is frozen: losses compare its features.
    """

    d: Any
    f: Any
    decay: float

    def add_discriminator(self, make: Callable[[], nn.Module], settings: FeatureLossConfig) -> None:
        """Add ``d`` and, if it is the extractor, ``f`` with the same initial weights."""
        self.d, self.decay = make(), settings.extractor_decay
        self.register_module("f", make() if settings.extractor == "discriminator" else None)
        if self.f is not None:
            self.f.load_state_dict(self.d.state_dict())

    @torch.no_grad()
    def after_update(self, updated: Sequence[str]) -> None:
        """Update the moving average ``f`` after an update of ``d``."""
        if "d" in updated and self.f is not None:
            torch._foreach_lerp_(list(self.f.parameters()), list(self.d.parameters()), 1 - self.decay)


class LowResolutionUNet(nn.Module):
    """Residual U-Net from low-resolution sources to low-resolution targets, for hierarchical training.

    A window does not see the volume around it; this network does, at little cost: at most 64 voxels a side.
    """

    def __init__(self, size: Size, factor: int, settings: TranslationConfig) -> None:
        """Build it for low-resolution volumes of ``size`` voxels, each the mean of ``factor``^3."""
        super().__init__()
        self.factor, self.residual, self.labels = factor, settings.residual, settings.target_labels
        levels = max(0, num_levels(size, None))
        while any(side % 2**levels for side in size):
            levels -= 1
        norm, heads = settings.norm, [settings.target_outputs]  # type: ignore[attr-defined]
        self.unet = ResidualUNet(settings.source_channels, heads, width=settings.width, levels=levels, norm=norm)
        if self.residual:  # start from the identity
            for parameter in self.unet.heads.parameters():
                nn.init.zeros_(parameter)

    def forward(self, low: Tensor) -> Tensor:
        """Translate whole low-resolution sources ``[B, Cs, d, h, w]`` to ``[B, Ct, d, h, w]``."""
        output = to_float32(self.unet(low)[0])
        if self.labels:
            output = torch.cat([output[:, : -self.labels], label_channels(output[:, -self.labels :])], dim=1)
        return add_residual(output, low, self.labels) if self.residual else output


def concat_low_resolution(source: Tensor, prediction: Tensor, start: Tensor) -> Tensor:
    """Concatenate source windows with the matching slices of the upsampled low-resolution prediction.

    Args:
        source: Windows ``[B, Cs, depth, H, W]``.
        prediction: Low-resolution predictions of the whole volumes ``[B, Ct, d, h, w]``.
        start: First slice of each window ``[B]``, int64, a multiple of H / h, as ``depth`` is.

    Returns:
        ``[B, Cs + Ct, depth, H, W]``; the prediction is upsampled trilinearly, as in the whole volume.
    """
    factor = source.shape[3] // prediction.shape[3]
    padded = F.pad(prediction, (0, 0, 0, 0, 1, 1), mode="replicate")  # interpolation at the faces repeats the border
    slices = select_subvolume(padded, start // factor, source.shape[2] // factor + 2)
    upsampled = F.interpolate(slices, scale_factor=factor, mode="trilinear")[:, :, factor:-factor]
    return torch.cat([source, upsampled], dim=1)


def add_residual(output: Tensor, source: Tensor, labels: int = 0) -> Tensor:
    """Add an output ``[B, Ct + K, D, H, W]`` to the first ``Ct`` channels of the input, which are the source.

    The channels of the ``labels`` K labels stay as they are.
    """
    images = output.shape[1] - labels
    return torch.cat([output[:, :images] + source[:, :images], output[:, images:]], dim=1)


def to_float32(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32, the type of what leaves a network under autocast."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
