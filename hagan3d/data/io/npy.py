"""Reader of NumPy arrays."""

from pathlib import Path

import numpy as np

from hagan3d.data.io.checks import check_memory, check_range, check_shape, surplus_remarks
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.errors import InputError

NO_GEOMETRY = "a NumPy file has no geometry: voxels of 1 mm, axes as those of RAS, the first voxel at 0"
MAGIC = b"\x93NUMPY"


@reader(".npy", title="NumPy")
def read_npy(path: Path) -> RawVolume:
    """Read an array. The format has no geometry: voxels are 1 mm and the axes are those of RAS."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise InputError("not a NumPy file, in spite of its ending")
    try:
        # memory-mapped, so that shape and type are checked before any voxel is read
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except (ValueError, EOFError) as error:
        if "Python objects" in str(error):
            raise InputError("holds Python objects, which are never loaded; use an array of numbers") from error
        raise InputError("truncated or damaged: the header declares more voxels than the file holds") from error
    except (MemoryError, RecursionError) as error:  # of the parser of the header
        raise InputError("not a NumPy file, in spite of its ending, or its header is damaged") from error
    if array.dtype.kind not in "iufb":
        raise InputError(f"expected one real number per voxel, got {array.dtype}")
    shape = check_shape(array.shape)
    check_memory(shape)
    with np.errstate(over="ignore"):
        values = np.array(array, dtype=np.float32).reshape(shape)
    check_range(values, lambda: array)
    # a second array, as of two calls of np.save
    surplus = path.stat().st_size - array.offset - array.nbytes if isinstance(array, np.memmap) else 0
    return RawVolume(values, np.eye(4), (NO_GEOMETRY, *surplus_remarks(surplus)), is_placed=False)
