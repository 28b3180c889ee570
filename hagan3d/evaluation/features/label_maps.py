"""Statistics of label maps: voxels and connected components of each label, and Dice between volumes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hagan3d.evaluation.features.summary import Summary

NEIGHBOURS = np.ones((3, 3, 3), bool)  # voxels that share a corner are connected


def label_map_of(x: np.ndarray, images: int) -> np.ndarray:
    """Return the label map ``[D, H, W]`` of a volume ``[C, D, H, W]``, whose first ``images`` channels are images."""
    return x[images:].argmax(axis=0).astype(np.uint8)


def voxel_counts(label_map: np.ndarray, labels: int) -> np.ndarray:
    """Return the voxels of each label above 0 of a label map ``[D, H, W]`` with ``labels`` labels: ``[labels - 1]``."""
    return np.bincount(label_map.ravel(), minlength=labels)[1:]


def component_counts(label_map: np.ndarray, labels: int) -> np.ndarray:
    """Return the connected components of each label above 0, with 26 neighbours: ``[labels - 1]``."""
    return np.array([ndimage.label(label_map == label, NEIGHBOURS)[1] for label in range(1, labels)])


def dice(one: np.ndarray, other: np.ndarray, labels: int) -> np.ndarray:
    """Return the Dice coefficient of each label above 0 of two label maps: ``[labels - 1]``, NaN where both lack it."""
    both = voxel_counts(one[one == other], labels)
    total = voxel_counts(one, labels) + voxel_counts(other, labels)
    return np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)


@dataclass(frozen=True)
class LabelView:
    """Statistics of the label maps of a set of volumes.

    Arrays: `voxels` and `components` ``[N, labels - 1]``, `pair_dice` of disjoint pairs ``[P, labels - 1]``.
    """

    folder: Path
    images: int
    """Image channels, which come before those of labels."""
    labels: int
    """Labels, with the background."""

    @property
    def key(self) -> dict[str, Any]:
        """Plain values that determine the results for given volumes."""
        return {"labels": self.labels}

    def summarize(self, x: np.ndarray, pairs: bool) -> Summary:
        """Summarize volumes ``[B, C, D, H, W]``."""
        maps = [label_map_of(volume, self.images) for volume in x]
        compared = zip(maps[::2], maps[1::2], strict=False) if pairs else ()
        return {
            "voxels": np.stack([voxel_counts(one, self.labels) for one in maps]),
            "components": np.stack([component_counts(one, self.labels) for one in maps]),
            "pair_dice": np.array([dice(a, b, self.labels) for a, b in compared]).reshape(-1, self.labels - 1),
        }
