"""Latents of volumes, and their reconstructions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hagan3d.checkpoint import Model
from hagan3d.data.label_maps import one_hot
from hagan3d.data.store.description import DataDescription, check_names
from hagan3d.errors import InputError
from hagan3d.inference.generation import volume_slabs
from hagan3d.inference.inputs import all_readable, is_store

if TYPE_CHECKING:  # reading a store needs no readers of other files
    from hagan3d.data.io.volumes import VolumeFile
    from hagan3d.data.store.store import Store


@dataclass(frozen=True)
class Input:
    """One volume to encode."""

    id: str
    read: Callable[[int, int], np.ndarray]
    """Gives slices from a start on: ``(start, depth)`` to ``[C, depth, H, W]`` in [-1, 1], on the model's grid."""
    depth: int
    """Slices D."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    intervals: Sequence[tuple[float, float]]
    """Values of x = -1 and x = 1 of each image channel, in file units."""
    split: str = ""
    label: int = -1
    """Class index; -1: unknown."""
    remarks: tuple[str, ...] = ()
    """What was noticed about its files."""

    @property
    def x(self) -> np.ndarray:
        """All slices ``[C, D, H, W]``, in memory."""
        return self.read(0, self.depth)


def inputs_of(path: Path, model: Model, split: str) -> tuple[int, Iterator[Input]]:
    """Return the number of volumes of a store (its split) or of files, and an iterator over them.

    Raises:
        InputError: If they do not fit the model, or some files cannot be used.
    """
    if is_store(path):
        return inputs_of_store(path, model.description, split)
    return inputs_of_files(path, model.description)


def inputs_of_store(path: Path, description: DataDescription, split: str) -> tuple[int, Iterator[Input]]:
    """Return the number of volumes of a store, and an iterator that reads them slab by slab.

    Raises:
        InputError: If the store has another size than the model.
    """
    from hagan3d.data.store.store import Store

    store = Store(path)
    check_store(store, description)
    chosen = store.indices(split)

    def read() -> Iterator[Input]:
        for index in chosen:
            i = int(index)
            yield Input(
                id=store.ids[i],
                read=lambda start, depth, i=i: store.window(i, start, depth).numpy(),  # type: ignore[misc]
                depth=store.size[0],
                affine=store.affines[i],
                intervals=[(float(lo), float(hi)) for lo, hi in store.intervals[i]],
                split=store.splits[i],
                label=_label_in(description, store.class_names, int(store.labels[i])),
            )

    return len(chosen), read()


def check_store(store: "Store", description: DataDescription) -> None:
    """Raise InputError unless the volumes of a store have the channels, the grid and the intensities of a model's."""
    from hagan3d.data.store.preparation import check_preparation

    check_channels(store.path, store.channels, store.label_names, description)
    channels = zip(store.description().channels, description.channels, strict=True)
    check_preparation(store, description, channels)


def check_channels(
    path: Path, channels: Sequence[str], label_names: Sequence[str], description: DataDescription
) -> None:
    """Raise InputError unless a store or a table of cases has the channels and labels of a model."""
    check_names(path, "volumes have the channels", channels, [channel.name for channel in description.channels])
    check_names(path, "label maps have the labels", label_names, description.label_names)


def _label_in(description: DataDescription, names: Sequence[str], label: int) -> int:
    """Translate the class index of a store to that of the model, -1 where the model has no such class."""
    name = names[label] if label >= 0 else ""
    return description.class_names.index(name) if name in description.class_names else -1


def inputs_of_files(path: Path, description: DataDescription) -> tuple[int, Iterator[Input]]:
    """Return the number of volumes of a folder, list or file, and an iterator that resamples them to the model's grid.

    Each volume is in memory while it is encoded, since its file is read whole. A model of several channels takes a CSV
    of cases, an nnU-Net data set, or 4D files.

    Raises:
        InputError: If there is none, or some cannot be used: one line for each, before any is given.
    """
    from hagan3d.data.io.volumes import VolumeFile
    from hagan3d.data.preprocess.volume import check_grid, lost_labels, preprocess_label_map, read_label_map
    from hagan3d.inference.case_files import read_case

    names = description.label_names

    def read(source: VolumeFile) -> Input:
        case = read_case(source, description.grid_rule, description.channels, description.fill)
        x, remarks = case.x, case.remarks
        if source.label_map is not None:
            label_map = read_label_map(source.label_map, names)
            labels = preprocess_label_map(label_map, case.affine, description.size)
            found = (*check_grid(label_map, case.first), *lost_labels(label_map, labels, names))
            remarks = (*remarks, *label_map.remarks, *found)
            x = np.concatenate([x, one_hot(labels, len(names))])
        return Input(
            source.id,
            lambda start, depth: x[:, start : start + depth],
            x.shape[1],
            case.affine,
            case.intervals,
            remarks=remarks,
        )

    sources = cases_of(path, description)
    return len(sources), all_readable(path, sources, read)


def cases_of(path: Path, description: DataDescription) -> "list[VolumeFile]":
    """List the volumes of a folder, list, file, CSV of cases or nnU-Net data set, with the channels of a model.

    Raises:
        InputError: If it holds no volumes, or their channels or labels are not those of the model.
    """
    from hagan3d.data.io.listing import find_volumes
    from hagan3d.data.preprocess.cases import find_nnunet, find_table

    names = tuple(channel.name for channel in description.channels)
    if path.suffix.lower() == ".csv" or (path / "dataset.json").exists():
        cases = find_nnunet(path) if path.is_dir() else find_table(path, description.label_names)
        check_channels(path, cases.channels, cases.label_names, description)
        return cases.files
    if description.label_names:
        raise InputError(
            f"{path}: the model was trained on label maps too; use a CSV with the columns id, {', '.join(names)}, seg"
        )
    return [replace(file, frames=len(names) if len(names) > 1 else 0) for file in find_volumes(path)]


@dataclass(frozen=True)
class Encoded:
    """One volume, its latent and its reconstruction."""

    input: Input
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    slabs: Iterator[np.ndarray] | None
    """The reconstruction, if requested: slabs ``[C, depth, H, W]`` in order along D, each computed when iterated."""

    @cached_property
    def reconstruction(self) -> np.ndarray | None:
        """The reconstruction ``[C, D, H, W]`` from the slabs that were not iterated yet."""
        return None if self.slabs is None else np.concatenate(list(self.slabs), axis=1)


@torch.no_grad()
def latents(
    model: Model, inputs: Iterable[Input], reconstruct: bool = False, depth: int | None = None
) -> Iterator[Encoded]:
    """Encode volumes one at a time, sub-volume by sub-volume.

    Args:
        model: The model, with a trained encoder.
        inputs: Volumes on the grid of the model.
        reconstruct: Whether to reconstruct each volume from its latent.
        depth: Slices per window of a reconstruction. Default: that of the networks.

    Raises:
        InputError: If the model has no encoder, or needs a class that a volume lacks.
    """
    check_encoder(model)
    nets, step = model.networks, model.networks.encoder_depth()
    for item in inputs:
        spans = ((start, min(step, item.depth - start)) for start in range(0, item.depth, step))
        slabs = (torch.from_numpy(item.read(*span))[None].to(model.device) for span in spans)
        z = nets.encode(slabs)
        label = class_of(model, item) if reconstruct else None
        index = None if label is None else torch.tensor([label], device=model.device)
        again = volume_slabs(model, z, index, depth) if reconstruct else None
        yield Encoded(item, z[0].float().cpu().numpy(), again)


def check_encoder(model: Model) -> None:
    """Raise InputError unless a model has a trained encoder."""
    if not has_encoder(model):
        raise InputError(
            f"{model.path}: method {model.config.name} was trained without an encoder, so it cannot encode"
        )


def has_encoder(model: Model) -> bool:
    """Return whether a model has a trained encoder, and it was loaded."""
    return model.config.method.encodes and set(model.networks.encoders) <= set(model.loaded)


def class_of(model: Model, item: Input) -> int | None:
    """Return the class index of a volume that is to be generated from its latent; None for a model without classes.

    Raises:
        InputError: If the volume has no class of a conditional model.
    """
    if not model.num_classes:
        return None
    if item.label < 0:
        raise InputError(f"{item.id}: has no class, but the model needs one to generate it; give a store with classes")
    return item.label
