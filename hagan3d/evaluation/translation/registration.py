"""Evaluation of registrations against simulated misalignments: errors of rotations, translations and positions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hagan3d.config import Size
from hagan3d.evaluation.translation.results import Spread
from hagan3d.ops.warp import affine_matrix

POINTS = 9  # grid points along each axis, at which distances are computed
TITLES = {"turn_deg": "rotations, degrees", "shift_mm": "translations, mm", "distance_mm": "distance, mm"}


def misalignment_errors(parameters: Tensor, truth: Tensor, size: Size, spacing: Sequence[float]) -> dict[str, float]:
    """Return the errors of estimated transform parameters (`hagan3d.ops.warp`) against the simulated ones.

    Args:
        parameters: Estimated parameters ``[6 or 12]``; zeros (the identity) give the misalignment itself.
        truth: Simulated parameters ``[12]``.
        size: Voxels D, H, W.
        spacing: Millimetres per voxel.

    Returns:
        Mean absolute errors of the three rotations and translations, and the mean distance between the images of 9^3
        points of the volume under both transforms.
    """
    error = (parameters[:6] - truth[:6]).abs()
    half = [step * (side - 1) / 2 for step, side in zip(spacing, size, strict=True)]
    grids = torch.meshgrid(*(torch.linspace(-end, end, POINTS) for end in half), indexing="ij")
    points = torch.stack([*(grid.flatten() for grid in grids), torch.ones(POINTS**3)])
    apart = (affine_matrix(parameters[None].float()) - affine_matrix(truth[None].float()))[0] @ points
    return {
        "turn_deg": float(error[:3].mean()),
        "shift_mm": float(error[3:].mean()),
        "distance_mm": float(apart.norm(dim=0).mean()),
    }


def misalignment_summary(rows: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Spread]] | None:
    """Return mean and standard deviation over volumes of the errors ``before`` and ``after``; None without any."""
    if not rows:
        return None
    return {when: {key: Spread.of([row[when][key] for row in rows], ddof=0) for key in TITLES} for when in rows[0]}
