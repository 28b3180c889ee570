"""The networks of UNIT: two domains that share a latent space (family SL)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size, TranslationConfig
from hagan3d.networks.layers import SLOPE, SpectralConv3d, StridedConv3d, checkpointed
from hagan3d.networks.resnet import ResidualBlock
from hagan3d.networks.translation import Translation, TranslationNetworks, widened

MOST_WIDTHS = 16  # channels of a critic grow up to so many times those of its first layer
THREE = (3, 3, 3)


class SelfAttention(nn.Module):
    """Add to each voxel what it takes of all others: y = gamma o(softmax(f g^T) h) + x, gamma 0 at the start.

    The matrix of all pairs of voxels is never made.

    Source: Zhang et al., Self-Attention Generative Adversarial Networks, ICML 2019, equations 1 to 3.
    """

    def __init__(self, channels: int) -> None:
        """Compare voxels by 1/8 of their ``channels``."""
        super().__init__()
        inner = max(1, channels // 8)
        self.f, self.g, self.h = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.o = nn.Conv3d(inner, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        query, key, value = (layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (self.f, self.g, self.h))
        made = F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0].transpose(1, 2)
        return self.gamma * self.o(made.unflatten(2, x.shape[2:])) + x


class _Chain(nn.Sequential):
    """Layers in a row, of which the backward pass can compute the insides again."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = checkpointed(layer, x, on=self.checkpointing)
        return x


class UnitCritic(nn.Module):
    """Convolutions of kernel 3 that halve the sides, LeakyReLU, one of kernel 2: a logit per patch; no norm."""

    def __init__(self, in_channels: int, *, width: int, layers: int, spectral: bool) -> None:
        """Build a critic of ``in_channels`` volumes, perhaps with spectral norm."""
        super().__init__()
        conv = SpectralConv3d if spectral else StridedConv3d
        widths = [in_channels, *(width * min(2**layer, MOST_WIDTHS) for layer in range(layers))]
        self.convs = nn.ModuleList(conv(widths[k], widths[k + 1], THREE, stride=2, padding=1) for k in range(layers))
        self.logits = conv(widths[-1], 1, (2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Judge ``x [B, C, D, H, W]``: logits ``[B, 1, d, h, w]``."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        return self.logits(x)


class UnitNetworks(TranslationNetworks):
    """Encoders ``e_``, decoders ``g_`` and critics ``d_`` of both domains, and the blocks that they share.

    Source: Liu et al., Unsupervised Image-to-Image Translation Networks, NeurIPS 2017, and a 3D student report's
    self-attention, spectral norm and Charbonnier error.
    """

    averaged = ("e_source", "e_target", "e_shared", "g_shared", "g_source", "g_target")

    def __init__(self, size: Size, model: TranslationConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__()
        unit, wide = model.unit, 4 * model.width
        for name, channels in (("source", model.source_channels), ("target", model.target_channels)):
            self.add_module(f"e_{name}", _encoder(channels, model))
            self.add_module(f"g_{name}", _decoder(channels, model))
            critic = UnitCritic(
                channels, width=model.critic_width, layers=model.critic_layers, spectral=unit.spectral_norm
            )
            self.add_module(f"d_{name}", critic)
        self.e_shared, self.g_shared = (_Chain(ResidualBlock(wide, model.norm)) for _ in range(2))

    def encode(self, name: str, x: Tensor) -> Tensor:
        """Return the mean of the latent ``[B, 4 width, D/4, H/4, W/4]`` of volumes of a domain."""
        return widened(self.e_shared(self[f"e_{name}"](x)))

    def decode(self, name: str, z: Tensor) -> Tensor:
        """Make volumes of a domain from latents."""
        return widened(self[f"g_{name}"](self.g_shared(z)))

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source``; see `TranslationNetworks`."""
        return Translation(self.decode("target", self.encode("source", source)))


def _encoder(channels: int, model: TranslationConfig) -> _Chain:
    width = model.width
    layers: list[nn.Module] = [nn.Sequential(nn.Conv3d(channels, width, 7, padding=3), nn.LeakyReLU(SLOPE))]
    for wide in (width, 2 * width):
        layers.append(nn.Sequential(nn.Conv3d(wide, 2 * wide, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)))
    layers += [ResidualBlock(4 * width, model.norm) for _ in range(model.unit.blocks)]
    return _Chain(*layers, *([SelfAttention(4 * width)] if model.unit.attention else []))


def _decoder(channels: int, model: TranslationConfig) -> _Chain:
    width = model.width
    layers: list[nn.Module] = [ResidualBlock(4 * width, model.norm) for _ in range(model.unit.blocks)]
    for wide, narrow in ((4 * width, 4 * width), (4 * width, 2 * width)):
        up = nn.ConvTranspose3d(wide, narrow, 3, stride=2, padding=1, output_padding=1)
        layers.append(nn.Sequential(up, nn.LeakyReLU(SLOPE)))
    return _Chain(*layers, nn.Sequential(nn.Conv3d(2 * width, channels, 1), nn.Tanh()))
