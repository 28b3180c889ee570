"""The frames of DICOM files: where each lies, how its values are scaled, and whether they make one volume.

A file of a series holds one frame, an enhanced (multi-frame) file many; both are checked alike.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from hagan3d.data.io.dicom_files import is_dicom, largest_ratio, read_dataset
from hagan3d.data.io.geometry import angle_deg
from hagan3d.errors import InputError

NAMING = 3  # slices of a folder in which an identifier is looked for
COSINE_TOLERANCE = 1e-3  # largest difference of direction cosines within a volume
SPACING_TOLERANCE = 1e-3  # largest relative difference of the pixel spacing within a volume
GAP_TOLERANCE = 0.05  # largest relative difference of slice gaps within a volume
UNIT_TOLERANCE = 1e-2  # largest deviation of direction cosines from perpendicular unit vectors
PLACE_TOLERANCE = 0.2  # voxels: largest distance of a slice from its place in the affine
MAX_TILT_DEG = 0.5  # angle between the stacking direction and the slice normal
MAX_LISTED = 3  # file names in a message
KIND = 2  # place in ImageType of what tells an axial image from a localizer, and a magnitude from a phase
SOURCE = ("patients (PatientID)", "frames of reference", "modalities", "units")  # the same for a whole volume


@dataclass(frozen=True)
class Frame:
    """One slice, in a file of its own or in a multi-frame file."""

    path: Path
    index: int
    """Number of the frame in its file."""
    series: str
    description: str
    """Modality and description of its series."""
    shape: tuple[int, int]
    """Columns, rows."""
    position: np.ndarray
    """Centre of its first voxel, LPS mm [3]; NaN if missing."""
    cosines: np.ndarray
    """Direction cosines of a row and of a column [6]; NaN if missing."""
    spacing: tuple[float, float]
    """Distance between columns and between rows, mm; NaN if missing."""
    rescale: tuple[float, float] | None
    """Slope and intercept from stored values to file units (HU for CT); None if missing."""
    mapping: tuple[str, ...]
    """Slope and intercept of its RealWorldValueMapping, which is not applied."""
    source: tuple[str, ...]
    """Patient, frame of reference, modality and units, where the file names them."""
    stack: tuple[str, ...]
    """Stack, time point, echo, kind of image, segment and diffusion weight, where the file names them."""
    ratio: int
    """Voxels that a byte of its file can hold at most."""
    problem: str
    """Why its values cannot be used; empty if they can."""


def frames_in_folder(folder: Path) -> list[Frame]:
    """Return the frames of the DICOM images in a folder; reports, DICOMDIR and files of other kinds are ignored.

    Raises:
        InputError: If there is no image, or a file with the ending of DICOM is no DICOM.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    dicoms = [file for file in files if is_dicom(file)]
    if not dicoms:
        raise InputError("is a folder without DICOM slices")
    read = {file: frames_of(file) for file in dicoms}
    broken = [file.name for file, frames in read.items() if frames is None]
    if broken:
        more = f" and {len(broken) - MAX_LISTED} more" if len(broken) > MAX_LISTED else ""
        raise InputError(
            f"{len(broken)} of {len(dicoms)} files are damaged or no DICOM, in spite of their ending or first bytes "
            f"({', '.join(broken[:MAX_LISTED])}{more}); copy them again, or remove them if no slice is missing"
        )
    frames = [frame for found in read.values() if found for frame in found]
    if not frames:
        raise InputError(f"none of its {len(dicoms)} DICOM files is a readable image")
    return frames


def frames_of(path: Path) -> list[Frame] | None:
    """Return the frames of a file: none without an image, as of a report; None if it is damaged or no DICOM.

    Raises:
        InputError: If its header is damaged.
    """
    try:
        data = read_dataset(path, stop_before_pixels=True)
        if "Rows" not in data or "Columns" not in data:
            kind = data.get("SOPClassUID")
            return None if not kind or UID(str(kind)).name.endswith("Image Storage") else []
        groups = data.get("PerFrameFunctionalGroupsSequence") or []
        count = int(data.get("NumberOfFrames") or 1)
        if count > 1 and groups and len(groups) != count:
            raise InputError(f"{path}: declares {count} frames and describes {len(groups)}; it is damaged")
        shared = (data.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        if count == 1 and not groups:
            return [_frame(path, 0, data, [data])]
        # what a frame says of itself goes before what all frames share; the file as a whole comes last
        groups = groups or [Dataset()] * count
        return [_frame(path, index, data, [group, shared, data]) for index, group in enumerate(groups)]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom raises errors of many classes without a common base
        raise InputError(f"{path}: damaged DICOM header ({error})") from error


def patient_id(path: Path) -> str | None:
    """Return the PatientID of a DICOM file or a folder of slices, of the first that names one; None without one."""
    return _identifier(path, "PatientID")


def series_uid(path: Path) -> str | None:
    """Return the SeriesInstanceUID of a DICOM file or a folder of slices; None without one."""
    return _identifier(path, "SeriesInstanceUID")


def study_uid(path: Path) -> str | None:
    """Return the StudyInstanceUID of a DICOM file or a folder of slices; None without one."""
    return _identifier(path, "StudyInstanceUID")


def _identifier(path: Path, keyword: str) -> str | None:
    """Return an identifier of a DICOM file or of the first slices of a folder, hidden ones (._x.dcm) left out."""
    files = sorted(file for file in path.iterdir() if not file.name.startswith(".")) if path.is_dir() else [path]
    for file in islice(filter(is_dicom, files), NAMING):
        with suppress(Exception):  # a damaged file is reported when it is read as a volume
            found = str(read_dataset(file, specific_tags=[keyword]).get(keyword) or "").strip()
            if found:
                return found
    return None


def _frame(path: Path, index: int, data: Dataset, sources: Sequence[Dataset]) -> Frame:
    """Describe a frame by the first of the data sets that has an attribute."""

    def first(sequence: str, name: str) -> Any:
        for source in sources:
            inside = source.get(sequence)
            value = inside[0].get(name) if inside else source.get(name)
            if value not in (None, ""):
                return value
        return None

    position = first("PlanePositionSequence", "ImagePositionPatient")
    cosines = first("PlaneOrientationSequence", "ImageOrientationPatient")
    rows, columns = _numbers(first("PixelMeasuresSequence", "PixelSpacing"), 2)
    slope = first("PixelValueTransformationSequence", "RescaleSlope")
    intercept = first("PixelValueTransformationSequence", "RescaleIntercept")
    units = first("PixelValueTransformationSequence", "RescaleType") or data.get("Units")
    patient = data.get("PatientID") or data.get("PatientName")
    mapping = [first("RealWorldValueMappingSequence", f"RealWorldValue{part}") for part in ("Slope", "Intercept")]
    source = (patient, data.get("FrameOfReferenceUID"), data.get("Modality"), units)
    return Frame(
        path=path,
        index=index,
        series=str(data.get("SeriesInstanceUID", "")),
        description=f"{data.get('Modality', '')} {data.get('SeriesDescription', '')}".strip(),
        shape=(int(data.Columns), int(data.Rows)),
        position=_numbers(position, 3),
        cosines=_numbers(cosines, 6),
        spacing=(float(columns), float(rows)),
        rescale=None if slope is None or intercept is None else (float(slope), float(intercept)),
        mapping=tuple(str(value or "") for value in mapping),
        source=tuple(str(value or "") for value in source),
        stack=_stack_of(first, data),
        ratio=largest_ratio(data),
        problem=_problem(data, slope, intercept),
    )


def _stack_of(first: Callable[[str, str], Any], data: Dataset) -> tuple[str, ...]:
    """Return the attributes in which stacks of a series differ, see `Frame.stack`; ``first`` reads one of the frame."""
    frame_types = (first(f"{kind}FrameTypeSequence", "FrameType") for kind in ("MRImage", "CTImage", "PET"))
    kinds = np.atleast_1d(next(filter(None, frame_types), data.get("ImageType") or []))
    values = (
        first("FrameContentSequence", "StackID"),
        first("FrameContentSequence", "TemporalPositionIndex") or data.get("TemporalPositionIdentifier"),
        first("MREchoSequence", "EffectiveEchoTime") or data.get("EchoTime"),
        kinds[KIND] if len(kinds) > KIND else None,
        first("SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        first("MRDiffusionSequence", "DiffusionBValue"),
    )
    return tuple(str(value) for value in values)


def _problem(data: Dataset, slope: Any, intercept: Any) -> str:
    """Return why the stored values of a file are not what it shows, or cannot be scaled; empty if they are."""
    colours = str(data.get("PhotometricInterpretation") or "MONOCHROME2")
    if not colours.startswith("MONOCHROME") or int(data.get("SamplesPerPixel", 1)) != 1:
        return f"expected one value per voxel, got colours ({colours})"
    if "GridFrameOffsetVector" in data:
        return "has frames placed by a GridFrameOffsetVector, as of a dose (RTDOSE); convert it to NIfTI first"
    if "ModalityLUTSequence" in data:
        return "has values that are scaled by a table (ModalityLUTSequence); convert it to NIfTI first"
    if (slope is None) != (intercept is None):
        missing, other = ("RescaleSlope", "RescaleIntercept")[:: 1 if slope is None else -1]
        return f"has slices with {other} and without {missing}; export it again"
    if slope is not None and not (np.isfinite([float(slope), float(intercept)]).all() and float(slope)):
        return "has slices whose RescaleSlope or RescaleIntercept is 0 or not finite; export it again"
    if int(data.get("HighBit", 0)) >= int(data.get("BitsStored", 0)) > 0:
        return "has values that are shifted (HighBit above BitsStored - 1); convert it to NIfTI first"
    return ""


def _numbers(value: Any, count: int) -> np.ndarray:
    """Return the numbers of an element; NaN if it is missing or does not hold so many."""
    if value is None:
        return np.full(count, np.nan)
    numbers = np.array(value, dtype=np.float64)
    return numbers if numbers.shape == (count,) else np.full(count, np.nan)


def check_one_volume(frames: Sequence[Frame]) -> None:
    """Raise InputError unless frames are of one series, one size and one stack, each with its place and scale."""
    series: dict[str, list[Frame]] = {}
    for item in frames:
        series.setdefault(item.series, []).append(item)
    if len(series) > 1:
        listed = "; ".join(f"{len(items)} x {items[0].description or 'no description'}" for items in series.values())
        raise InputError(f"holds {len(series)} DICOM series ({listed}); give each series its own folder")
    for what, values in zip(SOURCE, zip(*(item.source for item in frames), strict=True), strict=True):
        if len(found := sorted({*values} - {""})) > 1:
            raise InputError(f"has slices of several {what} ({', '.join(found)}); give each its own folder")
    problem = next((item.problem for item in frames if item.problem), None)
    if problem:
        raise InputError(problem)
    if len(frames) < 2:
        raise InputError("expected a volume, got one slice")
    if len({item.path for item in frames}) not in (1, len(frames)):
        raise InputError("holds several multi-frame files; give each its own folder")
    if len({item.shape for item in frames}) > 1:
        raise InputError("has slices of different sizes (a scout view?); remove those of another size")
    stacks = Counter(item.stack for item in frames)
    if len(stacks) > 1:
        raise InputError(
            f"holds {len(stacks)} stacks (echoes, time points or kinds of image) of {min(stacks.values())} to "
            f"{max(stacks.values())} slices; split them first"
        )
    _check_complete(frames)


def _check_complete(frames: Sequence[Frame]) -> None:
    """Raise InputError if geometry or scale is missing, or differs between slices where it must not."""
    count = len(frames)
    if any(not np.isfinite([*item.position, *item.cosines]).all() for item in frames):
        raise InputError("has slices without position or orientation; convert it with the tools of the scanner")
    axes = np.array([item.cosines for item in frames]).reshape(-1, 2, 3)
    lengths, products = np.linalg.norm(axes, axis=2), (axes[:, 0] * axes[:, 1]).sum(1)
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE or np.abs(products).max() > UNIT_TOLERANCE:
        raise InputError("has an ImageOrientationPatient that is not two perpendicular unit vectors; export it again")
    missing = sum(not np.isfinite(item.spacing).all() or min(item.spacing) <= 0 for item in frames)
    if missing:
        raise InputError(f"{missing} of {count} slices have no PixelSpacing, so voxels have no size; export it again")
    spacings = np.array([item.spacing for item in frames])
    other = np.abs(spacings / np.median(spacings, axis=0) - 1).max(1) > SPACING_TOLERANCE
    if other.any():
        raise InputError(f"{int(other.sum())} of {count} slices have another PixelSpacing; remove or resample them")
    unscaled = sum(item.rescale is None for item in frames)
    if 0 < unscaled < count:
        raise InputError(f"{unscaled} of {count} slices have no RescaleSlope and RescaleIntercept; export it again")
    if unscaled and len(mappings := {item.mapping for item in frames}) > 1:
        raise InputError(
            f"has no RescaleSlope, and {len(mappings)} scales in its RealWorldValueMappings; convert it to NIfTI first"
        )


def stack(frames: Sequence[Frame]) -> tuple[list[Frame], np.ndarray]:
    """Sort frames along their normal and compute the affine from (column, row, slice) to LPS mm.

    Raises:
        InputError: For mixed orientations, missing, repeated or unequally spaced slices, slices off the line of the
            others, and gantry tilt.
    """
    cosines = np.array([item.cosines for item in frames])  # [slices, 6]
    deviating = int((np.abs(cosines - np.median(cosines, axis=0)).max(1) > COSINE_TOLERANCE).sum())
    if deviating:
        raise InputError(
            f"has mixed orientations: {deviating} of {len(frames)} slices deviate (a scout view?); remove them"
        )
    row, column = cosines[0, :3], cosines[0, 3:]
    normal = np.cross(row, column)
    order = np.argsort([float(np.dot(item.position, normal)) for item in frames], kind="stable")
    frames = [frames[index] for index in order]
    positions = np.array([item.position for item in frames])  # [slices, 3]
    _check_gaps(positions @ normal)
    affine = np.eye(4)
    affine[:3, 0] = row * frames[0].spacing[0]
    affine[:3, 1] = column * frames[0].spacing[1]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(frames) - 1)
    affine[:3, 3] = positions[0]
    _check_places(positions, affine)
    tilt = angle_deg(affine[:3, 2], normal)
    if tilt > MAX_TILT_DEG:
        raise InputError(
            f"has gantry tilt: the stack deviates from the slice normal by {tilt:.1f} degrees; correct it first, e.g. "
            "with dcm2niix"
        )
    return frames, affine


def _check_places(positions: np.ndarray, affine: np.ndarray) -> None:
    """Raise InputError unless all slices [slices, 3], LPS mm, lie where the affine through first and last puts them."""
    numbers = np.arange(len(positions))[:, None]
    expected = affine[:3, 3] + numbers * affine[:3, 2]
    apart = np.linalg.solve(affine[:3, :3], (positions - expected).T).T  # [slices, 3], voxels
    aside, along = np.abs(apart[:, :2]).max(1) > PLACE_TOLERANCE, np.abs(apart[:, 2]) > PLACE_TOLERANCE
    largest = np.linalg.norm(positions - expected, axis=1).max()
    if aside.any():
        raise InputError(
            f"{int(aside.sum())} of {len(positions)} slices lie off the straight line from the first to the last, "
            f"up to {largest:.2f} mm; are they of one scan? Export it again, or remove slices of others"
        )
    if along.any():
        raise InputError(
            f"has unequally spaced slices: {int(along.sum())} of {len(positions)} lie up to {largest:.2f} mm from "
            "their place at equal gaps; resample to equal gaps first"
        )


def _check_gaps(heights: np.ndarray) -> None:
    """Raise InputError unless sorted slice positions (mm) are equally spaced."""
    gaps = np.diff(heights)
    typical = float(np.median(gaps))
    repeated = int((gaps < GAP_TOLERANCE * max(typical, 1e-3)).sum())
    if repeated:
        raise InputError(
            f"has {repeated} slices at a repeated position (copies, time points or echoes?); keep one of each"
        )
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
