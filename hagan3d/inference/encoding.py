"""Latents of volumes, and their reconstructions."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from hagan3d.checkpoint import Model
from hagan3d.data.io.files import replacing
from hagan3d.data.io.writer import Format, thin
from hagan3d.data.pictures import MiddlePlanes, comparison_sheet
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.inference.generation import volume_slabs, write_csv, write_slabs
from hagan3d.inference.inputs import all_readable, is_store

SHEET_VOLUMES = 6  # on the sheet of real and reconstructed volumes


@dataclass(frozen=True)
class Input:
    """One volume to encode."""

    id: str
    read: Callable[[int, int], np.ndarray]
    """Gives the slices from a start on: ``(start, depth)`` to ``[depth, H, W]`` in [-1, 1], on the model's grid."""
    depth: int
    """Slices D."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    lo: float
    """Value of x = -1 in file units."""
    hi: float
    """Value of x = 1 in file units."""
    split: str = ""
    label: int = -1
    """Class index; -1: unknown."""

    @property
    def x(self) -> np.ndarray:
        """All slices ``[D, H, W]``, in memory."""
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
    chosen = store.indices(split)

    def read() -> Iterator[Input]:
        for index in chosen:
            i = int(index)
            yield Input(
                id=store.ids[i],
                read=lambda start, depth, i=i: store.window(i, start, depth).numpy(),  # type: ignore[misc]
                depth=store.size[0],
                affine=store.affines[i],
                lo=float(store.lo[i]),
                hi=float(store.hi[i]),
                split=store.splits[i],
                label=_label_in(description, store.class_names, int(store.labels[i])),
            )

    return len(chosen), read()


def _label_in(description: DataDescription, names: Sequence[str], label: int) -> int:
    """Translate the class index of a store to that of the model, -1 where the model has no such class."""
    name = names[label] if label >= 0 else ""
    return description.class_names.index(name) if name in description.class_names else -1


def inputs_of_files(path: Path, description: DataDescription) -> tuple[int, Iterator[Input]]:
    """Return the number of volumes of a folder, list or file, and an iterator that resamples them to the model's grid.

    Each volume is in memory while it is encoded, since its file is read whole.

    Raises:
        InputError: If there is none, or some cannot be used: one line for each, before any is given.
    """
    from hagan3d.data.io.volumes import VolumeFile, find_volumes, read_volume
    from hagan3d.data.preprocess.volume import preprocess_volume

    sources = find_volumes(path)

    def read(source: VolumeFile) -> Input:
        made = preprocess_volume(read_volume(source.path), description.grid_rule, description.intensity_rule)
        x = made.x
        return Input(source.id, lambda start, depth: x[start : start + depth], len(x), made.affine, made.lo, made.hi)

    return len(sources), all_readable(sources, read)


class Errors:
    """Errors of a reconstruction, accumulated slab by slab."""

    def __init__(self) -> None:
        self.voxels, self.absolute, self.squares = 0, 0.0, 0.0

    def add(self, real: np.ndarray, reconstructed: np.ndarray) -> None:
        """Add the same slices of both, in [-1, 1]."""
        for one, other in zip(thin(real), thin(reconstructed), strict=True):
            difference = (other - one).astype(np.float64)
            self.voxels += difference.size
            self.absolute += float(np.abs(difference).sum())
            self.squares += float((difference**2).sum())

    def result(self, lo: float, hi: float) -> dict[str, float]:
        """Mean absolute error in file units, and peak signal-to-noise ratio (range: that of [-1, 1]) in dB."""
        psnr = 10 * math.log10(4 * self.voxels / self.squares) if self.squares else math.inf
        return {"mae": self.absolute / self.voxels * (hi - lo) / 2, "psnr_db": psnr}


@dataclass(frozen=True)
class Encoded:
    """One volume, its latent and its reconstruction."""

    input: Input
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    slabs: Iterator[np.ndarray] | None
    """The reconstruction, if requested: slices in [-1, 1], in order along D, each computed when iterated, once."""

    @cached_property
    def reconstruction(self) -> np.ndarray | None:
        """The reconstruction ``[D, H, W]`` from the slabs that were not iterated yet."""
        return None if self.slabs is None else np.concatenate(list(self.slabs))

    def errors(self) -> dict[str, float]:
        """Errors of the reconstruction, which is in memory."""
        assert self.reconstruction is not None
        errors = Errors()
        errors.add(self.input.x, self.reconstruction)
        return errors.result(self.input.lo, self.input.hi)


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
        slabs = (torch.from_numpy(item.read(*span))[None, None].to(model.device) for span in spans)
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
    shown: dict[str, list[MiddlePlanes]] = {"real": [], "reconstructed": []}
    for encoded in latents(model, inputs, reconstruct, depth):
        zs.append(encoded.z)
        errors: list[str] = []
        if encoded.slabs is not None:
            path = out / "reconstructions" / f"{encoded.input.id.replace('/', '_')}.{format}"
            errors = _reconstruct(encoded.slabs, encoded.input, model.description, path, shown)
        rows.append([encoded.input.id, encoded.input.split, *errors, *(f"{value:.9g}" for value in encoded.z)])
    names = ["mae", "psnr_db"] if reconstruct else []
    write_csv(out / "features.csv", ["id", "split", *names, *(f"z{i}" for i in range(zs[0].size))], rows)
    ids, splits = (np.array([row[column] for row in rows]) for column in (0, 1))
    with replacing(out / "features.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, z=np.stack(zs), id=ids, split=splits)
    if reconstruct:
        comparison_sheet(shown, model.description.affine_array, out / "reconstructions.png")
    return len(rows)


def _reconstruct(
    slabs: Iterator[np.ndarray],
    item: Input,
    description: DataDescription,
    path: Path,
    shown: dict[str, list[MiddlePlanes]],
) -> list[str]:
    """Write a reconstruction, add it to what is shown, and return its errors as text."""
    errors, real, reconstructed = _write(slabs, item, description, path)
    if len(shown["real"]) < SHEET_VOLUMES:
        shown["real"].append(real)
        shown["reconstructed"].append(reconstructed)
    return [f"{value:.6g}" for value in errors.result(item.lo, item.hi).values()]


def _write(
    slabs: Iterator[np.ndarray], item: Input, description: DataDescription, path: Path
) -> tuple[Errors, MiddlePlanes, MiddlePlanes]:
    """Write a reconstruction slab by slab; return its errors, and the middle planes of the real volume and of it."""
    errors, real = Errors(), MiddlePlanes(description.size, description.affine_array)

    def compared() -> Iterator[np.ndarray]:
        start = 0
        for slab in slabs:
            same = item.read(start, len(slab))
            real.add(same)
            errors.add(same, slab)
            start += len(slab)
            del same
            yield slab
            del slab

    reconstructed = write_slabs(compared(), description, path, affine=item.affine, interval=(item.lo, item.hi))
    return errors, real, reconstructed
