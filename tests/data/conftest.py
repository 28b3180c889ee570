"""Files to read: small volumes and DICOM series made on the spot."""

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

SeriesWriter = Callable[..., Path]


def smooth(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Return voxels that differ everywhere, int16 in [-1000, 1000)."""
    random = np.random.default_rng(seed)
    return random.integers(-1000, 1000, shape).astype(np.int16)


@pytest.fixture
def nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write a NIfTI file of an array."""

    def write(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def series(tmp_path: Path) -> SeriesWriter:
    """Write a CT series of an array [slice, row, column] and return its folder."""

    def write(name: str, array: np.ndarray, **changes: object) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        write_series(folder, array, **changes)  # type: ignore[arg-type]
        return folder

    return write


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    uid: str | None = None,
    heights: Sequence[float] | None = None,
    cosines: Sequence[float] | dict[int, Sequence[float]] = (1, 0, 0, 0, 1, 0),
    shear: float = 0.0,
    slopes: Sequence[float] | None = None,
    ending: str = ".dcm",
    packed: bool = False,
) -> None:
    """Write one file per slice, in file names that run against the heights.

    Args:
        folder: Where to.
        array: Stored numbers [slice, row, column], int16.
        uid: Of the series.
        heights: Millimetres along z of each slice; default 2.5 mm apart from -40 up.
        cosines: Of all slices, or of some by their number.
        shear: Shift of each slice along y per slice, mm.
        slopes: Rescale slope of each slice; default 1.
        ending: Of the file names.
        packed: Whether pixels are RLE compressed.
    """
    uid = uid or generate_uid()
    for k, pixels in enumerate(array):
        data = _dataset(uid, k)
        height = -40 + 2.5 * k if heights is None else heights[k]
        turned = cosines.get(k, (1, 0, 0, 0, 1, 0)) if isinstance(cosines, dict) else cosines
        data.ImagePositionPatient = [-12.5, -20.25 + shear * k, height]
        data.ImageOrientationPatient = [float(value) for value in turned]
        data.PixelSpacing = [0.75, 0.5]  # row to row, column to column
        data.Rows, data.Columns = pixels.shape
        data.RescaleSlope, data.RescaleIntercept = (1 if slopes is None else slopes[k]), -1024
        data.PixelData = (pixels.astype(np.int16) + 1024).astype(np.uint16).tobytes()
        if packed:
            data.compress(RLELossless)
        data.save_as(folder / f"im{len(array) - k:03d}{ending}", enforce_file_format=True)


def _dataset(uid: str, k: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid, str(k)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = uid, "1.2.3", "1.2.4"
    data.Modality, data.SeriesDescription, data.InstanceNumber = "CT", f"thorax {uid[-3:]}", k + 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    return data


def rewrite(path: Path, **values: object) -> None:
    """Change elements of a DICOM file."""
    data = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(data, name, value)
    data.save_as(path)
