"""The self-supervised feature extractor of a store: the network, and the file that its training writes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hagan3d.errors import InputError
from hagan3d.networks.state_hash import state_hash
from hagan3d.networks.tensor_files import read_tensors

FORMAT = "hagan3d features 3"
WIDTHS = (8, 24, 64)  # channels of the three convolutions
BOXES = 4  # boxes per axis of the pooling of the last feature map, and of masking
DETAIL_BOXES = 2  # boxes per axis of the pooling of fine detail
CONTENT = 32  # bottleneck features of the whole volume


class FeatureNet(nn.Module):
    """A small network: ``[B, 1, D, H, W]`` to 64 features, standardized over the training set.

    8 features of fine detail (see `detail`; not learned), 24 of texture (mean activations of the second level) and 32
    of content (bottleneck).
    """

    dim = DETAIL_BOXES**3 + WIDTHS[1] + CONTENT
    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        """Build the network."""
        super().__init__()
        before = (1, *WIDTHS)
        self.convs = nn.ModuleList(
            nn.Conv3d(a, b, 4, stride=2, padding=1) for a, b in zip(before, WIDTHS, strict=False)
        )
        self.squeeze = nn.Linear(WIDTHS[-1] * BOXES**3, CONTENT)
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("deviation", torch.ones(self.dim))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of the three convolutions."""
        maps: list[Tensor] = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            maps.append(x)
        return maps

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return texture ``[B, 24]`` and content ``[B, 32]`` of ``x``, not standardized."""
        _, middle, last = self.maps(x)
        return middle.mean(dim=(2, 3, 4)), self.squeeze(F.adaptive_avg_pool3d(last, BOXES).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features ``[B, 64]``."""
        return (torch.cat([detail(x), *self.parts(x)], dim=1) - self.mean) / self.deviation


def detail(x: Tensor) -> Tensor:
    """Return the log mean square of the residual to the 3 x 3 x 3 mean, in each octant of a volume: ``[B, 8]``.

    Sensitive to noise, blur and checkerboards, which the features of an autoencoder ignore.
    """
    fine = x - F.avg_pool3d(x, 3, stride=1, padding=1, count_include_pad=False)
    return torch.log(F.adaptive_avg_pool3d(fine.square(), DETAIL_BOXES) + 1e-6).flatten(1)


def read_features(path: Path, fingerprint: str, channel: str) -> FeatureNet:
    """Read a features file, frozen.

    Args:
        path: The file.
        fingerprint: Of the store on which it must have been trained.
        channel: Name of the image channel on which it must have been trained.

    Raises:
        InputError: If the file is missing, damaged, or trained on another store or channel.
    """
    remedy = "train them with `hagan3d evaluate --store STORE --train-features` (takes minutes)"
    if not path.exists():
        raise InputError(f"{path}: no such file: there are no features trained on the store yet; {remedy}")
    values = read_tensors(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path}: not a features file of this version; {remedy}")
    if values.get("channel") != channel:
        raise InputError(f"{path}: trained on channel {values.get('channel')}, not on {channel}; {remedy}")
    if values.get("store") != fingerprint:
        raise InputError(f"{path}: trained on another store; {remedy}")
    net = FeatureNet()
    try:
        net.load_state_dict(values["state"])
    except (RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: holds weights of another network; {remedy}") from error
    if state_hash(net.state_dict()) != values.get("sha256"):
        raise InputError(f"{path}: damaged (hash of the weights differs); {remedy}")
    return net.eval().requires_grad_(False)
