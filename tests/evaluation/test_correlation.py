"""Pearson correlation of a translation with its target."""

import math

import numpy as np
import pytest
import torch

from hagan3d.evaluation.translation.pairs import voxel_errors


def test_it_is_that_of_numpy_in_the_mask_and_outside():
    random = torch.Generator().manual_seed(0)
    target, noise = (torch.rand(1, 12, 12, 12, generator=random) for _ in range(2))
    translated = 0.5 * target + 0.3 * noise
    mask = torch.zeros(1, 12, 12, 12, dtype=torch.bool)
    mask[:, 2:7] = True
    found = voxel_errors(translated, target, mask, 1.0)
    for name, inside in (("whole", torch.ones_like(mask)), ("mask", mask)):
        expected = np.corrcoef(translated[inside].numpy(), target[inside].numpy())[0, 1]
        assert found[name]["pearson"] == pytest.approx(expected, rel=1e-5)


def test_a_linear_error_of_intensities_costs_nothing_and_a_constant_volume_has_none():
    target = torch.linspace(-1, 1, 12**3).view(1, 12, 12, 12)
    mask = torch.ones_like(target, dtype=torch.bool)
    assert voxel_errors(0.4 * target - 0.2, target, mask, 1.0)["whole"]["pearson"] == pytest.approx(1)
    assert voxel_errors(-target, target, mask, 1.0)["whole"]["pearson"] == pytest.approx(-1)
    assert math.isnan(voxel_errors(torch.zeros_like(target), target, mask, 1.0)["whole"]["pearson"])
