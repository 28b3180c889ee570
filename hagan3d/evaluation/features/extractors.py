"""Feature extractors: volumes to rows of numbers in which distances between sets are measured.

Nothing is ever downloaded: weights come from a seed, from the run, from the store's own file or from a file that the
user names.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from hagan3d.checkpoint import Model
from hagan3d.checkpoint.state_hash import state_hash
from hagan3d.errors import InputError
from hagan3d.inference.encoding import has_encoder


@dataclass(frozen=True)
class Extractor:
    """A network that turns volumes into features."""

    name: str
    dim: int
    """Features per volume."""
    sha256: str
    """Of the weights, or of the file they come from."""
    network: nn.Module
    """Maps ``[B, 1, D, H, W]`` to ``[B, dim]``; in evaluation mode, without gradients."""
    zero_mean: bool = False
    """Whether each volume is first brought to zero mean and unit deviation; else it goes in as it is, in [-1, 1]."""
    rescale: bool = True
    """Whether features are compared in units of their deviation over the training volumes; else as they come."""
    note: str = ""
    """What a reader of the numbers must know."""

    def features(self, volumes: Iterable[np.ndarray], batch: int = 8) -> np.ndarray:
        """Extract features.

        Args:
            volumes: Arrays ``[D, H, W]`` in [-1, 1], all of one size.
            batch: Volumes that go through the network at once.

        Returns:
            ``[N, dim]``, float32.

        Raises:
            ValueError: If there is no volume.
        """
        rows = [self.of_batch(group) for group in _batches(volumes, batch)]
        if not rows:
            raise ValueError("want at least one volume, got none")
        return np.concatenate(rows)

    @torch.no_grad()
    def of_batch(self, volumes: np.ndarray) -> np.ndarray:
        """Extract the features ``[B, dim]`` of volumes ``[B, D, H, W]``."""
        x = torch.from_numpy(np.ascontiguousarray(volumes, dtype=np.float32))[:, None]
        if self.zero_mean:
            x = standardized(x)
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        return self.network(x.to(device)).float().cpu().numpy()


def _batches(volumes: Iterable[np.ndarray], batch: int) -> Iterator[np.ndarray]:
    items = iter(volumes)
    while group := list(islice(items, batch)):
        yield np.stack(group)


def standardized(x: Tensor) -> Tensor:
    """Bring each volume ``[B, 1, D, H, W]`` to zero mean and unit deviation; a constant one becomes zero."""
    mean = x.mean(dim=(1, 2, 3, 4), keepdim=True)
    deviation = x.std(dim=(1, 2, 3, 4), keepdim=True)
    return (x - mean) / deviation.clamp_min(1e-6)


class RandomPyramid(nn.Module):
    """Three orthogonal convolutions of stride 2, never trained: ``[B, 1, D, H, W]`` to 80 features.

    The features are the mean activation of each channel of the first two levels, and the last level averaged over
    4 x 2 x 2 boxes, so that they see texture, layout and direction.
    """

    widths = (8, 8, 4)
    boxes = (4, 2, 2)
    dim = 8 + 8 + 4 * 16

    def __init__(self, seed: int = 0) -> None:
        """Draw the weights of a seed."""
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
    """Return the fixed random pyramid; for tests only, as nothing of medicine is in it."""
    network = RandomPyramid(seed).eval().requires_grad_(False)
    note = "random weights, never trained: for tests only"
    return Extractor("random", RandomPyramid.dim, state_hash(network.state_dict()), network, note=note)


class _RunEncoder(nn.Module):
    """E^H and E^G of a run: ``[B, 1, D, H, W]`` to z ``[B, latent_dim]``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(model.networks[name] for name in model.networks.encoders)
        self.encode, self.depth = model.networks.encode, model.networks.encoder_depth()

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(list(x.split(self.depth, dim=2)))


def has_encoders(model: Model) -> bool:
    """Whether a run has trained encoders."""
    return has_encoder(model)


def encoder_extractor(model: Model) -> Extractor:
    """Return the run's own E: its features are the latents z.

    Raises:
        InputError: If the run has no encoders.
    """
    if not has_encoders(model):
        raise InputError(f"{model.path}: trained without an encoder; use --features self")
    network = _RunEncoder(model).eval().requires_grad_(False)
    note = "the run's own encoder: numbers of two runs must not be compared in it"
    digest = state_hash(network.state_dict())
    return Extractor("encoder", model.networks.latent_dim, digest, network, note=note)
