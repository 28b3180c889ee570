"""Pictures of a run: real, generated and reconstructed volumes, or sources, translations and targets."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hagan3d.config import TrainConfig
from hagan3d.data.batches import BatchSource
from hagan3d.data.description import DataDescription
from hagan3d.data.pairs import PairSource
from hagan3d.data.pictures import comparison_sheet
from hagan3d.data.store import Store
from hagan3d.networks.encoder import encode

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
            z = torch.from_numpy(random.standard_normal((1, networks.g.latent_dim), dtype=np.float32)).to(device)
            groups["real"].append(real.numpy())
            groups["generated"].append(_array(networks.g.volume(z, label_or_none)))
            if self.train.encoder:
                slabs = [slab[None, None].to(device) for slab in real.split(networks.g.depth)]
                latent = encode(networks.e_h, networks.e_g, slabs)
                groups["reconstructed"].append(_array(networks.g.volume(latent, label_or_none)))
        return groups


class TranslationPreview(Preview):
    """Sources, what they are translated to, the uncertainty where there is one, and targets; first channels."""

    def __init__(self, source: PairSource) -> None:
        """Take the pairs of the first steps."""
        steps = -(-COLUMNS // source.batch_size)
        batches = [source.batch(step) for step in range(steps)]
        self.sources = torch.cat([batch.source for batch in batches])[:COLUMNS]
        self.targets = torch.cat([batch.target for batch in batches])[:COLUMNS]

    def groups(self, networks: Any) -> dict[str, list[np.ndarray]]:
        """Return the volumes of each kind; sigma is shown from 0 (black) to 0.5 (white) in units of [-1, 1]."""
        device = next(networks.parameters()).device
        made = [networks.finished(networks.translate(source[None].to(device))) for source in self.sources]
        groups = {
            "source": [_array(x[None]) for x in self.sources],
            "translated": [_array(one.mean) for one in made],
            "target": [_array(x[None]) for x in self.targets],
        }
        sigmas = [_array(one.sigma * 4 - 1) for one in made if one.sigma is not None]
        return groups | ({"sigma, 0 to 0.5": sigmas} if sigmas else {})


def make_preview(source: Source, train: TrainConfig) -> Preview:
    """Return the pictures of a run on what ``source`` gives."""
    if isinstance(source, PairSource):
        return TranslationPreview(source)
    return GenerationPreview(source.store, source.split, train)


def _array(volume: Tensor) -> np.ndarray:
    return volume[0, 0].float().cpu().clamp(-1, 1).numpy()
