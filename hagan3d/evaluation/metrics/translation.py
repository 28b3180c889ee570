"""Metrics of translations: voxel errors between a translated volume and its target, everywhere or inside a mask."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from hagan3d.evaluation.metrics.registry import metric
from hagan3d.evaluation.metrics.ssim import WINDOW, ssim_map


@dataclass(frozen=True)
class TranslatedPair:
    """A translated volume and its target, both ``[C, D, H, W]`` in [-1, 1]."""

    translated: Tensor
    target: Tensor
    unit: float
    """Intensity units per unit of the [-1, 1] range."""

    @cached_property
    def error(self) -> Tensor:
        """Translated minus target, float64."""
        return (self.translated - self.target).double()

    @cached_property
    def ssim(self) -> Tensor:
        """SSIM around every voxel ``[C, D - 10, H - 10, W - 10]``, on x + 1 with data range 2, as MONAI computes it."""
        return ssim_map(self.translated + 1, self.target + 1, data_range=2.0)


@metric("mae", title="MAE", unit="intensity", better="lower", needs="pair", in_verdict="shown")
def mae(pair: TranslatedPair, mask: Tensor) -> float:
    """Mean absolute error in intensity units."""
    return float(pair.error[mask].abs().mean()) * pair.unit


@metric("mae_percent", title="MAE", unit="% of range", better="lower", needs="pair", in_verdict="shown")
def mae_percent(pair: TranslatedPair, mask: Tensor) -> float:
    """Mean absolute error in percent of the [-1, 1] range."""
    return float(pair.error[mask].abs().mean()) * 50


@metric("psnr_db", title="PSNR", unit="dB", better="higher", needs="pair", in_verdict="decides")
def psnr_db(pair: TranslatedPair, mask: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for a data range of 2."""
    square = float(pair.error[mask].square().mean())
    return 10 * math.log10(4 / square) if square else math.inf


@metric("ssim", title="SSIM", better="higher", needs="pair")
def ssim(pair: TranslatedPair, mask: Tensor) -> float:
    """Mean structural similarity over voxels whose window is inside the volume; NaN without such voxels."""
    margin = WINDOW // 2
    middle = mask[..., margin:-margin, margin:-margin]
    if mask.shape[1] > 1:  # of a single slice the window is flat
        middle = middle[:, margin:-margin]
    return float(pair.ssim[middle].mean()) if middle.any() else math.nan


@metric("ssim_slices", title="SSIM of slices", better="higher", needs="pair")
def ssim_slices(pair: TranslatedPair, mask: Tensor) -> float:
    """Mean 2D structural similarity of the slices along D, as in papers on 2D slices; NaN as in `ssim`."""
    translated, target, inside = (x.flatten(0, 1)[:, None] for x in (pair.translated, pair.target, mask))
    margin = WINDOW // 2
    middle = inside[..., margin:-margin, margin:-margin]
    found = ssim_map(translated + 1, target + 1, data_range=2.0)
    return float(found[middle].mean()) if middle.any() else math.nan


@metric("nmse", title="NMSE", better="lower", needs="pair")
def nmse(pair: TranslatedPair, mask: Tensor) -> float:
    """Normalised mean squared error: sum of squared errors over that of target + 1."""
    signal = (pair.target + 1).double()[mask]
    return float(pair.error[mask].square().sum() / signal.square().sum())
