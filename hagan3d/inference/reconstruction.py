"""Reconstructions of volumes, written slab by slab, and their errors."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hagan3d.data.io.writer import thin
from hagan3d.data.label_maps import dice, label_map_of, overlap_counts
from hagan3d.data.pictures import MiddlePlanes
from hagan3d.data.store.description import DataDescription
from hagan3d.inference.encoding import Encoded
from hagan3d.inference.volume_files import shown_channels, write_slabs


class Errors:
    """Errors of a reconstruction, accumulated slab by slab."""

    def __init__(self) -> None:
        self.voxels, self.absolute, self.squares = 0, 0.0, 0.0

    def add(self, real: np.ndarray, reconstructed: np.ndarray) -> None:
        """Add the same slices ``[depth, H, W]`` of both, in [-1, 1]."""
        for one, other in zip(thin(real), thin(reconstructed), strict=True):
            difference = (other - one).astype(np.float64)
            self.voxels += difference.size
            self.absolute += float(np.abs(difference).sum())
            self.squares += float((difference**2).sum())

    def result(self, lo: float, hi: float) -> dict[str, float]:
        """Mean absolute error in file units, and peak signal-to-noise ratio (range: that of [-1, 1]) in dB."""
        psnr = 10 * math.log10(4 * self.voxels / self.squares) if self.squares else math.inf
        return {"mae": self.absolute / self.voxels * (hi - lo) / 2, "psnr_db": psnr}


def write_reconstruction(
    encoded: Encoded, description: DataDescription, path: Path
) -> tuple[list[tuple[str, MiddlePlanes]], list[float]]:
    """Write a reconstruction slab by slab.

    Returns:
        The middle planes of the real volume and of the reconstruction, by title, and the errors of `error_names`.
    """
    item, images, labels = encoded.input, len(description.channels), len(description.label_names)
    errors, counts = [Errors() for _ in range(images)], np.zeros((2, max(labels - 1, 0)), np.int64)
    real = [MiddlePlanes(description.size, description.affine_array) for _ in range(images)]

    def compared() -> Iterator[np.ndarray]:
        assert encoded.slabs is not None
        start = 0
        for slab in encoded.slabs:
            same = item.read(start, slab.shape[1])
            for channel in range(images):
                real[channel].add(same[channel])
                errors[channel].add(same[channel], slab[channel])
            if labels:  # a slice at a time, for argmax makes 64-bit integers
                for one, other in zip(same.swapaxes(0, 1), slab.swapaxes(0, 1), strict=True):
                    counts[:] += overlap_counts(label_map_of(one, images), label_map_of(other, images), labels)
            start += slab.shape[1]
            del same
            yield slab
            del slab

    _, made = write_slabs(compared(), description, path, affine=item.affine, intervals=item.intervals)
    names = shown_channels(description)
    values = [
        value for e, interval in zip(errors, item.intervals, strict=True) for value in e.result(*interval).values()
    ]
    return _titled("real", names, real) + _titled("reconstructed", names, made), [*values, *map(float, dice(*counts))]


def _titled(kind: str, names: Sequence[str], planes: Sequence[MiddlePlanes]) -> list[tuple[str, MiddlePlanes]]:
    return [(f"{kind} {name}".rstrip(), plane) for name, plane in zip(names, planes, strict=False)]


def error_names(description: DataDescription) -> list[str]:
    """Return the names of the errors of a reconstruction.

    Mean absolute error and PSNR of each image channel, and the Dice of each label but the background, nan where both
    label maps lack it.
    """
    suffixes = [f"_{channel.name}" for channel in description.channels] if len(description.channels) > 1 else [""]
    names = [f"{name}{suffix}" for suffix in suffixes for name in ("mae", "psnr_db")]
    return [*names, *(f"dice_{name}" for name in description.label_names[1:])]
