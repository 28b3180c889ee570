"""Layers with spectral norm, and the power iteration that belongs to an update of their network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hagan3d.networks.flat_layers import PlainConv3d, Sides, TransposedConv3d
from hagan3d.networks.layers import StridedConv3d
from hagan3d.ops.conv import Triple


class _Spectral(nn.Module):
    """Weight divided by an estimate of its largest singular value, W / (u^T W v).

    ``u`` and ``v`` change in `iterate_spectral_norms` only, never in a forward pass, so that repeated passes of a step
    (real and fake, micro-batches, checkpointing) see the same function.

    Source: Miyato et al., Spectral Normalization for GANs, ICLR 2018, eq. 8 and algorithm 1.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    is_shared = False
    _shared: Tensor | None = None

    def init_spectral(self) -> None:
        out, rest = self.matrix().shape
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0))
        self.register_buffer("v", torch.zeros(rest))
        self.iterate()

    def matrix(self) -> Tensor:
        """Return the weight as a matrix W, one row for each output."""
        return self.weight.flatten(1)

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration: v = W^T u / |W^T u|, u = W v / |W v| (algorithm 1)."""
        matrix = self.matrix()
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def normalized_weight(self) -> Tensor:
        """Return W / sigma(W) (eq. 8); inside `shared_spectral_norms` one leaf tensor with its own gradient."""
        if not self.is_shared:
            return self._normalized()
        if self._shared is None:
            with torch.no_grad():
                self._shared = self._normalized().requires_grad_(self.weight.requires_grad)
        return self._shared

    def share(self, is_shared: bool) -> None:
        """Switch sharing of the normalised weight on or off; drops the shared tensor."""
        self.is_shared, self._shared = is_shared, None

    def pass_gradient_on(self) -> None:
        """Backpropagate the accumulated gradient of the shared normalised weight to the weight."""
        if self._shared is not None and self._shared.grad is not None:
            gradient, self._shared = self._shared.grad, None
            with torch.enable_grad():
                self._normalized().backward(gradient)

    def _normalized(self) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):  # sigma in float32: bf16 has 3 digits
            return self.weight / torch.dot(self.u, self.matrix() @ self.v)


class SpectralConv3d(StridedConv3d, _Spectral):
    """Convolution with spectral norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int], **keywords: Any) -> None:
        super().__init__(in_channels, out_channels, kernel, **keywords)
        self.init_spectral()

    def used_weight(self) -> Tensor:
        """Return the kernel divided by its largest singular value."""
        return self.normalized_weight()


class SpectralPlainConv3d(PlainConv3d, _Spectral):
    """PyTorch's convolution, with spectral norm and any padding mode."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sides, **keywords: Any) -> None:
        super().__init__(in_channels, out_channels, kernel, **keywords)
        self.init_spectral()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[B, C, D, H, W]``."""
        return self._conv_forward(x, self.normalized_weight(), self.bias)


class SpectralTransposedConv3d(TransposedConv3d, _Spectral):
    """Transposed convolution with spectral norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Sides, **keywords: Any) -> None:
        super().__init__(in_channels, out_channels, kernel, **keywords)
        self.init_spectral()

    def matrix(self) -> Tensor:
        """Return the weight as a matrix W, one row for each output channel."""
        return self.weight.transpose(0, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``[B, C, D, H, W]``."""
        stride, padding, more = (cast(Triple, sides) for sides in (self.stride, self.padding, self.output_padding))
        return F.conv_transpose3d(x, self.normalized_weight(), self.bias, stride, padding, more)


class SpectralLinear(nn.Linear, _Spectral):
    """Linear layer with spectral norm."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.init_spectral()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, in_features]``."""
        return F.linear(x, self.normalized_weight(), self.bias)


def iterate_spectral_norms(network: nn.Module) -> None:
    """Run one power iteration in every layer with spectral norm; to be called once per update of the network."""
    for layer in _spectral_layers(network):
        layer.iterate()


@contextmanager
def shared_spectral_norms(*networks: nn.Module) -> Iterator[None]:
    """Divide each weight by its spectral norm once inside this context, not in every forward pass.

    All forward and backward passes of an update, of every micro-batch, must lie inside; weights must not change. The
    passes share one leaf tensor per layer, so autograd stores one copy, also under checkpointing and double backward.
    At the end its gradient is backpropagated to the weight through the one division: the same sum, in another order.
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


def spectral_vectors(network: nn.Module) -> list[str]:
    """Return the names of the unit vectors u and v of all layers with spectral norm, as in the state of a network."""
    layers = (name for name, module in network.named_modules() if isinstance(module, _Spectral))
    return [f"{name}.{vector}".lstrip(".") for name in layers for vector in ("u", "v")]


def _spectral_layers(network: nn.Module) -> Iterator[_Spectral]:
    return (module for module in network.modules() if isinstance(module, _Spectral))
