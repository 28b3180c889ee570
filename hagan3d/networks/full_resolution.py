"""Generators that never halve a volume (family FR): a row of convolutions, or one with skips across its middle."""

from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.networks.layers import Conv3d, recomputed


class FullResolution(nn.Module):
    """Convolutions of kernel 3, each with ReLU but for the last: volumes to volumes of the same size.

    With ``skips``, what the first convolutions made is added again behind the middle, the last first. No norm: a window
    is translated as in its volume, but for one voxel per convolution at its faces.

    Source: Yang et al., Low Dose CT Image Denoising Using a GAN with Wasserstein Distance and Perceptual Loss, IEEE TMI
    37(6), 2018 (8 convolutions); with skips: Ran et al., Denoising of 3D MRI using a Residual Encoder-Decoder
    Wasserstein GAN, Medical Image Analysis 55, 2019 (4 and 4).
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int, depth: int, skips: bool) -> None:
        """Build ``depth`` convolutions (an even number, with skips) of ``width`` channels."""
        super().__init__()
        widths = [in_channels, *[width] * (depth - 1), out_channels]
        self.convs = nn.ModuleList(Conv3d(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.skips = skips
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        return recomputed(self._run, x, self.checkpointing)

    def _run(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for number, conv in enumerate(self.convs):
            x = conv(x)
            if number == len(self.convs) - 1:
                break
            if self.skips and number < len(self.convs) // 2 - 1:
                kept.append(x)
            elif self.skips and number >= len(self.convs) // 2:
                x = x + kept.pop()
            x = F.relu(x)
        return x
