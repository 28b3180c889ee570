"""The residual networks of MedicalNet as feature extractors, from a file of published weights.

MONAI's ResNet has other strides and no dilation, so the same weights give other features.

Source: Chen, Ma and Zheng, Med3D: Transfer Learning for 3D Medical Image Analysis, arXiv:1904.00625, 2019, section 3.
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hagan3d.errors import InputError
from hagan3d.networks.extractors.weight_files import load_exactly, read_weights

BLOCKS = {10: (1, 1, 1, 1), 50: (3, 4, 6, 3)}  # residual blocks in each of the four layers
LAYERS = ((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4))  # channels, stride, dilation
PREFIX = "module."  # of torch.nn.DataParallel
HEAD = "conv_seg."  # segmentation head


def _conv(before: int, after: int, side: int, stride: int = 1, dilation: int = 1) -> nn.Conv3d:
    padding = dilation * (side // 2)
    return nn.Conv3d(before, after, side, stride=stride, padding=padding, dilation=dilation, bias=False)


class BasicBlock(nn.Module):
    """Basic residual block: two 3 x 3 x 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, before: int, channels: int, stride: int, dilation: int) -> None:
        """Build the block; names are those of the published state dict."""
        super().__init__()
        self.conv1, self.bn1 = _conv(before, channels, 3, stride, dilation), nn.BatchNorm3d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, 1, dilation), nn.BatchNorm3d(channels)
        self.downsample = _shortcut(before, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output ``[B, channels, ...]``."""
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    """Bottleneck residual block: 1, 3 and 1 wide convolutions and a shortcut."""

    expansion = 4

    def __init__(self, before: int, channels: int, stride: int, dilation: int) -> None:
        """Build the block; names are those of the published state dict."""
        super().__init__()
        after = channels * self.expansion
        self.conv1, self.bn1 = _conv(before, channels, 1), nn.BatchNorm3d(channels)
        self.conv2, self.bn2 = _conv(channels, channels, 3, stride, dilation), nn.BatchNorm3d(channels)
        self.conv3, self.bn3 = _conv(channels, after, 1), nn.BatchNorm3d(after)
        self.downsample = _shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output ``[B, 4 channels, ...]``."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


def _shortcut(before: int, after: int, stride: int) -> nn.Module:
    """Shortcut type B: 1 x 1 x 1 convolution where the shape changes, else the identity."""
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm3d(after))


class MedicalNet(nn.Module):
    """ResNet-10 or -50 without its head, with global average pooling: ``[B, 1, D, H, W]`` to 512 or 2048 features.

    The stem downsamples twice, layer 2 once; layers 3 and 4 have dilation 2 and 4 instead of a stride.
    """

    def __init__(self, depth: int) -> None:
        """Build the network of 10 or 50 layers."""
        super().__init__()
        self.depth = depth
        block: Any = BasicBlock if depth == 10 else Bottleneck
        self.conv1, self.bn1 = _conv(1, 64, 7, stride=2), nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        before = 64
        for number, (count, (channels, stride, dilation)) in enumerate(zip(BLOCKS[depth], LAYERS, strict=True), 1):
            blocks = []
            for first in [True] + [False] * (count - 1):
                blocks.append(block(before, channels, stride if first else 1, dilation))
                before = channels * block.expansion
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.dim = before

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of the stem and of the four layers, of volumes of zero mean and unit deviation."""
        x = self.bn1(self.conv1(x)).relu()
        maps = [x]
        x = self.maxpool(x)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return the features ``[B, dim]`` of volumes ``x [B, 1, D, H, W]`` of zero mean and unit deviation."""
        return self.maps(x)[-1].mean(dim=(2, 3, 4))


def standardized(x: Tensor) -> Tensor:
    """Standardize each volume ``[B, 1, D, H, W]`` to zero mean and unit deviation; a constant one becomes 0."""
    mean = x.mean(dim=(1, 2, 3, 4), keepdim=True)
    deviation = x.std(dim=(1, 2, 3, 4), keepdim=True)
    return (x - mean) / deviation.clamp_min(1e-6)


def load_medicalnet(path: Path) -> MedicalNet:
    """Load a file of MedicalNet weights (resnet_10.pth, resnet_50.pth), frozen.

    Raises:
        InputError: If the file is missing, could run code, or holds weights of another network.
    """
    state = _published_state(path)
    network = MedicalNet(50 if "layer1.0.conv3.weight" in state else 10)
    load_exactly(network, state, path, "MedicalNet's ResNet-10 or ResNet-50")
    return network


def _published_state(path: Path) -> dict[str, Tensor]:
    """Read ``{"state_dict": {"module.NAME": tensor}}`` without its segmentation head, as ``{NAME: tensor}``."""
    values = read_weights(path, "MedicalNet")
    state = values.get("state_dict") if isinstance(values, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f'{path}: expected MedicalNet weights as published, {{"state_dict": {{"module.conv1.weight": ...}}}}'
        )
    named = {str(name).removeprefix(PREFIX): value for name, value in state.items()}
    return {name: value for name, value in named.items() if not name.startswith(HEAD)}
