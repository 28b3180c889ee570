"""New volumes from a model, in the units and the geometry of its training data."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from hagan3d.checkpoint import Model
from hagan3d.data.io.files import write_text
from hagan3d.data.io.writer import Dtype, Format
from hagan3d.data.pictures import MiddlePlanes, contact_sheet
from hagan3d.data.store.description import DataDescription
from hagan3d.errors import InputError
from hagan3d.inference.volume_files import shown_channels, write_label_names, write_slabs

SHEET_VOLUMES = 12  # on the contact sheet
SAMPLES = "samples.csv"


@dataclass(frozen=True)
class Sample:
    """One generated volume."""

    seed: int
    label: int | None
    """Class index; None in a model without classes."""
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    slabs: Iterator[np.ndarray]
    """Its slices ``[C, depth, H, W]`` in [-1, 1], in order along D; each slab is computed when iterated, once."""

    @property
    def volume(self) -> np.ndarray:
        """All slices ``[C, D, H, W]``, in memory; consumes ``slabs``."""
        return np.concatenate(list(self.slabs), axis=1)


def latent(model: Model, seed: int, label: int | None = None, truncation: float = 1.0) -> np.ndarray:
    """Sample the latent ``[latent_dim]`` of a seed and class from the model's prior.

    Standard normal numbers, the same on every machine, are multiplied by ``truncation`` and mapped to the prior.
    """
    dim, device = model.networks.latent_dim, model.device
    x = np.random.default_rng(seed).standard_normal((1, dim), dtype=np.float32) * np.float32(truncation)
    index = None if label is None else torch.tensor([label], device=device)
    return model.networks.latent(torch.from_numpy(x).to(device), index)[0].cpu().numpy()


def samples(
    model: Model,
    seeds: Sequence[int],
    label: int | None = None,
    truncation: float = 1.0,
    depth: int | None = None,
) -> Iterator[Sample]:
    """Generate a volume per seed, one at a time.

    Args:
        model: The model.
        seeds: One per volume.
        label: Class index of all volumes; None: that of each seed, seed modulo classes, if the model has any.
        truncation: Factor on the distance of z from its mean: below 1 is more typical, with less variety.
        depth: Slices per window. Default: that of the networks.

    Raises:
        InputError: If the model has no such class.
    """
    check_label(model.description, model.num_classes, label)
    for seed in seeds:
        # a seed has a class of its own: its volume does not depend on the seeds before it
        chosen = (seed % model.num_classes if label is None else label) if model.num_classes else None
        z = latent(model, seed, chosen, truncation)
        index = None if chosen is None else torch.tensor([chosen], device=model.device)
        yield Sample(seed, chosen, z, volume_slabs(model, torch.from_numpy(z)[None].to(model.device), index, depth))


def class_index(model: Model, name: str) -> int:
    """Return the index of a class.

    Raises:
        InputError: If the model has no such class.
    """
    names = model.description.class_names if model.num_classes else ()
    if name not in names:
        known = f"the classes are {', '.join(names)}" if names else "this model was trained without classes"
        raise InputError(f"--class-name {name}: {known}")
    return names.index(name)


def check_label(description: DataDescription, classes: int, label: int | None) -> None:
    """Raise InputError unless a model with so many classes has the class ``label``."""
    if label is None:
        return
    if not classes:
        raise InputError("--class-name: this model was trained without classes")
    if not 0 <= label < classes:
        raise InputError(f"--class-name: this model's classes are {', '.join(description.class_names)}")


@torch.no_grad()
def volume_slabs(model: Model, z: Tensor, label: Tensor | None, depth: int | None = None) -> Iterator[np.ndarray]:
    """Generate one volume from ``z [1, latent_dim]``: slabs ``[C, depth, H, W]`` in [-1, 1], in order along D.

    They equal the volume generated whole; each is computed when it is iterated.
    """
    for window in model.networks.windows(z, label, depth or model.networks.default_depth()):
        yield window[0].float().cpu().numpy()
        del window  # before the next is made


def generate(
    model: Model,
    seeds: Sequence[int],
    out: Path,
    *,
    label: int | None = None,
    truncation: float = 1.0,
    dtype: Dtype = "float32",
    format: Format = "nii.gz",
    depth: int | None = None,
    progress: Callable[[Iterator[Sample]], Iterator[Sample]] = lambda items: items,
) -> list[Path]:
    """Write generated volumes, a contact sheet and a table into a folder; return the files of the volumes.

    Args:
        model: The model, with the networks that generate.
        seeds: One per volume; the name of its file.
        out: Folder for `volume-SEED.nii.gz` (of several channels, `volume-SEED_CHANNEL.nii.gz` and
            `volume-SEED_seg.nii.gz`, with the names of labels in `labels.json`), `samples.csv` and `samples.png`.
        label: Class index for all volumes; None: that of each seed.
        truncation: As in `samples`.
        dtype: Type of the voxels in the files.
        format: Ending of the files.
        depth: Slices per window. Default: that of the networks.
        progress: Wraps the iteration, to show a bar.
    """
    paths: list[Path] = []
    shown: list[MiddlePlanes] = []
    captions: list[str] = []
    rows: list[list[object]] = []
    names = model.description.class_names
    for sample in progress(samples(model, seeds, label, truncation, depth)):
        path = out / f"volume-{sample.seed:06d}.{format}"
        written, planes = write_slabs(sample.slabs, model.description, path, dtype)
        paths += written
        name = "" if sample.label is None else names[sample.label]
        if len(rows) < SHEET_VOLUMES:
            shown += planes
            caption = f"seed {sample.seed}{f' class {name}' if name else ''}"
            captions += [f"{caption} {channel}".rstrip() for channel in shown_channels(model.description)]
        rows.append([written[0].name, sample.seed, name, *(f"{value:.9g}" for value in sample.z)])
    write_label_names(out, model.description)
    header = ["file", "seed", "class", *(f"z{i}" for i in range(model.networks.latent_dim))]
    write_csv(out / SAMPLES, header, rows)
    contact_sheet(shown, model.description.affine_array, captions, out / "samples.png")
    return paths


def seeds_of(path: Path) -> list[int]:
    """Return the seeds in the table of generated volumes, none if there is no such table."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
        found = (str(row.get("seed")) for row in csv.DictReader(file))
        return [int(seed) for seed in found if seed.isascii() and seed.isdigit()]
    return []


def remove_others(out: Path, seeds: Sequence[int], written: Sequence[Path]) -> None:
    """Remove the volumes of seeds from a folder, of any format, but for those that were written."""
    for seed in seeds:
        for path in out.glob(f"volume-{seed:06d}[._]*"):
            if path.name.endswith(tuple(f".{ending}" for ending in get_args(Format))) and path not in written:
                path.unlink()


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
