"""Volumes in memory, in the units of the data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hagan3d.data.store.description import DataDescription
from hagan3d.inference.encoding import Input
from hagan3d.inference.generation import write_slabs


@dataclass(frozen=True)
class VolumeSeries:
    """Volumes on one grid, in the units of the data."""

    arrays: np.ndarray
    """``[N, D, H, W]``, float32."""
    description: DataDescription
    interval: tuple[float, float]
    """Values of -1 and 1 of the networks, in file units."""

    @classmethod
    def from_normalized(cls, arrays: Sequence[np.ndarray], description: DataDescription) -> Self:
        """Make a series of volumes ``[D, H, W]`` in [-1, 1], with the typical geometry and units of the data."""
        lo, hi = description.lo, description.hi
        voxels = (np.stack(arrays) + 1) * np.float32((hi - lo) / 2) + np.float32(lo)
        return cls(voxels, description, (lo, hi))

    def numpy(self) -> np.ndarray:
        """Return the voxels ``[N, D, H, W]`` in file units."""
        return self.arrays

    @property
    def affine(self) -> np.ndarray:
        """Index (d, h, w) to RAS mm ``[4, 4]``."""
        return self.description.affine_array

    @property
    def normalized(self) -> np.ndarray:
        """Voxels in [-1, 1]."""
        lo, hi = self.interval
        return np.clip(2 * (self.arrays - lo) / (hi - lo) - 1, -1, 1).astype(np.float32)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each volume as NIfTI, in its units and position; return the files."""
        paths = [Path(folder) / f"volume-{number:06d}.nii.gz" for number in range(len(self.arrays))]
        for path, x in zip(paths, self.normalized, strict=True):
            write_slabs([x], self.description, path, interval=self.interval)
        return paths

    def inputs(self) -> Iterator[Input]:
        """Yield the volumes as input of an encoder."""
        lo, hi = self.interval
        for number, x in enumerate(self.normalized):

            def read(start: int, depth: int, x: np.ndarray = x) -> np.ndarray:
                return x[start : start + depth]

            yield Input(f"volume-{number:06d}", read, len(x), self.affine, lo, hi)

    def __len__(self) -> int:
        return len(self.arrays)
