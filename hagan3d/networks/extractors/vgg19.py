"""The convolutions of VGG-19 as feature extractor of slices, from a file of published weights.

Source: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, table 1,
column E; weights in torchvision's layout (``features.0.weight`` and so on).
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from hagan3d.errors import InputError
from hagan3d.networks.extractors.weight_files import load_exactly, read_weights

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions between two poolings
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, per colour


class VGG19(nn.Module):
    """Slices ``[B, 1, 1, H, W]`` in [-1, 1] to the first feature map of each of five blocks, before its ReLU.

    These are conv1_1 to conv5_1. Grey values are given to all three colours, in [0, 1], and standardized as ImageNet.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        """Build the convolutions up to conv5_1; names are those of torchvision."""
        super().__init__()
        layers: list[nn.Module] = []
        self.taken, before = [], 3
        for number, (channels, count) in enumerate(BLOCKS):
            layers += [nn.MaxPool2d(2)] if number else []
            self.taken.append(len(layers))
            for _ in range(count if number < len(BLOCKS) - 1 else 1):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
                before = channels
        self.features = nn.Sequential(*layers[:-1])
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps ``[B, C, 1, h, w]`` of conv1_1, 2_1, 3_1, 4_1 and 5_1."""
        y = ((x[:, :, 0] + 1) / 2).expand(-1, 3, -1, -1)
        y, maps = (y - self.mean) / self.deviation, []
        for number, layer in enumerate(self.features):
            y = layer(y)
            if number in self.taken:
                maps.append(y[:, :, None])
        return maps


def load_vgg19(path: Path) -> VGG19:
    """Load a file of VGG-19 weights as torchvision publishes them (vgg19-dcbb9e9d.pth), frozen.

    Raises:
        InputError: If the file is missing, could run code, or holds weights of another network.
    """
    values = read_weights(path, "VGG-19")
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise InputError(f"{path}: expected VGG-19 weights as torchvision publishes them, a dictionary of tensors")
    network = VGG19()
    last = max(network.taken)
    used = {
        name: value
        for name, value in values.items()
        if name.startswith("features.") and name.split(".")[1].isdecimal() and int(name.split(".")[1]) <= last
    }
    load_exactly(network, used, path, "VGG-19")
    return network
