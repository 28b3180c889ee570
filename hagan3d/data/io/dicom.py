"""Readers of DICOM: a series of slices in a folder, or one multi-frame file; geometry and values come from its headers.

Values are the stored ones, scaled by the slope and intercept of each frame (HU for CT). What only tells a viewer how
to show them, such as MONOCHROME1 or a window, does not change them.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the usual abbreviation)
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    generate_uid,
)

from hagan3d.data.io.checks import OUT_OF_RANGE, check_memory
from hagan3d.data.io.dicom_files import SUFFIXES, is_dicom, read_dataset
from hagan3d.data.io.dicom_frames import (
    Frame,
    check_one_volume,
    frames_in_folder,
    frames_of,
    patient_id,
    series_uid,
    stack,
    study_uid,
)
from hagan3d.data.io.geometry import LPS_TO_RAS
from hagan3d.data.io.registry import RawVolume, reader
from hagan3d.errors import InputError

__all__ = ["is_dicom", "patient_id", "read_multiframe", "read_series", "series_uid", "study_uid"]

NO_PIXELS = "{}: DICOM pixels cannot be read: truncated, or compressed in a way that is not supported"
SYNTAXES: dict[tuple[bool, bool] | tuple[None, None], UID] = {
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
"""Transfer syntax of a file that names none, by whether its types are implicit and its bytes little endian."""
PIXEL_FORMAT = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)


@reader(title="folder of DICOM slices", matches=Path.is_dir)
def read_series(folder: Path) -> RawVolume:
    """Read a folder that holds the slices of one series, in any file order, or one multi-frame file.

    Returns:
        Voxels [column, row, slice] in float32, the rescale of each slice applied (HU for CT), and the affine to RAS mm.

    Raises:
        InputError: If slices are missing, unequally spaced, sheared, of mixed orientations or of several series.
    """
    return _volume(frames_in_folder(folder))


@reader(*SUFFIXES, title="multi-frame DICOM", matches=is_dicom, is_slice=True)
def read_multiframe(path: Path) -> RawVolume:
    """Read one DICOM file that holds a whole volume (enhanced CT, MR or PET), its frames in any order.

    Raises:
        InputError: If it is a single slice, whose folder must be given instead, or as `read_series`.
    """
    frames = frames_of(path)
    if not frames:
        raise InputError("cannot be read as DICOM" if frames is None else "is a DICOM file without an image")
    if len(frames) < 2:
        raise InputError("is one slice of a DICOM series; give the folder of the series")
    return _volume(frames)


def _volume(frames: Sequence[Frame]) -> RawVolume:
    """Read the voxels of frames that make one volume, and its affine to RAS mm."""
    check_one_volume(frames)
    ordered, affine = stack(frames)
    shape = (*ordered[0].shape, len(ordered))
    _check_sizes(ordered)
    check_memory(shape)
    array = np.empty(shape, np.float32)
    pixels: dict[Path, np.ndarray] = {}
    is_series = len({frame.path for frame in ordered}) > 1
    for number, frame in enumerate(ordered):
        if frame.path not in pixels:
            pixels = {frame.path: _stored_values(frame)}  # of a series, one file at a time
        slope, intercept = frame.rescale or (1.0, 0.0)
        values = pixels[frame.path][0 if is_series else frame.index]
        with np.errstate(over="ignore"):
            array[:, :, number] = values.T * np.float32(slope) + np.float32(intercept)
        if not np.isfinite(array[:, :, number]).all() and np.isfinite(values).all():
            raise InputError(OUT_OF_RANGE)
    return RawVolume(array, LPS_TO_RAS @ affine)


def _check_sizes(frames: Sequence[Frame]) -> None:
    """Raise InputError if a file is too small for the voxels that its header declares."""
    counts, firsts = Counter(frame.path for frame in frames), {frame.path: frame for frame in frames}
    for path, first in firsts.items():
        declared, size = math.prod(first.shape) * counts[path], path.stat().st_size
        if declared > size * first.ratio:
            raise InputError(f"{path}: DICOM pixels cannot be read: {declared} are declared, the file has {size} bytes")


def _stored_values(frame: Frame) -> np.ndarray:
    """Return the stored values of a file [frames, rows, columns], neither rescaled nor inverted."""
    columns, rows = frame.shape
    try:
        data = read_dataset(frame.path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom has no common class for what it raises, as at compressed pixels without an end
        raise InputError(NO_PIXELS.format(frame.path)) from error
    if not data.file_meta.get("TransferSyntaxUID"):
        data.file_meta.TransferSyntaxUID = SYNTAXES.get(data.original_encoding, ImplicitVRLittleEndian)
    try:
        values = np.asarray(data.pixel_array)
    except MemoryError:
        raise
    except Exception as error:  # nor for what its decoders raise
        values = _decoded_by_itk(frame, data, error)
    if "PixelData" in data and not data.file_meta.TransferSyntaxUID.is_compressed:
        surplus = len(data.PixelData) - get_expected_length(data)
        if surplus >= rows * columns * values.itemsize:
            raise InputError(
                f"{frame.path}: holds {surplus} bytes more of pixels than its header declares (NumberOfFrames?); "
                "export it again"
            )
    if values.size % (rows * columns):
        raise InputError(f"{frame.path}: holds {values.size} values, but frames have {columns} x {rows}")
    return values.reshape(-1, rows, columns)


def _decoded_by_itk(frame: Frame, data: Dataset, reason: Exception) -> np.ndarray:
    """Decode a compressed file that pydicom cannot, from a copy that has nothing but the pixels and their format.

    ITK would apply the slope of the first frame, that of each, or none, depending on the kind of image, and invert what
    is shown inverted.

    Raises:
        InputError: If it cannot be decoded.
    """
    message = NO_PIXELS.format(frame.path)
    syntax = data.file_meta.TransferSyntaxUID
    is_compressed = syntax.is_transfer_syntax and syntax.is_compressed
    # GDCM, which ITK uses, ends the process at some sizes
    is_usual = data.get("BitsAllocated") in (8, 16, 32) and min(frame.shape) > 0
    if not is_compressed or not is_usual:
        raise InputError(message) from reason
    file = sitk.ImageFileReader()
    file.SetImageIO("GDCMImageIO")
    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "pixels.dcm"
            _pixels_alone(data).save_as(copy, enforce_file_format=True)
            file.SetFileName(str(copy))
            return np.asarray(sitk.GetArrayFromImage(file.Execute()))
    except MemoryError:
        raise
    except Exception as error:  # of pydicom as it writes, or of ITK
        raise InputError(message) from error


def _pixels_alone(data: Dataset) -> Dataset:
    """Return a data set of the pixels of another, neither scaled nor inverted."""
    copy = Dataset()
    for name in PIXEL_FORMAT:
        if name in data:
            copy[name] = data[name]
    copy.SOPClassUID, copy.SOPInstanceUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage, generate_uid()
    copy.PhotometricInterpretation = "MONOCHROME2"
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = data.file_meta.TransferSyntaxUID
    return copy
