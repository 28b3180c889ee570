"""New volumes from a model, in the units and the geometry of its training data."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hagan3d.checkpoint import Model
from hagan3d.data.description import DataDescription
from hagan3d.data.files import write_text
from hagan3d.data.geometry import to_output_axes
from hagan3d.data.intensity import denormalize
from hagan3d.data.pictures import contact_sheet
from hagan3d.data.writer import write_nifti
from hagan3d.errors import InputError

Dtype = Literal["float32", "int16"]
SHEET_VOLUMES = 12  # on the contact sheet


@dataclass(frozen=True)
class Sample:
    """One volume that was generated."""

    seed: int
    label: int | None
    """Class index; None in a model without classes."""
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    volume: np.ndarray
    """``[D, H, W]`` in [-1, 1]."""


def latent(seed: int, dim: int, truncation: float = 1.0) -> np.ndarray:
    """Draw the latent of a seed: standard normal numbers times ``truncation``, the same on every machine."""
    return np.random.default_rng(seed).standard_normal(dim, dtype=np.float32) * np.float32(truncation)


def samples(model: Model, seeds: Sequence[int], label: int | None = None, truncation: float = 1.0) -> Iterator[Sample]:
    """Generate a volume per seed, one at a time.

    Args:
        model: The model.
        seeds: One per volume.
        label: Class index for all; None takes the classes in turn, where the model has any.
        truncation: Factor on z: below 1 is nearer to the typical volume, with less variety.

    Raises:
        InputError: If the model has no such class.
    """
    g = model.networks.g
    classes = g.common.num_classes
    check_label(model.description, classes, label)
    device = next(g.parameters()).device
    for number, seed in enumerate(seeds):
        z = latent(seed, g.latent_dim, truncation)
        chosen = (number % classes if label is None else label) if classes else None
        index = None if chosen is None else torch.tensor([chosen], device=device)
        with torch.no_grad():
            volume = whole_volume(model, torch.from_numpy(z)[None].to(device), index)
        yield Sample(seed, chosen, z, volume)


def check_label(description: DataDescription, classes: int, label: int | None) -> None:
    """Raise InputError unless a model with so many classes has the class ``label``."""
    if label is None:
        return
    if not classes:
        raise InputError("--class-name: this model was trained without classes (model.conditional)")
    if not 0 <= label < classes:
        raise InputError(f"--class-name: this model's classes are {', '.join(description.class_names)}")


def whole_volume(model: Model, z: Tensor, label: Tensor | None) -> np.ndarray:
    """Make one volume ``[D, H, W]`` from ``z [1, latent_dim]``, window by window where that is exact."""
    g = model.networks.g
    a = g.common(z, label)
    if not g.high.is_exact:
        return _array(g.high(a))
    size = model.config.data.size
    volume = np.empty(size, dtype=np.float32)
    for start in range(0, size[0], g.depth):
        first = torch.tensor([start // g.factor], device=z.device)
        count = min(g.depth, size[0] - start) // g.factor
        volume[start : start + g.depth] = _array(g.high(a, first, count))
    return volume


def _array(volume: Tensor) -> np.ndarray:
    return volume[0, 0].float().cpu().numpy()


def write_volume(
    volume: np.ndarray,
    description: DataDescription,
    path: Path,
    dtype: Dtype = "float32",
    affine: np.ndarray | None = None,
    interval: tuple[float, float] | None = None,
) -> None:
    """Write ``[D, H, W]`` in [-1, 1] as NIfTI in the units, orientation and place of the data.

    Args:
        volume: Voxels.
        description: Of the training data.
        path: File to write, whole or not at all.
        dtype: Of the voxels in the file.
        affine: Index to RAS mm ``[4, 4]`` of this volume. Default: the typical one.
        interval: File units of -1 and 1 of this volume. Default: the typical ones.
    """
    lo, hi = interval or (description.lo, description.hi)
    affine = description.affine_array if affine is None else affine
    array, affine = to_output_axes(denormalize(volume, lo, hi), affine, description.orientation)
    write_nifti(path, array, affine, dtype)


def generate(
    model: Model,
    seeds: Sequence[int],
    out: Path,
    *,
    label: int | None = None,
    truncation: float = 1.0,
    dtype: Dtype = "float32",
    progress: Callable[[Iterator[Sample]], Iterator[Sample]] = lambda items: items,
) -> list[Path]:
    """Write generated volumes, a contact sheet and a table into a folder.

    Args:
        model: The model.
        seeds: One per volume; the name of its file.
        out: Folder for `volume-SEED.nii.gz`, `samples.csv` and `samples.png`.
        label: Class index for all volumes; None takes the classes in turn.
        truncation: Factor on z.
        dtype: Of the voxels in the files.
        progress: Wraps the iteration, to show a bar.

    Returns:
        The NIfTI files.
    """
    paths: list[Path] = []
    shown: list[np.ndarray] = []
    rows: list[list[object]] = []
    names = model.description.class_names
    for sample in progress(samples(model, seeds, label, truncation)):
        path = out / f"volume-{sample.seed:06d}.nii.gz"
        write_volume(sample.volume, model.description, path, dtype)
        paths.append(path)
        if len(shown) < SHEET_VOLUMES:
            shown.append(sample.volume)
        name = "" if sample.label is None else names[sample.label]
        rows.append([path.name, sample.seed, name, *(f"{value:.9g}" for value in sample.z)])
    header = ["file", "seed", "class", *(f"z{i}" for i in range(model.networks.g.latent_dim))]
    write_csv(out / "samples.csv", header, rows)
    captions = [f"seed {row[1]}{f' class {row[2]}' if row[2] else ''}" for row in rows[: len(shown)]]
    contact_sheet(shown, model.description.affine_array, captions, out / "samples.png")
    return paths


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
