"""Base class of methods that generate volumes from latents: data, previews, checks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hagan3d.config import Config, Size, SubvolumeDataConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.batches.slices import SliceBatchSource
from hagan3d.data.batches.subvolumes import Batch, BatchSource
from hagan3d.data.batches.whole_volumes import StoredSlab
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.pictures import Segmented
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.methods.base import Method, Preview
from hagan3d.networks.generative import GenerativeNetworks

COLUMNS = 4  # volumes of each kind in a preview
VOXEL_BYTES = 2  # int16 in a store


class GenerationMethod(Method):
    """A method that trains on real volumes, or on sub-volumes of them, and generates new ones."""

    def check_store(self, store: Store) -> None:
        """Raise InputError unless the method can train on a store."""
        super().check_store(store)
        data = self.config.data
        if (len(store.channels), len(store.label_names)) != (data.channels, data.labels):
            raise InputError(
                f"{store.path}: has {len(store.channels)} image channels ({', '.join(store.channels)}) and "
                f"{len(store.label_names)} labels, but data.channels is {data.channels} and data.labels {data.labels}; "
                f"use --data.channels {len(store.channels)} --data.labels {len(store.label_names)}"
            )
        if store.has_domains or store.has_label_maps:
            held = "two domains" if store.has_domains else "label maps as targets"
            able = [name for name in method_names() if config_class(name).translates]
            raise InputError(
                f"{store.path}: holds {held}, but method {self.config.name} generates volumes; prepare a store with "
                f"--input, or train a translation method ({', '.join(able)})"
            )
        labels = store.labels[store.indices(self.config.data.split)]
        if self.config.conditional and (len(store.class_names) < 2 or (labels < 0).any()):
            raise InputError(
                f"{store.path}: {self.config.name}.conditional needs two or more classes and one for each volume; "
                f"there are {len(store.class_names)} classes, and {int((labels < 0).sum())} volumes have none; "
                "complete the labels file, or leave those volumes out, and prepare the store again"
            )

    def batches(self, store: Store, batch_size: int, rank: int = 0, world_size: int = 1) -> BatchSource:
        """Return the source of batches of ``batch_size`` volumes per rank."""
        place = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
        seed, whole = self.train.seed, self.settings.encodes
        kind = BatchSource if self.config.data.slices == "none" else SliceBatchSource
        return kind.from_config(store, self.config.data, seed=seed, whole=whole, **place)

    def description(self, store: Store) -> DataDescription:
        """Return the metadata of the generated data; of a run on slices, that of single slices."""
        plane = self.config.data.slices
        return store.description() if plane == "none" else store.description().of_slices(plane)

    def zero_batch(self) -> Batch:
        """Return a batch of zeros with the shapes of a run, to count the memory of a step."""
        data, count = self.config.data, self.train.batch_size
        return ZeroBatch(
            window=torch.zeros(count, data.volume_channels, window_depth(self.config), *data.size[1:]),
            low=torch.zeros(count, data.volume_channels, *data.low_size),
            start=torch.zeros(count, dtype=torch.int64),
            label=torch.zeros(count, dtype=torch.int64),
            volumes=None,
            labels=data.labels,
            samples=tuple(range(count)),
            seed=0,
            step=0,  # lazy terms such as R1 are due
            state=self.initial_state(),
        )

    def preview(self, source: Any) -> Preview:
        """Return the preview of a run on the batches of ``source``."""
        read = partial(source.slice, step=0, sample=0) if isinstance(source, SliceBatchSource) else source.store.volume
        return GenerationPreview(source.store, source.split, self.train.seed, self.settings.encodes, read)

    def bytes_per_step(self, stored: Size | None = None) -> int:
        """Return the bytes of voxels (int16) that a step reads from the store; see `Method`."""
        data, settings = self.config.data, self.settings
        # label maps have one byte per voxel; at low resolution, two per label
        channels = data.channels + (0.5 if data.labels else 0)
        voxels, low = int(channels * math.prod(data.size)), data.volume_channels * math.prod(data.low_size)
        if data.slices != "none":
            whole = int(channels * math.prod(stored or data.phantom_size))
            return VOXEL_BYTES * self.train.batch_size * (whole if data.augment.active else voxels)
        if data.augment.active:
            return VOXEL_BYTES * self.train.batch_size * (voxels + low)
        window = voxels * window_depth(self.config) // data.size[0]
        return VOXEL_BYTES * self.train.batch_size * (window + low + settings.encoded_voxels(voxels))


def window_depth(config: Config) -> int:
    """Return the slices of the real volumes that a step sees: those of a sub-volume, or all."""
    data = config.data
    return data.depth if isinstance(data, SubvolumeDataConfig) else data.size[0]


@dataclass(frozen=True, kw_only=True)
class ZeroBatch(Batch):
    """A batch of zeros, without a store behind it."""

    labels: int = 0
    """Labels of the volumes."""

    def normal(self, name: str, count: int) -> Tensor:
        """Return zeros ``[B, count]`` in place of normal numbers."""
        return torch.zeros(len(self), count, device=self.device)

    def slabs(self) -> Iterator[Tensor]:
        """Yield zeros of the shapes of the whole volumes' slabs, made of zeros as a store holds them."""
        length = self.low.shape[2] * (self.window.shape[3] // self.low.shape[3])
        depth = self.window.shape[2]
        for start in range(0, length, depth):
            yield self._zero_slab(min(depth, length - start))

    def _zero_slab(self, depth: int) -> Tensor:
        B, channels, _, H, W = self.window.shape
        images = torch.zeros(B, channels - self.labels, depth, H, W, dtype=torch.int16)
        label_map = torch.zeros(B, depth, H, W, dtype=torch.uint8) if self.labels else None
        return StoredSlab(images, label_map, self.labels).decoded(self.device)


class GenerationPreview(Preview):
    """Real volumes, volumes generated from fixed latents, and reconstructions if there is an encoder."""

    def __init__(self, store: Store, split: str, seed: int, encodes: bool, read: Callable[[int], Tensor]) -> None:
        """Choose the first volumes of a split; ``read`` returns one ``[C, D, H, W]``, or a slice of it."""
        self.store, self.seed, self.encodes, self.read = store, seed, encodes, read
        self.indices = [int(index) for index in store.indices(split)[:COLUMNS]]

    def groups(self, networks: GenerativeNetworks) -> dict[str, list[Any]]:
        """Return volumes ``[D, H, W]`` in [-1, 1] by kind and channel, and label maps outlined on the first channel."""
        groups: dict[str, list[Any]] = {}
        for kind, volumes in self._volumes(networks).items():
            for channel, name in enumerate(self.store.channels):
                title = f"{kind} {name}" if self.store.num_channels > 1 else kind
                groups[title] = [x[channel] for x in volumes]
            if self.store.label_names:
                images = len(self.store.channels)
                groups[f"{kind} labels"] = [Segmented(x[0], label_map_of(x, images)) for x in volumes]
        return groups

    def _volumes(self, networks: GenerativeNetworks) -> dict[str, list[np.ndarray]]:
        """Return volumes ``[C, D, H, W]`` in [-1, 1] by kind."""
        device = next(networks.parameters()).device
        random = np.random.default_rng(self.seed)
        volumes: dict[str, list[np.ndarray]] = {"real": [], "generated": []}
        if self.encodes:
            volumes["reconstructed"] = []
        for index in self.indices:
            real = self.read(index)
            label = torch.tensor([int(self.store.labels[index])], device=device) if networks.num_classes else None
            x = torch.from_numpy(random.standard_normal((1, networks.latent_dim), dtype=np.float32)).to(device)
            volumes["real"].append(real.numpy())
            volumes["generated"].append(_generated(networks, networks.latent(x, label), label))
            if self.encodes:
                z = networks.encode(slab[None].to(device) for slab in real.split(networks.encoder_depth(), dim=1))
                volumes["reconstructed"].append(_generated(networks, z, label))
        return volumes


def _generated(networks: GenerativeNetworks, z: Tensor, label: Tensor | None) -> np.ndarray:
    """Generate one volume ``[C, D, H, W]`` in windows: the tensors of training stay in memory meanwhile."""
    windows = networks.windows(z, label, networks.default_depth())
    return np.concatenate([_to_array(window) for window in windows], axis=1)


def first_volume(x: Tensor) -> np.ndarray:
    """Return the first channel of the first volume of ``x [B, C, D, H, W]``, clipped to [-1, 1]."""
    return _to_array(x)[0]


def _to_array(x: Tensor) -> np.ndarray:
    """Return the first volume ``[C, D, H, W]`` of ``x [B, C, D, H, W]``, clipped to [-1, 1]."""
    return x[0].float().cpu().clamp(-1, 1).numpy()
