"""Summaries of sets of volumes: features and small statistics, so that no set has to fit into memory."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hagan3d.config import Size
from hagan3d.data.io.files import replacing
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.settings import CHUNK

BINS = 128  # of the histogram over [-1, 1]
SMALL = 32  # voxels per axis of the downsampled copy
PLANE_SLICES = 8  # slices per plane with statistics
MOST_FULL = 2**24  # maximum voxels of a volume for sums at full resolution
FEATURES = "features/"
LEAST_DEVIATION = 0.05  # of the median feature
SUMS = ("total", "total_square")  # summed over volumes; all other arrays have a row per volume

Summary = dict[str, np.ndarray]
"""Arrays by name: those of `describe` stacked over volumes ``[N, ...]``, `features/NAME [N, dim]`, `similarity [P]`
(MS-SSIM of disjoint pairs), and the sums over volumes `total` and `total_square` ``[D, H, W]`` (empty if too large)."""


def describe(x: np.ndarray) -> Summary:
    """Return statistics of one volume ``[D, H, W]``.

    Returns:
        `slice_mean`, `slice_deviation` ``[D]``; `gradients` ``[D - 1]``: mean absolute difference of adjacent slices;
        `histogram` ``[BINS]``: shares of the voxels; `planes` ``[3, PLANE_SLICES, 8]``: slice statistics in 3 planes;
        `small` ``[32, 32, 32]``: block means; `range` ``[2]``: minimum and maximum.
    """
    bins = np.clip(((x + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
    return {
        "slice_mean": x.mean(axis=(1, 2)),
        "slice_deviation": x.std(axis=(1, 2)),
        "gradients": np.abs(np.diff(x, axis=0)).mean(axis=(1, 2)),
        "histogram": np.bincount(bins.ravel(), minlength=BINS) / x.size,
        "planes": np.stack([_describe_slices(np.moveaxis(x, axis, 0)) for axis in range(3)]),
        "small": blocks(x, (SMALL,) * 3).astype(np.float32),
        "range": np.array([x.min(), x.max()]),
    }


def _describe_slices(x: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, mean absolute gradient along both axes and quarter means of slices: ``[8, 8]``."""
    s = x[np.linspace(0, len(x) - 1, PLANE_SLICES + 2).round().astype(int)[1:-1]]
    quarters = blocks(s, (PLANE_SLICES, 2, 2)).reshape(PLANE_SLICES, 4)
    steps = [np.abs(np.diff(s, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    return np.concatenate([np.stack([s.mean(axis=(1, 2)), s.std(axis=(1, 2)), *steps], axis=1), quarters], axis=1)


def blocks(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Downsample ``x [..., D, H, W]`` by block means, so that the last three axes have ``shape``."""
    d, h, w = (side // new for side, new in zip(x.shape[-3:], shape, strict=True))
    boxes = x.reshape(*x.shape[:-3], shape[0], d, shape[1], h, shape[2], w)
    return boxes.mean(axis=(-5, -3, -1))


def ssim_settings(size: Size) -> dict[str, Any]:
    """Return window and scale weights of MS-SSIM: the published 11 voxels and 5 scales if they fit, else 7 and fewer.

    MONAI requires ``side // (scales - 1)^2 >= window``.
    """
    published = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    window = 11 if min(size) >= 11 * 16 else 7
    scales = next(n for n in range(5, 0, -1) if min(size) // max(1, n - 1) ** 2 >= window)
    weights = np.array(published[:scales])
    return {"kernel_size": window, "weights": (weights / weights.sum()).tolist()}


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the MS-SSIM ``[P]`` between volumes ``[P, D, H, W]`` in [-1, 1], pair by pair."""
    from monai.metrics.regression import compute_ms_ssim

    one, other = (torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32))[:, None] for v in (a, b))
    values = compute_ms_ssim(one, other, spatial_dims=3, data_range=2.0, **ssim_settings(a.shape[1:]))
    return values.flatten().numpy()


def summarize(
    volumes: Iterator[np.ndarray], extractors: Sequence[Extractor], batch: int, pairs: bool, size: Size
) -> Summary:
    """Summarize volumes ``[D, H, W]`` batch by batch.

    Raises:
        InputError: If a volume has another size.
    """
    parts = []
    while group := list(islice(volumes, batch)):
        odd = next((x.shape for x in group if x.shape != tuple(size)), None)
        if odd:
            raise InputError(f"volumes of {list(odd)} and {list(size)} voxels cannot be compared")
        x = np.stack(group)
        described = [describe(volume) for volume in group]
        part = {name: np.stack([one[name] for one in described]) for name in described[0]}
        part |= {FEATURES + e.name: e.of_batch(x) for e in extractors}
        even = len(x) // 2 * 2 if pairs else 0
        part["similarity"] = similarity(x[0:even:2], x[1:even:2]) if even else np.zeros(0, np.float32)
        full = x if x[0].size <= MOST_FULL else np.zeros((1, 0))
        part["total"], part["total_square"] = full.sum(axis=0, dtype=np.float64), (full.astype(np.float64) ** 2).sum(0)
        parts.append(part)
    return concatenate(parts)


def concatenate(parts: Sequence[Summary]) -> Summary:
    """Concatenate the summaries of parts of a set."""
    if not parts:
        raise ValueError("expected at least one volume, got none")
    return {
        name: (np.sum if name in SUMS else np.concatenate)([part[name] for part in parts], axis=0) for name in parts[0]
    }


def feature_scale(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale ``[dim]`` of features ``[N, dim]``: the deviation, but at least 1/20 of the median one."""
    rows = rows.astype(np.float64)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    return mean, np.maximum(deviation, LEAST_DEVIATION * float(np.median(deviation)) + 1e-12)


def rescaled(summaries: Mapping[str, Summary], name: str, reference: str) -> dict[str, Summary]:
    """Standardize the features ``name`` of all sets by mean and scale of the reference set, see `feature_scale`."""
    mean, scale = feature_scale(summaries[reference][FEATURES + name])
    return {key: s | {FEATURES + name: (s[FEATURES + name] - mean) / scale} for key, s in summaries.items()}


@dataclass(frozen=True)
class VolumeSet:
    """A set of volumes that can be read or generated from any index on."""

    name: str
    size: Size
    count: int
    read: Callable[[int, int], Iterator[np.ndarray]]
    """Returns the volumes from one index up to another."""
    identity: Mapping[str, Any]
    """Plain values that determine the volumes."""


def summarize_set(
    volumes: VolumeSet,
    extractors: Sequence[Extractor],
    folder: Path,
    *,
    batch: int,
    pairs: int,
    chunk: int = CHUNK,
    advance: Callable[[int], None] = lambda count: None,
) -> Summary:
    """Summarize a set chunk by chunk, caching each in a file, so that an interrupted call resumes.

    Args:
        volumes: The set.
        extractors: Feature extractors.
        folder: Folder of the cache files `SET-FIRST.npz`.
        batch: Volumes per batch.
        pairs: Pairs of volumes for MS-SSIM.
        chunk: Volumes per file, an even number.
        advance: Called with the number of volumes of each chunk.

    Raises:
        InputError: If the folder holds features of other volumes, or of other extractors.
    """
    used = {e.name: e.sha256 for e in extractors}
    key = json.dumps({**volumes.identity, "extractors": used, "chunk": chunk, "pairs": pairs}, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()
    parts = []
    for first in range(0, volumes.count, chunk):
        last = min(first + chunk, volumes.count)
        path = folder / f"{volumes.name}-{first:06d}.npz"
        part = read_summary(path, digest)
        if part is None:
            part = summarize(volumes.read(first, last), extractors, batch, first < 2 * pairs, volumes.size)
            _write_summary(path, part, digest)
        parts.append(part)
        advance(last - first)
    whole = concatenate(parts)
    return whole | {"similarity": whole["similarity"][:pairs]}


def _write_summary(path: Path, summary: Summary, digest: str) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name.replace("/", "|"): values for name, values in summary.items()}
        np.savez_compressed(file, digest=np.array(digest), **arrays)


def read_summary(path: Path, digest: str) -> Summary | None:
    """Read a cached summary; None if there is no file.

    Raises:
        InputError: If the file has another digest, or is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name.replace("|", "/"): file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged; delete it and run the same command again") from error
    if str(values.pop("digest", "")) != digest:
        raise InputError(
            f"{path}: features of another store, run or setting; give another --out, or --force to replace them"
        )
    return values
