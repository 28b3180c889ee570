"""Does training wait for the store? Times the reading of the volumes of a step, from a store of noise in memory.

Each step reads the sub-volumes, the low-resolution volumes and, slab by slab, the whole volumes of E^G. A thread
prefetches them during the previous step, so that training waits only if that step takes less time. MB needed are those
of the slices and channels of a step; label maps are compressed and come on top.
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
from hagan3d.data.store.write import Record, Voxels, write_store

SEED = 0


def main() -> None:
    """Time the reading of batches for each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="Sides of cubes.")
    parser.add_argument("--batch", type=int, default=4, help="Volumes per step.")
    parser.add_argument("--rounds", type=int, default=5, help="Timed batches, after one warm-up.")
    parser.add_argument("--channels", type=int, default=1, help="Image channels of a volume.")
    parser.add_argument("--labels", type=int, default=0, help="Labels of its label map; 0: none.")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, batch {options.batch}, "
        f"{options.channels} channels, {options.labels} labels"
    )
    print(f"{'size':>6}{'ms per step':>14}{'MB/s':>8}{'steps/s without waiting':>26}{'MB read':>10}{'MB needed':>11}")
    for side in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            store = make_store(Path(folder) / "noise.h5", side, options.channels, options.labels)
            seconds, read = time_reading(store, side, options.batch, options.rounds)
        voxels, low = side**3 * (1 + 1 / 8), (side // low_factor((side,) * 3)) ** 3
        needed = 2 * (options.channels * voxels + store.num_channels * low)  # of a label map see the text above
        total = options.batch * needed / 1e6
        print(
            f"{side:>6}{seconds * 1e3:>14.0f}{total / seconds:>8.0f}{1 / seconds:>26.1f}{read:>10.1f}{total:>11.1f}",
            flush=True,
        )


def make_store(path: Path, side: int, channels: int = 1, labels: int = 0, count: int = 4) -> Store:
    """Write a store of noise; its label maps are slabs of one label each."""
    random = np.random.default_rng(SEED)
    images = random.integers(-20_000, 20_000, (channels, side, side, side), dtype=np.int16)
    label_map = np.broadcast_to((np.arange(side) % max(1, labels)).astype(np.uint8)[:, None, None], (side,) * 3)
    rule = {"intensity": "window", "window": [-1024.0, 600.0], "percentiles": [0.5, 99.5], "units": "HU"}
    settings = {
        "size": [side] * 3,
        "columns": [],
        "class_names": [],
        "shard": [1, 1],
        "axis": "axial",
        "orientation": "RAS",
        "spacing": None,
        "fit": "resize",
        "trim": False,
        "channels": [{"name": f"channel-{number}", **rule} for number in range(1, channels + 1)],
        "label_names": [f"label-{number}" for number in range(labels)],
    }
    voxels = Voxels(images, label_map if labels else None)
    write_store(path, settings, [record(i, channels) for i in range(count)], lambda i: voxels)
    return Store(path)


def record(i: int, channels: int) -> Record:
    """Return the record of volume ``i``."""
    name = f"noise-{i}"
    return Record(name, name, "train", -1, np.eye(4), [(-1024.0, 600.0)] * channels, name, name)


def bytes_read() -> int:
    """Return the bytes that this process has read from files so far."""
    return int(Path("/proc/self/io").read_text(encoding="ascii").split("rchar:")[1].split()[0])


def time_reading(store: Store, side: int, batch: int, rounds: int) -> tuple[float, float]:
    """Return the median time to read the volumes of a step, seconds, and the mean MB that are read from the file."""
    source, seconds = BatchSource(store, "train", side // 8, batch, SEED), []
    for step in range(rounds + 1):
        if step == 1:
            before = bytes_read()
        begin = time.perf_counter()
        for _ in source.batch(step).slabs():
            pass
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), (bytes_read() - before) / rounds / 1e6


if __name__ == "__main__":
    main()
