"""The format of a store: its version, its splits, and the coding of voxels as int16."""

import numpy as np

FORMAT = "hagan3d store 3"
SPLITS = ("train", "validation", "test")
SCALE = 32767  # x in [-1, 1] is stored as round(x * SCALE)
MAX_LABELS = 256  # label maps are uint8


def to_int16(x: np.ndarray) -> np.ndarray:
    """Encode voxels in [-1, 1] as int16."""
    return np.rint(x * np.float32(SCALE)).astype(np.int16)


def to_float32(values: np.ndarray) -> np.ndarray:
    """Decode int16 voxels to float32 in [-1, 1]."""
    return values / np.float32(SCALE)
