"""Label maps against what they should be: the overlap of each label."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


def dice_of_labels(made: Tensor, wanted: Tensor, labels: int) -> dict[str, float | None]:
    """Overlap of each label but the background, 2 |A and B| / (|A| + |B|); None where neither map has it.

    Args:
        made: Label map ``[D, H, W]``, -1 for label 0 and 1 for the largest.
        wanted: The same.
        labels: How many there are, the background among them.

    Source: Dice, Measures of the Amount of Ecologic Association Between Species, Ecology 26, 1945.
    """
    one, other = (((x + 1) * ((labels - 1) / 2)).round() for x in (made, wanted))
    found: dict[str, float | None] = {}
    for label in range(1, labels):
        a, b = one == label, other == label
        total = int(a.sum() + b.sum())
        found[str(label)] = 2 * int((a & b).sum()) / total if total else None
    return found


def dice_summary(rows: Sequence[dict[str, float | None]]) -> dict[str, dict[str, Any]] | None:
    """Mean, deviation and least Dice of each label that some volume has, over those; None without label maps."""
    if not rows:
        return None
    summary: dict[str, dict[str, Any]] = {}
    for label in rows[0]:
        values = np.array([value for row in rows if (value := row[label]) is not None])
        if values.size:
            mean, deviation, least = (float(value) for value in (values.mean(), values.std(), values.min()))
            summary[label] = {"mean": mean, "deviation": deviation, "least": least, "volumes": int(values.size)}
    return summary
