"""Layers that several networks share: normalised convolutions with and without upsampling, spectral norm."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hagan3d import ops
from hagan3d.ops.conv import Triple

GROUPS = 8  # of every GroupNorm
Map = Callable[[Tensor], Tensor]


class RMSNormReLU(nn.Module):
    """Divide each voxel's channels by their root mean square, scale, shift, ReLU: no statistics over space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]``."""
        return ops.rms_norm(x, self.weight, self.bias, activation="relu")


class GroupNormReLU(nn.GroupNorm):
    """GroupNorm, by default of 8 groups, then ReLU."""

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[B, C, D, H, W]`` over space and the channels of a group."""
        return ops.group_norm_relu(x, self.num_groups, self.weight, self.bias, self.eps)


def norm_relu(norm: str, channels: int) -> nn.Module:
    """Return the normalisation and ReLU that ``norm`` (rms, group or instance: each channel by itself) names."""
    if norm == "instance":
        return GroupNormReLU(channels, groups=channels)
    return RMSNormReLU(channels) if norm == "rms" else GroupNormReLU(channels)


class Conv3d(nn.Conv3d):
    """3^3 convolution, zero padding 1, that can leave out the outermost slices of axis D."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, trim: int = 0) -> Tensor:
        """Convolve ``[B, C, D, H, W]``; ``trim`` (0 or 1) slices at each end of D are not made."""
        if self.out_channels == 1 and x.device.type == "cpu" and not ops.has_winograd(x):  # the same sum, faster
            weight = self.weight.flip(2, 3, 4).transpose(0, 1)
            return ops.conv_transpose3d(x, weight, self.bias, padding=(1 + trim, 1, 1))
        return ops.conv3d(x, self.weight, self.bias, padding=(1 - trim, 1, 1))


class UpConv3d(Conv3d):
    """Nearest-neighbour upsampling by 2 and a 3^3 convolution, in one go or (``method="plain"``) one by one."""

    def __init__(self, in_channels: int, out_channels: int, upsample: str = "folded") -> None:
        super().__init__(in_channels, out_channels)
        self.method = "plain" if upsample == "plain" else "auto"

    def forward(self, x: Tensor, trim: int = 0) -> Tensor:
        """Upsample and convolve ``[B, C, D, H, W]``; ``trim`` (0 to 2) slices at each end of D are not made."""
        return ops.upsample_conv3d(x, self.weight, self.bias, trim=trim, method=self.method)


class ConvBlock(nn.Module):
    """Convolution (with upsampling before it, if so asked), normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, up: bool = False, upsample: str = "folded"):
        super().__init__()
        self.up = up
        self.conv = UpConv3d(in_channels, out_channels, upsample) if up else Conv3d(in_channels, out_channels)
        self.norm = norm_relu(norm, out_channels)

    def forward(self, x: Tensor, trim: int = 0) -> Tensor:
        """Map ``[B, C, D, H, W]``; ``trim`` slices at each end of D are not made."""
        return self.norm(self.conv(x, trim))

    def link(self, trim: int = 0) -> tuple[Map, Map]:
        """Give the two parts, for `run_chain`."""
        return partial(self.conv, trim=trim), self.norm


class StridedBlock(nn.Sequential):
    """Convolution of kernel 4 and stride 2, GroupNorm, ReLU: half the side."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = "group") -> None:
        super().__init__(nn.Conv3d(in_channels, out_channels, 4, stride=2, padding=1), norm_relu(norm, out_channels))

    def link(self) -> tuple[Map, Map]:
        """Give the two parts, for `run_chain`."""
        return self[0], self[1]


def recomputed(run: Map, x: Tensor, recompute: bool) -> Tensor:
    """Return ``run(x)``; with ``recompute``, the backward pass keeps ``x`` alone and computes the rest once more.

    Where ``run`` ends with a convolution, the second computation ends before it: what lies before it is made again,
    the convolution is not.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)
    return run(x)


def run_chain(links: Iterable[tuple[Map, Map]], x: Tensor, recompute: bool) -> Tensor:
    """Run convolutions, each with what its result goes through: norm and ReLU, a mask, a cut.

    Args:
        links: Pairs of a convolution and what comes after it.
        x: What goes in.
        recompute: Whether the backward pass keeps the results of the convolutions alone: one tensor per link, not two.
    """
    before: Map | None = None
    for conv, after in links:
        x = conv(x) if before is None else recomputed(partial(_both, before, conv), x, recompute)
        before = after
    return x if before is None else before(x)


def _both(first: Map, second: Map, x: Tensor) -> Tensor:
    return second(first(x))


class _Spectral(nn.Module):
    """Weight divided by an estimate of its largest singular value, W / (u^T W v).

    ``u`` and ``v`` change in `iterate_spectral_norms` only, never in a forward pass: however often a pass is repeated
    (real and generated, parts of a batch, checkpointing), the function is the same.

    Source: Miyato et al., Spectral Normalization for GANs, ICLR 2018, eq. 8 and algorithm 1.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    is_shared = False
    _shared: Tensor | None = None

    def init_spectral(self) -> None:
        out = self.weight.shape[0]
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0))
        self.register_buffer("v", torch.zeros(self.weight.numel() // out))
        self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration: v = W^T u, u = W v, each of length 1."""
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def normalized_weight(self) -> Tensor:
        """Give the normalised weight; inside `shared_spectral_norms`, as one tensor that has its own gradient."""
        if not self.is_shared:
            return self._normalized()
        if self._shared is None:
            with torch.no_grad():
                self._shared = self._normalized().requires_grad_(self.weight.requires_grad)
        return self._shared

    def share(self, is_shared: bool) -> None:
        """Normalise once from now on, or no more; drops what was shared."""
        self.is_shared, self._shared = is_shared, None

    def pass_gradient_on(self) -> None:
        """Give the weight the gradient that the shared normalised weight has gathered."""
        if self._shared is not None and self._shared.grad is not None:
            gradient, self._shared = self._shared.grad, None
            with torch.enable_grad():
                self._normalized().backward(gradient)

    def _normalized(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight / torch.dot(self.u, self.weight.flatten(1) @ self.v)


class StridedConv3d(nn.Conv3d):
    """Convolution of any kernel and stride that keeps its input only where its weight learns."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], **keywords: Any) -> None:
        d, h, w = kernel
        super().__init__(in_channels, out_channels, (d, h, w), **keywords)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[B, C, D, H, W]``."""
        return ops.conv3d(x, self.used_weight(), self.bias, cast(Triple, self.stride), cast(Triple, self.padding))

    def used_weight(self) -> Tensor:
        """Give the kernel to convolve with."""
        return self.weight


class SpectralConv3d(StridedConv3d, _Spectral):
    """Convolution with spectral norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], **keywords: Any) -> None:
        super().__init__(in_channels, out_channels, kernel, **keywords)
        self.init_spectral()

    def used_weight(self) -> Tensor:
        """Give the kernel divided by its largest singular value."""
        return self.normalized_weight()


class SpectralLinear(nn.Linear, _Spectral):
    """Linear layer with spectral norm."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.init_spectral()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, in_features]``."""
        return F.linear(x, self.normalized_weight(), self.bias)


def iterate_spectral_norms(network: nn.Module) -> None:
    """One power iteration in every layer with spectral norm; call it once per update of the network."""
    for layer in _spectral_layers(network):
        layer.iterate()


@contextmanager
def shared_spectral_norms(*networks: nn.Module) -> Iterator[None]:
    """Divide each weight by its spectral norm once inside this context, not in every forward pass.

    All passes and their backward passes must lie inside, of however many parts; weights must not change. The passes
    see one leaf tensor per layer, so that autograd keeps one copy, also of what is computed again or differentiated
    twice. Its gradient goes to the weight at the end, through the one division: the same sum, in another order.
    """
    layers = [layer for network in networks for layer in _spectral_layers(network)]
    for layer in layers:
        layer.share(True)
    try:
        yield
        for layer in layers:
            layer.pass_gradient_on()
    finally:
        for layer in layers:
            layer.share(False)


def _spectral_layers(network: nn.Module) -> Iterator[_Spectral]:
    return (module for module in network.modules() if isinstance(module, _Spectral))


@torch.no_grad()
def centre_filters(network: nn.Module) -> None:
    """Take from every convolution's kernel its mean over the input channels, and set its bias to 0.

    What ReLU gives has a positive mean, which is the same for every input: such a kernel does not see it. Without this
    that mean outgrows, layer by layer, what tells two latents apart, and G starts out making one volume.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight -= module.weight.mean(1, keepdim=True)
            if module.bias is not None:
                module.bias.zero_()


def minibatch_std(x: Tensor, group: int) -> Tensor:
    """Append a channel that says how much volumes of a group differ, so that D sees when they are all alike.

    Args:
        x: Feature maps ``[B, C, D, H, W]``.
        group: Neighbours in the batch that are compared; the whole batch where it is no multiple of ``group``.

    Returns:
        ``[B, C + 1, D, H, W]``: the standard deviation over the group, averaged over channels and voxels.

    Source: Karras et al., Progressive Growing of GANs, ICLR 2018, section 3.
    """
    B, C, D, H, W = x.shape
    group = group if B % group == 0 else B
    spread = (x.float().view(B // group, group, C, D, H, W).var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3, 4))
    channel = spread.repeat_interleave(group).to(x.dtype)[:, None, None, None, None].expand(B, 1, D, H, W)
    return torch.cat([x, channel], dim=1)
