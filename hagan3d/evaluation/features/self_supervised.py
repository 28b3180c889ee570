"""A self-supervised feature extractor trained on the store itself: masked autoencoding, mirrored axes, classes.

No pretrained weights fit every modality; this one trains in minutes and is saved next to the store. Each image channel
has its own.

Source: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (masked blocks as the pretext task).
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hagan3d.checkpoint.files import write_tensors
from hagan3d.config import is_slice
from hagan3d.data.store.features import features_path
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import Extractor
from hagan3d.evaluation.progress import ProgressCallback, no_progress, track
from hagan3d.evaluation.settings import FeatureTrainConfig
from hagan3d.inference.devices import inference_device
from hagan3d.networks.extractors.feature_net import BOXES, CONTENT, FORMAT, FeatureNet, read_features
from hagan3d.networks.state_hash import state_hash
from hagan3d.networks.tensor_files import read_tensors

TARGET = 16  # voxels per axis of the reconstruction target
MOST_IN_MEMORY = 2**26  # voxels of the training set that are cached
LEAST_DEVIATION = 0.05  # of the median feature: limits the weight of features that hardly vary


class Heads(nn.Module):
    """Heads of the pretext tasks, discarded after training: the volume at 16^3, the mirrored axes, the class."""

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
        """Return the loss: MSE of the reconstruction, plus 0.05 cross-entropy of mirrored axes and of classes.

        Args:
            content: ``[B, 32]``.
            x: Volumes before masking ``[B, 1, D, H, W]``.
            mirrored: Whether each axis was mirrored ``[B, 3]``, 0 or 1.
            labels: Class indices ``[B]``, -1 unknown.
        """
        reconstruction = self.up(self.spread(content).unflatten(1, (32, BOXES, BOXES, BOXES)))
        loss = F.mse_loss(reconstruction, F.adaptive_avg_pool3d(x, TARGET))
        loss = loss + 0.05 * F.binary_cross_entropy_with_logits(self.mirrored(content), mirrored)
        if self.label is not None and bool((labels >= 0).any()):
            loss = loss + 0.05 * F.cross_entropy(self.label(content), labels, ignore_index=-1)
        return loss


@dataclass(frozen=True)
class TrainedExtractor:
    """A trained extractor, its file and its loss curve."""

    extractor: Extractor
    path: Path
    losses: tuple[float, ...]


def train_features(
    store: Store,
    config: FeatureTrainConfig,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = no_progress,
    channel: int = 0,
) -> TrainedExtractor:
    """Train an extractor on an image channel of the training volumes of a store; save it next to the store, atomically.

    Generated volumes are left out. Deterministic for equal settings on one machine.

    Raises:
        InputError: If the store has no training volumes.
    """
    indices = store.indices("train", generated=False)
    volume = _reader(store, indices, channel)
    domains = _of_one_size(store, indices)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net, heads = FeatureNet().to(device), Heads(len(store.class_names)).to(device)
    optimizer = torch.optim.Adam([*net.parameters(), *heads.parameters()], lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=config.steps)
    losses = []
    for step in track(range(config.steps), "train features", config.steps, progress):
        random = np.random.default_rng((config.seed, step))
        batch = random.choice(domains[step % len(domains)], config.batch_size)
        x, mirrored = _mirrored(torch.stack([volume(int(i)) for i in batch])[:, None].to(device), random)
        _, content = net.parts(masked(x, config.mask, random))
        loss = heads.loss(content, x, mirrored, torch.from_numpy(store.labels[batch]).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    _set_scale(net, [volume(int(i)) for i in indices])
    path = features_path(store, channel)
    _save(net, store, config, path, channel)
    return TrainedExtractor(load_features(store, path, device, channel), path, tuple(torch.stack(losses).tolist()))


def train_store_features(
    path: Path, config: FeatureTrainConfig, device: str, progress: ProgressCallback, channel: str | None = None
) -> list[str]:
    """Train the extractors of the image channels of a store file, or of one; return a line for each.

    Those of the same settings that are there already are kept, as training again would give the same.
    """
    store, lines = Store(path), []
    if is_slice(store.size):
        raise InputError(f"{path}: holds single slices, but features are trained on volumes")
    for index in store.channel_indices(channel):
        if _is_trained(store, config, index):
            lines.append(f"features of {path}, {store.channels[index]}: {features_path(store, index)} is already there")
            continue
        trained = train_features(store, config, inference_device(device), progress, index)
        change = f"loss {trained.losses[0]:.3f} to {trained.losses[-1]:.3f}"
        lines.append(f"features of {path}, {store.channels[index]}: {trained.path} ({change})")
    return lines


def train_missing_features(store: Store, device: str, channel: str | None = None) -> None:
    """Train the extractors of the image channels of a store, or of one, that have no features file yet."""
    for index in store.channel_indices(channel):
        if not features_path(store, index).exists():
            train_features(store, FeatureTrainConfig(), inference_device(device), channel=index)


def _of_one_size(store: Store, indices: np.ndarray) -> list[np.ndarray]:
    """Return volumes by their size: two domains may have grids of their own."""
    sizes = [store.size_of(int(i)) for i in indices]
    return [indices[[size == one for size in sizes]] for one in sorted(set(sizes))]


def _reader(store: Store, indices: np.ndarray, channel: int) -> Callable[[int], Tensor]:
    """Return a function that reads a channel of a volume: cached in memory if all fit, else from the file."""
    if sum(math.prod(store.size_of(int(i))) for i in indices) > MOST_IN_MEMORY:
        return lambda i: store.channel(i, channel)
    cached = {int(i): store.channel(int(i), channel) for i in indices}
    return cached.__getitem__


def _mirrored(x: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each axis of each volume ``[B, 1, D, H, W]`` with probability 1/4; also return which ``[B, 3]``."""
    flips = torch.from_numpy(random.random((len(x), 3)) < 0.25).to(x.device)
    for axis in range(3):
        x = torch.where(flips[:, axis, None, None, None, None], x.flip(axis + 2), x)
    return x, flips.to(x.dtype)


def masked(x: Tensor, fraction: float, random: np.random.Generator) -> Tensor:
    """Mask a fraction of the 4 x 4 x 4 blocks of each volume ``[B, 1, D, H, W]`` with zeros."""
    visible = torch.from_numpy(random.random((len(x), 1, BOXES, BOXES, BOXES)) >= fraction).to(x)
    return x * F.interpolate(visible, size=x.shape[2:])


@torch.no_grad()
def _set_scale(net: FeatureNet, volumes: Iterable[Tensor]) -> None:
    """Set mean and standard deviation of each feature over volumes, so that all features have equal weight."""
    device = net.mean.device
    rows = torch.cat([net(volume[None, None].to(device)) for volume in volumes])
    deviation = rows.std(dim=0, correction=0)
    net.mean.copy_(rows.mean(dim=0))
    net.deviation.copy_(deviation.clamp_min(LEAST_DEVIATION * float(deviation.median()) + 1e-12))


def _save(net: FeatureNet, store: Store, config: FeatureTrainConfig, path: Path, channel: int) -> None:
    state = {name: value.cpu() for name, value in net.state_dict().items()}
    values = {
        "format": FORMAT,
        "store": store.store_fingerprint,
        "channel": store.channels[channel],
        "config": dataclasses.asdict(config),
        "sha256": state_hash(state),
        "state": state,
    }
    write_tensors(path, values)


def _is_trained(store: Store, config: FeatureTrainConfig, channel: int) -> bool:
    """Return whether the features file of a channel is sound and of these settings."""
    path = features_path(store, channel)
    try:
        read_features(path, store.store_fingerprint, store.channels[channel])
    except InputError:
        return False
    return bool(read_tensors(path)["config"] == dataclasses.asdict(config))


def load_features(
    store: Store, path: Path | None = None, device: torch.device | str = "cpu", channel: int = 0
) -> Extractor:
    """Load the extractor of an image channel of a store.

    Args:
        store: The store.
        path: The features file. Default: the one next to the store.
        device: Device of the network.
        channel: Index of the image channel.

    Raises:
        InputError: If the file is missing, damaged, or trained on another store or channel.
    """
    net = read_features(path or features_path(store, channel), store.store_fingerprint, store.channels[channel])
    net.to(device)
    note = f"trained on the training volumes of {store.path.name}"
    note += f", channel {store.channels[channel]}" if len(store.channels) > 1 else ""
    return Extractor("self", FeatureNet.dim, state_hash(net.state_dict()), net, rescale=False, note=note, confirms=True)
