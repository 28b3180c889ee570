"""Memory of inference: counted before anything is computed, and windows that fit a budget."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import nn

from hagan3d.checkpoint import Model
from hagan3d.config import Config, Size, is_slice
from hagan3d.data.io.writer import BLOCK_BYTES
from hagan3d.errors import InputError
from hagan3d.inference.windowed_translation import window_unit
from hagan3d.methods.registry import make_generative_networks, make_translation_networks
from hagan3d.peak_memory import PeakMemory

MAPS = 4  # of a translation: mean, alpha, beta and sigma
ENSEMBLE_MAPS = {False: 4, True: 10}  # running means, what changes them, and what is changed back; with uncertainty
MAPS_WRITTEN = 5  # of one channel in target units, with half the width of the interval
WRITER_BLOCKS = 5  # what the writer of files holds at once, in blocks of voxels


def count_generation(
    config: Config, num_classes: int = 0, depth: int | None = None, device: torch.device | str = "cpu"
) -> int:
    """Count the peak memory of generating one volume, without computing it.

    Args:
        config: The run.
        num_classes: Classes of a conditional model.
        depth: Slices per window. Default: that of the networks.
        device: Device to generate on.

    Returns:
        Peak bytes of all tensors: the weights of the generator, its shared features and the windows.
    """
    return _generation(config, num_classes, device)(depth)


def count_encoding(config: Config, num_classes: int = 0, device: torch.device | str = "cpu") -> int:
    """Count the peak memory of encoding one volume: the weights of the encoder, a slab at a time, and its features."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    size = config.data.size
    with FakeTensorMode(), torch.no_grad(), torch.device(device):
        networks = make_generative_networks(config, num_classes)
        depth = networks.encoder_depth()
        weights = [tensor for name in networks.encoders for tensor in networks[name].state_dict().values()]
        with PeakMemory(weights) as memory:
            depths = (min(depth, size[0] - start) for start in range(0, size[0], depth))
            networks.encode(torch.zeros(1, config.data.volume_channels, d, *size[1:]) for d in depths)
            return memory.peak


def _generation(config: Config, num_classes: int, device: torch.device | str) -> Callable[[int | None], int]:
    """Return a function that counts the peak memory of generating in windows of a depth."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    mode = FakeTensorMode()
    with mode, torch.device(device):
        networks = make_generative_networks(config, num_classes)
    weights = [tensor for name in networks.generators for tensor in networks[name].state_dict().values()]

    def count(depth: int | None) -> int:
        with mode, torch.no_grad(), torch.device(device), PeakMemory(weights) as memory:
            z, label = torch.zeros(1, networks.latent_dim), torch.zeros(1, dtype=torch.int64) if num_classes else None
            for window in networks.sample_windows(z, label, depth or networks.default_depth()):
                del window  # as the writer does, before the next window is generated
            return memory.peak

    return count


def window_depth(model: Model, budget: int) -> int:
    """Choose the thickest windows of the generator that fit a budget, for the networks that were loaded.

    Tensors and the buffers of files are counted; Python, torch and the workspaces of convolutions are not.

    Args:
        model: A model with its generator, its encoder or both.
        budget: Bytes.

    Returns:
        Slices per window, a multiple of the networks' window step.

    Raises:
        InputError: If not even the thinnest fit; it names the minimum.
    """
    config, device = model.config, model.device
    C, (_, H, W) = config.data.volume_channels, config.data.size
    networks, loaded = model.networks, set(model.loaded)
    encodes = bool(networks.encoders) and set(networks.encoders) <= loaded
    generates = set(networks.generators) <= loaded
    weights = {name: _bytes(model.networks[name]) for name in model.loaded}
    least, depth = 0, networks.default_depth()
    generator = sum(weights.get(name, 0) for name in networks.generators)
    if encodes:
        read = 2 * C * networks.encoder_depth() * H * W  # 16-bit voxels of a store
        least = count_encoding(config, model.num_classes, device) + generator + read
    if generates:
        written = WRITER_BLOCKS * min(max(BLOCK_BYTES, 4 * H * W), 4 * math.prod(config.data.size))
        others = sum(weights.values()) - generator + written
        compared = 6 * C * H * W if encodes else 0  # bytes of a slice of the real volume, as it is read
        count = _generation(config, model.num_classes, device)

        def needed(depth: int) -> int:
            return count(depth) + others + compared * depth

        depths = range(networks.window_step, config.data.size[0] + 1, networks.window_step)
        least = max(least, needed(depths[0]))
        depth = depths[max(bisect_right(depths, budget, key=needed) - 1, 0)]
    if budget < least:
        raise InputError(
            f"--memory {budget / 1e6:.0f}MB: too little for this model; the minimum is {math.ceil(least / 1e6)}MB"
        )
    return depth


def count_translation(config: Config, depth: int, device: torch.device | str = "cpu") -> int:
    """Count the peak memory of translating one window, without computing it: weights of generators and all maps.

    Args:
        config: The run.
        depth: Slices of the window, including the overlap; of a model of slices, those at a time.
        device: Device to translate on.
    """
    return _translation(config, config.data.size[1:], device)(depth)


def _translation(config: Config, sides: tuple[int, int], device: torch.device | str) -> Callable[[int], int]:
    """Return a function that counts the peak memory of translating a window of a depth, its other sides given."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode, (H, W) = FakeTensorMode(), sides
    with mode, torch.device(device):
        networks = make_translation_networks(config).eval()
    weights = [tensor for name in networks.averaged for tensor in networks[name].state_dict().values()]

    @cache
    def count(depth: int) -> int:
        with mode, torch.no_grad(), torch.device(device), PeakMemory(weights) as memory:
            channels = seen_channels(config)
            if is_slice(config.data.size):  # each with statistics of its own
                networks.translate(torch.zeros(depth, channels, 1, H, W))
            else:
                networks.translate(torch.zeros(1, channels, depth, H, W), [torch.ones(1)] * networks.num_statistics)
            return memory.peak

    return count


def translation_depth(
    config: Config,
    overlap: int,
    budget: int,
    device: torch.device | str = "cpu",
    only_whole: bool = False,
    size: Size | None = None,
    only: int = 0,
    held: int = 0,
) -> int:
    """Choose the thickest windows of a translation that fit a budget, or with ``only_whole`` check whole volumes.

    Counted are tensors of the window and the volumes in memory: source, mean, scale, shape, sigma and bounds.

    Args:
        config: The run.
        overlap: Slices that windows share.
        budget: Bytes.
        device: Device to translate on.
        only_whole: Whether volumes cannot be cut into windows.
        size: Voxels D, H, W of a volume. Default: those of targets in training.
        only: Slices of the only windows that there are; 0: any.
        held: Bytes that are in memory besides.

    Raises:
        InputError: If not even the thinnest fit; it names the minimum.
    """
    size = size or config.data.size
    unit = window_unit(config.method)
    depths = [only] if only else [*([] if only_whole else range(overlap + unit, size[0], unit)), size[0]]
    minimum = "whole volumes need" if only_whole else f"the minimum with an overlap of {overlap} slices is"
    return _largest(config, size, depths, budget, minimum, device, size[1:], held)


def slices_at_once(
    config: Config, size: Size, axis: int, budget: int, device: torch.device | str = "cpu", held: int = 0
) -> int:
    """Choose how many slices of a volume of ``size`` voxels are translated at a time; see `translation_depth`."""
    rows, columns = (side for other, side in enumerate(size) if other != axis)
    return _largest(config, size, range(1, size[axis] + 1), budget, "the minimum is", device, (rows, columns), held)


def ensemble_bytes(configs: Sequence[Config], size: Size, predicts: bool) -> int:
    """Return the bytes that an ensemble holds besides one of its members.

    Weights of its other runs, the changed source, and in float32 running means and what they are updated by.

    Args:
        configs: Of its runs.
        size: Voxels D, H, W of a volume.
        predicts: Whether its members predict their uncertainty.
    """
    settings, weights = configs[0].method, 0
    volumes = settings.source_channels + ENSEMBLE_MAPS[predicts] * settings.target_outputs
    for config in configs[1:]:
        with torch.device("meta"):
            networks = make_translation_networks(config)
        weights += sum(_bytes(networks[name]) for name in networks.averaged)
    return volumes * 4 * math.prod(size) + weights


def _largest(
    config: Config,
    size: Size,
    depths: Sequence[int],
    budget: int,
    minimum: str,
    device: torch.device | str,
    sides: tuple[int, int],
    besides: int,
) -> int:
    """Return the largest of some depths whose translation fits a budget, with the volumes of ``size`` in memory."""
    settings, count = config.method, _translation(config, sides, device)
    volumes = settings.source_channels + MAPS * settings.target_outputs + MAPS_WRITTEN
    held = volumes * 4 * math.prod(size) + besides  # float32

    def needed(depth: int) -> int:
        return held + count(depth)

    depth = depths[max(bisect_right(depths, budget, key=needed) - 1, 0)]
    if needed(depth) > budget:
        raise InputError(
            f"--memory {budget / 1e6:.0f}MB: too little for this model; {minimum} {math.ceil(needed(depth) / 1e6)}MB"
        )
    return depth


def seen_channels(config: Config) -> int:
    """Return the channels of a source as the networks see it, with its context or a low-resolution prediction."""
    settings, data = config.method, config.data
    low = settings.target_outputs if data.window == "hierarchical" else 0
    return settings.source_channels * data.context + low


def _bytes(network: nn.Module) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in network.state_dict().values())
