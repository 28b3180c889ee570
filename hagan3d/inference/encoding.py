"""Latents of volumes, and their reconstructions."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from hagan3d.checkpoint import Model
from hagan3d.data.io.files import replacing
from hagan3d.data.io.writer import Format, thin
from hagan3d.data.pictures import MiddlePlanes, comparison_sheet
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.inference.generation import volume_slabs, write_csv
from hagan3d.inference.inputs import all_readable, is_store
from hagan3d.inference.volume_files import shown_channels, write_label_names, write_slabs

if TYPE_CHECKING:  # reading a store needs no readers of other files
    from hagan3d.data.io.volumes import VolumeFile
    from hagan3d.data.store.store import Store

SHEET_VOLUMES = 6  # on the sheet of real and reconstructed volumes


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
    if store.size != description.size:
        raise InputError(f"{path}: volumes of {list(store.size)} voxels, but the model's are {list(description.size)}")
    check_channels(store, description)
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


def check_channels(store: "Store", description: DataDescription) -> None:
    """Raise InputError unless a store has the channels and labels that a model was trained on."""
    names = tuple(channel.name for channel in description.channels)
    if (len(store.channels), len(store.label_names)) != (len(names), len(description.label_names)):
        raise InputError(
            f"{store.path}: has the channels {', '.join((*store.channels, *store.label_names))}, but the model "
            f"{', '.join((*names, *description.label_names))}; prepare a store with the channels of the model"
        )


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
    from hagan3d.data.preprocess.volume import preprocess_case
    from hagan3d.data.store.format import one_hot

    rules = [channel.rule for channel in description.channels]

    def read(source: VolumeFile) -> Input:
        images, label_map, affine = preprocess_case(source, description.grid_rule, rules)
        labels = [] if label_map is None else [one_hot(label_map, len(description.label_names))]
        x = np.concatenate([images.x, *labels])
        return Input(source.id, lambda start, depth: x[:, start : start + depth], x.shape[1], affine, images.intervals)

    sources = cases_of(path, description)
    return len(sources), all_readable(sources, read)


def cases_of(path: Path, description: DataDescription) -> "list[VolumeFile]":
    """List the volumes of a folder, list, file, CSV of cases or nnU-Net data set, with the channels of a model.

    Raises:
        InputError: If there are none, or they have other channels than the model.
    """
    from hagan3d.data.io.volumes import find_volumes
    from hagan3d.data.preprocess.cases import find_nnunet, find_table

    names = tuple(channel.name for channel in description.channels)
    if path.suffix == ".csv" or (path / "dataset.json").exists():
        cases = find_nnunet(path) if path.is_dir() else find_table(path, description.label_names)
        if (cases.channels, cases.label_names) != (names, description.label_names):
            raise InputError(
                f"{path}: has the channels {', '.join((*cases.channels, *cases.label_names))}, but the model "
                f"{', '.join((*names, *description.label_names))}"
            )
        return cases.files
    if description.label_names:
        raise InputError(
            f"{path}: the model was trained on label maps too; use a CSV with the columns id, {', '.join(names)}, seg"
        )
    return [replace(file, frames=len(names) if len(names) > 1 else 0) for file in find_volumes(path)]


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


class Overlap:
    """Overlap of two label maps, accumulated slab by slab."""

    def __init__(self, labels: int) -> None:
        """Count voxels of ``labels`` labels."""
        self.both, self.total = np.zeros(labels, np.int64), np.zeros(labels, np.int64)

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Add the same slices of both label maps."""
        labels = len(self.both)
        self.both += np.bincount(one[one == other].ravel(), minlength=labels)
        self.total += np.bincount(one.ravel(), minlength=labels) + np.bincount(other.ravel(), minlength=labels)

    def dice(self) -> list[float]:
        """Dice coefficient of each label but the background; 1 where both lack it."""
        return [2 * int(both) / int(total) if total else 1.0 for both, total in zip(self.both[1:], self.total[1:])]  # noqa: B905 - of one length


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

    def errors(self, channel: int = 0) -> dict[str, float]:
        """Errors of an image channel of the reconstruction, which is in memory."""
        assert self.reconstruction is not None
        errors = Errors()
        errors.add(self.input.x[channel], self.reconstruction[channel])
        return errors.result(*self.input.intervals[channel])


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
        again = volume_slabs(model, z, _class_of(model, item), depth) if reconstruct else None
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


def _class_of(model: Model, item: Input) -> torch.Tensor | None:
    if not model.num_classes:
        return None
    if item.label < 0:
        raise InputError(
            f"{item.id}: has no class, but the model needs one to reconstruct it; encode a store with classes"
        )
    return torch.tensor([item.label], device=model.device)


def encode(
    model: Model,
    inputs: Iterable[Input],
    out: Path,
    reconstruct: bool = False,
    *,
    format: Format = "nii.gz",
    depth: int | None = None,
) -> int:
    """Write the latents of volumes, with ``reconstruct`` also reconstructions, to a folder; return their number.

    Leaves `features.npz` (z ``[N, latent_dim]``, id, split) and `features.csv` with a row per volume; with
    reconstructions also `reconstructions/ID.nii.gz` in the units and the place of the input, their errors in the
    table, and `reconstructions.png`.

    Args:
        model: The model, with its encoder, and its generator to reconstruct.
        inputs: Volumes on the grid of the model.
        out: The folder.
        reconstruct: Whether to reconstruct each volume from its latent.
        format: Ending of the reconstructions.
        depth: Slices per window of a reconstruction. Default: that of the networks.

    Raises:
        InputError: If the model has no encoder, or needs a class that a volume lacks.
    """
    rows: list[list[object]] = []
    zs: list[np.ndarray] = []
    shown: dict[str, list[MiddlePlanes]] = {}
    for encoded in latents(model, inputs, reconstruct, depth):
        zs.append(encoded.z)
        errors: list[str] = []
        if encoded.slabs is not None:
            path = out / "reconstructions" / f"{encoded.input.id.replace('/', '_')}.{format}"
            planes, found = _write(encoded.slabs, encoded.input, model.description, path)
            errors = [f"{value:.6g}" for value in found]
            if len(rows) < SHEET_VOLUMES:
                for name, plane in planes:
                    shown.setdefault(name, []).append(plane)
        rows.append([encoded.input.id, encoded.input.split, *errors, *(f"{value:.9g}" for value in encoded.z)])
    names = error_names(model.description) if reconstruct else []
    write_csv(out / "features.csv", ["id", "split", *names, *(f"z{i}" for i in range(zs[0].size))], rows)
    ids, splits = (np.array([row[column] for row in rows]) for column in (0, 1))
    with replacing(out / "features.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, z=np.stack(zs), id=ids, split=splits)
    if reconstruct:
        write_label_names(out / "reconstructions", model.description)
        comparison_sheet(shown, model.description.affine_array, out / "reconstructions.png")
    return len(rows)


def error_names(description: DataDescription) -> list[str]:
    """Return the names of the errors of a reconstruction: two of each image channel, and the Dice of each label."""
    suffixes = [f"_{channel.name}" for channel in description.channels] if len(description.channels) > 1 else [""]
    names = [f"{name}{suffix}" for suffix in suffixes for name in ("mae", "psnr_db")]
    return [*names, *(f"dice_{name}" for name in description.label_names[1:])]


def _write(
    slabs: Iterator[np.ndarray], item: Input, description: DataDescription, path: Path
) -> tuple[list[tuple[str, MiddlePlanes]], list[float]]:
    """Write a reconstruction slab by slab; return the middle planes of both volumes by title, and the errors."""
    images, names = len(description.channels), shown_channels(description)
    errors = [Errors() for _ in range(images)]
    overlap = Overlap(len(description.label_names))
    real = [MiddlePlanes(description.size, description.affine_array) for _ in range(images)]

    def compared() -> Iterator[np.ndarray]:
        start = 0
        for slab in slabs:
            same = item.read(start, slab.shape[1])
            for channel in range(images):
                real[channel].add(same[channel])
                errors[channel].add(same[channel], slab[channel])
            if description.label_names:
                overlap.add(same[images:].argmax(0), slab[images:].argmax(0))
            start += slab.shape[1]
            del same
            yield slab
            del slab

    _, made = write_slabs(compared(), description, path, affine=item.affine, intervals=item.intervals)
    planes = [(f"real {name}".rstrip(), plane) for name, plane in zip(names, real, strict=False)]
    planes += [(f"reconstructed {name}".rstrip(), plane) for name, plane in zip(names, made, strict=True)]
    values = [error.result(*interval) for error, interval in zip(errors, item.intervals, strict=True)]
    return planes, [value for one in values for value in one.values()] + overlap.dice()
