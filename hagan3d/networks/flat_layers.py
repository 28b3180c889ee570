"""Networks of slices: the layers of volume networks, with kernels (1, k, k) and neither stride nor padding along D.

A network of slices ``[B, C, 1, H, W]`` is built by the same classes as one of volumes, inside `flat_layers`. All
convolutions with a kernel above 1^3 are of classes that take their kernels from here, so that no network has an
argument for it.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast

from torch import Tensor, nn

from hagan3d.ops.conv import Triple, plain_conv3d

Sides = int | Sequence[int]
"""One number for all axes, or one each for D, H, W."""

_IS_FLAT = ContextVar("is_flat", default=False)


@contextmanager
def flat_layers(is_flat: bool = True) -> Generator[None]:
    """Build the layers made inside for slices, if ``is_flat``, else for volumes."""
    token = _IS_FLAT.set(is_flat)
    try:
        yield
    finally:
        _IS_FLAT.reset(token)


def _along_axes(sides: Sides, along_d: int) -> Triple:
    """Return a kernel, stride or padding along D, H, W; for slices ``along_d`` along D."""
    d, h, w = (sides,) * 3 if isinstance(sides, int) else sides
    return (along_d if _IS_FLAT.get() else d), h, w


class PlainConv3d(nn.Conv3d):
    """PyTorch's convolution; inside `flat_layers` a 2D one with an axis D of length 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sides,
        *,
        stride: Sides = 1,
        padding: Sides = 0,
        padding_mode: Literal["zeros", "reflect"] = "zeros",
    ) -> None:
        sides = _along_axes(kernel, 1), _along_axes(stride, 1), _along_axes(padding, 0)
        super().__init__(in_channels, out_channels, *sides, padding_mode=padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[B, C, D, H, W]``."""
        if self.padding_mode != "zeros":
            return super().forward(x)
        return plain_conv3d(x, self.weight, self.bias, cast(Triple, self.stride), cast(Triple, self.padding))


class TransposedConv3d(nn.ConvTranspose3d):
    """PyTorch's transposed convolution, of stride 2; inside `flat_layers` a 2D one with an axis D of length 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sides,
        *,
        stride: Sides = 2,
        padding: Sides = 0,
        output_padding: int = 0,
    ) -> None:
        sides = _along_axes(kernel, 1), _along_axes(stride, 1), _along_axes(padding, 0), _along_axes(output_padding, 0)
        super().__init__(in_channels, out_channels, *sides)
