"""Overlap of label maps with their targets."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from hagan3d.evaluation.translation.results import LabelDice


def dice_of_labels(predicted: Tensor, target: Tensor, labels: int) -> dict[str, float | None]:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of each label but the background, None where both lack it.

    Args:
        predicted: Label map ``[D, H, W]``, scaled so that label 0 is -1 and the largest label is 1.
        target: Label map of the same shape and scale.
        labels: Number of labels, including the background.

    Source: Dice, Measures of the Amount of Ecologic Association Between Species, Ecology 26, 1945.
    """
    one, other = (((x + 1) * ((labels - 1) / 2)).round() for x in (predicted, target))
    dice: dict[str, float | None] = {}
    for label in range(1, labels):
        a, b = one == label, other == label
        total = int(a.sum() + b.sum())
        dice[str(label)] = 2 * int((a & b).sum()) / total if total else None
    return dice


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
