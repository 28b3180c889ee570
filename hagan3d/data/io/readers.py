"""One reader per file format: path -> (voxels in file units, affine to RAS mm), with shapes checked before reading."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name everybody knows)

from hagan3d.data.io.dicom import read_dicom_file, read_series
from hagan3d.data.io.free_memory import check_memory
from hagan3d.data.io.volumes import is_dicom
from hagan3d.errors import InputError

Reader = Callable[[Path], tuple[np.ndarray, np.ndarray]]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NIFTI_UNITS = {1: 1e3, 3: 1e-3}  # mm of a metre and of a micrometre, by their codes in a header
NPY_MAGIC = b"\x93NUMPY"
MOST_PACKED = 1032  # bytes that one byte of a gzip file can stand for, at most

sitk.ProcessObject.SetGlobalWarningDisplay(False)


def reader_of(path: Path) -> Reader:
    """Choose the reader by what the path is.

    Raises:
        InputError: If nothing here reads it.
    """
    name = path.name.lower()
    if path.is_dir():
        return read_series
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti
    if name.endswith((".nrrd", ".mha", ".mhd")):
        return read_itk
    if name.endswith(".npy"):
        return read_npy
    if is_dicom(path):
        return read_dicom_file
    raise InputError("is no volume; want .nii, .nii.gz, .nrrd, .mha, .mhd, .npy or a folder of DICOM slices")


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read NIfTI-1 or NIfTI-2, either byte order; slope and intercept are applied, sform goes before qform.

    The affine is in mm, whatever unit the header names.
    """
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise InputError("is no NIfTI file, whatever its name says")
        shape, dtype = check_shape(image.shape), image.get_data_dtype()
        if dtype.kind not in "iuf":
            raise InputError("has colours or complex numbers; want one real number per voxel")
        _check_file_size(path, dtype.itemsize * int(np.prod(shape)))
        check_memory(shape)
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
        return array, _in_mm(image)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise InputError("is no NIfTI file, whatever its name says, or its header is damaged") from error
    except (EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is truncated or damaged ({_reason(error)}); copy or export it again") from error


def _in_mm(image: nib.Nifti1Image) -> np.ndarray:
    """Give the affine in mm, which its header may have in metres or in micrometres; without a unit they are mm."""
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= NIFTI_UNITS.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return affine


def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read NRRD or MetaImage through ITK; axes come out in the file's order, the affine in RAS mm."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1:
            raise InputError(f"has {reader.GetNumberOfComponents()} values per voxel (colours?); want one")
        if min(reader.GetSpacing()) <= 0:
            raise InputError(f"its header has the spacing {reader.GetSpacing()}; repair it, a spacing is above 0 mm")
        check_memory(check_shape(reader.GetSize()))
        reader.SetOutputPixelType(sitk.sitkFloat32)
        return from_itk(reader.Execute())
    except RuntimeError as error:
        raise InputError("cannot be read: truncated, damaged or no NRRD or MetaImage file") from error


def from_itk(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Voxels in the order x, y, z of an ITK image, and its affine, from LPS to RAS."""
    array = sitk.GetArrayFromImage(image)  # axes in reverse order
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    array = array.reshape(check_shape(image.GetSize())[::-1])
    return array.transpose(2, 1, 0), LPS_TO_RAS @ affine


def read_npy(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a NumPy array; it knows no geometry, so voxels are 1 mm and axes run to the right, forward and up."""
    with path.open("rb") as file:
        if file.read(len(NPY_MAGIC)) != NPY_MAGIC:
            raise InputError("is no NumPy file, whatever its name says")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "Python objects" in str(error):
            raise InputError("holds Python objects, which are never loaded; want an array of numbers") from error
        raise InputError("is truncated or damaged: its header promises more than the file holds") from error
    if array.dtype.kind not in "iufb":
        raise InputError(f"holds {array.dtype}; want one real number per voxel")
    shape = check_shape(array.shape)
    check_memory(shape)
    return np.array(array, dtype=np.float32).reshape(shape), np.eye(4)


def check_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Drop trailing axes of length 1 and make sure that three are left.

    Raises:
        InputError: For 2D, 4D (time, directions, colours) or empty data.
    """
    sides = [int(side) for side in shape]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    shown = " x ".join(str(side) for side in sides)
    if len(sides) > 3:
        raise InputError(f"is {len(sides)}D ({shown}); want one 3D volume, so export one time point or channel of it")
    if len(sides) < 3 or min(sides) < 2:
        raise InputError(f"is one slice ({shown}); want a volume")
    return sides[0], sides[1], sides[2]


def _check_file_size(path: Path, wanted: int) -> None:
    """Raise InputError if the file cannot hold the bytes that its header promises."""
    held = os.path.getsize(path) * (MOST_PACKED if path.name.lower().endswith(".gz") else 1)
    if wanted > held:
        raise InputError(
            f"is truncated or damaged: its header promises {wanted} bytes of voxels, the file can hold {held} at most"
        )


def _reason(error: Exception) -> str:
    """Last line of a library's message, short enough for one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
