"""Published weights of a method as a run: fit for inference, not for further training."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hagan3d.checkpoint.files import FOLDER, Checkpoint, State, path_of, save
from hagan3d.config import Size
from hagan3d.config.methods import method_module
from hagan3d.data.store.description import Channel, DataDescription
from hagan3d.errors import InputError
from hagan3d.networks.tensor_files import read_tensors

Triple = tuple[float, float, float]


def published_files(method: str) -> dict[str, str]:
    """Return the files that a published checkpoint of a method consists of, with a description of each.

    Raises:
        InputError: If the method is unknown, or no conversion of published weights exists for it.
    """
    try:
        files: dict[str, str] = method_module(method, "published").FILES
    except ModuleNotFoundError as error:
        raise InputError(f"method {method}: no published weights can be imported") from error
    return files


def import_published(
    method: str,
    paths: Mapping[str, Path],
    side: int,
    out: Path,
    *,
    window: tuple[float, float] = (-1024.0, 600.0),
    spacing: Triple = (1.0, 1.0, 1.0),
    units: str = "HU",
) -> Path:
    """Make a run of published weights.

    Args:
        method: Name of the method.
        paths: Files by the names of `published_files`; each ``{"model": state dict, ...}``.
        side: Voxels per axis.
        out: Folder of the run, which must not hold one.
        window: Values of -1 and 1, file units; published HA-GAN runs clip to [-1024, 600] HU.
        spacing: Millimetres per voxel along D, H, W; published weights do not store it.
        units: Name of the intensity units.

    Returns:
        The checkpoint file.

    Raises:
        InputError: If a file cannot be read, or does not have the keys and shapes of the published networks.
    """
    first = paths[next(iter(published_files(method)))]
    if (out / FOLDER).exists():
        raise InputError(f"{out}: holds a run already; use another --out")
    states = {name: _read(path) for name, path in paths.items()}
    config, num_classes, converted = method_module(method, "published").convert(states, paths, side)
    step = int(match[1]) if (match := re.search(r"iter(\d+)", first.name)) else 0
    description = _description((side, side, side), num_classes, window, spacing, units)
    path = path_of(out, step)
    save(Checkpoint(config, description, step, converted), path)
    return path


def _read(path: Path) -> State:
    """Read a state dict; keys may start with ``module.`` (torch.nn.DataParallel)."""
    values = read_tensors(path)
    state = values.get("model", values) if isinstance(values, dict) else values
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(f"{path}: expected a file with a state dict under 'model', as the published code writes it")
    odd = [key for key, value in state.items() if not value.isfinite().all()]
    if odd:
        raise InputError(
            f"{path}: {odd[0]} holds NaN or infinite values; download the file again, or use an earlier one"
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _description(
    size: Size, num_classes: int, window: tuple[float, float], spacing: Triple, units: str
) -> DataDescription:
    """Describe axial volumes centred on the origin; classes are named by their numbers.

    Raises:
        InputError: If the window or the spacing is invalid.
    """
    if not -math.inf < window[0] < window[1] < math.inf:
        raise InputError(f"--window {window[0]:g} {window[1]:g}: must be two numbers, the lower first")
    if not all(0 < step < math.inf for step in spacing):
        raise InputError(f"--spacing {' '.join(f'{step:g}' for step in spacing)}: must be three numbers above 0")
    d, h, w = spacing
    centre = [-step * (side - 1) / 2 for step, side in zip((w, h, d), reversed(size), strict=True)]
    affine = ((0.0, 0.0, w, centre[0]), (0.0, h, 0.0, centre[1]), (d, 0.0, 0.0, centre[2]), (0.0, 0.0, 0.0, 1.0))
    return DataDescription(
        size=size,
        orientation="RAS",
        axis="axial",
        affine=affine,
        channels=(Channel("image", "window", *window, units),),
        class_names=tuple(str(index) for index in range(num_classes)),
        source="published weights",
    )
