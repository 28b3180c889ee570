"""Pictures of a run: real, generated and reconstructed volumes, or sources, translations and targets."""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hagan3d.config import TrainConfig
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.batches.subvolumes import BatchSource
from hagan3d.data.pictures import comparison_sheet
from hagan3d.data.store.description import DataDescription
from hagan3d.data.store.store import Store
from hagan3d.methods.hagan.encoder import encode
from hagan3d.networks.hierarchical import beside
from hagan3d.networks.translation import Translation

COLUMNS = 4  # volumes of each kind
Source = BatchSource | PairSource


class Preview(ABC):
    """The same volumes each time, so that pictures of different steps can be compared."""

    def write(self, path: Path, networks: Any, description: DataDescription) -> None:
        """Write a PNG with a row of each kind."""
        comparison_sheet(self.groups(networks), description.affine_array, path)

    @abstractmethod
    def groups(self, networks: Any) -> dict[str, list[np.ndarray]]:
        """Return the volumes of each kind."""


class GenerationPreview(Preview):
    """Real volumes, generated ones of the same latents each time, and reconstructions."""

    def __init__(self, store: Store, split: str, train: TrainConfig) -> None:
        """Choose real volumes of a split."""
        self.store, self.train = store, train
        self.indices = [int(index) for index in store.indices(split)[:COLUMNS]]

    def groups(self, networks: Any) -> dict[str, list[np.ndarray]]:
        """Return the volumes of each kind."""
        device = next(networks.parameters()).device
        random = np.random.default_rng(self.train.seed)
        groups: dict[str, list[np.ndarray]] = {"real": [], "generated": []}
        if self.train.encoder:
            groups["reconstructed"] = []
        for index in self.indices:
            real = self.store.volume(index)
            label = torch.tensor([int(self.store.labels[index])], device=device)
            label_or_none = label if networks.g.common.num_classes else None
            x = torch.from_numpy(random.standard_normal((1, networks.g.latent_dim), dtype=np.float32)).to(device)
            z = networks.g.prior(x, label_or_none)
            groups["real"].append(real.numpy())
            groups["generated"].append(_array(networks.g.volume(z, label_or_none)))
            if self.train.encoder:
                slabs = [slab[None, None].to(device) for slab in real.split(networks.g.depth)]
                latent = encode(networks.e_h, networks.e_g, slabs)
                groups["reconstructed"].append(_array(networks.g.volume(latent, label_or_none)))
        return groups


class TranslationPreview(Preview):
    """Sources, what they are translated to, the uncertainty where there is one, and targets; first channels.

    Volumes are whole; they are translated in windows, side by side, if the run learns on windows.
    """

    def __init__(self, source: PairSource) -> None:
        """Take the pairs of the first steps."""
        steps = -(-COLUMNS // source.batch_size)
        batches = [replace(source, depth=0, anchored=False).batch(step) for step in range(steps)]
        self.sources = torch.cat([batch.source for batch in batches])[:COLUMNS]
        self.targets = torch.cat([batch.target for batch in batches])[:COLUMNS]
        self.depth = source.depth or source.store.size[0]

    def groups(self, networks: Any) -> dict[str, list[np.ndarray]]:
        """Return the volumes of each kind; sigma is shown from 0 (black) to 0.5 (white) in units of [-1, 1]."""
        made = [self._translated(networks, source[None]) for source in self.sources]
        groups = {
            "source": [_array(x[None]) for x in self.sources],
            "translated": [_array(one.mean) for one in made],
            "target": [_array(x[None]) for x in self.targets],
        }
        sigmas = [_array(one.sigma * 4 - 1) for one in made if one.sigma is not None]
        return groups | ({"sigma, 0 to 0.5": sigmas} if sigmas else {})

    def _translated(self, networks: Any, source: Tensor) -> Translation:
        """Translate a volume ``[1, Cs, D, H, W]`` in windows as thick as those of training, side by side."""
        device, anchor, length = next(networks.parameters()).device, networks.anchor, source.shape[2]
        said = None if anchor is None else anchor(F.avg_pool3d(source, anchor.factor).to(device))
        means, sigmas = [], []
        for first in range(0, length, self.depth):
            start = min(first, length - self.depth)
            window = source[:, :, start : start + self.depth].to(device)
            if said is not None:
                window = beside(window, said, torch.tensor([start], device=device))
            made = networks.finished(networks.translate(window))
            means.append(made.mean[:, :, first - start :].cpu())
            if made.sigma is not None:
                sigmas.append(made.sigma[:, :, first - start :].cpu())
        return Translation(torch.cat(means, 2), sigma=torch.cat(sigmas, 2) if sigmas else None)


def make_preview(source: Source, train: TrainConfig) -> Preview:
    """Return the pictures of a run on what ``source`` gives."""
    if isinstance(source, PairSource):
        return TranslationPreview(source)
    return GenerationPreview(source.store, source.split, train)


def _array(volume: Tensor) -> np.ndarray:
    return volume[0, 0].float().cpu().clamp(-1, 1).numpy()
