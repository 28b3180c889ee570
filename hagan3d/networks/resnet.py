"""The ResNet generator of CycleGAN: two strided convolutions, residual blocks, two transposed convolutions."""

from torch import Tensor, nn

from hagan3d.networks.flat_layers import PlainConv3d, TransposedConv3d
from hagan3d.networks.layers import checkpointed, norm_relu
from hagan3d.networks.strided_unet import PlainNorm


class ResidualBlock(nn.Module):
    """Residual block: x + norm(conv(ReLU(norm(conv(x))))), with reflection padding."""

    def __init__(self, channels: int, norm: str, conv: type[PlainConv3d] = PlainConv3d) -> None:
        super().__init__()
        self.change = nn.Sequential(
            conv(channels, channels, 3, padding=1, padding_mode="reflect"),
            norm_relu(norm, channels),
            conv(channels, channels, 3, padding=1, padding_mode="reflect"),
            PlainNorm(norm, channels),  # no activation: the residual is added before the next one
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        return x + self.change(x)


class ResNetGenerator(nn.Module):
    """ResNet generator: volumes to volumes of the same size in [-1, 1]; sides are multiples of 4.

    With ``checkpointing`` only the feature maps between blocks are stored for the backward pass.

    Source: Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017,
    appendix 7.2; Johnson et al., Perceptual Losses for Real-Time Style Transfer, ECCV 2016.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int, blocks: int, norm: str) -> None:
        """Build it with ``width`` channels at full resolution (published: 64) and ``blocks`` residual blocks (9)."""
        super().__init__()
        self.in_channels = in_channels
        first = PlainConv3d(in_channels, width, 7, padding=3, padding_mode="reflect")
        parts = [nn.Sequential(first, norm_relu(norm, width))]
        for channels in (width, 2 * width):
            down = PlainConv3d(channels, 2 * channels, 3, stride=2, padding=1)
            parts.append(nn.Sequential(down, norm_relu(norm, 2 * channels)))
        parts += [nn.Sequential(ResidualBlock(4 * width, norm)) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            up = TransposedConv3d(channels, channels // 2, 3, padding=1, output_padding=1)
            parts.append(nn.Sequential(up, norm_relu(norm, channels // 2)))
        self.parts = nn.ModuleList(parts)
        self.last = PlainConv3d(width, out_channels, 7, padding=3, padding_mode="reflect")
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        for part in self.parts:
            x = checkpointed(part, x, on=self.checkpointing)
        return checkpointed(self._output, x, on=self.checkpointing)

    def _output(self, x: Tensor) -> Tensor:
        return self.last(x).tanh()
