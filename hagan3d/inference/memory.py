"""Memory of inference: counted before anything is computed, and the windows that keep within it."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn

from hagan3d.checkpoint import Model
from hagan3d.checkpoint.build import make_translation_networks
from hagan3d.config import Config
from hagan3d.data.io.writer import BLOCK_BYTES
from hagan3d.errors import InputError
from hagan3d.inference.windowed_translation import UNIT
from hagan3d.inference.windows import default_depth, volume_windows
from hagan3d.methods.hagan.encoder import encode
from hagan3d.methods.hagan.networks import Networks
from hagan3d.peak_memory import LiveBytes

MEMORY = "Keep tensors and files' buffers within, e.g. 2GB: sets how many slices are made at a time."
VOLUMES_HELD = 10  # of float32, while a translation is written
WRITER_BLOCKS = 5  # what the writer of files holds at once, in blocks of voxels


def count_generation(
    config: Config, num_classes: int = 0, depth: int | None = None, device: torch.device | str = "cpu"
) -> int:
    """Count the live bytes of generating one volume, without computing it.

    Args:
        config: The run.
        num_classes: Classes of a conditional model.
        depth: Slices per window, a multiple of the low-resolution factor. Default: `default_depth`.
        device: Where it would run.

    Returns:
        Peak bytes of all tensors: the weights of G, A and the windows.
    """
    return _generation(config, num_classes, device)(depth or default_depth(config.data))


def count_encoding(config: Config, num_classes: int = 0, device: torch.device | str = "cpu") -> int:
    """Count the live bytes of encoding one volume: the weights of E^H and E^G, a sub-volume at a time, and A."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    size, depth = config.data.size, config.data.depth
    with FakeTensorMode(), torch.no_grad(), torch.device(device):
        networks = Networks(size, depth, config.model, num_classes)
        weights = [*networks.e_h.state_dict().values(), *networks.e_g.state_dict().values()]
        with LiveBytes(weights) as live:
            depths = (min(depth, size[0] - start) for start in range(0, size[0], depth))
            encode(networks.e_h, networks.e_g, (torch.zeros(1, 1, d, *size[1:]) for d in depths))
            return live.peak


def _generation(config: Config, num_classes: int, device: torch.device | str) -> Callable[[int], int]:
    """Return what counts the peak of generating in windows of a depth."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    mode = FakeTensorMode()
    with mode, torch.device(device):
        g = Networks(config.data.size, config.data.depth, config.model, num_classes).g

    def count(depth: int) -> int:
        with mode, torch.no_grad(), torch.device(device), LiveBytes(g.state_dict().values()) as live:
            z, label = torch.zeros(1, g.latent_dim), torch.zeros(1, dtype=torch.int64) if num_classes else None
            a, slices = g.common(z, label), depth // g.factor
            skip = g.skip(a)
            seen = 3 * slices + 2 * g.high.halos[0]  # of A: windows of every kind, at either end and between
            _use_up(volume_windows(g.high, a[:, :, :seen], slices, None if skip is None else skip[:, :, :seen]))
            return live.peak

    return count


def _use_up(windows: Iterable[Tensor]) -> None:
    for window in windows:
        del window  # as who writes it does, before the next is made


def window_depth(model: Model, budget: int) -> int:
    """Choose the thickest windows of G^H that keep within a budget, for the networks that were loaded.

    Counted are tensors and what is held to read and write files. Python, torch and the workspaces of its convolutions
    come on top.

    Args:
        model: A model with G to generate, with E^H and E^G to encode, with all three to reconstruct.
        budget: Bytes.

    Returns:
        Slices per window, a multiple of the low-resolution factor.

    Raises:
        InputError: If not even the thinnest fit; it names the least that works.
    """
    config, device = model.config, model.device
    _, H, W = size = config.data.size
    encodes, generates = "e_g" in model.loaded, "g" in model.loaded
    weights = {name: _bytes(model.networks[name]) for name in model.loaded}
    least, depth = 0, default_depth(config.data)
    if encodes:
        read = 2 * config.data.depth * H * W  # 16-bit voxels of a store
        least = count_encoding(config, model.num_classes, device) + weights.get("g", 0) + read
    if generates:
        written = WRITER_BLOCKS * min(max(BLOCK_BYTES, 4 * H * W), 4 * math.prod(size))
        others = sum(weights.values()) - weights["g"] + written
        compared = 6 * H * W if encodes else 0  # bytes of a slice of the real volume, as it is read
        count = _generation(config, model.num_classes, device)

        def needed(depth: int) -> int:
            return count(depth) + others + compared * depth

        depths = range(config.data.factor, size[0] + 1, config.data.factor)
        least = max(least, needed(depths[0]))
        depth = depths[max(bisect_right(depths, budget, key=needed) - 1, 0)]
    if budget < least:
        raise InputError(
            f"--memory {budget / 1e6:.0f}MB: too little for this model; the least that works is "
            f"{math.ceil(least / 1e6)}MB"
        )
    return depth


def count_translation(config: Config, depth: int, device: torch.device | str = "cpu") -> int:
    """Count the live bytes of translating one window, without computing it: weights of generators and all maps.

    Args:
        config: The run.
        depth: Slices of the window, those that it shares with its neighbours among them.
        device: Where it would run.
    """
    return _translation(config, device)(depth)


def _translation(config: Config, device: torch.device | str) -> Callable[[int], int]:
    """Return what counts the peak of translating a window of so many slices."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode, (_, H, W) = FakeTensorMode(), config.data.size
    with mode, torch.device(device):
        networks = make_translation_networks(config).eval()
    weights = [tensor for name in networks.averaged for tensor in networks[name].state_dict().values()]

    @cache
    def count(depth: int) -> int:
        with mode, torch.no_grad(), torch.device(device), LiveBytes(weights) as live:
            source = torch.zeros(1, config.seen_sources, depth, H, W)
            networks.translate(source, [torch.ones(1)] * networks.num_statistics)
            return live.peak

    return count


def translation_depth(config: Config, overlap: int, budget: int, device: torch.device | str = "cpu") -> int:
    """Choose the thickest windows of a translation that keep within a budget.

    Counted are tensors of the window and the volumes in memory: source, mean, scale, shape, sigma and bounds.

    Raises:
        InputError: If not even the thinnest fit; it names the least that works.
    """
    D, H, W = config.data.size
    held, count = VOLUMES_HELD * 4 * D * H * W, _translation(config, device)

    def needed(depth: int) -> int:
        return held + count(depth)

    depths = [*range(overlap + UNIT, D, UNIT), D]
    depth = depths[max(bisect_right(depths, budget, key=needed) - 1, 0)]
    if needed(depth) > budget:
        raise InputError(
            f"--memory {budget / 1e6:.0f}MB: too little for this model; the least that works with an overlap of "
            f"{overlap} slices is {math.ceil(needed(depth) / 1e6)}MB"
        )
    return depth


def _bytes(network: nn.Module) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in network.state_dict().values())
