"""Moving and fixed volumes to register: from a table of files, two folders, or a store of pairs."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hagan3d.checkpoint import TranslationModel
from hagan3d.data.batches.pairs import Pairs
from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.preprocess.volume import check_overlap, check_patient, preprocess_onto, preprocess_volume
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.inputs import all_readable
from hagan3d.inference.source_volume import SourceVolume, check_sources

SAME_SPACING = 0.01  # relative difference of two spacings that are one


def moving_and_fixed_of_files(path: Path, model: TranslationModel) -> tuple[int, Iterator[SourceVolume]]:
    """Return the number of pairs of a CSV (id, source: moving, target: fixed), and an iterator on the model grid.

    Registered volumes have the units of the moving files and the grids of the fixed ones.

    Raises:
        InputError: If the table is invalid or a file cannot be used: one line for each, before the first is yielded.
    """
    from hagan3d.data.io.volumes import VolumeFile, read_volume
    from hagan3d.data.preprocess.facts import odd_shape
    from hagan3d.data.preprocess.pairing import find_pairs
    from hagan3d.inference.case_files import checked_units

    if path.is_dir():
        raise InputError(f"{path}: registration wants a CSV with the columns id, source (moves) and target (stays)")
    description = model.description
    stays, moves = description.channels[0], (description.source_channels or description.channels)[0]

    def read(source: VolumeFile) -> SourceVolume:
        fixed, moving = (read_volume(path, description.fill) for path in (source.path, source.sources[0]))
        check_patient(source.id, source.files)
        if stays.masked:
            raise InputError(
                f"{fixed.name}: the model was trained on z-scores inside masks, which a file lacks; give a store "
                "prepared with masks"
            )
        remarks = [*fixed.remarks, *moving.remarks, *odd_shape(fixed, description.grid_rule)]
        for volume, channel in ((fixed, stays), (moving, moves)):
            remarks += checked_units(volume, channel)
        check_overlap(moving, fixed)
        made = preprocess_volume(fixed, description.grid_rule, stays.rule)
        check_spacing(made.affine, model, fixed.name)
        other, interval = preprocess_onto(moving, moves.rule, made.affine, description.size)
        x, home = torch.from_numpy(np.stack([other, made.x])), (fixed.array.shape, fixed.affine)
        return SourceVolume(source.id, x, made.affine, [interval], home, tuple(remarks))

    cases = find_pairs([path])
    _check_two_images(path, (*cases.sources, *cases.channels))
    return len(cases.files), all_readable(path, cases.files, read)


def moving_and_fixed_of_store(store: Store, model: TranslationModel, split: str) -> tuple[int, Iterator[SourceVolume]]:
    """Return the number of pairs of a store, and an iterator over them, unchanged.

    Raises:
        InputError: If it holds none, or of another spacing.
    """
    if not store.has_sources:
        raise InputError(f"{store.path}: holds no pairs to register; give pairs, or --simulate to misalign its volumes")
    _check_two_images(store.path, (*store.source_channels, *store.channels))
    check_sources(store, model.description, "all", with_targets=True)
    pairs = Pairs(store, replace(model.config.data.degrade, kind="none"))
    chosen = pairs.indices(split)
    check_spacings(store, model, chosen)

    def read() -> Iterator[SourceVolume]:
        for i in map(int, chosen):
            pair, (lo, hi) = pairs.pair(i), store.source_intervals[i, 0]
            x = torch.cat([pair.source, pair.target])
            yield SourceVolume(store.ids[i], x, store.affines[i], [(float(lo), float(hi))])

    return len(chosen), read()


def _check_two_images(path: Path, names: tuple[str, ...]) -> None:
    """Raise InputError unless there is one moving and one fixed image."""
    if len(names) != 2:
        raise InputError(f"{path}: registration takes one moving and one fixed image, got {', '.join(names)}")


def check_spacings(store: Store, model: TranslationModel, indices: Iterable[int]) -> None:
    """Raise InputError if volumes of a store do not have the spacing that a registration was trained on."""
    for i in indices:
        check_spacing(store.affines[i], model, f"{store.path}, {store.ids[i]}")


def check_spacing(affine: np.ndarray, model: TranslationModel, name: str) -> None:
    """Raise InputError if a volume on the model's grid does not have the spacing that the model was trained on."""
    expected, spacing = model.networks.spacing, spacing_of(affine)
    if not np.allclose(spacing, expected, rtol=SAME_SPACING):
        sides = ", ".join(f"{side:g}" for side in spacing)
        raise InputError(f"{name}: {sides} mm per voxel on the model's grid, but the model was trained on {expected}")
