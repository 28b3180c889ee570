"""Pictures of a run: real, generated and reconstructed volumes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hagan3d.data.description import DataDescription
from hagan3d.data.pictures import comparison_sheet
from hagan3d.data.store import Store
from hagan3d.networks.build import Networks
from hagan3d.networks.encoder import encode

COLUMNS = 4  # volumes of each kind


class Preview:
    """The same real volumes and the same latents each time, so that pictures of different steps can be compared."""

    def __init__(self, store: Store, split: str, seed: int) -> None:
        """Choose real volumes of a split; ``seed`` is of the latents."""
        self.store, self.seed = store, seed
        self.indices = [int(index) for index in store.indices(split)[:COLUMNS]]

    def write(self, path: Path, networks: Networks, description: DataDescription, reconstruct: bool) -> None:
        """Write a PNG with a row of each kind."""
        device = next(networks.parameters()).device
        random = np.random.default_rng(self.seed)
        groups: dict[str, list[np.ndarray]] = {"real": [], "generated": []}
        if reconstruct:
            groups["reconstructed"] = []
        for index in self.indices:
            real = self.store.volume(index)
            label = torch.tensor([int(self.store.labels[index])], device=device)
            label_or_none = label if networks.g.common.num_classes else None
            z = torch.from_numpy(random.standard_normal((1, networks.g.latent_dim), dtype=np.float32)).to(device)
            groups["real"].append(real.numpy())
            groups["generated"].append(_array(networks.g.volume(z, label_or_none)))
            if reconstruct:
                slabs = [slab[None, None].to(device) for slab in real.split(networks.g.depth)]
                latent = encode(networks.e_h, networks.e_g, slabs)
                groups["reconstructed"].append(_array(networks.g.volume(latent, label_or_none)))
        comparison_sheet(groups, description.affine_array, path)


def _array(volume: Tensor) -> np.ndarray:
    return volume[0, 0].float().cpu().numpy()
