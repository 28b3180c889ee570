"""Bad input: each kind ends in one line with the file, the reason and, where there is one, the remedy."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import read_volume
from hagan3d.errors import InputError
from tests.data.conftest import rewrite, smooth, write_series

Maker = Callable[[Path], Path]


def complaint(call: Callable[[], object]) -> str:
    """Return the message of the InputError that a call must raise."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    print(message)
    assert "\n" not in message
    return message


def nifti_of(array: np.ndarray, **header: object) -> Maker:
    def make(folder: Path) -> Path:
        import nibabel

        image = nibabel.Nifti1Image(array, np.eye(4))
        for name, value in header.items():
            image.header[name] = value
        nibabel.save(image, folder / "scan.nii.gz")
        return folder / "scan.nii.gz"

    return make


def with_nan(folder: Path) -> Path:
    array = smooth((4, 5, 6)).astype(np.float32)
    array[0, 0, 0], array[1, 2, 3] = np.nan, np.inf
    return nifti_of(array)(folder)


def truncated_gz(folder: Path) -> Path:
    path = nifti_of(smooth((16, 16, 16)))(folder)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def truncated_nii(folder: Path) -> Path:
    path = folder / "scan.nii"
    path.write_bytes(gzip.decompress(nifti_of(smooth((8, 8, 8)))(folder).read_bytes())[:900])
    return path


def absurd_header(folder: Path) -> Path:
    path = nifti_of(smooth((8, 8, 8)))(folder)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[40:56] = struct.pack("<8h", 3, 10000, 10000, 10000, 1, 1, 1, 1)  # dim: 10^12 voxels
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


def absurd_nrrd(folder: Path) -> Path:
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 10000 10000 10000\nspacings: 1 1 1\n"
    text += "endian: little\nencoding: raw\n\n"
    (folder / "scan.nrrd").write_bytes(text.encode() + b"\0" * 64)
    return folder / "scan.nrrd"


def absurd_npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", smooth((4, 4, 4)))
    path = folder / "scan.npy"
    path.write_bytes(path.read_bytes().replace(b"(4, 4, 4), ", b"(99999, 99, 9999), ").replace(b"        \n", b"\n"))
    return path


def flat_space(folder: Path) -> Path:
    import nibabel

    image = nibabel.Nifti1Image(smooth((4, 4, 4)), np.eye(4))
    image.header["sform_code"], image.header["srow_z"] = 1, 0
    image.header["vox_offset"], image.header["magic"] = 352, b"n+1"
    image.header["srow_x"], image.header["srow_y"] = (1, 0, 0, 0), (0, 1, 0, 0)
    raw = folder / "scan.nii"
    with raw.open("wb") as file:
        file.write(image.header.binaryblock + b"\0" * 4 + image.get_fdata().astype(np.int16).tobytes("F"))
    return raw


def pickled_npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return folder / "scan.npy"


def text_named(name: str) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_text("I am a letter, not a volume.\n" * 30)
        return folder / name

    return make


def colours(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), folder / "scan.mha")
    return folder / "scan.mha"


def rgb_nifti(folder: Path) -> Path:
    return nifti_of(np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))(folder)


def one_slice_of_series(folder: Path) -> Path:
    write_series(folder, smooth((3, 4, 5)))
    return folder / "im001.dcm"


FILES: list[tuple[str, Maker, str]] = [
    ("missing", lambda folder: folder / "gone.nii.gz", "does not exist"),
    ("text", text_named("letter.txt"), "not a volume in a supported format; use "),
    ("text as nifti", text_named("letter.nii"), "not a NIfTI file"),
    ("text as gzip", text_named("letter.nii.gz"), "letter.nii.gz"),
    ("text as nrrd", text_named("letter.nrrd"), "not an NRRD file"),
    ("text as mha", text_named("letter.mha"), "not a MetaImage file"),
    ("text as npy", text_named("letter.npy"), "not a NumPy file"),
    ("truncated gz", truncated_gz, "truncated"),
    ("truncated nii", truncated_nii, "truncated"),
    ("10^12 voxels, nifti", absurd_header, "declares 2000000000352 bytes"),
    ("10^12 voxels, nrrd", absurd_nrrd, "its header declares 2000000000000"),
    ("10^12 voxels, npy", absurd_npy, "truncated"),
    ("NaN", with_nan, "2 of 120 voxels are NaN or infinite; replace them with --fill"),
    ("constant", nifti_of(np.full((4, 4, 4), 7, np.int16)), "every voxel is 7"),
    ("4D", nifti_of(smooth((4, 4, 4, 3))), "got 4D (4 x 4 x 4 x 3)"),
    ("2D", nifti_of(smooth((8, 8))), "one slice"),
    ("one slice", nifti_of(smooth((8, 8, 1))), "one slice"),
    ("colours", colours, "got 4D (6 x 5 x 4 x 3); export one time point or channel"),
    ("colours, nifti", rgb_nifti, "got colours"),
    ("flat affine", flat_space, "singular affine"),
    ("pickle", pickled_npy, "Python objects, which are never loaded"),
    ("one DICOM file", one_slice_of_series, "give the folder of the series"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_file_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path, make: Maker, reason: str):
    path = make(tmp_path)
    message = complaint(lambda: read_volume(path))
    assert message.startswith(str(path)) and reason in message


def gap(folder: Path) -> None:
    write_series(folder, smooth((6, 4, 5)))
    (folder / "im003.dcm").unlink()


def two_gaps(folder: Path) -> None:
    write_series(folder, smooth((9, 4, 5)))
    (folder / "im003.dcm").unlink()
    (folder / "im004.dcm").unlink()


def coloured(folder: Path) -> None:
    write_series(folder, smooth((3, 4, 5)))
    rewrite(folder / "im001.dcm", SamplesPerPixel=3)


def cut_off(folder: Path) -> None:
    write_series(folder, smooth((3, 64, 64)))
    path = folder / "im002.dcm"
    path.write_bytes(path.read_bytes()[:-4000])


def sizes(folder: Path) -> None:
    write_series(folder, smooth((3, 4, 5)), uid="1.2.9")
    write_series(folder, smooth((1, 8, 8)), uid="1.2.9", ending="s.dcm", heights=[0.0])


def placeless(folder: Path) -> None:
    write_series(folder, smooth((3, 4, 5)))
    rewrite(folder / "im002.dcm", ImagePositionPatient=None)


def two_series(folder: Path) -> None:
    write_series(folder, smooth((3, 4, 5)), uid="1.2.101")
    write_series(folder, smooth((2, 4, 5)), uid="1.2.202", ending="b.dcm")


def twice(folder: Path) -> None:
    write_series(folder, smooth((3, 4, 5)), heights=[0, 0, 2])


SERIES: list[tuple[str, Callable[[Path], None], str]] = [
    ("missing slice", gap, "missing slices (1), the first after -35.00 mm, slice gap 2.50 mm"),
    ("two missing", two_gaps, "missing slices (2)"),
    (
        "unequal",
        lambda f: write_series(f, smooth((4, 4, 5)), heights=[0, 2, 4.7, 7]),
        "unequally spaced slices, 2.00 to",
    ),
    (
        "scout",
        lambda f: write_series(f, smooth((5, 4, 5)), cosines={2: (0, 1, 0, 0, 0, 1)}),
        "mixed orientations: 1 of 5",
    ),
    ("tilt", lambda f: write_series(f, smooth((4, 4, 5)), shear=0.5), "gantry tilt: the stack deviates"),
    ("two series", two_series, "holds 2 DICOM series (3 x CT thorax 101; 2 x CT thorax 202)"),
    ("twice", twice, "1 slices at a repeated position"),
    ("one slice", lambda f: write_series(f, smooth((1, 4, 5))), "got one slice"),
    ("colours", coloured, "got colours"),
    ("sizes", sizes, "different sizes"),
    ("no place", placeless, "without position"),
    ("truncated pixels", cut_off, "cannot be read"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in SERIES], ids=[row[0] for row in SERIES])
def test_a_series_that_cannot_be_used_is_named_with_its_reason(
    tmp_path: Path, make: Callable[[Path], None], reason: str
):
    make(tmp_path)
    message = complaint(lambda: read_volume(tmp_path))
    assert message.startswith(str(tmp_path)) and reason in message


def test_an_empty_folder_and_a_list_with_a_missing_path_are_named(tmp_path: Path):
    assert "no volume found" in complaint(lambda: find_volumes(tmp_path))
    (tmp_path / "list.txt").write_text("# scans\ngone/a.nii\n")
    message = complaint(lambda: find_volumes(tmp_path / "list.txt"))
    assert "gone/a.nii, which does not exist" in message


def test_negative_and_zero_spacing_of_a_metaimage_are_refused(tmp_path: Path):
    sitk.WriteImage(sitk.GetImageFromArray(smooth((4, 5, 6))), tmp_path / "scan.mha")
    raw = (tmp_path / "scan.mha").read_bytes()
    for spacing in (b"0 1 1", b"-1 1 1"):
        (tmp_path / "scan.mha").write_bytes(raw.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = " + spacing))
        complaint(lambda: read_volume(tmp_path / "scan.mha"))


def test_too_little_memory_is_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = nifti_of(smooth((32, 32, 32)))(tmp_path)
    monkeypatch.setattr("hagan3d.data.io.checks.available_bytes", lambda: 100_000)
    assert "32 x 32 x 32 voxels need about 1 MB of memory" in complaint(lambda: read_volume(path))
