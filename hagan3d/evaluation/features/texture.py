"""Sharpness and texture of a volume: power spectra, gradient magnitudes and local entropy, all per voxel.

Spectra are of lines and slices under a Hann window, since a volume is not periodic: without it the step from one
border to the other fills the high frequencies of smooth volumes.
"""

from collections.abc import Iterator

import numpy as np
from scipy import fft

BANDS = 16  # of frequency, from 0 (excluded) to 0.5 cycles per voxel
HIGH_FREQUENCY = 0.25  # cycles per voxel from which a frequency counts as high: structures below 4 voxels
SPECTRA = ("along D", "along H", "along W", "in the H-W plane")  # rows of the power spectra
MOST_LINES = 64  # along each of the other two axes
MOST_SLICES = 32  # of the spectrum in the plane
LEAST_GRADIENT = 1 / 64  # one of 128 grey levels of [-1, 1]; smaller gradients count as this one
OCTAVES = 8  # from LEAST_GRADIENT up to 4, above the largest gradient, 2 sqrt(3)
GRADIENT_BINS = 8 * OCTAVES
ENTROPY_SIDE = 4  # voxels per axis of a block
GREY_LEVELS = 32
ENTROPY_BINS = 50  # from 0 to 5 bits, that of equally frequent grey levels
SLAB = 16  # slices at a time, which bounds the memory; a multiple of ENTROPY_SIDE


def describe_texture(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return statistics of sharpness and texture of one image channel of a volume ``[D, H, W]`` in [-1, 1].

    Returns:
        `spectra` ``[4, BANDS]``: mean power per band of frequency, along D, H and W and radially in slices along D;
        `gradient_magnitude` ``[GRADIENT_BINS]``: shares of the voxels per bin of log2 gradient magnitude;
        `local_entropy` ``[ENTROPY_BINS]``: shares of the 4^3 blocks per bin of their entropy.
    """
    slabs = range(0, len(x), SLAB)
    gradients = np.sum([_gradient_counts(x[start : start + SLAB + 1]) for start in slabs], axis=0)
    entropies = np.sum([_entropy_counts(x[start : start + SLAB]) for start in slabs], axis=0)
    return {
        "spectra": power_spectra(x),
        "gradient_magnitude": gradients / gradients.sum(),
        "local_entropy": entropies / entropies.sum(),
    }


def band_middles() -> np.ndarray:
    """Return the middle frequency of each band ``[BANDS]``, in cycles per voxel."""
    return (np.arange(BANDS) + 0.5) / (2 * BANDS)


def power_spectra(x: np.ndarray) -> np.ndarray:
    """Return the mean power per band of frequency ``[4, BANDS]`` of a volume ``[D, H, W]``, see `SPECTRA`.

    Of at most `MOST_LINES` x `MOST_LINES` lines per axis and `MOST_SLICES` slices. White noise has its variance in
    every band.
    """
    centred = x - x.mean()
    rows = [_line_spectrum(lines) for lines in _lines(centred)]
    return np.stack([*rows, _radial_spectrum(centred[:: -(-len(x) // MOST_SLICES)])])


def _lines(x: np.ndarray) -> Iterator[np.ndarray]:
    """Lines ``[a, b, N]`` along each axis, a regular subset of them."""
    for axis in range(3):
        lines = np.moveaxis(x, axis, -1)
        a, b = (-(-side // MOST_LINES) for side in lines.shape[:2])
        yield lines[::a, ::b]


def _line_spectrum(lines: np.ndarray) -> np.ndarray:
    n = lines.shape[-1]
    window = np.hanning(n + 2)[1:-1].astype(lines.dtype)
    power = np.abs(fft.rfft(lines * window)) ** 2
    return _band_means(power.mean(axis=(0, 1)) / (window**2).sum(), fft.rfftfreq(n))


def _radial_spectrum(x: np.ndarray) -> np.ndarray:
    """Power of slices ``[N, H, W]`` by the length of its frequency, without the corners above 0.5 cycles per voxel."""
    n, h, w = x.shape
    window = np.outer(np.hanning(h + 2)[1:-1], np.hanning(w + 2)[1:-1]).astype(x.dtype)
    slabs = (x[start : start + SLAB] * window for start in range(0, n, SLAB))
    power = np.sum([(np.abs(fft.rfft2(slab)) ** 2).sum(axis=0) for slab in slabs], axis=0)
    frequency = np.hypot(fft.fftfreq(h)[:, None], fft.rfftfreq(w))
    return _band_means(power.ravel() / n / (window**2).sum(), frequency.ravel())


def _band_means(power: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Mean power of the bands; each includes its upper end, so that one of 32 voxels has one frequency per band."""
    band = np.ceil(frequency * 2 * BANDS - 1e-9).astype(np.int64) - 1
    inside = (band >= 0) & (band < BANDS)
    total = np.bincount(band[inside], power[inside], BANDS)
    return total / np.bincount(band[inside], minlength=BANDS)


def _gradient_counts(x: np.ndarray) -> np.ndarray:
    """Voxels per bin of log2 gradient magnitude; of forward differences, which see the highest frequency too."""
    inner = x[:-1, :-1, :-1]
    squared = (x[1:, :-1, :-1] - inner) ** 2 + (x[:-1, 1:, :-1] - inner) ** 2 + (x[:-1, :-1, 1:] - inner) ** 2
    octaves = np.log2(np.maximum(squared, LEAST_GRADIENT**2)) / 2 - np.log2(LEAST_GRADIENT)
    bins = np.minimum(octaves * (GRADIENT_BINS / OCTAVES), GRADIENT_BINS - 1).astype(np.int64)
    return np.bincount(bins.ravel(), minlength=GRADIENT_BINS)


def _entropy_counts(x: np.ndarray) -> np.ndarray:
    """Blocks per bin of the entropy of their grey levels."""
    s = ENTROPY_SIDE
    d, h, w = (side // s for side in x.shape)
    grey = np.clip((x + 1) * (GREY_LEVELS / 2), 0, GREY_LEVELS - 1).astype(np.int64)
    blocks = grey.reshape(d, s, h, s, w, s).transpose(0, 2, 4, 1, 3, 5).reshape(-1, s**3)
    own = np.arange(len(blocks))[:, None] * GREY_LEVELS + blocks
    share = np.bincount(own.ravel(), minlength=len(blocks) * GREY_LEVELS).reshape(len(blocks), -1) / s**3
    entropy = -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)
    bins = np.minimum(entropy * (ENTROPY_BINS / np.log2(GREY_LEVELS)), ENTROPY_BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=ENTROPY_BINS)
