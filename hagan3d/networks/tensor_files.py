"""Files that `torch.save` wrote: checkpoints, weights, features. Nothing in them is executed."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from hagan3d.errors import InputError, is_out_of_memory


def read_tensors(path: Path, device: torch.device | str = "cpu", mapped: bool = False) -> Any:
    """Read a file of tensors and plain values without executing anything in it.

    Args:
        path: The file.
        device: Device of the tensors.
        mapped: Whether tensors are memory-mapped.

    Raises:
        InputError: If it is missing, truncated or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise InputError(
                f"{path}: holds more than tensors and plain values; not loaded, as it could run code"
            ) from error
        raise InputError(f"{path}: truncated, not a file of tensors, or one that could run code; not loaded") from error
    except (EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{path}: truncated or not a file of tensors; if it is the newest checkpoint of a run, delete it to resume "
            "from the one before"
        ) from error
