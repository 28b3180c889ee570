"""Memory: know before reading whether a volume fits."""

from pathlib import Path

import numpy as np

from hagan3d.errors import InputError

BYTES_PER_VOXEL = 16  # float32, twice over while it is turned and resampled, and the file's own bytes


def check_memory(shape: tuple[int, ...]) -> None:
    """Raise InputError if a volume of that shape does not fit into the memory that is free."""
    needed = BYTES_PER_VOXEL * int(np.prod([int(side) for side in shape], dtype=object))
    free = available_bytes()
    if needed > free:
        shown = " x ".join(str(side) for side in shape)
        raise InputError(
            f"{shown} voxels need about {needed / 1e6:.0f} MB of memory, {free / 1e6:.0f} MB are free; "
            "use fewer --workers or a machine with more, or repair the header if it is wrong"
        )


def available_bytes() -> int:
    """Memory that can be had without swapping: what the machine reports, or the limit of the container."""
    free = _meminfo() or 8 * 2**30  # where the system does not say
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit, or "max"
        return None
