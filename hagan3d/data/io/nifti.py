"""Reader of NIfTI-1 and NIfTI-2."""

import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from hagan3d.data.io.checks import check_memory, check_shape
from hagan3d.data.io.registry import reader
from hagan3d.errors import InputError

UNITS_IN_MM = {1: 1e3, 3: 1e-3}  # metre and micrometre, by the spatial code of `xyzt_units`
MAX_GZIP_RATIO = 1032  # largest compression ratio of deflate
MAX_REASON = 160  # characters of a library's message that are shown


@reader(".nii", ".nii.gz", title="NIfTI")
def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read NIfTI of either byte order; slope and intercept are applied, sform takes precedence over qform.

    The affine is in mm, whatever unit the header names.
    """
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise InputError("not a NIfTI file, in spite of its ending")
        shape, dtype = check_shape(image.shape), image.get_data_dtype()
        if dtype.kind not in "iuf":
            raise InputError(f"expected one real number per voxel, got colours or complex numbers ({dtype})")
        _check_file_size(path, dtype.itemsize * int(np.prod(shape)))
        check_memory(shape)
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
        return array, _affine_mm(image)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise InputError("not a NIfTI file, in spite of its ending, or its header is damaged") from error
    except (EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"truncated or damaged ({_reason(error)}); copy or export it again") from error


def _affine_mm(image: nib.Nifti1Image) -> np.ndarray:
    """Return the affine in mm; the header may use metres or micrometres, and no unit means mm."""
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= UNITS_IN_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return affine


def _check_file_size(path: Path, expected: int) -> None:
    """Raise InputError if the file cannot hold the bytes that its header declares."""
    # before reading: the library would allocate what a damaged header declares
    capacity = os.path.getsize(path) * (MAX_GZIP_RATIO if path.name.lower().endswith(".gz") else 1)
    if expected > capacity:
        raise InputError(
            f"truncated or damaged: the header declares {expected} bytes of voxels, the file holds at most {capacity}"
        )


def _reason(error: Exception) -> str:
    """Return the last line of a library's message, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."
