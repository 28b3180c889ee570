"""Summaries of sets of volumes: features and small statistics, so that no set has to fit into memory."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hagan3d.config import Size
from hagan3d.data.io.files import replacing
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.features.texture import describe_texture
from hagan3d.evaluation.settings import CHUNK

BINS = 128  # of the histogram over [-1, 1]
SMALL = 32  # voxels per axis of the downsampled copy
PLANE_SLICES = 8  # slices per plane with statistics
MOST_FULL = 2**24  # maximum voxels of a volume for sums at full resolution
FEATURES = "features/"
STATISTICS_VERSION = 3  # changes with the arrays of `describe`, so that files of another version are not read
LEAST_DEVIATION = 0.05  # of the median feature
PAIRWISE = ("similarity", "pair_dice")  # a row per pair of volumes
SUMS = ("total", "total_square")  # summed over volumes; all other arrays have a row per volume

Summary = dict[str, np.ndarray]
"""Arrays by name, of an image channel: those of `describe` stacked over volumes ``[N, ...]``, `features/NAME [N, dim]`,
`similarity [P]` (MS-SSIM of disjoint pairs), and the sums over volumes `total` and `total_square` ``[D, H, W]`` (empty
if too large)."""


def describe(x: np.ndarray) -> Summary:
    """Return statistics of one image channel of a volume ``[D, H, W]``.

    Returns:
        `slice_mean`, `slice_deviation` ``[D]``; `gradients` ``[D - 1]``: mean absolute difference of adjacent slices;
        `histogram` ``[BINS]``: shares of the voxels; `planes` ``[3, PLANE_SLICES, 8]``: slice statistics in 3 planes;
        `small` ``[32, 32, 32]``: block means; `range` ``[2]``: minimum and maximum; and those of `describe_texture`.
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
        **describe_texture(x),
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
    """Return the MS-SSIM ``[P]`` between volumes ``[P, D, H, W]`` in [-1, 1], pair by pair.

    On x + 1 with data range 2, as SSIM of pairs: its luminance term is defined for intensities from 0.
    """
    from monai.metrics.regression import compute_ms_ssim

    one, other = (torch.from_numpy(np.asarray(v, dtype=np.float32) + 1)[:, None] for v in (a, b))
    values = compute_ms_ssim(one, other, spatial_dims=3, data_range=2.0, **ssim_settings(a.shape[1:]))
    return values.flatten().numpy()


class View(Protocol):
    """What is computed of the volumes of a set, and cached in its own folder."""

    @property
    def folder(self) -> Path:
        """Folder of the cache files."""
        ...

    @property
    def key(self) -> dict[str, Any]:
        """Plain values that determine the results for given volumes."""
        ...

    def summarize(self, x: np.ndarray, pairs: bool) -> Summary:
        """Summarize volumes ``[B, C, D, H, W]``; with ``pairs``, also compare disjoint pairs of them."""
        ...


@dataclass(frozen=True)
class ChannelView:
    """Statistics and features of one image channel."""

    folder: Path
    extractors: Sequence[Extractor]
    channel: int = 0
    """Index of the image channel."""

    @property
    def key(self) -> dict[str, Any]:
        """Plain values that determine the results for given volumes."""
        extractors = {e.name: e.sha256 for e in self.extractors}
        return {"statistics": STATISTICS_VERSION, "channel": self.channel, "extractors": extractors}

    def summarize(self, x: np.ndarray, pairs: bool) -> Summary:
        """Summarize volumes ``[B, C, D, H, W]``."""
        own = x[:, self.channel]
        described = [describe(volume) for volume in own]
        part = {name: np.stack([one[name] for one in described]) for name in described[0]}
        part |= {FEATURES + e.name: e.of_batch(x if e.all_channels else own) for e in self.extractors}
        even = len(own) // 2 * 2 if pairs else 0
        part["similarity"] = similarity(own[0:even:2], own[1:even:2]) if even else np.zeros(0, np.float32)
        full = own if own[0].size <= MOST_FULL else np.zeros((1, 0))
        part["total"], part["total_square"] = full.sum(axis=0, dtype=np.float64), (full.astype(np.float64) ** 2).sum(0)
        return part


def summarize(
    volumes: Iterator[np.ndarray], views: Sequence[View], batch: int, pairs: bool, size: Size
) -> list[Summary]:
    """Summarize volumes ``[C, D, H, W]`` batch by batch, in one pass for all views.

    Raises:
        InputError: If a volume has another size, or holds NaN or infinite values.
    """
    parts: list[list[Summary]] = [[] for _ in views]
    while group := list(islice(volumes, batch)):
        odd = next((x.shape[1:] for x in group if x.shape[1:] != tuple(size)), None)
        if odd:
            raise InputError(f"volumes of {list(odd)} and {list(size)} voxels cannot be compared")
        x = np.stack(group)
        if not np.isfinite(x).all():
            raise InputError(
                "generated volumes hold NaN or infinite values: the run diverged; use an earlier checkpoint"
            )
        for view, own in zip(views, parts, strict=True):
            own.append(view.summarize(x, pairs))
    return [concatenate(own) for own in parts]


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
    """Returns the volumes ``[C, D, H, W]`` from one index up to another: image channels, then one per label."""
    identity: Mapping[str, Any]
    """Plain values that determine the volumes."""
    subjects: np.ndarray | None = None
    """Number of the subject of each volume ``[N]``; None: every volume is of its own, of which no other set has any."""

    @property
    def subject_numbers(self) -> np.ndarray:
        """Number of the subject of each volume ``[N]``: negative for those of their own, from 0 on for others."""
        return -1 - np.arange(self.count) if self.subjects is None else self.subjects

    def volumes(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Return some volumes ``[C, D, H, W]``."""
        return (next(self.read(int(i), int(i) + 1)) for i in indices)


def summarize_set(
    volumes: VolumeSet,
    views: Sequence[View],
    *,
    batch: int,
    pairs: int,
    chunk: int = CHUNK,
    advance: Callable[[int], None] = lambda count: None,
) -> list[Summary]:
    """Summarize a set chunk by chunk, caching each in a file per view, so that an interrupted call resumes.

    Every volume is read or generated once for all views.

    Args:
        volumes: The set.
        views: What is computed; the cache files are `SET-FIRST.npz` in the folder of each.
        batch: Volumes per batch.
        pairs: Pairs of volumes to compare with each other.
        chunk: Volumes per file, an even number.
        advance: Called with the number of volumes of each chunk.

    Returns:
        A summary per view.

    Raises:
        InputError: If a folder holds results of other volumes, or of other extractors.
    """
    digests = [_digest({**volumes.identity, **view.key, "chunk": chunk, "pairs": pairs}) for view in views]
    parts: list[list[Summary]] = [[] for _ in views]
    for first in range(0, volumes.count, chunk):
        last = min(first + chunk, volumes.count)
        paths = [view.folder / f"{volumes.name}-{first:06d}.npz" for view in views]
        found = [read_summary(path, digest) for path, digest in zip(paths, digests, strict=True)]
        missing = [i for i, part in enumerate(found) if part is None]
        if missing:
            chosen = [views[i] for i in missing]
            made = summarize(volumes.read(first, last), chosen, batch, first < 2 * pairs, volumes.size)
            for i, part in zip(missing, made, strict=True):
                _write_summary(paths[i], part, digests[i])
                found[i] = part
        for own, summary in zip(parts, found, strict=True):
            assert summary is not None
            own.append(summary)
        advance(last - first)
    return [_limited(concatenate(own), pairs) for own in parts]


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _limited(summary: Summary, pairs: int) -> Summary:
    """Keep the first ``pairs`` comparisons of pairs."""
    return summary | {name: summary[name][:pairs] for name in PAIRWISE if name in summary}


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
