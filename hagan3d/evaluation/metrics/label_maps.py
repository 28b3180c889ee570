"""Metrics of one label of the label maps: its volume, its connected components, the share of volumes without it."""

import numpy as np
from scipy.stats import wasserstein_distance

from hagan3d.evaluation.metrics.registry import metric


@metric("label_components", title="connected components, Wasserstein", better="lower", needs="labels:components")
@metric(
    "label_volume",
    title="volume, Wasserstein",
    unit="standard deviations of training volumes",
    better="lower",
    needs="labels:volume",
    in_verdict="decides",
    matters=0.5,
)
def distribution_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1D Wasserstein distance between the values ``[M]`` and ``[N]`` of two sets."""
    return float(wasserstein_distance(x, y))


@metric("label_absent", title="share of volumes without the label, difference", better="lower", needs="labels:voxels")
def absent_difference(x: np.ndarray, y: np.ndarray) -> float:
    """Absolute difference of the shares of volumes without a voxel of the label; voxel counts ``[M]`` and ``[N]``."""
    return abs(float((x == 0).mean()) - float((y == 0).mean()))
