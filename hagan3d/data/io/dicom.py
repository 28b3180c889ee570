"""Readers of DICOM: a series of slices in a folder, or one multi-frame file; the geometry is checked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 (the usual abbreviation)
from pydicom.errors import InvalidDicomError

from hagan3d.data.io.checks import check_memory
from hagan3d.data.io.geometry import LPS_TO_RAS, angle_deg
from hagan3d.data.io.registry import reader
from hagan3d.errors import InputError

TAGS = [
    "SeriesInstanceUID",
    "SeriesDescription",
    "Modality",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
]
SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC = b"DICM"  # at byte 128, after the preamble
COSINE_TOLERANCE = 1e-3  # largest difference of direction cosines within a series
GAP_TOLERANCE = 0.05  # largest relative difference of slice gaps within a series
MAX_TILT_DEG = 0.5  # angle between the stacking direction and the slice normal


@dataclass(frozen=True)
class SliceHeader:
    """Header of one slice."""

    path: Path
    series: str
    description: str
    """Modality and description of its series."""
    shape: tuple[int, int]
    """Columns, rows."""
    samples: int
    frames: int
    position: np.ndarray
    """Centre of its first voxel, LPS mm [3]; NaN if missing."""
    cosines: np.ndarray
    """Direction cosines of a row and of a column [6]; NaN if missing."""
    spacing: tuple[float, float]
    """Distance between columns and between rows, mm."""


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its ending or by its first bytes; a DICOMDIR is an index, not an image."""
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return False
    if path.name.lower().endswith(SUFFIXES):
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == MAGIC


def patient_id(path: Path) -> str | None:
    """Return the PatientID of a DICOM file or a folder of slices; None without one."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    first = next((file for file in files if is_dicom(file)), None)
    if first is None:
        return None
    try:
        return str(pydicom.dcmread(first, specific_tags=["PatientID"]).get("PatientID", "")).strip() or None
    except (InvalidDicomError, OSError):
        return None


@reader(title="folder of DICOM slices", matches=Path.is_dir)
def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a folder that holds the slices of one series, in any file order.

    Returns:
        Voxels [column, row, slice] in float32, the rescale of each slice applied (HU for CT), and the affine to RAS mm.

    Raises:
        InputError: If slices are missing, unequally spaced, sheared, of mixed orientations or of several series.
    """
    slices = _headers(folder)
    if len(slices) == 1 and slices[0].frames > 1:
        return read_multiframe(slices[0].path)
    _check_one_series(slices)
    slices, affine = _stack(slices)
    shape = (*slices[0].shape, len(slices))
    check_memory(shape)
    series = sitk.ImageSeriesReader()
    series.SetFileNames([str(item.path) for item in slices])
    series.SetOutputPixelType(sitk.sitkFloat32)
    return _voxels(series, shape), LPS_TO_RAS @ affine


@reader(*SUFFIXES, title="multi-frame DICOM", matches=is_dicom, is_slice=True)
def read_multiframe(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one DICOM file that holds a whole volume (enhanced CT, MR or PET).

    Raises:
        InputError: If it is a single slice, whose folder must be given instead.
    """
    header = _header(path)
    if header is None:
        raise InputError("cannot be read as DICOM")
    if header.frames < 2:
        raise InputError("is one slice of a DICOM series; give the folder of the series")
    shape = (*header.shape, header.frames)
    check_memory(shape)
    file = sitk.ImageFileReader()
    file.SetFileName(str(path))
    file.SetOutputPixelType(sitk.sitkFloat32)
    array = _voxels(file, shape)
    file.ReadImageInformation()
    affine = np.eye(4)
    affine[:3, :3] = np.array(file.GetDirection()).reshape(3, 3) * file.GetSpacing()
    affine[:3, 3] = file.GetOrigin()
    return array, LPS_TO_RAS @ affine


def _voxels(reader: sitk.ImageSeriesReader | sitk.ImageFileReader, shape: tuple[int, ...]) -> np.ndarray:
    """Read voxels [column, row, slice]."""
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            "DICOM pixels cannot be read: truncated, or compressed in a way that SimpleITK does not support"
        ) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError("expected one value per voxel, got colours")
    array = sitk.GetArrayFromImage(image)
    if array.size != np.prod(shape):
        raise InputError(f"holds {array.size} voxels, but its headers declare {int(np.prod(shape))}")
    return array.reshape(shape[::-1]).transpose(2, 1, 0)


def _headers(folder: Path) -> list[SliceHeader]:
    """Return the headers of the image slices in a folder; reports, DICOMDIR and other files are ignored."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    dicoms = [file for file in files if is_dicom(file)]
    if not dicoms:
        raise InputError("is a folder without DICOM slices")
    slices = [header for header in map(_header, dicoms) if header is not None]
    if not slices:
        raise InputError(f"none of its {len(dicoms)} DICOM files is a readable image")
    return slices


def _header(path: Path) -> SliceHeader | None:
    """Return the header of one file; None if it is not an image."""
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
        if "Rows" not in data or "Columns" not in data:
            return None
        position, cosines = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
        row_spacing, column_spacing = data.get("PixelSpacing") or (1.0, 1.0)
        return SliceHeader(
            path=path,
            series=str(data.get("SeriesInstanceUID", "")),
            description=f"{data.get('Modality', '')} {data.get('SeriesDescription', '')}".strip(),
            shape=(int(data.Columns), int(data.Rows)),
            samples=int(data.get("SamplesPerPixel", 1)),
            frames=int(data.get("NumberOfFrames") or 1),
            position=np.array([np.nan] * 3 if position is None else position, dtype=np.float64),
            cosines=np.array([np.nan] * 6 if cosines is None else cosines, dtype=np.float64),
            spacing=(float(column_spacing), float(row_spacing)),
        )
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise InputError(f"{path}: damaged DICOM header ({error})") from error


def _check_one_series(slices: list[SliceHeader]) -> None:
    """Raise InputError unless the slices are of one series and one shape and have positions."""
    series: dict[str, list[SliceHeader]] = {}
    for item in slices:
        series.setdefault(item.series, []).append(item)
    if len(series) > 1:
        listed = "; ".join(f"{len(items)} x {items[0].description or 'no description'}" for items in series.values())
        raise InputError(f"holds {len(series)} DICOM series ({listed}); give each series its own folder")
    first = slices[0]
    if any(item.samples != 1 for item in slices):
        raise InputError("expected one value per voxel, got colours")
    if len(slices) < 2:
        raise InputError("expected a volume, got one slice")
    if any(item.frames > 1 for item in slices):
        raise InputError(f"holds {len(slices)} multi-frame files; give each its own folder")
    if any(item.shape != first.shape for item in slices):
        raise InputError("has slices of different sizes (a scout view?); remove those of another size")
    if any(np.isnan([*item.position, *item.cosines]).any() for item in slices):
        raise InputError("has slices without position or orientation; convert it with the tools of the scanner")


def _stack(slices: list[SliceHeader]) -> tuple[list[SliceHeader], np.ndarray]:
    """Sort slices along their normal and compute the affine from (column, row, slice) to LPS mm.

    Raises:
        InputError: For mixed orientations, missing, repeated or unequally spaced slices, and gantry tilt.
    """
    cosines = np.array([item.cosines for item in slices])  # [slices, 6]
    deviating = int((np.abs(cosines - np.median(cosines, axis=0)).max(1) > COSINE_TOLERANCE).sum())
    if deviating:
        raise InputError(
            f"has mixed orientations: {deviating} of {len(slices)} slices deviate (a scout view?); remove them"
        )
    row, column = cosines[0, :3], cosines[0, 3:]
    normal = np.cross(row, column)
    order = np.argsort([float(np.dot(item.position, normal)) for item in slices], kind="stable")
    slices = [slices[index] for index in order]
    positions = np.array([item.position for item in slices])  # [slices, 3]
    _check_gaps(positions @ normal)
    along = positions[-1] - positions[0]
    if angle_deg(along, normal) > MAX_TILT_DEG:
        raise InputError(
            f"has gantry tilt: the stack deviates from the slice normal by {angle_deg(along, normal):.1f} degrees; "
            "correct it first, e.g. with dcm2niix"
        )
    affine = np.eye(4)
    affine[:3, 0] = row * slices[0].spacing[0]
    affine[:3, 1] = column * slices[0].spacing[1]
    affine[:3, 2] = along / (len(slices) - 1)
    affine[:3, 3] = positions[0]
    return slices, affine


def _check_gaps(heights: np.ndarray) -> None:
    """Raise InputError unless sorted slice positions (mm) are equally spaced."""
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    repeated = int((gaps < GAP_TOLERANCE * max(typical, 1e-3)).sum())
    if repeated:
        raise InputError(f"has {repeated} slices at a repeated position (time points or echoes?); keep one of each")
    deviating = np.flatnonzero(np.abs(gaps - typical) > GAP_TOLERANCE * typical)
    if not deviating.size:
        return
    steps = gaps / typical
    if (np.abs(steps - np.rint(steps)) < GAP_TOLERANCE).all():
        missing = int((np.rint(steps) - 1).sum())
        raise InputError(
            f"missing slices ({missing}), the first after {heights[deviating[0]]:.2f} mm, slice gap {typical:.2f} mm; "
            "complete the series"
        )
    raise InputError(
        f"has unequally spaced slices, {gaps.min():.2f} to {gaps.max():.2f} mm apart; resample to equal gaps first"
    )
