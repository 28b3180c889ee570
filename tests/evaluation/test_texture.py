"""Sharpness and texture: closed forms of spectra, gradients and entropy, and what blur and noise do to them."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d.evaluation.features.texture import (
    BANDS,
    ENTROPY_BINS,
    GRADIENT_BINS,
    GREY_LEVELS,
    LEAST_GRADIENT,
    OCTAVES,
    band_middles,
    describe_texture,
    power_spectra,
)
from hagan3d.evaluation.metrics import texture


def noise(shape=(32, 32, 32), seed=0, scale=0.2):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def stacked(volumes):
    rows = [describe_texture(x) for x in volumes]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_white_noise_has_its_variance_in_every_band():
    spectra = power_spectra(noise((64, 64, 96)))
    assert spectra.shape == (4, BANDS)
    np.testing.assert_allclose(spectra, 0.04, rtol=0.25)
    np.testing.assert_allclose(spectra.mean(axis=1), 0.04, rtol=0.03)


@pytest.mark.parametrize("axis", range(3))
def test_a_wave_is_in_the_spectrum_of_its_axis_at_its_frequency(axis):
    frequency = 0.3
    wave = np.cos(2 * np.pi * frequency * np.arange(64)).astype(np.float32)
    x = np.broadcast_to(np.expand_dims(wave, [i for i in range(3) if i != axis]), (64, 64, 64))
    spectra = power_spectra(x)
    band = np.abs(band_middles() - frequency).argmin()
    assert spectra[axis].argmax() == band
    assert (spectra[3].argmax() == band) == (axis > 0)  # the slices are constant where the wave is along D
    others = [i for i in range(3) if i != axis]
    assert spectra[others, 4:].max() < 1e-6 * spectra[axis].max()


def test_a_gaussian_blur_takes_the_power_that_its_transfer_function_says():
    sigma, x = 0.6, noise((64, 64, 64))
    blurred = gaussian_filter(x, sigma, mode="wrap", truncate=8)
    ratio = power_spectra(blurred)[:3] / power_spectra(x)[:3]
    kernel = gaussian_filter(np.eye(1, 64)[0], sigma, mode="wrap", truncate=8)
    transfer = np.abs(np.fft.fft(kernel)) ** 2
    others = transfer.mean() ** 2  # white noise along the other two axes
    expected = transfer[1:33].reshape(BANDS, 2).mean(axis=1) * others
    np.testing.assert_allclose(ratio, np.tile(expected, (3, 1)), rtol=0.2)


def test_a_ramp_has_one_gradient_and_a_constant_volume_the_least():
    ramp = np.broadcast_to(np.linspace(-1, 1, 33, dtype=np.float32)[:32, None, None], (32, 32, 32))
    for x, size in ((ramp, 2 / 32), (np.zeros((32, 32, 32), np.float32), LEAST_GRADIENT)):
        shares = describe_texture(x)["gradient_magnitude"]
        assert shares.max() == pytest.approx(1)
        octave = shares.argmax() * OCTAVES / GRADIENT_BINS
        assert octave == pytest.approx(np.log2(size / LEAST_GRADIENT), abs=OCTAVES / GRADIENT_BINS)


def test_gradients_along_all_axes_count():
    """The magnitude of (a, 2 a, 2 a) is 3 a."""
    d, h, w = np.indices((32, 32, 32)) / 16
    for slopes in ((1, 2, 2), (2, 1, 2), (2, 2, 1)):
        x = sum(slope * at for slope, at in zip(slopes, (d, h, w), strict=True)) / 4 - 1.2
        octave = describe_texture(x.astype(np.float32))["gradient_magnitude"].argmax() * OCTAVES / GRADIENT_BINS
        assert octave == pytest.approx(np.log2(3 / 64 / LEAST_GRADIENT), abs=OCTAVES / GRADIENT_BINS)


def test_half_the_contrast_is_one_octave():
    x = noise(scale=0.1) + 0.05
    steep, flat = (stacked([y]) for y in (4 * x, 2 * x))
    distance = texture.gradient_distance(flat["gradient_magnitude"], steep["gradient_magnitude"])
    assert distance == pytest.approx(1, rel=0.05)


def test_the_entropy_of_two_grey_levels_in_equal_shares_is_one_bit():
    x = np.where(np.indices((32, 32, 32)).sum(axis=0) % 2, 0.5, -0.5).astype(np.float32)
    bit, zero = (describe_texture(y)["local_entropy"] for y in (x, np.zeros_like(x)))
    assert bit[round(ENTROPY_BINS / np.log2(GREY_LEVELS))] == 1 and zero[0] == 1
    assert texture.entropy_distance(bit[None], zero[None]) == pytest.approx(1)


def test_grey_levels_span_the_whole_range():
    """32 levels, each in 2 of the 64 voxels of a block: 5 bits; those of the lower half alone: 4 bits."""
    levels = (np.arange(64) // 2 + 0.5) / 16 - 1
    for values, bits in ((levels, 5), (np.minimum(levels, -levels), 4)):
        block = values.reshape(4, 4, 4).astype(np.float32)
        shares = describe_texture(np.tile(block, (8, 8, 8)))["local_entropy"]
        assert shares[min(ENTROPY_BINS - 1, round(bits * ENTROPY_BINS / 5))] == 1


def test_slabs_give_what_the_whole_gives(monkeypatch):
    from hagan3d.evaluation.features import texture as features

    x = noise((64, 32, 32))
    parts = describe_texture(x)
    monkeypatch.setattr(features, "SLAB", 64)
    for name, values in describe_texture(x).items():
        np.testing.assert_allclose(values, parts[name], err_msg=name)


def test_blur_loses_and_noise_adds_high_frequencies():
    real = [gaussian_filter(noise(seed=i), 0.5) for i in range(4)]
    spectra = [
        stacked(x)["spectra"] for x in (real, [gaussian_filter(x, 1) for x in real], [x + noise() for x in real])
    ]
    for row in range(4):
        same, blurred, noisy = (texture.high_frequency_lost(one, spectra[0], row) for one in spectra)
        assert same == 0 and 80 < blurred < 100 and noisy < -100


def test_volumes_of_half_the_power_are_three_decibels_apart():
    one = stacked([noise()])["spectra"]
    assert texture.spectral_difference(one / 2, one) == pytest.approx(10 * np.log10(2))
