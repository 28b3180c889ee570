"""Files that `torch.save` wrote: checkpoints, weights, features. Nothing in them is executed."""

import errno
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from hagan3d.errors import InputError, is_out_of_memory

TRUNCATED = (
    "truncated, damaged or not a file of tensors; if it is the newest checkpoint of a run, delete it to resume from "
    "the one before"
)


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
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _check_parts(path)
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped and is_zip)
    except InputError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a place beyond the file gives
            raise
        raise InputError(f"{path}: {TRUNCATED}") from error
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path):
            raise InputError(
                f"{path}: holds more than tensors and plain values; not loaded, as it could run code"
            ) from error
        raise InputError(f"{path}: truncated, not a file of tensors, or one that could run code; not loaded") from error
    except Exception as error:  # the unpickler raises errors of any class on damaged files
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path}: {TRUNCATED}") from error


def _check_parts(path: Path) -> None:
    """Raise InputError unless the parts of a file are stored unpacked and have their checksums; torch asks for none."""
    with zipfile.ZipFile(path) as file:
        if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
            raise InputError(f"{path}: holds compressed parts, which torch never writes; not loaded")
        damaged = file.testzip()
    if damaged is not None:
        raise InputError(f"{path}: {TRUNCATED} (checksum of {damaged})")
