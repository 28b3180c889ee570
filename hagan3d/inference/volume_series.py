"""Volumes in memory, in the units of the data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hagan3d.data.label_maps import label_map_of, one_hot
from hagan3d.data.preprocess.intensity import denormalize, normalize
from hagan3d.data.store.description import DataDescription
from hagan3d.inference.encoding import Input
from hagan3d.inference.volume_files import write_label_names, write_slabs


@dataclass(frozen=True)
class VolumeSeries:
    """Volumes on one grid, in the units of the data."""

    arrays: np.ndarray
    """Image channels ``[N, C, D, H, W]``, float32."""
    description: DataDescription
    label_maps: np.ndarray | None = None
    """``[N, D, H, W]``, uint8; None without labels."""

    @classmethod
    def from_normalized(cls, arrays: Sequence[np.ndarray], description: DataDescription) -> Self:
        """Make a series of volumes ``[C, D, H, W]`` in [-1, 1], with the typical geometry and units of the data.

        Of the channels, those of labels come last, as networks yield them.
        """
        x, images = np.stack(arrays), len(description.channels)
        channels = [denormalize(x[:, channel], *one.interval) for channel, one in enumerate(description.channels)]
        label_maps = np.stack([label_map_of(volume, images) for volume in x]) if description.label_names else None
        return cls(np.stack(channels, axis=1), description, label_maps)

    def numpy(self) -> np.ndarray:
        """Return the voxels of the image channels ``[N, C, D, H, W]`` in file units."""
        return self.arrays

    @property
    def affine(self) -> np.ndarray:
        """Index (d, h, w) to RAS mm ``[4, 4]``."""
        return self.description.affine_array

    @property
    def normalized(self) -> np.ndarray:
        """Volumes as networks take them ``[N, C, D, H, W]`` in [-1, 1]: image channels, then one per label."""
        channels = [
            normalize(self.arrays[:, channel], *one.interval).astype(np.float32)
            for channel, one in enumerate(self.description.channels)
        ]
        if self.label_maps is None:
            return np.stack(channels, axis=1)
        labels = one_hot(self.label_maps, len(self.description.label_names))
        return np.concatenate([np.stack(channels, axis=1), labels.swapaxes(0, 1)], axis=1)

    def save(self, folder: str | Path) -> list[Path]:
        """Write each volume as NIfTI, in its units and position: a file per channel; return the files."""
        folder, paths = Path(folder), []
        for number, x in enumerate(self.normalized):
            written, _ = write_slabs([x], self.description, folder / f"volume-{number:06d}.nii.gz")
            paths += written
        write_label_names(folder, self.description)
        return paths

    def inputs(self) -> Iterator[Input]:
        """Yield the volumes as input of an encoder."""
        intervals = [channel.interval for channel in self.description.channels]
        for number, x in enumerate(self.normalized):

            def read(start: int, depth: int, x: np.ndarray = x) -> np.ndarray:
                return x[:, start : start + depth]

            yield Input(f"volume-{number:06d}", read, x.shape[1], self.affine, intervals)

    def __len__(self) -> int:
        return len(self.arrays)
