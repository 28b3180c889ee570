"""Overlap of label maps with their targets."""

from collections.abc import Sequence

import numpy as np

from hagan3d.data.label_maps import dice, overlap_counts
from hagan3d.evaluation.translation.results import LabelDice, Spread


def dice_of_labels(predicted: np.ndarray, target: np.ndarray, names: Sequence[str]) -> dict[str, float | None]:
    """Return the Dice coefficient of each label but the background, None where both lack it.

    Args:
        predicted: Label map ``[D, H, W]``.
        target: Label map of the same shape.
        names: Names of the labels in the order of their values, the background first.
    """
    values = dice(*overlap_counts(predicted.astype(np.uint8), target.astype(np.uint8), len(names)))
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names[1:], values, strict=True)}


def dice_summary(rows: Sequence[dict[str, float | None]]) -> dict[str, LabelDice] | None:
    """Return mean, standard deviation and minimum of the Dice of each label over volumes; None without label maps.

    Volumes in which neither map has a label are skipped.
    """
    if not rows:
        return None
    summary: dict[str, LabelDice] = {}
    for label in rows[0]:
        values = [value for row in rows if (value := row[label]) is not None]
        if values:
            found = Spread.of(values)
            summary[label] = LabelDice(found.mean, found.deviation, min(values), found.volumes)
    return summary
