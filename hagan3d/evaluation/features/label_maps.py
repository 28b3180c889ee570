"""Statistics of label maps: voxels and connected components of each label, and Dice between volumes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from hagan3d.data.label_maps import dice, label_map_of, overlap_counts, voxel_counts
from hagan3d.evaluation.features.summary import Summary

NEIGHBOURS = np.ones((3, 3, 3), bool)  # voxels that share a corner are connected


def component_counts(label_map: np.ndarray, labels: int) -> np.ndarray:
    """Return the connected components of each label above 0, with 26 neighbours: ``[labels - 1]``."""
    return np.array([ndimage.label(label_map == label, NEIGHBOURS)[1] for label in range(1, labels)])


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
            "pair_dice": np.array([dice(*overlap_counts(a, b, self.labels)) for a, b in compared]).reshape(
                -1, self.labels - 1
            ),
        }
