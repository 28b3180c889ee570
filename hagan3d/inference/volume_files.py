"""The files of a generated or reconstructed volume: one per image channel, and one of its label map."""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hagan3d.data.io.files import file_name, write_text
from hagan3d.data.io.writer import Dtype, thin, volume_writer
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.pictures import MiddlePlanes
from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError

SEGMENTATION = "seg"  # suffix of the file of a label map
LABELS = "labels.json"
Interval = tuple[float, float]


def write_slabs(
    slabs: Iterable[np.ndarray],
    description: DataDescription,
    path: Path,
    dtype: Dtype = "float32",
    affine: np.ndarray | None = None,
    intervals: Sequence[Interval] | None = None,
) -> tuple[list[Path], list[MiddlePlanes]]:
    """Write a volume in the units, orientation and position of the data while its slabs are computed.

    Args:
        slabs: ``[C, depth, H, W]`` in [-1, 1], in order along D: the image channels, then one per label.
        description: Of the training data.
        path: File to write, whole or not at all: .nii, .nii.gz or .h5. See `channel_paths` for several channels.
        dtype: Type of the voxels of images; label maps are integers.
        affine: Index to RAS mm ``[4, 4]`` of this volume. Default: the typical one.
        intervals: File units of -1 and 1 of each image channel of this volume. Default: the typical ones.

    Returns:
        The files, and the middle planes of each in [-1, 1].
    """
    paths = channel_paths(path, description)
    return paths, write_channels(slabs, description, paths, dtype, affine, intervals)


def write_channels(
    slabs: Iterable[np.ndarray],
    description: DataDescription,
    paths: Sequence[Path],
    dtype: Dtype = "float32",
    affine: np.ndarray | None = None,
    intervals: Sequence[Interval] | None = None,
) -> list[MiddlePlanes]:
    """Write the image channels and the label map of a volume to given files, as `write_slabs`; return their planes."""
    scales = intervals or [channel.interval for channel in description.channels]
    placed = description.affine_array if affine is None else affine
    planes = [MiddlePlanes(description.size, description.affine_array) for _ in paths]
    types: list[Dtype] = [dtype] * len(scales) + ["int16"] * (len(paths) - len(scales))
    with ExitStack() as stack:
        writers = [
            stack.enter_context(volume_writer(one, description.size, placed, description.orientation, kind))
            for one, kind in zip(paths, types, strict=True)
        ]
        for slab in slabs:
            for channel, interval in enumerate(scales):
                planes[channel].add(slab[channel])
                for piece in thin(slab[channel]):
                    writers[channel](denormalize(piece, *interval))
            if description.label_names:
                for one in np.split(slab, slab.shape[1], axis=1):  # a slice at a time, for argmax makes 64-bit integers
                    labels = label_map_of(one, len(scales)).astype(np.float32)
                    planes[-1].add(labels * (2 / (len(description.label_names) - 1)) - 1)
                    writers[-1](labels)
            del slab  # before the next is made
    return planes


def channel_paths(path: Path, description: DataDescription) -> list[Path]:
    """Return the files of a volume: ``path``; of several, ``path`` with the name of each channel, and _seg."""
    names = shown_channels(description)
    if names == [""]:
        return [path]
    suffixes = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    stem = path.name[: -len(suffixes)]
    return [path.with_name(f"{stem}_{file_name(name)}{suffixes}") for name in names]


def claim(path: Path, taken: set[Path]) -> Path:
    """Return a path of a volume and add it to ``taken``.

    Raises:
        InputError: If another volume of the same command has it: id a/b is written as a_b, a sigma of a as a_sigma.
    """
    if path in taken:
        raise InputError(f"{path}: would be written for two volumes; change the id of one")
    taken.add(path)
    return path


def shown_channels(description: DataDescription) -> list[str]:
    """Return the names of the files of a volume: its channels and `seg`; one empty name for a single channel."""
    names = [channel.name for channel in description.channels]
    if len(names) == 1 and not description.label_names:
        return [""]
    return [*names, *([SEGMENTATION] if description.label_names else [])]


def write_label_names(folder: Path, description: DataDescription) -> None:
    """Write labels.json, value by name, next to label maps."""
    if description.label_names:
        values = {name: value for value, name in enumerate(description.label_names)}
        write_text(folder / LABELS, json.dumps(values, indent=1) + "\n")
