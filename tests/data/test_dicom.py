"""Multi-frame DICOM and what may be missing or misleading in DICOM headers: read right, or refused in one line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from hagan3d.data.io.volumes import read_volume
from hagan3d.errors import InputError
from tests.data.conftest import _dataset, rewrite, smooth, write_series

STORED = smooth((5, 4, 6)).astype(np.int32) + 1024  # [slice, row, column]
AFFINE = np.array([[-0.5, 0, 0, 12.5], [0, -0.75, 0, 20.25], [0, 0, 2.5, -40], [0, 0, 0, 1]])  # RAS, of write_series


def item(**values: object) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def write_enhanced(
    path: Path,
    order: Sequence[int] = range(5),
    *,
    slopes: dict[int, float] | None = None,
    echoes: Sequence[float] = (0.0,),
    shear: float = 0.0,
    groups: dict[str, Dataset] | None = None,
    **changes: object,
) -> Path:
    """Write a multi-frame file whose frames come in an order, each with its own position (and slope, if given)."""
    data = _dataset("1.2.5", 0)
    frames, pixels = [], []
    for k in order:
        for echo in echoes:
            frame = item(
                FrameContentSequence=Items([item(StackID="1", InStackPositionNumber=k + 1)]),
                PlanePositionSequence=Items([item(ImagePositionPatient=[-12.5, -20.25 + shear * k, -40 + 2.5 * k])]),
            )
            if len(echoes) > 1:
                frame.MREchoSequence = Items([item(EffectiveEchoTime=echo)])
            if slopes is not None:
                scale = item(RescaleSlope=slopes[k], RescaleIntercept=-1024, RescaleType="HU")
                frame.PixelValueTransformationSequence = Items([scale])
            for name, group in (groups or {}).items():
                if k > 2:
                    setattr(frame, name, Items([group]))
            frames.append(frame)
            pixels.append(STORED[k])
    shared = item(
        PixelMeasuresSequence=Items([item(PixelSpacing=[0.75, 0.5], SliceThickness=2.5)]),
        PlaneOrientationSequence=Items([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
    )
    if slopes is None:
        scale = item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
        shared.PixelValueTransformationSequence = Items([scale])
    data.SharedFunctionalGroupsSequence = Items([shared])
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    data.NumberOfFrames = len(frames)
    data.Rows, data.Columns = STORED.shape[1:]
    data.PixelData = np.stack(pixels).astype(np.uint16).tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 2, 4, 1, 3]])
def test_frames_are_sorted_by_their_positions(tmp_path: Path, order):
    volume = read_volume(write_enhanced(tmp_path / "a.dcm", order))
    np.testing.assert_array_equal(volume.array, STORED.transpose(2, 1, 0) - 1024)
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_a_multi_frame_file_equals_its_series(tmp_path: Path):
    write_series(tmp_path, (STORED - 1024).astype(np.int16))
    one, other = read_volume(tmp_path), read_volume(write_enhanced(tmp_path.with_name("enhanced.dcm"), [3, 1, 0, 4, 2]))
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.affine, other.affine)


def test_every_frame_has_its_own_slope(tmp_path: Path):
    slopes = {k: 1 + k / 4 for k in range(5)}
    volume = read_volume(write_enhanced(tmp_path / "a.dcm", [2, 0, 1, 4, 3], slopes=slopes))
    for k, slope in slopes.items():
        np.testing.assert_allclose(volume.array[:, :, k], STORED[k].T * slope - 1024, rtol=1e-6)


ENHANCED = [
    ("a frame missing", {"order": [0, 1, 3, 4]}, "missing slices (1)"),
    ("a dose", {"GridFrameOffsetVector": [2.5 * k for k in range(5)]}, "GridFrameOffsetVector, as of a dose (RTDOSE)"),
    ("tilted", {"shear": 1.0}, "gantry tilt"),
    ("two echoes", {"echoes": (2.0, 4.0)}, "holds 2 stacks (echoes, time points or kinds of image) of 5 to 5"),
    ("fewer described", {"NumberOfFrames": 7}, "declares 7 frames and describes 5"),
    ("no orientation", {"SharedFunctionalGroupsSequence": None}, "without position or orientation"),
    (
        "frames of another segment",
        {"groups": {"SegmentIdentificationSequence": item(ReferencedSegmentNumber=2)}},
        "2 stacks",
    ),
    ("frames of another b-value", {"groups": {"MRDiffusionSequence": item(DiffusionBValue=1000.0)}}, "2 stacks"),
    (
        "frames of phases",
        {"groups": {"MRImageFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", "P"])}},
        "2 stacks",
    ),
]


@pytest.mark.parametrize(("settings", "reason"), [row[1:] for row in ENHANCED], ids=[row[0] for row in ENHANCED])
def test_a_multi_frame_file_is_checked_as_a_series_is(tmp_path: Path, settings, reason: str):
    path = write_enhanced(tmp_path / "a.dcm", **settings)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path)) and reason in str(caught.value)


def test_how_values_are_shown_does_not_change_them(tmp_path: Path):
    array = smooth((3, 4, 5))
    write_series(tmp_path, array)
    expected = read_volume(tmp_path).array
    for path in tmp_path.iterdir():
        rewrite(path, PhotometricInterpretation="MONOCHROME1", WindowCenter=40, WindowWidth=80)
    np.testing.assert_array_equal(read_volume(tmp_path).array, expected)
    np.testing.assert_array_equal(expected, array.transpose(2, 1, 0))


def change_some(folder: Path, names: Sequence[str], **values: object) -> None:
    write_series(folder, smooth((4, 4, 5)))
    for name in ALL:
        rewrite(folder / name, PatientID="one", RescaleType="HU", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    for name in names:
        rewrite(folder / name, **values)
        if values.get("Rows", 0) is None:
            data = pydicom.dcmread(folder / name)
            del data.Rows
            data.save_as(folder / name)


ALL = [f"im{number:03d}.dcm" for number in range(1, 5)]
MISSING = [
    ("spacing", ALL, {"PixelSpacing": None}, "4 of 4 slices have no PixelSpacing"),
    ("spacing of one", ALL[1:2], {"PixelSpacing": None}, "1 of 4 slices have no PixelSpacing"),
    ("other spacing", ALL[1:2], {"PixelSpacing": [0.75, 0.6]}, "1 of 4 slices have another PixelSpacing"),
    ("rescale", ALL[2:], {"RescaleSlope": None, "RescaleIntercept": None}, "2 of 4 slices have no RescaleSlope"),
    ("intercept of all", ALL, {"RescaleIntercept": None}, "RescaleSlope and without RescaleIntercept"),
    ("slope of all", ALL, {"RescaleSlope": None}, "RescaleIntercept and without RescaleSlope"),
    ("slope 0 of one", ALL[:1], {"RescaleSlope": 0}, "is 0 or not finite"),
    ("slope beyond float32", ALL, {"RescaleSlope": "1e38"}, "beyond the range of float32"),
    ("palette", ALL, {"PhotometricInterpretation": "PALETTE COLOR"}, "got colours (PALETTE COLOR)"),
    ("shifted values", ALL, {"BitsStored": 12, "HighBit": 15}, "values that are shifted"),
    ("long cosines", ALL, {"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "not two perpendicular unit vectors"),
    (
        "skewed cosines",
        ALL,
        {"ImageOrientationPatient": [1, 0, 0, 0.5, 0.866, 0]},
        "not two perpendicular unit vectors",
    ),
    ("another patient", ALL[:2], {"PatientID": "other"}, "several patients (PatientID) (one, other)"),
    ("another frame of reference", ALL[:2], {"FrameOfReferenceUID": "1.2.99"}, "several frames of reference"),
    ("another modality", ALL[:2], {"Modality": "PT"}, "several modalities (CT, PT)"),
    ("other units", ALL[:2], {"RescaleType": "US"}, "several units (HU, US)"),
    ("localizer", ALL[:1], {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "2 stacks"),
    ("no Rows, as of a file cut within its header", ALL[:1], {"Rows": None}, "1 of 4 files are damaged or no DICOM"),
]


@pytest.mark.parametrize(("names", "values", "reason"), [row[1:] for row in MISSING], ids=[row[0] for row in MISSING])
def test_what_is_missing_in_a_header_is_never_assumed(tmp_path: Path, names, values, reason: str):
    change_some(tmp_path, names, **values)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) and reason in str(caught.value)


def test_empty_files_of_a_series_are_named(tmp_path: Path):
    write_series(tmp_path, smooth((6, 4, 5)))
    for name in ("im001.dcm", "im002.dcm"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        InputError, match=r"2 of 6 files are damaged or no DICOM, in spite of .* \(im001.dcm, im002.dcm\)"
    ):
        read_volume(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_header_is_refused_in_one_line_or_read(tmp_path: Path):
    original = write_enhanced(tmp_path / "a.dcm").read_bytes()
    random, outcomes = np.random.default_rng(0), {"read": 0, "refused": 0}
    for _ in range(150):
        mutated = bytearray(original)
        for place in random.integers(132, 1400, 3):
            mutated[place] = random.integers(256)
        (tmp_path / "b.dcm").write_bytes(mutated)
        try:
            read_volume(tmp_path / "b.dcm")
            outcomes["read"] += 1
        except InputError as error:
            assert str(error).startswith(str(tmp_path))
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


def moved(folder: Path, places: np.ndarray) -> None:
    """Write a series whose slices lie at places [slices, 3], LPS mm, relative to a straight one with gaps of 2.5 mm."""
    write_series(folder, smooth((len(places), 4, 5)))
    for k, place in enumerate(places):
        path = folder / f"im{len(places) - k:03d}.dcm"
        rewrite(path, ImagePositionPatient=[-12.5 + place[0], -20.25 + place[1], round(-40 + 2.5 * k + place[2], 6)])


SLICES = np.arange(22)
DRIFT = np.where(SLICES < 11, -0.025, 0.025).cumsum() * 2.5  # gaps of 2.44 mm, then 2.56 mm
PLACES = [
    ("middle ones", (abs(SLICES - 10) < 5) * 5.0, 0, "9 of 22 slices lie off the straight line"),
    ("on a curve", 40 * np.sin(SLICES / 21 * np.pi), 0, "up to 39.89 mm"),
    ("second half", (SLICES > 10) * 5.0, 0, "22 slices lie off the straight line"),
    ("drifting gaps", 0, DRIFT, "has unequally spaced slices: 5 of 22 lie up to 0.65 mm from their place"),
    ("rounded", np.round(SLICES / 7, 1) - SLICES / 7, np.round(SLICES / 9, 1) - SLICES / 9, ""),
]


@pytest.mark.parametrize(("x", "z", "reason"), [row[1:] for row in PLACES], ids=[row[0] for row in PLACES])
def test_every_slice_lies_where_the_affine_puts_it(tmp_path: Path, x, z, reason: str):
    moved(tmp_path, np.stack(np.broadcast_arrays(x, 0.0, z, SLICES)[:3], axis=1))
    if not reason:
        np.testing.assert_allclose(read_volume(tmp_path).affine, AFFINE, atol=0.1)
        return
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path)
    assert reason in str(caught.value) and "tilt" not in str(caught.value)
