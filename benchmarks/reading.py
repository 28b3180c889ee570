"""Does training wait for the store? Times the reading of the volumes of a step, from a store of noise in memory.

Each step reads the sub-volumes, the low-resolution volumes and, slab by slab, the whole volumes of E^G. A thread
prefetches them during the previous step, so that training waits only if that step takes less time.
"""

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hagan3d.config import low_factor
from hagan3d.data.batches.subvolumes import BatchSource
from hagan3d.data.store.store import Store
from hagan3d.data.store.write import Record, write_store

SEED = 0


def main() -> None:
    """Time the reading of batches for each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="Sides of cubes.")
    parser.add_argument("--batch", type=int, default=4, help="Volumes per step.")
    parser.add_argument("--rounds", type=int, default=5, help="Timed batches, after one warm-up.")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, batch {options.batch}")
    print(f"{'size':>6}{'ms per step':>14}{'MB/s':>8}{'steps/s without waiting':>26}")
    for side in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            seconds = time_reading(make_store(Path(folder) / "noise.h5", side), side, options.batch, options.rounds)
        voxels = options.batch * side**3 * (1 + 1 / 8 + 1 / low_factor((side,) * 3) ** 3)
        print(f"{side:>6}{seconds * 1e3:>14.0f}{2 * voxels / seconds / 1e6:>8.0f}{1 / seconds:>26.1f}", flush=True)


def make_store(path: Path, side: int, count: int = 4) -> Store:
    """Write a store of noise."""
    random = np.random.default_rng(SEED)
    volume = random.integers(-20_000, 20_000, (side,) * 3, dtype=np.int16)
    settings = {"size": [side] * 3, "columns": [], "class_names": [], "shard": [1, 1], "axis": "axial"}
    write_store(path, settings, [record(i) for i in range(count)], lambda i: volume)
    return Store(path)


def record(i: int) -> Record:
    """Return the record of volume ``i``."""
    name = f"noise-{i}"
    return Record(name, name, "train", -1, np.eye(4), -1024.0, 600.0, name, name)


def time_reading(store: Store, side: int, batch: int, rounds: int) -> float:
    """Return the median time to read the volumes of a step, seconds."""
    source, seconds = BatchSource(store, "train", side // 8, batch, SEED), []
    for step in range(rounds + 1):
        begin = time.perf_counter()
        for _ in source.batch(step).slabs():
            pass
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
