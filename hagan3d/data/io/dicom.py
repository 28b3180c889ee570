"""DICOM: the slices of a folder to one volume, with its geometry taken from the headers and checked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813 (the name everybody knows)
from pydicom.errors import InvalidDicomError

from hagan3d.data.io.free_memory import check_memory
from hagan3d.data.io.geometry import angle_deg
from hagan3d.data.io.volumes import is_dicom
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
SAME_DIRECTION = 1e-3  # largest difference of two direction cosines that are one direction
SAME_GAP = 0.05  # largest relative difference of two gaps between slices
MOST_TILT = 0.5  # degrees between the stack and the normal of its slices

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """Header of one slice."""

    path: Path
    series: str
    about: str
    """Modality and description of its series."""
    shape: tuple[int, int]
    """Columns, rows."""
    samples: int
    frames: int
    position: np.ndarray
    """Centre of its first voxel, LPS mm [3]; NaN where the file does not say."""
    cosines: np.ndarray
    """Directions of a row and of a column [6]; NaN where the file does not say."""
    spacing: tuple[float, float]
    """Millimetres from column to column and from row to row."""


def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a folder that holds the slices of one series, in whatever file order.

    Returns:
        Voxels [column, row, slice] in float32, each slice's own rescale applied (HU for CT), and the affine to RAS mm.

    Raises:
        InputError: If slices are missing, unequally spaced, turned against each other or sheared, or of two series.
    """
    slices = _headers(folder)
    if len(slices) == 1 and slices[0].frames > 1:
        return read_dicom_file(slices[0].path)
    _check_one_series(slices)
    slices, affine = _stack(slices)
    shape = (*slices[0].shape, len(slices))
    check_memory(shape)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(item.path) for item in slices])
    reader.SetOutputPixelType(sitk.sitkFloat32)
    return _voxels(reader, shape), LPS_TO_RAS @ affine


def patient_id(path: Path) -> str | None:
    """Return the patient that a DICOM file, or a folder of slices, says it is of; None if it says nothing."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    first = next((file for file in files if is_dicom(file)), None)
    if first is None:
        return None
    try:
        return str(pydicom.dcmread(first, specific_tags=["PatientID"]).get("PatientID", "")).strip() or None
    except (InvalidDicomError, OSError):
        return None


def read_dicom_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one DICOM file that holds a whole volume (enhanced CT, MR or PET).

    Raises:
        InputError: If it is one slice; the folder of its series is what to give then.
    """
    header = _header(path)
    if header is None:
        raise InputError("cannot be read as DICOM")
    if header.frames < 2:
        raise InputError("is one slice of a DICOM series; give the folder of the series")
    shape = (*header.shape, header.frames)
    check_memory(shape)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    array = _voxels(reader, shape)
    reader.ReadImageInformation()
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return array, LPS_TO_RAS @ affine


def _voxels(reader: sitk.ImageSeriesReader | sitk.ImageFileReader, shape: tuple[int, ...]) -> np.ndarray:
    """Read voxels [column, row, slice]."""
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError("its DICOM pixels cannot be read: truncated, or a compression that SimpleITK lacks") from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError("has colours; want one number per voxel")
    array = sitk.GetArrayFromImage(image)
    if array.size != np.prod(shape):
        raise InputError(f"holds {array.size} voxels where its headers promise {int(np.prod(shape))}")
    return array.reshape(shape[::-1]).transpose(2, 1, 0)


def _headers(folder: Path) -> list[Slice]:
    """Headers of the image slices in a folder; reports, DICOMDIR and files of other kinds are passed over."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    dicoms = [file for file in files if is_dicom(file)]
    if not dicoms:
        raise InputError("is a folder without DICOM slices")
    slices = [header for header in map(_header, dicoms) if header is not None]
    if not slices:
        raise InputError(f"none of its {len(dicoms)} DICOM files is an image that can be read")
    return slices


def _header(path: Path) -> Slice | None:
    """Header of one file; None if it is no image."""
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
        if "Rows" not in data or "Columns" not in data:
            return None
        position, cosines = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
        rows_apart, columns_apart = data.get("PixelSpacing") or (1.0, 1.0)
        return Slice(
            path=path,
            series=str(data.get("SeriesInstanceUID", "")),
            about=f"{data.get('Modality', '')} {data.get('SeriesDescription', '')}".strip(),
            shape=(int(data.Columns), int(data.Rows)),
            samples=int(data.get("SamplesPerPixel", 1)),
            frames=int(data.get("NumberOfFrames") or 1),
            position=np.array([np.nan] * 3 if position is None else position, dtype=np.float64),
            cosines=np.array([np.nan] * 6 if cosines is None else cosines, dtype=np.float64),
            spacing=(float(columns_apart), float(rows_apart)),
        )
    except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        raise InputError(f"{path}: its DICOM header is damaged ({error})") from error


def _check_one_series(slices: list[Slice]) -> None:
    """Raise InputError unless all slices are of one series, one shape, one direction and placed in space."""
    series: dict[str, list[Slice]] = {}
    for item in slices:
        series.setdefault(item.series, []).append(item)
    if len(series) > 1:
        parts = "; ".join(f"{len(items)} x {items[0].about or 'no description'}" for items in series.values())
        raise InputError(f"holds {len(series)} DICOM series ({parts}); give each series its own folder")
    first = slices[0]
    if any(item.samples != 1 for item in slices):
        raise InputError("has colours; want one number per voxel")
    if len(slices) < 2:
        raise InputError("has one slice only; want a volume")
    if any(item.frames > 1 for item in slices):
        raise InputError(f"holds {len(slices)} files of many frames each; give each its own folder")
    if any(item.shape != first.shape for item in slices):
        raise InputError("has slices of different sizes (a scout view among them?); take the odd ones out")
    if any(np.isnan([*item.position, *item.cosines]).any() for item in slices):
        raise InputError("has slices without position or orientation; convert it with a tool that knows this scanner")


def _stack(slices: list[Slice]) -> tuple[list[Slice], np.ndarray]:
    """Sort slices along their normal and make the affine from (column, row, slice) to LPS mm.

    Raises:
        InputError: For mixed orientations, missing, doubled or unequally spaced slices, and gantry tilt.
    """
    cosines = np.array([item.cosines for item in slices])  # [slices, 6]
    odd = int((np.abs(cosines - np.median(cosines, axis=0)).max(1) > SAME_DIRECTION).sum())
    if odd:
        raise InputError(f"has mixed orientations: {odd} of {len(slices)} slices are turned (a scout?); take them out")
    row, column = cosines[0, :3], cosines[0, 3:]
    normal = np.cross(row, column)
    order = np.argsort([float(np.dot(item.position, normal)) for item in slices], kind="stable")
    slices = [slices[index] for index in order]
    positions = np.array([item.position for item in slices])  # [slices, 3]
    _check_gaps(positions @ normal)
    along = positions[-1] - positions[0]
    if angle_deg(along, normal) > MOST_TILT:
        raise InputError(
            f"has gantry tilt: slices are shifted against each other by {angle_deg(along, normal):.1f} degrees; "
            "straighten it first (dcm2niix does)"
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
    usual = float(np.median(gaps))
    if (gaps < SAME_GAP * max(usual, 1e-3)).any():
        doubled = int((gaps < SAME_GAP * max(usual, 1e-3)).sum())
        raise InputError(f"has slices at the place of another ({doubled}; time points or echoes?); keep one of each")
    odd = np.flatnonzero(np.abs(gaps - usual) > SAME_GAP * usual)
    if not odd.size:
        return
    steps = gaps / usual
    if (np.abs(steps - np.rint(steps)) < SAME_GAP).all():
        missing = int((np.rint(steps) - 1).sum())
        raise InputError(
            f"has missing slices ({missing}), the first after {heights[odd[0]]:.2f} mm, {usual:.2f} mm apart; "
            "complete the series"
        )
    raise InputError(
        f"has unequally spaced slices, {gaps.min():.2f} to {gaps.max():.2f} mm apart; resample it to equal gaps first"
    )
