"""Networks of UNIT: two encoders and decoders with shared layers, and two discriminators."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.config import Size
from hagan3d.methods.unit.config import UNITConfig
from hagan3d.networks.flat_layers import PlainConv3d, TransposedConv3d
from hagan3d.networks.layers import SLOPE, StridedConv3d, checkpointed, leaky_relu_
from hagan3d.networks.resnet import ResidualBlock
from hagan3d.networks.spectral import SpectralConv3d, SpectralPlainConv3d, SpectralTransposedConv3d
from hagan3d.networks.translation import ROUTES, Translation, TranslationNetworks, to_float32

MAX_MULTIPLIER = 16  # most channels of a discriminator, in multiples of those of its first layer
KERNEL = (3, 3, 3)


class SelfAttention(nn.Module):
    """Self-attention over voxels: y = gamma o(softmax(f g^T) h) + x, with gamma initialized to 0.

    Memory is linear in the number of voxels: PyTorch's fused kernels never hold the matrix of all pairs.

    Source: Zhang et al., Self-Attention Generative Adversarial Networks, ICML 2019, equations 1 to 3.
    """

    def __init__(self, channels: int) -> None:
        """Build it with queries, keys and values of 1/8 of the ``channels``."""
        super().__init__()
        inner = max(1, channels // 8)
        self.f, self.g, self.h = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.o = nn.Conv3d(inner, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))  # of one dimension, as optimizers that split weights by rows expect

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        # contiguous: with another layout PyTorch falls back to the explicit matrix
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None].contiguous() for layer in (self.f, self.g, self.h)
        )
        attended = F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0].transpose(1, 2)
        return self.gamma * self.o(attended.unflatten(2, x.shape[2:])) + x


class _Checkpointed(nn.Sequential):
    """A sequence of layers with gradient checkpointing of each."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = checkpointed(layer, x, on=self.checkpointing)
        return x


class UNITDiscriminator(nn.Module):
    """Patch discriminator of UNIT: strided 3^3 convolutions with LeakyReLU, then one of 2^3; no norm."""

    def __init__(self, in_channels: int, *, width: int, layers: int, spectral: bool) -> None:
        """Build a discriminator of ``in_channels`` channels with ``layers`` strided convolutions."""
        super().__init__()
        conv = SpectralConv3d if spectral else StridedConv3d
        widths = [in_channels, *(width * min(2**layer, MAX_MULTIPLIER) for layer in range(layers))]
        self.convs = nn.ModuleList(conv(widths[k], widths[k + 1], KERNEL, stride=2, padding=1) for k in range(layers))
        self.logits = conv(widths[-1], 1, (2, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Score ``x [B, C, D, H, W]``: logits ``[B, 1, d, h, w]``."""
        for conv in self.convs:
            x = leaky_relu_(conv(x))
        return self.logits(x)


class UNITNetworks(TranslationNetworks):
    """Encoders ``e_``, decoders ``g_`` and discriminators ``d_`` of both domains, and the shared residual blocks.

    Source: Liu et al., Unsupervised Image-to-Image Translation Networks, NeurIPS 2017; self-attention, spectral
    norm and the Charbonnier error are options.
    """

    directions = ("a2b", "b2a", "cycle", "reconstruct")
    averaged = ("e_source", "e_target", "e_shared", "g_shared", "g_source", "g_target")

    def __init__(self, size: Size, settings: UNITConfig) -> None:
        """Build the networks for whole volumes of ``size`` voxels."""
        super().__init__(size, settings)
        for name, channels in (("source", settings.source_channels), ("target", settings.target_channels)):
            self.add_module(f"e_{name}", _encoder(channels, settings))
            self.add_module(f"g_{name}", _decoder(channels, settings))
            width, layers, is_spectral = settings.critic_width, settings.critic_layers, settings.spectral_norm != "none"
            critic = UNITDiscriminator(channels, width=width, layers=layers, spectral=is_spectral)
            self.add_module(f"d_{name}", critic)
        shared = (ResidualBlock(_trunk(settings), settings.norm, _convolution(settings)) for _ in range(2))
        self.e_shared, self.g_shared = (_Checkpointed(block) for block in shared)

    def encode(self, name: str, x: Tensor) -> Tensor:
        """Return the mean of the latent ``[B, trunk, D/4, H/4, W/4]`` of volumes of a domain."""
        return to_float32(self.e_shared(self[f"e_{name}"](x)))

    def decode(self, name: str, z: Tensor) -> Tensor:
        """Decode latents to volumes of a domain."""
        return to_float32(self[f"g_{name}"](self.g_shared(z)))

    def translate(self, source: Tensor, statistics: Sequence[Tensor] | None = None) -> Translation:
        """Translate ``source`` in the direction that is set; see `TranslationNetworks`."""
        x = source
        for origin, aim in pairwise(ROUTES[self.direction]):
            x = self.decode(aim, self.encode(origin, x))
        return Translation(x)


def _encoder(channels: int, settings: UNITConfig) -> _Checkpointed:
    """Build the encoder of a domain, to ``trunk`` channels at a quarter of each side."""
    width, conv = settings.width, _convolution(settings)
    layers: list[nn.Module] = [nn.Sequential(conv(channels, width, 7, padding=3), nn.LeakyReLU(SLOPE))]
    for wide in (width, 2 * width):
        layers.append(nn.Sequential(conv(wide, 2 * wide, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)))
    if _trunk(settings) != 4 * width:
        layers.append(conv(4 * width, _trunk(settings), 1))
    return _Checkpointed(*layers, *_blocks(settings, has_attention=settings.attention in ("encoder", "both")))


def _decoder(channels: int, settings: UNITConfig) -> _Checkpointed:
    """Build the decoder of a domain."""
    width, conv = settings.width, _convolution(settings)
    transposed = SpectralTransposedConv3d if settings.spectral_norm == "all" else TransposedConv3d
    layers = _blocks(settings, has_attention=settings.attention in ("generator", "both"))
    for wide, narrow in ((_trunk(settings), 4 * width), (4 * width, 2 * width)):
        up = transposed(wide, narrow, 3, padding=1, output_padding=1)
        layers.append(nn.Sequential(up, nn.LeakyReLU(SLOPE)))
    return _Checkpointed(*layers, nn.Sequential(conv(2 * width, channels, 1), nn.Tanh()))


def _blocks(settings: UNITConfig, *, has_attention: bool) -> list[nn.Module]:
    """Build the residual blocks of an encoder or decoder, and self-attention after them."""
    trunk, conv = _trunk(settings), _convolution(settings)
    blocks: list[nn.Module] = [ResidualBlock(trunk, settings.norm, conv) for _ in range(settings.blocks)]
    return [*blocks, SelfAttention(trunk)] if has_attention else blocks


def _trunk(settings: UNITConfig) -> int:
    """Return the channels of the residual blocks."""
    return settings.trunk_width or 4 * settings.width


def _convolution(settings: UNITConfig) -> type[PlainConv3d]:
    """Return the class of the convolutions of encoders and decoders."""
    return SpectralPlainConv3d if settings.spectral_norm == "all" else PlainConv3d
