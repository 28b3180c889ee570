"""Latents of volumes, and the volumes made from them again."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hagan3d.checkpoint import Model
from hagan3d.data.description import DataDescription
from hagan3d.data.files import replacing
from hagan3d.data.pictures import comparison_sheet
from hagan3d.errors import InputError
from hagan3d.inference.generate import whole_volume, write_csv, write_volume
from hagan3d.networks.encoder import encode as encode_slabs

SHEET_VOLUMES = 6  # on the sheet of real and reconstructed volumes


@dataclass(frozen=True)
class Input:
    """One volume to encode."""

    id: str
    x: np.ndarray
    """``[D, H, W]`` in [-1, 1], on the grid of the model."""
    affine: np.ndarray
    """Index (d, h, w) to RAS mm ``[4, 4]``."""
    lo: float
    """Value of x = -1 in file units."""
    hi: float
    """Value of x = 1 in file units."""
    split: str = ""
    label: int = -1
    """Class index; -1: unknown."""


def inputs_of_store(path: Path, description: DataDescription, split: str) -> tuple[int, Iterator[Input]]:
    """Give the volumes of a store and their count.

    Raises:
        InputError: If the store has another size than the model.
    """
    from hagan3d.data.store import Store

    store = Store(path)
    if store.size != description.size:
        raise InputError(f"{path}: volumes of {list(store.size)} voxels, but the model's are {list(description.size)}")
    chosen = store.indices(split)

    def read() -> Iterator[Input]:
        for index in chosen:
            i = int(index)
            yield Input(
                id=store.ids[i],
                x=store.volume(i).numpy(),
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
    """Give the volumes of a folder, list or file, brought to the grid and intensities of the model, and their count.

    Raises:
        InputError: If there is none, or some cannot be used: one line for each, before any is given.
    """
    from hagan3d.data.standard import standardize
    from hagan3d.data.volumes import Source, find_volumes, read_volume

    sources = find_volumes(path)

    def read(source: Source) -> Input:
        made = standardize(read_volume(source.path), description.grid_rule, description.intensity_rule)
        return Input(source.id, made.x, made.affine, made.lo, made.hi)

    bad: list[str] = []
    for source in sources:
        try:
            read(source)
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError("\n".join(bad))
    return len(sources), (read(source) for source in sources)


@dataclass(frozen=True)
class Encoded:
    """What became of one volume."""

    input: Input
    z: np.ndarray
    """Latent ``[latent_dim]``."""
    reconstruction: np.ndarray | None
    """``[D, H, W]`` in [-1, 1], where asked for."""

    def errors(self) -> dict[str, float]:
        """Mean absolute error in file units, and peak signal-to-noise ratio (range: that of [-1, 1]) in dB."""
        assert self.reconstruction is not None
        difference = (self.reconstruction - self.input.x).astype(np.float64)
        mean_square = float(np.mean(difference**2))
        scale = (self.input.hi - self.input.lo) / 2
        return {
            "mae": float(np.abs(difference).mean()) * scale,
            "psnr_db": 10 * np.log10(4 / mean_square) if mean_square else float("inf"),
        }


@torch.no_grad()
def latents(model: Model, inputs: Iterable[Input], reconstruct: bool = False) -> Iterator[Encoded]:
    """Encode volumes one at a time, sub-volume by sub-volume.

    Args:
        model: The model; its encoders must have been trained.
        inputs: Volumes on the grid of the model.
        reconstruct: Whether to make each volume again from its latent.

    Raises:
        InputError: If the model has no encoders, or needs a class that a volume lacks.
    """
    if not model.config.train.encoder:
        raise InputError(f"{model.path}: trained without encoders (train.encoder false), so it cannot encode")
    nets = model.networks
    device = next(nets.parameters()).device
    for item in inputs:
        slabs = [slab[None, None].to(device) for slab in torch.from_numpy(item.x).split(nets.g.depth)]
        z = encode_slabs(nets.e_h, nets.e_g, slabs)
        volume = whole_volume(model, z, _class_of(model, item, device)) if reconstruct else None
        yield Encoded(item, z[0].float().cpu().numpy(), volume)


def _class_of(model: Model, item: Input, device: torch.device) -> torch.Tensor | None:
    if not model.networks.g.common.num_classes:
        return None
    if item.label < 0:
        raise InputError(
            f"{item.id}: has no class, but the model needs one to make it again; encode a store with classes"
        )
    return torch.tensor([item.label], device=device)


def encode(model: Model, inputs: Iterable[Input], out: Path, reconstruct: bool = False) -> int:
    """Write the latents of volumes, and their reconstructions if asked for, into a folder.

    Leaves `features.npz` (z ``[N, latent_dim]``, id, split) and `features.csv` with a row per volume; with
    reconstructions also `reconstructions/ID.nii.gz` in the units and the place of the input, their errors in the
    table, and `reconstructions.png`.

    Returns:
        Volumes encoded.
    """
    rows: list[list[object]] = []
    zs: list[np.ndarray] = []
    shown: dict[str, list[np.ndarray]] = {"real": [], "reconstructed": []}
    for done in latents(model, inputs, reconstruct):
        zs.append(done.z)
        errors: list[str] = []
        if done.reconstruction is not None:
            errors = [f"{value:.6g}" for value in done.errors().values()]
            _write_reconstruction(done, model.description, out)
            if len(shown["real"]) < SHEET_VOLUMES:
                shown["real"].append(done.input.x)
                shown["reconstructed"].append(done.reconstruction)
        rows.append([done.input.id, done.input.split, *errors, *(f"{value:.9g}" for value in done.z)])
    names = ["mae", "psnr_db"] if reconstruct else []
    write_csv(out / "features.csv", ["id", "split", *names, *(f"z{i}" for i in range(zs[0].size))], rows)
    with replacing(out / "features.npz") as beside, beside.open("wb") as file:
        np.savez_compressed(
            file, z=np.stack(zs), id=np.array([row[0] for row in rows]), split=np.array([row[1] for row in rows])
        )
    if reconstruct:
        comparison_sheet(shown, model.description.affine_array, out / "reconstructions.png")
    return len(rows)


def _write_reconstruction(done: Encoded, description: DataDescription, out: Path) -> None:
    assert done.reconstruction is not None
    item = done.input
    name = item.id.replace("/", "_")
    path = out / "reconstructions" / f"{name}.nii.gz"
    write_volume(done.reconstruction, description, path, affine=item.affine, interval=(item.lo, item.hi))
