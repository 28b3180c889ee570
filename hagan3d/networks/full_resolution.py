"""Denoising generators at full resolution: plain convolutions (WGAN-VGG) or an encoder-decoder with skips (RED)."""

from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.networks.layers import Conv3d, checkpointed


class FullResolution(nn.Module):
    """Convolutions of kernel 3 with ReLU, the last without: volumes to volumes of the same size, no downsampling.

    With ``skips``, channels double up to the middle and halve again, and the outputs of the first half are added to
    those of the second half, last in first out. There is no norm, so a tile is translated as in its volume, except
    within the receptive field (one voxel per convolution) of its faces.

    Source: Yang et al., Low Dose CT Image Denoising Using a GAN with Wasserstein Distance and Perceptual Loss, IEEE TMI
    37(6), 2018 (8 convolutions); with skips: Ran et al., Denoising of 3D MRI using a Residual Encoder-Decoder
    Wasserstein GAN, Medical Image Analysis 55, 2019 (width 32, 4 and 4 convolutions; with batch norm).
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int, depth: int, skips: bool) -> None:
        """Build ``depth`` convolutions, the first of ``width`` channels; with ``skips``, an even number."""
        super().__init__()
        doublings = [min(layer, depth - 2 - layer) if skips else 0 for layer in range(depth - 1)]
        widths = [in_channels, *(width * 2**doubling for doubling in doublings), out_channels]
        self.convs = nn.ModuleList(Conv3d(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.skips = skips
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        return checkpointed(self._convolved, x, on=self.checkpointing)

    def _convolved(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        half = len(self.convs) // 2
        for number, conv in enumerate(self.convs[:-1]):
            x = conv(x)
            if self.skips and number < half - 1:  # before the ReLU, as the sum below
                skips.append(x)
            elif self.skips and number >= half:
                x = x + skips.pop()
            x = F.relu(x)
        return self.convs[-1](x)
