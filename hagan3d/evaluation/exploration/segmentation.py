"""A segmenter learned from label maps: brought to the grid of a store, they teach a small U-Net."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from hagan3d.data.io.geometry import spacing_of
from hagan3d.data.io.volumes import find_volumes, read_voxels
from hagan3d.data.preprocess.metadata import abbreviate
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.measures import Measure, millilitres

MOST_SAMPLES = 4  # of a label map per voxel and axis
MOST_LABEL = 63
MOST_BYTES = 2**30  # of label maps kept in memory
BLOCK = 64  # voxels a side that the U-Net sees at once, at most
BLUR = 0.8  # voxels: training volumes are blurred by up to that much, as generated ones may be


@dataclass(frozen=True)
class UNetConfig:
    """How the U-Net is trained."""

    steps: int = 300
    """Steps."""
    batch_size: int = 4
    """Volumes per step."""
    lr: float = 3e-3
    """Adam's learning rate at the start; it falls to 0 along a cosine."""
    seed: int = 0
    """Of weights and order."""


class LabelMaps:
    """Label maps of volumes of a store, brought to its grid when they are asked for."""

    def __init__(self, store: Store, paths: dict[int, Path], known: tuple[int, ...]) -> None:
        """Keep the file of each volume, by index in the store, and the labels that occur, without 0."""
        self.store, self.paths, self.known = store, paths, known
        size = 4 * (len(known) + 1) * math.prod(store.size)
        self._shares = lru_cache(maxsize=MOST_BYTES // size)(self._read)

    def shares(self, index: int) -> np.ndarray:
        """Share of each voxel of a volume that each label has, float32 ``[labels + 1, D, H, W]``, 0 first."""
        return self._shares(index)

    def measured(self, index: int, measure: Measure) -> float:
        """Measure a volume's label map, voxels that lie half in a label counted as half."""
        totals = dict(zip((0, *self.known), self.shares(index).sum(axis=(1, 2, 3), dtype=np.float64), strict=True))
        counted = sum(totals[label] for label in measure.labels)
        if measure.of:
            return 100 * counted / max(sum(totals[label] for label in measure.of), 1e-9)
        return float(counted * millilitres(self.store.affines[index]))

    def _read(self, index: int) -> np.ndarray:
        """Sample the file at several points per voxel."""
        values, affine = _labels_of(self.paths[index])
        to_file = np.linalg.inv(affine) @ self.store.affines[index]
        ratio = spacing_of(to_file)  # voxels of the file per voxel of the grid
        samples = [min(max(math.ceil(step - 1e-3), 1), MOST_SAMPLES) for step in ratio]
        made = np.zeros((len(self.known) + 1, *self.store.size), np.float32)
        for point in np.ndindex(*samples):
            offset = (np.array(point) + 0.5) / samples - 0.5
            start = to_file[:3, :3] @ offset + to_file[:3, 3]
            taken = ndimage.affine_transform(values, to_file[:3, :3], start, self.store.size, order=0)
            for row, label in enumerate((0, *self.known)):
                made[row] += (taken == label) / np.float32(math.prod(samples))
        return made


def read_label_maps(store: Store, folder: Path, indices: Iterable[int]) -> LabelMaps:
    """Find the label maps of some volumes of a store: files of any kind that `prepare` reads, named as the volumes.

    Raises:
        InputError: If some have none, a file holds no labels (whole numbers from 0 to 63), or all are empty.
    """
    files = {source.id: source.path for source in find_volumes(folder)}
    chosen = [int(i) for i in indices]
    missing = [store.ids[i] for i in chosen if store.ids[i] not in files]
    if missing:
        raise InputError(
            f"{folder}: no label map for {abbreviate(missing)}; want a file named as each volume of {store.path}"
        )
    paths = {i: files[store.ids[i]] for i in chosen}
    known = {int(label) for path in paths.values() for label in np.unique(_labels_of(path)[0])} - {0}
    if not known:
        raise InputError(f"{folder}: the label maps are all empty; want labels above 0")
    return LabelMaps(store, paths, tuple(sorted(known)))


def _labels_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels in a file, uint8 ``[D, H, W]``, and index to RAS mm ``[4, 4]``."""
    array, affine = read_voxels(path)
    values = np.rint(array)
    if not (np.abs(array - values).max() < 1e-3 and values.min() >= 0 and values.max() <= MOST_LABEL):
        raise InputError(f"{path}: is no label map; want whole numbers from 0 to {MOST_LABEL}")
    return values.astype(np.uint8), np.asarray(affine, dtype=np.float64)


class UNetSegmenter:
    """A trained U-Net."""

    def __init__(self, network: nn.Module, known: tuple[int, ...], dice: float = math.nan) -> None:
        """Keep a network that gives a logit for 0 and each label ``known``, and its Dice on held-out volumes."""
        self.network, self.known, self.dice = network.eval(), known, dice

    @property
    def name(self) -> str:
        """What it is."""
        return f"U-Net, Dice {self.dice:.3f} on held-out volumes"

    @torch.no_grad()
    def __call__(self, x: np.ndarray, interval: tuple[float, float], affine: np.ndarray) -> np.ndarray:
        """Label a volume; see `Segmenter`."""
        from monai.inferers.utils import sliding_window_inference

        block = [min(side, BLOCK) for side in x.shape]
        logits = sliding_window_inference(torch.from_numpy(x)[None, None], block, 1, self.network, overlap=0.25)
        return np.array((0, *self.known), np.uint8)[logits[0].argmax(dim=0).numpy()]  # type: ignore[index, union-attr]


def train_unet(
    store: Store,
    maps: LabelMaps,
    train: np.ndarray,
    held_out: np.ndarray,
    config: UNetConfig | None = None,
    progress: Callable[[range], Iterable[int]] = lambda steps: steps,
) -> UNetSegmenter:
    """Train a small U-Net on volumes ``train`` of a store and their label maps, judge it on those ``held_out``.

    On a CPU, with the weights and order of its seed; the random state of torch stays as it was.
    """
    config = config or UNetConfig()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _unet(len(maps.known) + 1)
    _learn(network, store, maps, train, config, progress)
    made = UNetSegmenter(network, maps.known)
    judged = held_out if len(held_out) else train
    return UNetSegmenter(network, maps.known, float(np.mean([_dice(made, store, maps, int(i)) for i in judged])))


def _learn(
    network: nn.Module,
    store: Store,
    maps: LabelMaps,
    train: np.ndarray,
    config: UNetConfig,
    progress: Callable[[range], Iterable[int]],
) -> None:
    from monai.losses.dice import DiceCELoss

    random, loss = np.random.default_rng(config.seed), DiceCELoss(softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), config.lr)
    for step in progress(range(config.steps)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2
        drawn = random.choice(train, config.batch_size)
        pairs = [_block(store.volume(int(i)).numpy(), maps.shares(int(i)), random) for i in drawn]
        x, target = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        optimizer.zero_grad()
        loss(network(x[:, None]), target).backward()
        optimizer.step()


def _unet(classes: int) -> nn.Module:
    from monai.networks.nets.unet import UNet

    return UNet(3, 1, classes, channels=(16, 32, 64), strides=(2, 2), num_res_units=1)


def _block(x: np.ndarray, share: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a block out of a volume and its label shares; blur and brighten the volume at random."""
    sides = [min(side, BLOCK) for side in x.shape]
    starts = [int(random.integers(whole - side + 1)) for whole, side in zip(x.shape, sides, strict=True)]
    where = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    seen = ndimage.gaussian_filter(x[where], random.uniform(0, BLUR)) + random.normal(0, 0.02)
    return seen.astype(np.float32), share[(slice(None), *where)]


def _dice(segmenter: UNetSegmenter, store: Store, maps: LabelMaps, index: int) -> float:
    """Mean Dice over labels of one volume; labels that neither has are passed over."""
    truth = np.array((0, *maps.known))[maps.shares(index).argmax(axis=0)]
    interval = float(store.lo[index]), float(store.hi[index])
    found = segmenter(store.volume(index).numpy(), interval, store.affines[index])
    sizes = [
        (int(((found == k) & (truth == k)).sum()), int((found == k).sum() + (truth == k).sum())) for k in maps.known
    ]
    return float(np.mean([2 * both / total for both, total in sizes if total] or [1.0]))
