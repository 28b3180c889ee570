"""Pearson correlation between a translated volume and its target: insensitive to a linear error of intensities."""

import math

from torch import Tensor

from hagan3d.evaluation.metrics.registry import metric
from hagan3d.evaluation.metrics.translation import TranslatedPair


@metric("pearson", title="Pearson correlation", better="higher", needs="pair")
def pearson(pair: TranslatedPair, mask: Tensor) -> float:
    """Pearson correlation of the voxels of the mask; NaN where either volume is constant."""
    x, y = (volume.double()[mask] for volume in (pair.translated, pair.target))
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm else math.nan
