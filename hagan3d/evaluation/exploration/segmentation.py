"""A segmentation U-Net trained on label maps that are resampled to the grid of a store."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from hagan3d.data.io.geometry import GridRule, grid_of, spacing_of
from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import Volume, read_raw
from hagan3d.data.label_maps import dice, overlap_counts
from hagan3d.data.preprocess.metadata import abbreviate
from hagan3d.data.preprocess.volume import check_overlap
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.measures import Measure, millilitres
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track

MOST_SAMPLES = 4  # maximum samples of a label map per voxel and axis
MOST_LABEL = 63
MOST_BYTES = 2**30  # cache of label maps
BLOCK = 64  # maximum side of a training patch in voxels
SAME_PLACE = 1e-3  # mm
BLUR = 0.8  # voxels, maximum blur augmentation, since generated volumes may be blurred


@dataclass(frozen=True)
class UNetConfig:
    """Training of the U-Net."""

    steps: int = 300
    """Number of training steps."""
    batch_size: int = 4
    """Volumes per step."""
    lr: float = 3e-3
    """Initial learning rate of Adam (cosine decay to 0)."""
    seed: int = 0
    """Seed of weights and sampling."""


class LabelMaps:
    """Label maps of volumes of a store, resampled to its grid on demand."""

    def __init__(self, store: Store, paths: dict[int, Path], labels: tuple[int, ...]) -> None:
        """Set the file of each volume, by index in the store, and the labels that occur, without 0."""
        self.store, self.paths, self.labels = store, paths, labels
        size = 4 * (len(labels) + 1) * math.prod(store.size)
        self._shares = lru_cache(maxsize=MOST_BYTES // size)(self._read)

    def shares(self, index: int) -> np.ndarray:
        """Return the share of each voxel that each label covers, ``[labels + 1, D, H, W]``, background first."""
        return self._shares(index)

    def measured(self, index: int, measure: Measure) -> float:
        """Return the measure of a label map, with partial volumes."""
        totals = dict(zip((0, *self.labels), self.shares(index).sum(axis=(1, 2, 3), dtype=np.float64), strict=True))
        counted = sum(totals[label] for label in measure.labels)
        if measure.of:
            return 100 * counted / max(sum(totals[label] for label in measure.of), 1e-9)
        return float(counted * millilitres(self.store.affines[index]))

    def _read(self, index: int) -> np.ndarray:
        """Sample the file at several points per voxel (supersampling)."""
        label_map = _label_map(self.paths[index])
        to_file = np.linalg.inv(label_map.affine) @ self.store.affines[index]
        ratio = spacing_of(to_file)  # voxels of the file per voxel of the grid
        samples = [min(max(math.ceil(step - 1e-3), 1), MOST_SAMPLES) for step in ratio]
        shares = np.zeros((len(self.labels) + 1, *self.store.size), np.float32)
        for point in np.ndindex(*samples):
            offset = (np.array(point) + 0.5) / samples - 0.5
            start = to_file[:3, :3] @ offset + to_file[:3, 3]
            taken = ndimage.affine_transform(label_map.array, to_file[:3, :3], start, self.store.size, order=0)
            for row, label in enumerate((0, *self.labels)):
                shares[row] += (taken == label) / np.float32(math.prod(samples))
        return shares


def read_label_maps(store: Store, folder: Path, indices: Iterable[int]) -> LabelMaps:
    """Find the label maps of volumes of a store: files of any format that `prepare` reads, named like the volumes.

    Raises:
        InputError: If a label map is missing, does not overlap with its volume, holds other values than integers from 0
            to 63, or all are empty.
    """
    files = {source.id: source.path for source in find_volumes(folder)}
    chosen = [int(i) for i in indices]
    missing = [store.ids[i] for i in chosen if store.ids[i] not in files]
    if missing:
        raise InputError(
            f"{folder}: no label map for {abbreviate(missing)}; each volume of {store.path} needs a file of its name"
        )
    paths, labels = {i: files[store.ids[i]] for i in chosen}, {0}
    rule = store.description().grid_rule
    for i, path in paths.items():
        label_map = _label_map(path)
        volume = Volume(np.empty(store.size), store.affines[i], f"{store.ids[i]} in {store.path}")
        check_overlap(_placed(label_map, volume, rule), volume)
        labels |= set(map(int, np.unique(label_map.array)))
    labels -= {0}
    if not labels:
        raise InputError(f"{folder}: all label maps are empty; labels above 0 are needed")
    return LabelMaps(store, paths, tuple(sorted(labels)))


def _placed(label_map: Volume, volume: Volume, rule: GridRule) -> Volume:
    """Return a label map whose file does not say where it lies as one that does, if that of the volume did not, either.

    The volume's grid in the store is then the one that follows from the label map. If margins were trimmed, nothing
    tells.
    """
    if label_map.is_placed or rule.trim:
        return label_map
    grid = grid_of(label_map.array, label_map.affine, rule)
    return replace(label_map, is_placed=np.allclose(grid, volume.affine, atol=SAME_PLACE))


def _label_map(path: Path) -> Volume:
    """Read a label map as uint8."""
    raw = read_raw(path)
    values = np.rint(raw.array)
    if not (np.abs(raw.array - values).max() < 1e-3 and values.min() >= 0 and values.max() <= MOST_LABEL):
        raise InputError(f"{path}: not a label map; values must be whole numbers from 0 to {MOST_LABEL}")
    affine = np.asarray(raw.affine, dtype=np.float64)
    return Volume(values.astype(np.uint8), affine, str(path), is_placed=raw.is_placed)


class UNetSegmenter:
    """Segments volumes with a trained U-Net."""

    def __init__(self, network: nn.Module, labels: tuple[int, ...], dice: float = math.nan, tested: str = "") -> None:
        """Set a network with logits for background and each label, and its Dice on the volumes ``tested``."""
        self.network, self.labels, self.dice, self.tested = network.eval(), labels, dice, tested

    @property
    def name(self) -> str:
        """Short description."""
        return f"U-Net, Dice {self.dice:.3f} on {self.tested} volumes"

    @torch.no_grad()
    def __call__(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> np.ndarray:
        """Segment a volume; see `Segmenter`."""
        from monai.inferers.utils import sliding_window_inference

        block = [min(side, BLOCK) for side in x.shape]
        logits = sliding_window_inference(torch.from_numpy(x)[None, None], block, 1, self.network, overlap=0.25)
        return np.array((0, *self.labels), np.uint8)[logits[0].argmax(dim=0).numpy()]  # type: ignore[index, union-attr]


def train_unet(
    store: Store,
    maps: LabelMaps,
    train: np.ndarray,
    held_out: np.ndarray,
    config: UNetConfig | None = None,
    progress: ProgressCallback = no_progress,
) -> UNetSegmenter:
    """Train a small U-Net on volumes ``train`` of a store and their label maps; its Dice is that on ``held_out``.

    On a CPU, deterministic in the seed; the random state of torch is restored.
    """
    config = config or UNetConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _unet(len(maps.labels) + 1)
    _learn(network, store, maps, train, config, progress)
    segmenter = UNetSegmenter(network, maps.labels)
    tested, name = (held_out, "held-out") if len(held_out) else (train, "its own training")
    found = [_dice(segmenter, store, maps, int(i)) for i in tested]
    return UNetSegmenter(network, maps.labels, float(np.mean(found)), name)


def _learn(
    network: nn.Module,
    store: Store,
    maps: LabelMaps,
    train: np.ndarray,
    config: UNetConfig,
    progress: ProgressCallback,
) -> None:
    from monai.losses.dice import DiceCELoss

    random, loss = np.random.default_rng(config.seed), DiceCELoss(softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), config.lr)
    for step in track(range(config.steps), "train U-Net", config.steps, progress):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2
        batch = random.choice(train, config.batch_size)
        pairs = [_block(store.channel(int(i)).numpy(), maps.shares(int(i)), random) for i in batch]
        x, target = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        optimizer.zero_grad()
        loss(network(x[:, None]), target).backward()
        optimizer.step()


def _unet(classes: int) -> nn.Module:
    from monai.networks.nets.unet import UNet

    return UNet(3, 1, classes, channels=(16, 32, 64), strides=(2, 2), num_res_units=1)


def _block(x: np.ndarray, share: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sample a patch of a volume and its label shares; augment by random blur and brightness."""
    sides = [min(side, BLOCK) for side in x.shape]
    starts = [int(random.integers(whole - side + 1)) for whole, side in zip(x.shape, sides, strict=True)]
    where = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    patch = ndimage.gaussian_filter(x[where], random.uniform(0, BLUR)) + random.normal(0, 0.02)
    return patch.astype(np.float32), share[(slice(None), *where)]


def _dice(segmenter: UNetSegmenter, store: Store, maps: LabelMaps, index: int) -> float:
    """Mean Dice over labels of one volume, without labels that both maps lack."""
    truth = np.array((0, *maps.labels))[maps.shares(index).argmax(axis=0)]
    lo, hi = store.intervals[index, 0]
    found = segmenter(store.channel(index).numpy(), (float(lo), float(hi)), store.affines[index])
    values = dice(*overlap_counts(found, truth, max(maps.labels) + 1))[np.array(maps.labels) - 1]
    return 1.0 if np.isnan(values).all() else float(np.nanmean(values))
