"""A feature extractor trained on the user's own store: masked autoencoding, mirrored axes and any classes.

No weights of others fit every modality; this one takes minutes, lies beside the store and needs no network. Learning
by filling in masked blocks: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
"""

import dataclasses
import pickle
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hagan3d.checkpoint.state_hash import state_hash
from hagan3d.data.io.files import replacing
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.settings import FeatureTrainConfig

FORMAT = "hagan3d features 2"
WIDTHS = (8, 24, 64)  # channels of the three convolutions
BOXES = 4  # boxes per axis that the last map is averaged over, and that masking hides
DETAIL_BOXES = 2  # boxes per axis that fine detail is averaged over
CONTENT = 32  # numbers that the whole volume is squeezed into
TARGET = 16  # voxels per axis of the volume to make again
MOST_IN_MEMORY = 2**26  # voxels
LEAST_DEVIATION = 0.05  # of the typical feature: one that hardly varies must not outweigh all others

Progress = Callable[[Iterable[int]], Iterable[int]]


class FeatureNet(nn.Module):
    """A small network: ``[B, 1, D, H, W]`` to 64 features, each of zero mean and unit deviation on the training set.

    8 tell of fine detail (see `detail`; nothing is learned there), 24 of the texture (mean activations of the second
    level), 32 of the content (the squeezed volume).
    """

    dim = DETAIL_BOXES**3 + WIDTHS[1] + CONTENT
    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        """Build it; weights are torch's defaults until trained or loaded."""
        super().__init__()
        before = (1, *WIDTHS)
        self.convs = nn.ModuleList(
            nn.Conv3d(a, b, 4, stride=2, padding=1) for a, b in zip(before, WIDTHS, strict=False)
        )
        self.squeeze = nn.Linear(WIDTHS[-1] * BOXES**3, CONTENT)
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("deviation", torch.ones(self.dim))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return texture ``[B, 24]`` and content ``[B, 32]`` of ``x``, not normalised."""
        levels = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            levels.append(x.mean(dim=(2, 3, 4)))
        content = self.squeeze(F.adaptive_avg_pool3d(x, BOXES).flatten(1))
        return levels[1], content

    def forward(self, x: Tensor) -> Tensor:
        """Return the features ``[B, 64]``."""
        return (torch.cat([detail(x), *self.parts(x)], dim=1) - self.mean) / self.deviation


def detail(x: Tensor) -> Tensor:
    """Logarithm of the mean square of what differs from the 3 x 3 x 3 mean, in each eighth of a volume: ``[B, 8]``.

    Noise, blur and checkerboards show here; a network that learns to make volumes again learns to overlook them.
    """
    fine = x - F.avg_pool3d(x, 3, stride=1, padding=1, count_include_pad=False)
    return torch.log(F.adaptive_avg_pool3d(fine.square(), DETAIL_BOXES) + 1e-6).flatten(1)


class Heads(nn.Module):
    """What the network is trained with, and not kept: the volume at 16^3, the mirrored axes, the class."""

    def __init__(self, num_classes: int) -> None:
        """Build the heads."""
        super().__init__()
        self.spread = nn.Linear(CONTENT, 32 * BOXES**3)
        self.up = nn.Sequential(
            nn.LeakyReLU(0.1),
            nn.ConvTranspose3d(32, 16, 4, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.ConvTranspose3d(16, 1, 4, stride=2, padding=1),
        )
        self.mirrored = nn.Linear(CONTENT, 3)
        self.label = nn.Linear(CONTENT, num_classes) if num_classes else None

    def loss(self, content: Tensor, x: Tensor, mirrored: Tensor, labels: Tensor) -> Tensor:
        """Add up the terms.

        Args:
            content: ``[B, 32]``.
            x: The volumes before masking ``[B, 1, D, H, W]``.
            mirrored: Whether each axis was mirrored ``[B, 3]``, 0 or 1.
            labels: Class indices ``[B]``, -1 unknown.
        """
        again = self.up(self.spread(content).unflatten(1, (32, BOXES, BOXES, BOXES)))
        loss = F.mse_loss(again, F.adaptive_avg_pool3d(x, TARGET))
        loss = loss + 0.05 * F.binary_cross_entropy_with_logits(self.mirrored(content), mirrored)
        if self.label is not None and bool((labels >= 0).any()):
            loss = loss + 0.05 * F.cross_entropy(self.label(content), labels, ignore_index=-1)
        return loss


@dataclass(frozen=True)
class Trained:
    """A trained extractor and how it went."""

    extractor: Extractor
    path: Path
    losses: tuple[float, ...]


def features_path(store: Path) -> Path:
    """Return where the extractor of a store lies: beside it."""
    return store.with_name(f"{store.stem}.features.pt")


def train_features(
    store: Store,
    config: FeatureTrainConfig,
    device: torch.device | str = "cpu",
    progress: Progress = lambda steps: steps,
) -> Trained:
    """Train an extractor on the real training volumes of a store and write it beside the store, whole or not at all.

    Equal settings give equal weights on one machine.

    Raises:
        InputError: If the store has no training volumes.
    """
    indices = store.indices("train", generated=False)
    volume = _reader(store, indices)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net, heads = FeatureNet().to(device), Heads(len(store.class_names)).to(device)
    optimizer = torch.optim.Adam([*net.parameters(), *heads.parameters()], lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=config.steps)
    losses = []
    for step in progress(range(config.steps)):
        random = np.random.default_rng((config.seed, step))
        chosen = random.choice(indices, config.batch_size)
        x, mirrored = _mirrored(torch.stack([volume(int(i)) for i in chosen])[:, None].to(device), random)
        _, content = net.parts(masked(x, config.mask, random))
        loss = heads.loss(content, x, mirrored, torch.from_numpy(store.labels[chosen]).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    _set_scale(net, [volume(int(i)) for i in indices])
    path = features_path(store.path)
    _save(net, store, config, path)
    return Trained(load_features(store, path, device), path, tuple(torch.stack(losses).tolist()))


def _reader(store: Store, indices: np.ndarray) -> Callable[[int], Tensor]:
    """Read volumes from memory where they fit, else from the file each time."""
    if len(indices) * int(np.prod(store.size)) > MOST_IN_MEMORY:
        return store.volume
    kept = {int(i): store.volume(int(i)) for i in indices}
    return kept.__getitem__


def _mirrored(x: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each axis of each volume ``[B, 1, D, H, W]`` with probability 1/4, and say which ``[B, 3]``."""
    chosen = torch.from_numpy(random.random((len(x), 3)) < 0.25).to(x.device)
    for axis in range(3):
        x = torch.where(chosen[:, axis, None, None, None, None], x.flip(axis + 2), x)
    return x, chosen.to(x.dtype)


def masked(x: Tensor, fraction: float, random: np.random.Generator) -> Tensor:
    """Set a fraction of the 4 x 4 x 4 blocks of each volume ``[B, 1, D, H, W]`` to zero."""
    kept = torch.from_numpy(random.random((len(x), 1, BOXES, BOXES, BOXES)) >= fraction).to(x)
    return x * F.interpolate(kept, size=x.shape[2:])


@torch.no_grad()
def _set_scale(net: FeatureNet, volumes: Iterable[Tensor]) -> None:
    """Store the mean and the deviation of each feature over volumes, so that each counts the same."""
    device = net.mean.device
    rows = torch.cat([net(volume[None, None].to(device)) for volume in volumes])
    deviation = rows.std(dim=0, correction=0)
    net.mean.copy_(rows.mean(dim=0))
    net.deviation.copy_(deviation.clamp_min(LEAST_DEVIATION * float(deviation.median()) + 1e-12))


def _save(net: FeatureNet, store: Store, config: FeatureTrainConfig, path: Path) -> None:
    state = {name: value.cpu() for name, value in net.state_dict().items()}
    values = {
        "format": FORMAT,
        "store": store.store_fingerprint,
        "config": dataclasses.asdict(config),
        "sha256": state_hash(state),
        "state": state,
    }
    with replacing(path) as beside, beside.open("wb") as file:
        torch.save(values, file)


def load_features(store: Store, path: Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """Load the extractor of a store.

    Args:
        store: The store.
        path: The file. Default: the one beside the store.
        device: Where to compute.

    Raises:
        InputError: If there is none, it is damaged, or it was trained on another store.
    """
    path = path or features_path(store.path)
    if not path.exists():
        raise InputError(
            f"{path}: no features trained on {store.path.name} yet; add --train-features (minutes), or take "
            "--features encoder"
        )
    values = _read(path)
    if values["store"] != store.store_fingerprint:
        raise InputError(f"{path}: features of another store than {store.path}; train them again by --train-features")
    net = FeatureNet()
    try:
        net.load_state_dict(values["state"])
    except (RuntimeError, AttributeError) as error:
        raise InputError(f"{path}: holds the weights of another network; train it again by --train-features") from error
    if state_hash(net.state_dict()) != values["sha256"]:
        raise InputError(f"{path}: damaged (its weights have another hash); train it again by --train-features")
    net.to(device).eval().requires_grad_(False)
    note = f"trained on the training volumes of {store.path.name}"
    return Extractor("self", FeatureNet.dim, values["sha256"], net, rescale=False, note=note)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged, or no features file; train it again by --train-features") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: no features file of this version; train it again by --train-features")
    return values
