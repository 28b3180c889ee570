"""Affine transforms of volumes: rotation, translation, scaling and shear in degrees, millimetres and per cent."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.ops.device import to_device

RIGID, AFFINE = 6, 12  # parameters of a transform


def affine_matrix(parameters: Tensor) -> Tensor:
    """Compose transform parameters into matrices ``[B, 3, 4]`` on millimetres (d, h, w) from the centre of a volume.

    Args:
        parameters: Rigid ``[B, 6]``: rotations about the axes D, H, W, applied in this order, in degrees, then
            translations in mm. Affine ``[B, 12]``: then scalings in per cent and shears of D by H, D by W and H by W as
            angles in degrees. Zeros are the identity.

    Returns:
        ``(rotation x shear x scaling, translation)``. Any number of times differentiable.

    Raises:
        ValueError: If there are neither 6 nor 12 parameters.
    """
    if parameters.ndim != 2 or parameters.shape[1] not in (RIGID, AFFINE):
        raise ValueError(f"parameters must be [B, 6] or [B, 12], got {list(parameters.shape)}")
    rotations = [_rotation(axis, angle) for axis, angle in enumerate(parameters[:, :3].deg2rad().unbind(1))]
    matrix = rotations[2] @ rotations[1] @ rotations[0]
    if parameters.shape[1] == AFFINE:
        dh, dw, hw = parameters[:, 9:].deg2rad().tan().unbind(1)
        zero, one = torch.zeros_like(dh), torch.ones_like(dh)
        shear = torch.stack([one, dh, dw, zero, one, hw, zero, zero, one], 1).view(-1, 3, 3)
        matrix = matrix @ shear @ torch.diag_embed(1 + parameters[:, 6:9] / 100)
    return torch.cat([matrix, parameters[:, 3:6, None]], 2)


def inverse_matrix(matrix: Tensor) -> Tensor:
    """Invert transforms ``[B, 3, 4]``."""
    linear = torch.linalg.inv(matrix[:, :, :3])
    return torch.cat([linear, -linear @ matrix[:, :, 3:]], 2)


def warp(x: Tensor, matrix: Tensor, spacing: Sequence[float]) -> Tensor:
    """Resample ``x`` under an affine transform: y(p) = x(matrix p), trilinear interpolation, border padding.

    Args:
        x: Volumes ``[B, C, D, H, W]``.
        matrix: ``[B, 3, 4]``, from output to input positions, in millimetres from the centre (`affine_matrix`).
        spacing: Millimetres per voxel along D, H, W.

    Returns:
        The shape of ``x``. Once differentiable in ``x`` and ``matrix``.
    """
    ends = [step * (side - 1) / 2 for step, side in zip(spacing, x.shape[2:], strict=True)]
    half = to_device(torch.tensor(ends, dtype=matrix.dtype), matrix.device)
    linear, shift = matrix[:, :, :3] * half / half[:, None], matrix[:, :, 3] / half
    theta = torch.cat(
        [linear.flip(1, 2), shift.flip(1)[:, :, None]], 2
    )  # affine_grid: order W, H, D, coordinates in [-1, 1]
    grid = F.affine_grid(theta.to(x.dtype), list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _rotation(axis: int, angle: Tensor) -> Tensor:
    """Rotations about one axis ``[B, 3, 3]``, right-handed in (d, h, w)."""
    one, two = [(1, 2), (2, 0), (0, 1)][axis]
    eye = torch.eye(3, dtype=angle.dtype, device=angle.device)
    inside, skew = eye.clone(), torch.zeros_like(eye)
    inside[axis, axis] = 0
    skew[two, one], skew[one, two] = 1, -1
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return (eye - inside) + cosine * inside + sine * skew
