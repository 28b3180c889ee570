"""Label maps: as integers, as the channels that networks see, and their overlap."""

import numpy as np


def one_hot(label_map: np.ndarray, num_labels: int) -> np.ndarray:
    """Return a label map ``[...]`` as channels ``[K, ...]``, float32: 1 where a voxel has the label, else -1."""
    channels = np.empty((num_labels, *label_map.shape), np.float32)
    for label, channel in enumerate(channels):  # one at a time: no array of integers of the size of the result
        np.multiply(label_map == label, np.float32(2), out=channel)
    channels -= 1
    return channels


def label_map_of(x: np.ndarray, images: int) -> np.ndarray:
    """Return the label map ``[...]``, uint8, of channels ``[C, ...]``, of which the first ``images`` are images."""
    return x[images:].argmax(axis=0).astype(np.uint8)


def voxel_counts(label_map: np.ndarray, labels: int) -> np.ndarray:
    """Return the voxels of each label above 0 of a label map with ``labels`` labels: ``[labels - 1]``."""
    return np.bincount(label_map.ravel(), minlength=labels)[1:]


def overlap_counts(one: np.ndarray, other: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each label above 0, the voxels that both label maps have of it, and the sum of those of each."""
    return voxel_counts(one[one == other], labels), voxel_counts(one, labels) + voxel_counts(other, labels)


def dice(both: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of `overlap_counts`; NaN where both lack the label.

    Source: Dice, Measures of the Amount of Ecologic Association Between Species, Ecology 26, 1945.
    """
    return np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)
