"""Overlap of label maps with their targets."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hagan3d.data.label_maps import dice, overlap_counts
from hagan3d.evaluation.translation.results import LabelDice


def dice_of_labels(predicted: Tensor, target: Tensor, labels: int) -> dict[str, float | None]:
    """Return the Dice coefficient of each label but the background, None where both lack it.

    Args:
        predicted: Label map ``[D, H, W]``, scaled so that label 0 is -1 and the largest label is 1.
        target: Label map of the same shape and scale.
        labels: Number of labels, including the background.
    """
    one, other = (((x + 1) * ((labels - 1) / 2)).round().to(torch.uint8).numpy() for x in (predicted, target))
    values = dice(*overlap_counts(one, other, labels))
    return {str(label): None if np.isnan(value) else float(value) for label, value in enumerate(values, 1)}


def dice_summary(rows: Sequence[dict[str, float | None]]) -> dict[str, LabelDice] | None:
    """Return mean, standard deviation and minimum of the Dice of each label over volumes; None without label maps.

    Volumes in which neither map has a label are skipped.
    """
    if not rows:
        return None
    summary: dict[str, LabelDice] = {}
    for label in rows[0]:
        values = np.array([value for row in rows if (value := row[label]) is not None])
        if values.size:
            mean, deviation, least = (float(value) for value in (values.mean(), values.std(), values.min()))
            summary[label] = LabelDice(mean, deviation, least, int(values.size))
    return summary
