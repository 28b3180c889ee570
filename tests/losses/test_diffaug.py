"""Differentiable augmentation changes a sub-volume and its low-resolution volume alike."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.losses.diffaug import NUM_RANDOMS, adapted_probability, diffaug

ALL = DiffAugConfig(translate=0.25, brightness=0.5, contrast=0.5)


def pairs(count=3):
    torch.manual_seed(0)
    volume = F.interpolate(torch.randn(count, 1, 3, 3, 3), (16, 32, 32), mode="trilinear")
    return volume, F.avg_pool3d(volume, 4), np.random.default_rng(0).random((count, NUM_RANDOMS))


def test_window_and_low_resolution_volume_are_augmented_alike():
    window, low, randoms = pairs()
    changed, changed_low = diffaug(window, low, ALL, 1.0, randoms)
    inside = (slice(None), slice(None), slice(None), slice(2, -2), slice(2, -2))  # away from repeated edges
    assert (changed - window).abs().mean() > 0.1
    error = (F.avg_pool3d(changed, 4) - changed_low)[inside].abs()
    assert error.mean() < 0.12 * (changed_low - low)[inside].abs().mean()


def test_a_translation_by_whole_voxels_is_exact():
    window, low, _ = pairs(1)
    randoms = np.zeros((1, NUM_RANDOMS))
    randoms[0, 3:] = [0.5, 0.5, 0.5, 1.0]  # no contrast, no brightness, none along H, +1/8 along W
    changed, changed_low = diffaug(window, low, DiffAugConfig(translate=0.125), 1.0, randoms)
    torch.testing.assert_close(changed[..., 4:], window[..., :-4])
    torch.testing.assert_close(changed_low[..., 1:], low[..., :-1])
    torch.testing.assert_close(changed[..., :4], window[..., :1].expand(-1, -1, -1, -1, 4))


def test_probability_zero_is_the_identity():
    window, low, randoms = pairs()
    changed = diffaug(window, low, ALL, 0.0, randoms)
    assert torch.equal(changed[0], window) and torch.equal(changed[1], low)


def test_first_and_second_derivatives_are_correct():
    window, low, randoms = pairs(1)
    x = window[:, :, :2, :4, :4].double().requires_grad_()
    y = low[:, :, :1, :2, :2].double().requires_grad_()

    def function(x, y):
        return diffaug(x, y, ALL, 1.0, randoms)

    assert torch.autograd.gradcheck(function, (x, y))
    assert torch.autograd.gradgradcheck(function, (x, y))


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.6), (0.2, 0.4)])
def test_probability_follows_the_discriminator(sign, expected):
    config = DiffAugConfig(brightness=0.1, adaptive=True, target=0.6, ramp=100)
    assert adapted_probability(0.5, sign, 10, config) == pytest.approx(expected)
    assert adapted_probability(1.0, 1.0, 10, config) == 1.0
    assert adapted_probability(0.0, -1.0, 10, config) == 0.0
