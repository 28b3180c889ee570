"""Layers that several networks share: convolution blocks, norms, upsampling, spectral norm, checkpoints."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hagan3d import ops
from hagan3d.config import Size
from hagan3d.networks.flat_layers import PlainConv3d
from hagan3d.ops.conv import Triple
from hagan3d.ops.device import device_kind

GROUPS = 8  # of every GroupNorm
SLOPE = 0.2  # of LeakyReLU at negative values, as in DCGAN
LAST_SIDE = 4  # voxels: strided convolutions halve the sides until the longest, or shortest, is below twice this
HALVING = (4, 2, 1)  # kernel, stride and padding that halve a side
MIN_CHANNELS = 8
MAX_MULTIPLIER = 8  # most channels of a translation network, in multiples of those of its first layer


def num_halvings(side: int) -> int:
    """Return how many times ``side`` is halved until it is below 8 voxels."""
    return max(0, (side // LAST_SIDE).bit_length() - 1)


def num_even_halvings(size: Size) -> int:
    """Return how many times all sides of a size can be halved without rest; the D of slices stays 1."""
    common = math.gcd(*(side for side in size if side > 1))
    return (common & -common).bit_length() - 1


def halving_kernel(sides: Sequence[int]) -> tuple[Any, Any, Any]:
    """Return kernel, stride and padding that halve every side of 4 voxels or more and keep shorter ones."""
    kernel, stride, padding = zip(*(HALVING if side >= LAST_SIDE else (1, 1, 0) for side in sides), strict=True)
    return kernel, stride, padding


def halved(side: int) -> int:
    """Return a side after the convolution of `halving_kernel`."""
    return side // 2 if side >= LAST_SIDE else side


def halved_evenly(sides: Sequence[int]) -> tuple[tuple[int, ...], tuple[Any, Any, Any]]:
    """Return the sides after halving every even one, down to 1, and the kernel, stride and padding that do it."""
    kernel, stride, padding = zip(*(HALVING if side % 2 == 0 else (1, 1, 0) for side in sides), strict=True)
    return tuple(side // 2 if side % 2 == 0 else side for side in sides), (kernel, stride, padding)


def halved_size(size: Size, times: int) -> Size:
    """Return a size after some halvings; the D of slices stays 1."""
    d, h, w = (max(1, side >> times) for side in size)
    return d, h, w


def widths_from(width: int, layers: int) -> list[int]:
    """Return the channels of ``layers`` layers: ``width``, then doubled, at most 8 times ``width``."""
    return [width * min(2**layer, MAX_MULTIPLIER) for layer in range(layers)]


def widths_up_to(width: int, layers: int) -> list[int]:
    """Return the channels of ``layers`` layers: doubled until the last has ``width``, at least 8."""
    return [max(width >> (layers - 1 - layer), MIN_CHANNELS) for layer in range(layers)]


class RMSNormReLU(nn.Module):
    """RMS norm over the channels of each voxel, affine, then ReLU.

    It has no statistics over space, so a window of a volume is normalised as the volume is. Source: Zhang and Sennrich,
    Root Mean Square Layer Normalization, NeurIPS 2019, equation 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]``."""
        return ops.rms_norm(x, self.weight, self.bias, activation="relu")


class GroupNormReLU(nn.GroupNorm):
    """GroupNorm (8 groups by default), then ReLU. Source: Wu and He, Group Normalization, ECCV 2018."""

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]`` over space and the channels of a group; a group of one value is left as it is.

        Its mean is the value itself, so that nothing would be left of it.
        """
        if x[0].numel() == self.num_groups:
            return torch.relu(x)
        return ops.group_norm_relu(x, self.num_groups, self.weight, self.bias, self.eps)


def norm_relu(norm: str, channels: int) -> nn.Module:
    """Return normalisation and ReLU; ``norm`` is ``rms``, ``group``, ``instance`` or ``none``."""
    if norm == "none":
        return nn.ReLU()
    if norm == "instance":  # GroupNorm with one channel per group
        return GroupNormReLU(channels, groups=channels)
    return RMSNormReLU(channels) if norm == "rms" else GroupNormReLU(channels)


class Conv3d(PlainConv3d):
    """3^3 convolution with zero padding 1; ``trim`` leaves out the outermost slices of axis D."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, trim: int = 0) -> Tensor:
        """Convolve ``[B, C, D, H, W]``; ``trim`` (0 or 1) output slices are left out at each end of D."""
        along_d = self.kernel_size[0] // 2  # 1, or 0 in networks of slices
        if self.out_channels == 1 and device_kind(x) == "cpu":
            # The same sum, as a transposed convolution: on a CPU PyTorch is slow for a single output channel.
            weight = self.weight.flip(2, 3, 4).transpose(0, 1)
            return ops.conv_transpose3d(x, weight, self.bias, padding=(along_d + trim, 1, 1))
        return ops.conv3d(x, self.weight, self.bias, padding=(along_d - trim, 1, 1))


class UpConv3d(Conv3d):
    """Nearest-neighbour upsampling by 2 and a 3^3 convolution, fused or (``upsample="plain"``) one after the other."""

    def __init__(self, in_channels: int, out_channels: int, upsample: str = "folded") -> None:
        super().__init__(in_channels, out_channels)
        self.method = "plain" if upsample == "plain" else "auto"

    def forward(self, x: Tensor, trim: int = 0) -> Tensor:
        """Upsample and convolve ``[B, C, D, H, W]``; ``trim`` (0 to 2) output slices are left out at each end of D."""
        return ops.upsample_conv3d(x, self.weight, self.bias, trim=trim, method=self.method)


class ConvBlock(nn.Module):
    """Convolution (after upsampling, with ``up``), normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, up: bool = False, upsample: str = "folded"):
        super().__init__()
        self.conv = UpConv3d(in_channels, out_channels, upsample) if up else Conv3d(in_channels, out_channels)
        self.norm = norm_relu(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        return self.norm(self.conv(x))


class StridedBlock(nn.Sequential):
    """Convolution of kernel 4 and stride 2, normalisation (GroupNorm by default), ReLU; halves every side."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = "group") -> None:
        super().__init__(
            StridedConv3d(in_channels, out_channels, 4, stride=2, padding=1), norm_relu(norm, out_channels)
        )

    @property
    def conv(self) -> nn.Module:
        """The convolution, named as that of `ConvBlock`."""
        return self[0]

    @property
    def norm(self) -> nn.Module:
        """The norm and ReLU."""
        return self[1]


def label_channels(logits: Tensor) -> Tensor:
    """Return the channels 2 p - 1 of labels by their logits ``[B, K, D, H, W]``, p the probability of the label.

    Real label maps are one-hot, -1 or 1 (`Store.window`). At least float32: in bfloat16 every p below 0.001 would be 0.
    """
    return 2 * logits.softmax(1, torch.promote_types(logits.dtype, torch.float32)) - 1


class VolumeOutput(nn.Module):
    """The output of a generator: tanh of image channels, `label_channels` of labels, all in [-1, 1]."""

    def __init__(self, images: int, labels: int = 0) -> None:
        """Have ``images`` image channels and then ``labels`` channels of labels."""
        super().__init__()
        self.images, self.channels = images, images + labels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, D, H, W]``."""
        if self.images == self.channels:
            return torch.tanh(x)
        return torch.cat([torch.tanh(x[:, : self.images]), label_channels(x[:, self.images :])], dim=1)

    def in_place(self, x: Tensor) -> Tensor:
        """Return the same, overwriting ``x``; for inference."""
        x[:, : self.images].tanh_()
        if self.images < self.channels:
            x[:, self.images :] = x[:, self.images :].softmax(1).mul_(2).sub_(1)
        return x


def checkpointed(function: Callable[..., Tensor], x: Tensor, *args: Any, on: bool) -> Tensor:
    """Return ``function(x, *args)``; with ``on``, store ``x`` alone and recompute the rest in the backward pass.

    The recomputation stops at the last tensor that was saved: a ``function`` that ends with a convolution recomputes
    what comes before the convolution, not the convolution itself.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174, 2016.
    """
    if on and torch.is_grad_enabled():
        # No random state to restore: dropout follows from seeds, and spectral norms change between steps alone.
        return checkpoint(function, x, *args, use_reentrant=False, preserve_rng_state=False)
    return function(x, *args)


def leaky_relu_(x: Tensor) -> Tensor:
    """LeakyReLU in place: its backward pass needs the output alone, so one tensor is stored and not two."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def norm_conv(x: Tensor, norm: nn.Module, conv: nn.Module) -> Tensor:
    """Normalise, then convolve: in this order a checkpoint stores the output of each convolution and nothing else."""
    return conv(norm(x))


class StridedConv3d(PlainConv3d):
    """Convolution of any kernel and stride that stores its input only if its weight needs a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[B, C, D, H, W]``."""
        return ops.conv3d(x, self.used_weight(), self.bias, cast(Triple, self.stride), cast(Triple, self.padding))

    def used_weight(self) -> Tensor:
        """Return the kernel to convolve with."""
        return self.weight


@torch.no_grad()
def centre_filters(network: nn.Module) -> None:
    """Centre the kernel of every convolution over its input channels and set its bias to 0.

    ReLU outputs have a positive mean that is the same for every latent; a centred kernel does not respond to it.
    Otherwise this mean grows, layer by layer, past the differences between latents, and G starts out collapsed.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight -= module.weight.mean(1, keepdim=True)
            if module.bias is not None:
                module.bias.zero_()


@torch.no_grad()
def initialise_for_relu(network: nn.Module) -> None:
    """Initialise every convolution so that ReLU outputs keep their variance without a norm; biases are 0.

    Source: He et al., Delving Deep into Rectifiers, ICCV 2015, equation 10.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                module.bias.zero_()


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append the minibatch standard deviation as a channel, by which D detects a lack of variety.

    Args:
        x: Feature maps ``[B, C, D, H, W]``.
        group: Group size; the whole batch is one group if its size is not a multiple.

    Returns:
        ``[B, C + 1, D, H, W]``: the standard deviation over the group, averaged over channels and voxels.

    Source: Karras et al., Progressive Growing of GANs, ICLR 2018, section 3.
    """
    B, C, D, H, W = x.shape
    group = group if B % group == 0 else B
    spread = (x.float().view(B // group, group, C, D, H, W).var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3, 4))
    channel = spread.repeat_interleave(group).to(x.dtype)[:, None, None, None, None].expand(B, 1, D, H, W)
    return torch.cat([x, channel], dim=1)
