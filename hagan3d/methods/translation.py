"""Base class of translation methods: data, previews, checks, and hierarchical training."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import Config, LabelledTargetConfig, Size, UnpairedDataConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.batches.pairs import PairBatch, PairSource
from hagan3d.data.batches.simulated_sources import check_degradation
from hagan3d.data.batches.slices import SlicePairSource
from hagan3d.data.io.geometry import slice_affine
from hagan3d.data.label_maps import label_map_of
from hagan3d.data.pictures import Segmented
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.losses.segmentation import dice_cross_entropy
from hagan3d.losses.voxels import l1
from hagan3d.methods.base import Method, Preview
from hagan3d.methods.cache import PhaseCache
from hagan3d.methods.generation import COLUMNS, VOXEL_BYTES, first_volume
from hagan3d.methods.phase import Loss, Phase, Terms
from hagan3d.networks.translation import Translation, TranslationNetworks, concat_low_resolution


class TranslationMethod(Method):
    """A method that trains on sources and targets, whole or in windows."""

    predicts_labels = False
    """Whether targets are label maps."""

    def __init__(self, config: Config) -> None:
        """Prepare the method for a run."""
        super().__init__(config)
        self.low_resolution_cache = PhaseCache()

    @property
    def is_adversarial(self) -> bool:
        """Whether the generator has an adversarial term; without, its discriminator does not learn either."""
        return bool(self.settings.adversarial_weight > 0)

    def training_phases(self) -> list[Phase]:
        """Return the phases of the method; in hierarchical training, with one of the low-resolution network first.

        The losses then see windows concatenated with its prediction. It learns as long as the first network of the
        method (of UP-GAN: in the first stage) and is frozen afterwards.
        """
        phases = self.phases()
        if self.config.data.window != "hierarchical":
            return phases
        own = Phase("low_resolution", ("low_resolution",), self.low_resolution_loss, self.train.lr_g, end=phases[0].end)
        return [own, *(replace(phase, loss=partial(self._window_loss, phase.loss)) for phase in phases)]

    def low_resolution_loss(self, nets: TranslationNetworks, batch: PairBatch) -> Terms:
        """Loss of the low-resolution network: L1 to the low-resolution target."""
        assert nets.low_resolution is not None and batch.low_target is not None
        prediction = self.low_resolution_cache.put("low", batch, nets.low_resolution(batch.low_source))
        return {"l1": l1(prediction, batch.low_target, batch.low_mask)}

    def images(self, x: Tensor) -> Tensor:
        """Return the image channels of targets ``x [B, Ct + K, D, H, W]``, without those of labels."""
        return x[:, : self.settings.target_channels]

    def label_terms(self, fake: Tensor, batch: PairBatch) -> Terms:
        """Return the loss of the label map of predicted targets: Dice plus cross-entropy; without labels none."""
        if not self.settings.target_labels:
            return {}
        channels = slice(self.settings.target_channels, None)
        probabilities, labels = ((x[:, channels] + 1) / 2 for x in (fake, batch.target))
        return {"labels": dice_cross_entropy(probabilities, labels, self.loss_mask(batch))}

    def loss_mask(self, batch: PairBatch) -> Tensor | None:
        """Return the mask ``[B, 1, D, H, W]`` of voxel-wise losses; None: all voxels count."""
        return batch.mask if self.settings.masked_losses else None

    def _window_loss(self, loss: Loss, nets: TranslationNetworks, batch: PairBatch) -> Terms | Iterator[Terms]:
        """Loss of a phase on windows concatenated with the low-resolution prediction, which gets no gradient."""
        assert batch.start is not None
        prediction = self.low_resolution_cache.pop("low", batch, partial(_predict_low, nets, batch))
        self.low_resolution_cache.put("low", batch, prediction)  # for the next phase of the step
        return loss(nets, replace(batch, source=concat_low_resolution(batch.source, prediction, batch.start)))

    def check_store(self, store: Store) -> None:
        """Raise InputError unless the method can train on a store."""
        super().check_store(store)
        check_degradation(store, self.config.data.degrade)
        if store.has_domains and self.config.data.paired:
            able = [name for name in method_names() if config_class(name).data_config is UnpairedDataConfig]
            raise InputError(
                f"{store.path}: holds two domains without pairs, but method {self.config.name} compares with a target; "
                f"prepare pairs with `hagan3d prepare --pairs`, or train without pairs ({', '.join(able)})"
            )
        if store.has_label_maps and not self.predicts_labels:
            raise InputError(
                f"{store.path}: its targets are label maps, but method {self.config.name} predicts intensities; use a "
                "method for label maps, or prepare the targets with another --intensity"
            )
        if self.settings.masked_losses and not store.has_masks:
            raise InputError(
                f"{store.path}: holds no masks for {self.config.name}.masked_losses; prepare the pairs from a CSV "
                "with the column mask, or leave the setting out"
            )
        self.check_channels(store)
        self._check_source_size(store)

    def _check_source_size(self, store: Store) -> None:
        """Raise InputError unless the source domain of a store has the size of the settings."""
        data, plane = self.config.data, self.config.data.slices
        found = store.source_size if plane == "none" else store.slice_size(store.slice_axis(plane), "source")
        expected = data.source_volume_size
        if found != expected:
            raise InputError(
                f"{store.path}: the source domain has {'volumes' if plane == 'none' else 'slices'} of {list(found)} "
                f"voxels, but data.source_size is {list(expected)}; use --data.source_size {' '.join(map(str, found))}"
            )

    def check_channels(self, store: Store) -> None:
        """Raise InputError unless the sources and targets of a store have the channels of the settings."""
        sources, name = store.source_channels or store.channels, self.config.name
        found = len(sources), len(store.channels)
        expected = self.settings.source_channels, self.settings.target_channels
        if found == expected:
            self._check_labels(store)
            return
        limit = "domains" if store.has_domains else "simulated sources" if self.config.data.degrade.changes else ""
        why = f" ({limit} have one channel)" if limit else ""
        raise InputError(
            f"{store.path}: holds {_count(sources)} per source and {_count(store.channels)} per target{why}, but "
            f"{name}.source_channels and {name}.target_channels are {expected[0]} and {expected[1]}; use "
            f"--{name}.source_channels {found[0]} --{name}.target_channels {found[1]}"
        )

    def _check_labels(self, store: Store) -> None:
        """Raise InputError unless the targets of a store have the label maps of the settings."""
        found, name = len(store.label_names), self.config.name
        if found == self.settings.target_labels:
            return
        able = [one for one in method_names() if issubclass(config_class(one), LabelledTargetConfig)]
        remedy = f"use --{name}.target_labels {found}" if name in able else f"use {' or '.join(able)} for both"
        raise InputError(
            f"{store.path}: its targets have label maps of {found} labels ({', '.join(store.label_names) or 'none'}), "
            f"but method {name} predicts {self.settings.target_labels}; {remedy}"
        )

    def batches(self, store: Store, batch_size: int, rank: int = 0, world_size: int = 1) -> PairSource:
        """Return the source of batches of ``batch_size`` pairs per rank."""
        place = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
        kind = PairSource if self.config.data.slices == "none" else SlicePairSource
        source = kind.from_config(store, self.config.data, seed=self.train.seed, **place)
        return replace(source, with_low_mask=source.with_low and self.settings.masked_losses)

    def zero_batch(self) -> PairBatch:
        """Return a batch of zeros with the shapes of a run, to count the memory of a step."""
        data, count = self.config.data, self.train.batch_size
        channels = self.settings.source_channels * data.context, self.settings.target_outputs
        source, target = (
            torch.zeros(count, channel, *size)
            for channel, size in zip(channels, (data.source_train_size, data.train_size), strict=True)
        )
        batch = PairBatch(
            source=source,
            target=target,
            mask=torch.zeros(count, 1, *data.train_size),
            samples=tuple(range(count)),
            seed=0,
            step=0,
            state=self.initial_state(),
        )
        if data.window != "hierarchical":
            return batch
        low_source, low_target = (torch.zeros(count, channel, *data.low_size) for channel in channels)
        start = torch.zeros(count, dtype=torch.int64)
        low_mask = torch.zeros(count, 1, *data.low_size) if self.settings.masked_losses else None
        return replace(batch, start=start, low_source=low_source, low_target=low_target, low_mask=low_mask)

    def preview(self, source: Any) -> Preview:
        """Return the preview of a run on the batches of ``source``."""
        return TranslationPreview(source)

    def bytes_per_step(self, stored: Size | None = None) -> int:
        """Return the bytes of voxels (int16) that a step reads from the store; see `Method`."""
        data, settings = self.config.data, self.settings
        sources = 0 if data.degrade.active and data.paired else settings.source_channels
        # a label map has one byte per voxel; at low resolution, two per label
        targets = settings.target_channels + (0.5 if settings.target_labels else 0)
        # degraded and augmented volumes are read whole, before a window is cut
        reads_windows = data.window != "whole" and not data.degrade.active and not data.augment.active
        sizes = (data.source_train_size, data.train_size) if reads_windows else (data.source_volume_size, data.size)
        sources *= math.prod(sizes[0]) / math.prod(sizes[1])  # in units of the voxels of a target
        channels = targets + sources
        if data.slices != "none":
            # degraded and augmented volumes are read whole, before a slice is cut; blank slices are not counted
            whole = channels * math.prod(stored or data.phantom_size)
            sliced = (targets + sources * data.context) * math.prod(data.size)
            reads_whole = data.degrade.active or data.augment.active
            return int(VOXEL_BYTES * self.train.batch_size * (whole if reads_whole else sliced))
        low = math.prod(data.low_size) if reads_windows and data.window == "hierarchical" else 0
        voxels = math.prod(sizes[1])
        low_channels = settings.target_outputs + sources
        return int(VOXEL_BYTES * self.train.batch_size * (channels * voxels + low_channels * low))


def _count(names: tuple[str, ...]) -> str:
    """Return the number of channels in words, with their names."""
    return f"{'one channel' if len(names) == 1 else f'{len(names)} channels'} ({', '.join(names)})"


@torch.no_grad()
def _predict_low(nets: TranslationNetworks, batch: PairBatch) -> Tensor:
    assert nets.low_resolution is not None and batch.low_source is not None
    return nets.low_resolution(batch.low_source)


class TranslationPreview(Preview):
    """Sources, translations, the predicted uncertainty if there is one, and targets, channel by channel.

    Volumes are whole; those of a run on windows are translated in adjacent windows.
    """

    def __init__(self, source: PairSource) -> None:
        """Take the pairs of the first steps."""
        steps = -(-COLUMNS // source.batch_size)
        batches = [replace(source, depth=0, with_low=False).batch(step) for step in range(steps)]
        self.sources = torch.cat([batch.source for batch in batches])[:COLUMNS]
        self.targets = torch.cat([batch.target for batch in batches])[:COLUMNS]
        self.source_names = source.store.source_channels or source.store.channels
        self.target_names, self.has_label_maps = source.store.channels, bool(source.store.label_names)
        self.depth = source.depth or self.sources.shape[2]
        self.axis = source.slices.axis if isinstance(source, SlicePairSource) else None

    def affine(self, description: DataDescription, title: str) -> np.ndarray:
        """Return the affine ``[4, 4]`` of the volumes in a row; of slices, that of the middle one."""
        grid = description.on_grid_of("target" if title.startswith("target") else "source")  # translations keep theirs
        return grid.affine_array if self.axis is None else slice_affine(grid.affine_array, grid.size, self.axis)

    def groups(self, networks: TranslationNetworks) -> dict[str, list[Any]]:
        """Return volumes by kind; sigma is shown from 0 (black) to 0.5 (white) in units of [-1, 1].

        Label maps are outlined on the first image channel.
        """
        translations = [self._translate(networks, source[None]) for source in self.sources]
        groups: dict[str, list[Any]] = dict(by_channel("source", list(self.sources), self.source_names))
        for title, volumes in (("translated", [one.mean[0] for one in translations]), ("target", list(self.targets))):
            groups |= by_channel(title, volumes, self.target_names)
            if self.has_label_maps:
                groups[f"{title} labels"] = [_segmented(x.cpu().numpy(), len(self.target_names)) for x in volumes]
        sigmas = [one.sigma[0] * 4 - 1 for one in translations if one.sigma is not None]
        return groups | (by_channel("sigma, 0 to 0.5", sigmas, self.target_names) if sigmas else {})

    def _translate(self, networks: TranslationNetworks, source: Tensor) -> Translation:
        """Translate a volume ``[1, Cs, D, H, W]`` in adjacent windows as thick as those of training."""
        device, low, length = next(networks.parameters()).device, networks.low_resolution, source.shape[2]
        prediction = None if low is None else low(F.avg_pool3d(source, low.factor).to(device))
        means, sigmas = [], []
        for first in range(0, length, self.depth):
            start = min(first, length - self.depth)
            window = source[:, :, start : start + self.depth].to(device)
            if prediction is not None:
                window = concat_low_resolution(window, prediction, torch.tensor([start], device=device))
            output = networks.finalize(networks.translate(window))
            means.append(output.mean[:, :, first - start :].cpu())
            if output.sigma is not None:
                sigmas.append(output.sigma[:, :, first - start :].cpu())
        return Translation(torch.cat(means, 2), sigma=torch.cat(sigmas, 2) if sigmas else None)


def _segmented(x: np.ndarray, images: int) -> Segmented:
    """Return the first image channel of ``x [C, D, H, W]`` with its label map."""
    return Segmented(x[0].clip(-1, 1), label_map_of(x, images))


def by_channel(title: str, volumes: Sequence[Tensor], names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Return a row of pictures per named channel of volumes ``[C, D, H, W]``; the title of several has their names."""
    titles = [title] if len(names) == 1 else [f"{title}, {name}" for name in names]
    return {
        text: [first_volume(x[None, channel : channel + 1]) for x in volumes] for channel, text in enumerate(titles)
    }
