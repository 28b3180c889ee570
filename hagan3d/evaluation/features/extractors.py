"""Feature extractors: networks whose features the distances between sets of volumes are computed in.

Nothing is downloaded: weights come from a seed, the run, the features file of the store, or a file of the user.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hagan3d.checkpoint import Model
from hagan3d.errors import InputError
from hagan3d.inference.encoding import has_encoder
from hagan3d.networks.extractors.medicalnet import load_medicalnet, standardized
from hagan3d.networks.state_hash import state_hash


@dataclass(frozen=True)
class Extractor:
    """A network that maps volumes to features."""

    name: str
    dim: int
    """Features per volume."""
    sha256: str
    """Hash of the weights, or of their file."""
    network: nn.Module
    """Maps ``[B, 1, D, H, W]`` to ``[B, dim]``; in evaluation mode, without gradients."""
    all_channels: bool = False
    """Whether it takes all channels of a volume, those of labels included, in place of one image channel."""
    zero_mean: bool = False
    """Whether each volume is standardized to zero mean and unit standard deviation; else it is in [-1, 1]."""
    rescale: bool = True
    """Whether features are compared in units of their standard deviation over the training volumes."""
    note: str = ""
    """Note for the report."""
    confirms: bool = False
    """Whether no difference in these features is evidence of likeness by itself. Not so for the encoder of the
    evaluated model, which is blind to blur, for random weights, and for weights of other data."""

    def features(self, volumes: Iterable[np.ndarray], batch: int = 8) -> np.ndarray:
        """Extract features.

        Args:
            volumes: Arrays ``[D, H, W]`` in [-1, 1], with ``all_channels`` ``[C, D, H, W]``, all of one size.
            batch: Volumes per batch.

        Returns:
            ``[N, dim]``, float32.

        Raises:
            ValueError: If there are no volumes.
        """
        rows = [self.of_batch(group) for group in _batches(volumes, batch)]
        if not rows:
            raise ValueError("expected at least one volume, got none")
        return np.concatenate(rows)

    @torch.no_grad()
    def of_batch(self, volumes: np.ndarray) -> np.ndarray:
        """Extract the features ``[B, dim]`` of volumes ``[B, D, H, W]``, with all channels ``[B, C, D, H, W]``."""
        x = torch.from_numpy(np.ascontiguousarray(volumes, dtype=np.float32))
        x = x if self.all_channels else x[:, None]
        if self.zero_mean:
            x = standardized(x)
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        return self.network(x.to(device)).float().cpu().numpy()


def _batches(volumes: Iterable[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    items = iter(volumes)
    while group := list(islice(items, batch)):
        yield np.stack(group)


class RandomPyramid(nn.Module):
    """Three random orthogonal convolutions of stride 2: ``[B, 1, D, H, W]`` to 80 features.

    The features are the mean activations of the first two levels, and the last level averaged over 4 x 2 x 2 boxes, so
    that they depend on texture, layout and orientation.
    """

    widths = (8, 8, 4)
    boxes = (4, 2, 2)
    dim = 8 + 8 + 4 * 16

    def __init__(self, seed: int = 0) -> None:
        """Sample the weights from a seed."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        convs = []
        for before, width in zip((1, *self.widths), self.widths, strict=False):
            conv = nn.Conv3d(before, width, 4, stride=2, padding=1, bias=False)
            nn.init.orthogonal_(conv.weight.detach().view(width, -1), gain=math.sqrt(2), generator=generator)
            convs.append(conv)
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of ``x``."""
        parts = []
        for conv in self.convs:
            x = conv(x).relu()
            parts.append(x.mean(dim=(2, 3, 4)))
        parts[-1] = nn.functional.adaptive_avg_pool3d(x, self.boxes).flatten(1)
        return torch.cat(parts, dim=1)


def random_extractor(seed: int = 0) -> Extractor:
    """Return the fixed random pyramid; for tests only, since its features have no medical meaning."""
    network = RandomPyramid(seed).eval().requires_grad_(False)
    note = "random weights, untrained: for tests only"
    return Extractor("random", RandomPyramid.dim, state_hash(network.state_dict()), network, note=note)


class _RunEncoder(nn.Module):
    """E^H and E^G of a run: ``[B, C, D, H, W]`` to z ``[B, latent_dim]``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(model.networks[name] for name in model.networks.encoders)
        self.encode, self.depth = model.networks.encode, model.networks.encoder_depth()

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x.split(self.depth, dim=2))


def encoder_extractor(model: Model) -> Extractor:
    """Return the encoder of the run: its features are the latents z.

    Raises:
        InputError: If the run has no encoders.
    """
    if not has_encoder(model):
        raise InputError(f"{model.path}: trained without encoders; use --features self")
    network = _RunEncoder(model).eval().requires_grad_(False)
    several = len(model.description.channels) > 1 or model.description.label_names
    note = "encoder of the run itself: not comparable between runs"
    note += "; of all channels and labels at once" if several else ""
    digest = state_hash(network.state_dict())
    return Extractor("encoder", model.networks.latent_dim, digest, network, all_channels=True, note=note)


def medicalnet_extractor(path: Path, device: torch.device | str = "cpu") -> Extractor:
    """Return MedicalNet with the weights of a file.

    Raises:
        InputError: As `load_medicalnet`.
    """
    network = load_medicalnet(path).to(device)
    digest, name = hashlib.sha256(path.read_bytes()).hexdigest(), f"medicalnet-{network.depth}"
    return Extractor(name, network.dim, digest, network, zero_mean=True, rescale=False, note=f"weights: {path.name}")
