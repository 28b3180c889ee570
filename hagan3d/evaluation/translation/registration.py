"""Registrations against simulated misalignments that are known: errors of turns, shifts and places."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hagan3d.config import Size
from hagan3d.ops.warp import affine_matrix

POINTS = 9  # along each axis, at which distances are measured
TITLES = {"turn_deg": "turns, degrees", "shift_mm": "shifts, mm", "distance_mm": "distance, mm"}


def misalignment_errors(numbers: Tensor, known: Tensor, size: Size, spacing: Sequence[float]) -> dict[str, float]:
    """How far the numbers of a transform (`hagan3d.ops.warp`) are from those known.

    Args:
        numbers: ``[6 or 12]``; zeros say how far a volume was misaligned.
        known: ``[12]``.
        size: Voxels D, H, W.
        spacing: Millimetres per voxel.

    Returns:
        Mean absolute errors of the three turns and shifts, and the mean distance between where the two send 9^3 points
        of the volume.
    """
    error = (numbers[:6] - known[:6]).abs()
    half = [step * (side - 1) / 2 for step, side in zip(spacing, size, strict=True)]
    grids = torch.meshgrid(*(torch.linspace(-end, end, POINTS) for end in half), indexing="ij")
    points = torch.stack([*(grid.flatten() for grid in grids), torch.ones(POINTS**3)])
    apart = (affine_matrix(numbers[None].float()) - affine_matrix(known[None].float()))[0] @ points
    return {
        "turn_deg": float(error[:3].mean()),
        "shift_mm": float(error[3:].mean()),
        "distance_mm": float(apart.norm(dim=0).mean()),
    }


def misalignment_summary(rows: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]] | None:
    """Mean and deviation over volumes of the errors ``before`` and ``after``; None where nothing was misaligned."""
    if not rows:
        return None
    values = {when: {key: np.array([row[when][key] for row in rows]) for key in TITLES} for when in rows[0]}
    return {
        when: {key: {"mean": float(v.mean()), "deviation": float(v.std())} for key, v in found.items()}
        for when, found in values.items()
    }
