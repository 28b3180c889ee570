"""Warps: their matrices, what they do to volumes whose voxels are not cubes, and their derivatives."""

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from hagan3d.ops.warp import affine_matrix, inverse_matrix, warp


def test_turns_are_those_of_scipy():
    numbers = torch.tensor([[10.0, -20, 15, 1, 2, 3]], dtype=torch.float64)
    found = affine_matrix(numbers)[0].numpy()
    assert np.allclose(found[:, :3], Rotation.from_euler("xyz", [10, -20, 15], degrees=True).as_matrix())
    assert np.allclose(found[:, 3], [1, 2, 3])


def test_zeros_change_nothing_and_an_inverse_takes_back():
    numbers = torch.tensor([[5.0, -8, 12, 3, -2, 1, 10, -5, 4, 3, -6, 2]], dtype=torch.float64)
    one, two = affine_matrix(numbers), inverse_matrix(affine_matrix(numbers))
    back = one[0, :, :3] @ two[0, :, 3:] + one[0, :, 3:]
    torch.testing.assert_close(one[0, :, :3] @ two[0, :, :3], torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(back, torch.zeros(3, 1, dtype=torch.float64), atol=1e-12, rtol=0)
    x = torch.rand(1, 2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(warp(x, affine_matrix(torch.zeros(1, 12, dtype=torch.float64)), (1, 2, 3)), x)


def test_a_shift_is_in_millimetres_along_its_own_axis():
    x = torch.rand(1, 1, 8, 10, 12, dtype=torch.float64)
    numbers = torch.tensor([[0.0, 0, 0, 0, 6, 0]], dtype=torch.float64)
    found = warp(x, affine_matrix(numbers), (1.0, 3.0, 2.0))
    torch.testing.assert_close(found[..., :8, :], x[..., 2:, :])  # 6 mm are 2 voxels of axis H


def test_a_warp_of_voxels_that_are_no_cubes_is_that_of_scipy():
    x, spacing = torch.rand(1, 1, 9, 12, 10, dtype=torch.float64), np.array([1.0, 2.5, 0.7])
    matrix = affine_matrix(torch.tensor([[20.0, 10, -15, 2, -1, 0.5, 5, -4, 8, 2, 3, -5]], dtype=torch.float64))
    turned, shift = matrix[0, :, :3].numpy(), matrix[0, :, 3].numpy()
    centre = (np.array(x.shape[2:]) - 1) / 2
    voxels = turned * spacing / spacing[:, None]
    expected = affine_transform(
        x[0, 0].numpy(), voxels, centre + shift / spacing - voxels @ centre, order=1, mode="nearest"
    )
    np.testing.assert_allclose(warp(x, matrix, spacing.tolist())[0, 0].numpy(), expected, atol=1e-10)


def test_gradients_reach_numbers_and_volumes():
    x = torch.rand(1, 1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([[7.0, -5, 9, 0.3, 0.2, -0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, n: warp(x, affine_matrix(n), (1, 1.5, 2)), (x, numbers))


def test_other_counts_of_numbers_are_rejected():
    with pytest.raises(ValueError, match=r"\[B, 6\] or \[B, 12\]"):
        affine_matrix(torch.zeros(1, 7))
