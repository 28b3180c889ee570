"""Checks of a volume before and after reading: shape, free memory, affine and voxels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hagan3d.errors import InputError

BYTES_PER_VOXEL = 16  # float32, a second copy while it is reoriented and resampled, and the bytes of the file
DEFAULT_FREE_BYTES = 8 * 2**30  # where the operating system does not report free memory
OUT_OF_RANGE = "has values beyond the range of float32 (3.4e38); rescale it"
SINGULAR = 1e-3  # smallest determinant of the direction cosines of usable axes


def check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing axes of length 1 and return the remaining sides: three, or four with channels last.

    Raises:
        InputError: For 2D, 5D or empty data.
    """
    sides = [int(side) for side in shape]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) == 5 and sides[3] == 1:  # NIfTI keeps vectors in its fifth axis, after time
        del sides[3]
    if len(sides) > 4:
        raise InputError(
            f"expected one 3D volume, got {len(sides)}D ({_times(sides)}); export one time point or channel"
        )
    if len(sides) < 3 or min(sides[:3]) < 2 or min(sides) < 1:
        raise InputError(f"expected a volume, got one slice ({_times(sides)})")
    return tuple(sides)


def check_memory(shape: tuple[int, ...]) -> None:
    """Raise InputError if a volume of that shape does not fit into free memory."""
    needed = BYTES_PER_VOXEL * int(np.prod([int(side) for side in shape], dtype=object))
    free = available_bytes()
    if needed > free:
        raise InputError(
            f"{_times(shape)} voxels need about {needed / 1e6:.0f} MB of memory, {free / 1e6:.0f} MB are free; "
            "use fewer --workers or a machine with more memory, or repair the header if its sizes are wrong"
        )


def available_bytes() -> int:
    """Return the memory available without swapping: of the machine, or of the container (cgroup v2) if less."""
    free = _mem_available() or DEFAULT_FREE_BYTES
    limit, used = (_read_int(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _mem_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2, or the word "max" for no limit
        return None


def check_range(array: np.ndarray, original: Callable[[], np.ndarray]) -> None:
    """Raise InputError if finite values became infinite in float32.

    Args:
        array: Voxels as float32.
        original: Gives the same in the type of the file; called if some are infinite.
    """
    infinite = np.isinf(array)
    if infinite.any() and np.isfinite(original().reshape(array.shape)[infinite]).any():
        raise InputError(OUT_OF_RANGE)


def surplus_remarks(surplus: int) -> tuple[str, ...]:
    """Return a remark on bytes that follow the voxels, as where a header declares too few slices."""
    return (f"{surplus} bytes after its voxels are not read: are the sizes in its header right?",) if surplus else ()


def check_affine(affine: np.ndarray) -> None:
    """Raise InputError unless an affine ``[4, 4]`` is finite and its axes span three dimensions."""
    matrix = affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all() or abs(np.linalg.det(matrix / spacing)) < SINGULAR:
        shown = ", ".join(f"{value:g}" for value in spacing)
        raise InputError(
            f"header has a singular affine (spacing {shown} mm, or axes that are not independent); repair the header"
        )


def check_voxels(array: np.ndarray, fill: float | None, is_image: bool = False) -> tuple[np.ndarray, list[str]]:
    """Return the voxels, non-finite ones replaced by ``fill``, with a remark on these; an image may have one slice.

    Raises:
        InputError: For a single slice, or NaN and infinite voxels without ``fill``.
    """
    if min(array.shape[1:] if is_image else array.shape) < 2:
        raise InputError(f"expected a volume, got one slice ({_times(array.shape)} voxels)")
    invalid = ~np.isfinite(array)
    count = int(invalid.sum())
    if count and fill is None:
        raise InputError(
            f"{count} of {array.size} voxels are NaN or infinite; replace them with --fill VALUE of `hagan3d prepare`"
        )
    remarks = [f"{count} of {array.size} voxels are NaN or infinite and become {fill:g}"] if count else []
    if count:
        array = np.where(invalid, np.float32(fill), array)
    return array, remarks


def check_contrast(array: np.ndarray) -> None:
    """Raise InputError if all voxels are the same."""
    if array.min() == array.max():
        raise InputError(f"every voxel is {array.flat[0]:g}; leave the file out (`hagan3d prepare`: --skip_bad true)")


def _times(sides: tuple[int, ...] | list[int]) -> str:
    return " x ".join(str(side) for side in sides)
