"""Volumes turned, shifted, stretched and sheared, by numbers in degrees, millimetres and per cent."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

RIGID, AFFINE = 6, 12  # numbers of a transform


def affine_matrix(numbers: Tensor) -> Tensor:
    """Turn the numbers of transforms into matrices ``[B, 3, 4]`` on millimetres (d, h, w) from the centre of a volume.

    Args:
        numbers: ``[B, 6]``: turns about the axes D, H, W (the first comes first), degrees, then shifts along them, mm;
            or ``[B, 12]``, then also stretches along them, per cent, and shears of D by H, D by W and H by W, as the
            angle in degrees. Zeros change nothing.

    Returns:
        ``(turns x shears x stretches, shifts)``. Any number of times differentiable.

    Raises:
        ValueError: If there are neither 6 nor 12 numbers.
    """
    if numbers.ndim != 2 or numbers.shape[1] not in (RIGID, AFFINE):
        raise ValueError(f"want 6 or 12 numbers per transform, got {tuple(numbers.shape)}")
    turns = [_turn(axis, angle) for axis, angle in enumerate(numbers[:, :3].deg2rad().unbind(1))]
    matrix = turns[2] @ turns[1] @ turns[0]
    if numbers.shape[1] == AFFINE:
        dh, dw, hw = numbers[:, 9:].deg2rad().tan().unbind(1)
        zero, one = torch.zeros_like(dh), torch.ones_like(dh)
        shear = torch.stack([one, dh, dw, zero, one, hw, zero, zero, one], 1).view(-1, 3, 3)
        matrix = matrix @ shear @ torch.diag_embed(1 + numbers[:, 6:9] / 100)
    return torch.cat([matrix, numbers[:, 3:6, None]], 2)


def inverse_matrix(matrix: Tensor) -> Tensor:
    """Invert transforms ``[B, 3, 4]``."""
    turned = torch.linalg.inv(matrix[:, :, :3])
    return torch.cat([turned, -turned @ matrix[:, :, 3:]], 2)


def warp(x: Tensor, matrix: Tensor, spacing: Sequence[float]) -> Tensor:
    """Give each place what stands where its transform leads to, interpolated linearly; faces are repeated outwards.

    Args:
        x: Volumes ``[B, C, D, H, W]``.
        matrix: ``[B, 3, 4]``, as `affine_matrix` has it.
        spacing: Millimetres per voxel along D, H, W.

    Returns:
        The shape of ``x``. Once differentiable in ``x`` and ``matrix``.
    """
    ends = [step * (side - 1) / 2 for step, side in zip(spacing, x.shape[2:], strict=True)]
    half = torch.tensor(ends, dtype=matrix.dtype, device=matrix.device)
    turned, shift = matrix[:, :, :3] * half / half[:, None], matrix[:, :, 3] / half
    theta = torch.cat([turned.flip(1, 2), shift.flip(1)[:, :, None]], 2)  # torch counts W, H, D, from -1 to 1
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _turn(axis: int, angle: Tensor) -> Tensor:
    """Turns about one axis ``[B, 3, 3]``, right-handed in (d, h, w)."""
    one, two = [(1, 2), (2, 0), (0, 1)][axis]
    eye = torch.eye(3, dtype=angle.dtype, device=angle.device)
    inside, skew = eye.clone(), torch.zeros_like(eye)
    inside[axis, axis] = 0
    skew[two, one], skew[one, two] = 1, -1
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return (eye - inside) + cosine * inside + sine * skew
