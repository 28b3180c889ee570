"""Files of a volume on the grid and in the intensities of a model, with the checks and remarks of `hagan3d prepare`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hagan3d.data.io.geometry import GridRule
from hagan3d.data.io.volumes import Volume, VolumeFile, read_channels
from hagan3d.data.preprocess.facts import odd_shape
from hagan3d.data.preprocess.intensity import window_remark
from hagan3d.data.preprocess.volume import check_grid, check_patient, preprocess_channels, preprocess_volume
from hagan3d.data.store.description import Channel
from hagan3d.errors import InputError

LEAST_SPREAD = 0.05  # of the range a model was trained on: with less, an input is in other units
LEAST_INSIDE = 0.5  # of an input's range must lie within that of the model
AIR_HU = -500.0  # CT that holds air is in HU, and its range may be far wider than the window of a model


@dataclass(frozen=True)
class Case:
    """The image channels of one volume."""

    x: np.ndarray
    """Voxels ``[C, D, H, W]`` in [-1, 1]."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    intervals: list[tuple[float, float]]
    """Values of x = -1 and x = 1 of each channel, in file units."""
    first: Volume
    """The first channel as it was read, whose grid is that of its file."""
    remarks: tuple[str, ...]
    """What was noticed about the files."""


def read_case(file: VolumeFile, grid: GridRule, channels: Sequence[Channel], fill: float | None = None) -> Case:
    """Read the channels of a volume onto the grid of a model, which follows from the first.

    Args:
        file: The volume.
        grid: Of the model.
        channels: Of the model, in the order of those of the file.
        fill: Replaces NaN and infinite voxels, as in the training data; None: they are an error.

    Raises:
        InputError: If a file cannot be used, or is in other units than the model was trained on.
    """
    first, *others = volumes = list(read_channels(file, fill, [one.rule.is_label_map for one in channels]))
    check_patient(file.id, file.files)
    remarks = odd_shape(first, grid)
    for volume, channel in zip(volumes, channels, strict=True):
        if channel.masked:
            raise InputError(
                f"{volume.name}: the model was trained on z-scores inside masks, which a file lacks; give a store "
                "prepared with masks"
            )
        remarks += [*volume.remarks, *checked_units(volume, channel)]
        remarks += check_grid(volume, first)
    made = preprocess_volume(first, grid, channels[0].rule)
    further = preprocess_channels(others, [channel.rule for channel in channels[1:]], made.affine, grid.size)
    x = np.concatenate([made.x[None], further.x])
    return Case(x, made.affine, [(made.lo, made.hi), *further.intervals], first, tuple(remarks))


def checked_units(volume: Volume, channel: Channel) -> list[str]:
    """Return a remark if the window of a channel hardly suits a volume.

    Raises:
        InputError: If the volume cannot be in the units of the channel.
    """
    if channel.intensity != "window":
        return []
    check_units(volume.array, *channel.interval, channel.units, volume.name)
    remark = window_remark(volume.array, *channel.interval)
    return [f"{volume.name}: {remark}"] if remark else []


def check_units(values: np.ndarray, lo: float, hi: float, units: str, name: str) -> None:
    """Raise InputError if a volume cannot be in the units of a model whose volumes lay in [lo, hi]."""
    first, last = (float(value) for value in np.percentile(values, (1, 99)))
    inside = max(0.0, min(last, hi) - max(first, lo))
    is_ct = units == "HU" and first < AIR_HU
    if inside < LEAST_SPREAD * (hi - lo) or (inside < LEAST_INSIDE * (last - first) and not is_ct):
        raise InputError(
            f"{name}: its values run from {first:g} to {last:g}, but the model was trained on {lo:g} to {hi:g} "
            f"{units}".rstrip()
            + "; give a volume in those units"
        )
