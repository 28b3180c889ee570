"""Metrics of sharpness and texture: power spectra, gradient magnitudes, local entropy; see `features.texture`.

The differences that matter are a little below those that a Gaussian blur of half a voxel, hardly visible, makes on
phantoms of the thorax, hippocampi and heads.
"""

from functools import partial

import numpy as np

from hagan3d.evaluation.features.texture import (
    BANDS,
    ENTROPY_BINS,
    GRADIENT_BINS,
    GREY_LEVELS,
    HIGH_FREQUENCY,
    OCTAVES,
    SPECTRA,
)
from hagan3d.evaluation.metrics.registry import metric

LEAST_POWER = 1e-12  # of a band, so that constant volumes have a finite distance
HIGH = slice(round(2 * HIGH_FREQUENCY * BANDS), None)


def high_frequency_lost(x: np.ndarray, y: np.ndarray, row: int) -> float:
    """Percentage of the power above 0.25 cycles per voxel in ``y`` that ``x`` lacks; negative: ``x`` has more.

    Args:
        x: Power spectra ``[M, 4, BANDS]`` of the evaluated set.
        y: Those of the reference set ``[N, 4, BANDS]``.
        row: Which of the spectra, an index into `SPECTRA`.
    """
    own, reference = (spectra[:, row, HIGH].mean() + LEAST_POWER for spectra in (x, y))
    return 100 * float(1 - own / reference)


for _row, _direction in enumerate(SPECTRA):
    metric(
        f"high_frequency_lost_{'dhw'[_row] if _row < 3 else 'plane'}",
        title=f"high-frequency power lost {_direction}",
        unit="%",
        better="zero",
        needs="texture:spectra",
        in_verdict="decides",
        matters=40.0,
    )(partial(high_frequency_lost, row=_row))


@metric(
    "spectrum",
    title="power spectra, mean difference",
    unit="dB",
    better="lower",
    needs="texture:spectra",
    in_verdict="decides",
    matters=2.0,
)
def spectral_difference(x: np.ndarray, y: np.ndarray) -> float:
    """Mean absolute difference in dB between the mean power spectra ``[N, 4, BANDS]`` of two sets."""
    own, reference = (10 * np.log10(spectra.mean(axis=0) + LEAST_POWER) for spectra in (x, y))
    return float(np.abs(own - reference).mean())


@metric(
    "gradient_magnitude",
    title="gradient magnitudes, Wasserstein",
    unit="octaves",
    better="lower",
    needs="texture:gradient_magnitude",
    in_verdict="decides",
    matters=0.15,
)
def gradient_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1D Wasserstein distance in octaves between mean histograms ``[N, GRADIENT_BINS]`` of log2 gradient magnitude."""
    return _histogram_distance(x, y) * OCTAVES / GRADIENT_BINS


@metric(
    "local_entropy",
    title="local entropy, Wasserstein",
    unit="bits",
    better="lower",
    needs="texture:local_entropy",
    in_verdict="decides",
    matters=0.08,
)
def entropy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1D Wasserstein distance in bits between mean histograms ``[N, ENTROPY_BINS]`` of the entropy of blocks."""
    return _histogram_distance(x, y) * float(np.log2(GREY_LEVELS)) / ENTROPY_BINS


def _histogram_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1D Wasserstein distance in bins between the mean histograms of two sets."""
    return float(np.abs(np.cumsum(x.mean(axis=0) - y.mean(axis=0))).sum())
