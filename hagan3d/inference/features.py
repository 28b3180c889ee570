"""Latents of many volumes to a folder: features as a table and as arrays, and reconstructions."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hagan3d.checkpoint import Model
from hagan3d.data.io.files import replacing, write_text
from hagan3d.data.io.writer import Format
from hagan3d.data.pictures import MiddlePlanes, comparison_sheet
from hagan3d.inference.encoding import Input, latents
from hagan3d.inference.generation import write_csv
from hagan3d.inference.inputs import UNFINISHED
from hagan3d.inference.reconstruction import error_names, write_reconstruction
from hagan3d.inference.volume_files import claim, write_label_names

FEATURES = "features.npz"
RECONSTRUCTIONS = "reconstructions"  # folder in that of the features
SHEET_VOLUMES = 6  # on the sheet of real and reconstructed volumes


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
    taken: set[Path] = set()
    folder = out / RECONSTRUCTIONS
    write_text((folder if reconstruct else out) / UNFINISHED, "")
    for encoded in latents(model, inputs, reconstruct, depth):
        zs.append(encoded.z)
        errors: list[str] = []
        if encoded.slabs is not None:
            path = claim(folder / f"{encoded.input.id.replace('/', '_')}.{format}", taken)
            planes, found = write_reconstruction(encoded, model.description, path)
            errors = [f"{value:.6g}" for value in found]
            if len(rows) < SHEET_VOLUMES:
                for name, plane in planes:
                    shown.setdefault(name, []).append(plane)
        rows.append([encoded.input.id, encoded.input.split, *errors, *(f"{value:.9g}" for value in encoded.z)])
    _write_features(out, rows, zs, error_names(model.description) if reconstruct else [])
    if reconstruct:
        write_label_names(folder, model.description)
        comparison_sheet(shown, model.description.affine_array, out / f"{RECONSTRUCTIONS}.png")
    ((folder if reconstruct else out) / UNFINISHED).unlink()
    return len(rows)


def _write_features(out: Path, rows: list[list[object]], zs: list[np.ndarray], names: list[str]) -> None:
    """Write features.csv, with the errors ``names`` before the latents, and features.npz."""
    write_csv(out / "features.csv", ["id", "split", *names, *(f"z{i}" for i in range(zs[0].size))], rows)
    ids, splits = (np.array([row[column] for row in rows]) for column in (0, 1))
    with replacing(out / FEATURES) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, z=np.stack(zs), id=ids, split=splits)
