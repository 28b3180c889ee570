"""Do the operators reach their last voxel where a tensor has more than 2^31 of them? Needs 14 GB of memory.

Each gets a tensor that is constant but for its end, and must give there what the same few voxels give alone.
"""

import argparse
import sys
import time

import torch
from torch import Tensor

from hagan3d import ops

CHANNELS, SLICE = 33, (64, 1024, 1024)


def main() -> None:
    """Check one operator after the other; a wrong value ends it."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"torch {torch.__version__}, {ops.backend()}, {torch.get_num_threads()} threads")
    torch.manual_seed(0)
    for check in (likelihood, guide, sigma, rms_norm, selection, up_convolution):
        began = time.perf_counter()
        with torch.no_grad():
            numbers = check()
        print(
            f"{check.__name__:<16}{numbers / 2**31:6.2f} x 2^31 numbers{time.perf_counter() - began:6.0f} s", flush=True
        )


def wide() -> Tensor:
    """Ones ``[1, 33, 64, 1024, 1024]`` in bf16 with a 3 at the end."""
    x = torch.ones(1, CHANNELS, *SLICE, dtype=torch.bfloat16)
    x[0, -1, -1, -1, -1] = 3
    return x


def end(x: Tensor) -> Tensor:
    """The last voxels of the last rows, all channels."""
    return x[..., -1:, -1:, -2:].contiguous()


def likelihood() -> int:
    error, zero = wide(), torch.zeros(1, 1, *SLICE, dtype=torch.bfloat16)
    each = ops.ggd_nll(error, zero, zero, reduction="none")
    torch.testing.assert_close(end(each), ops.ggd_nll(end(error), end(zero), end(zero), reduction="none"))
    one = ops.ggd_nll(error[..., :1, :1, :1].float(), *(zero[..., :1, :1, :1].float() for _ in range(2)))
    torch.testing.assert_close(ops.ggd_nll(error, zero, zero).float(), one, rtol=1e-4, atol=0)
    return error.numel()


def guide() -> int:
    value, zero = wide(), torch.zeros(1, 1, *SLICE, dtype=torch.bfloat16)
    torch.testing.assert_close(end(ops.ggd_guide(value, zero, zero)), ops.ggd_guide(*map(end, (value, zero, zero))))
    return value.numel()


def sigma() -> int:
    log_scale = wide().view(CHANNELS, 1, *SLICE)
    log_shape = torch.zeros_like(log_scale)
    torch.testing.assert_close(end(ops.ggd_sigma(log_scale, log_shape)), ops.ggd_sigma(end(log_scale), end(log_shape)))
    return log_scale.numel()


def rms_norm() -> int:
    x, weight, bias = wide(), torch.ones(CHANNELS), torch.zeros(CHANNELS)
    torch.testing.assert_close(end(ops.rms_norm(x, weight, bias, "relu")), ops.rms_norm(end(x), weight, bias, "relu"))
    return x.numel()


def selection() -> int:
    x = wide()
    y = ops.select_subvolume(x, torch.tensor([SLICE[0] - 8]), 8, axis=0)
    torch.testing.assert_close(end(y), end(x))
    return x.numel()


def up_convolution() -> int:
    x, weight = torch.randn(8, 8, 33, 512, 256), torch.randn(8, 8, 3, 3, 3)
    y = ops.upsample_conv3d(x, weight, None)
    expected = ops.upsample_conv3d_reference(x[-1:, :, -4:, -16:, -16:], weight, None)
    torch.testing.assert_close(y[-1:, :, -4:, -8:, -8:], expected[:, :, -4:, -8:, -8:], rtol=1e-4, atol=1e-3)
    return y.numel()


if __name__ == "__main__":
    sys.exit(main())
