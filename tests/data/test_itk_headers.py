"""Headers of MetaImage and NRRD that name several files, or say things in ways that ITK does not read."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from hagan3d.data.io.geometry import NO_SIDES
from hagan3d.data.io.volumes import read_volume
from tests.data.test_damage import AFFINE, META, VOXELS, complaint, meta, nrrd

SLABS = {"slices": (1, 1, 1, 1), "equal slabs": (2, 2), "slabs": (3, 1), "whole": (4,)}


def parts(folder: Path, depths: tuple[int, ...], order: str = "<i2", before: bytes = b"") -> bytes:
    """Write the voxels in files of so many slices each, and return the lines that list them."""
    ends = np.cumsum(depths)
    for number, (begin, end) in enumerate(zip(ends - depths, ends, strict=True), start=1):
        (folder / f"h{number}.raw").write_bytes(before + VOXELS[:, :, begin:end].astype(order).tobytes("F"))
    return "".join(f"h{number + 1}.raw\n" for number in range(len(depths))).encode()


READ = [
    ("slices", "LIST"),
    ("slices", "LIST 2D"),
    ("slices", "LIST 2"),
    ("slices", "LIST 3D"),
    ("equal slabs", "LIST 3D"),
    ("slabs", "LIST 3D"),
    ("whole", "LIST 3D"),
    ("slices", "h%d.raw 1 4 1"),
    ("slices", "h%d.raw 1 4"),
    ("slices", "h%d.raw 1"),
    ("slices", "h%d.raw"),
]


@pytest.mark.parametrize(("slabs", "named"), READ)
@pytest.mark.parametrize("msb", [False, True])
@pytest.mark.parametrize("skip", [0, 5])
def test_voxels_in_several_files_are_joined(tmp_path: Path, slabs: str, named: str, msb: bool, skip: int):
    names = parts(tmp_path, SLABS[slabs], ">i2" if msb else "<i2", b"x" * skip)
    fields = f"BinaryDataByteOrderMSB = {msb}\nHeaderSize = {skip}\n"
    volume = read_volume(meta(tmp_path / "a.mhd", fields, names if "LIST" in named else b"", named))
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)


REFUSED = [
    ("equal slabs", "LIST", "names 2 files of voxels, its sizes need 4"),
    ("equal slabs", "LIST 2D", "names 2 files of voxels, its sizes need 4"),
    ("whole", "LIST", "names 1 files of voxels, its sizes need 4"),
    ("equal slabs", "h%d.raw 1 2 1", "names 2 files of voxels, its sizes need 4"),
    ("slices", "h%d.raw 1 4 2", "names 2 files of voxels, its sizes need 4"),
    ("slices", "LIST 1D", "names 4 files of voxels, its sizes need 20"),
    ("slices", "LIST 4D", "must be LIST, or LIST 2D or 3D"),
    ("slices", "LIST x", "must be LIST, or LIST 2D or 3D"),
]


@pytest.mark.parametrize(("slabs", "named", "reason"), REFUSED)
def test_more_or_fewer_files_than_the_sizes_need_are_refused(tmp_path: Path, slabs: str, named: str, reason: str):
    names = parts(tmp_path, SLABS[slabs])
    assert reason in complaint(meta(tmp_path / "a.mhd", "", names if "LIST" in named else b"", named))


def test_slabs_that_do_not_add_up_are_refused(tmp_path: Path):
    names = parts(tmp_path, (2, 1))
    assert "2 files with 180 bytes of voxels, its header declares 240" in complaint(
        meta(tmp_path / "a.mhd", "", names, "LIST 3D")
    )
    assert "a list of its files of voxels that is empty" in complaint(meta(tmp_path / "a.mhd", "", b"", "LIST"))
    assert "in several files; save it as one file" in complaint(
        meta(tmp_path / "a.mhd", "BinaryData = False\n", parts(tmp_path, (1, 1, 1, 1)), "LIST")
    )


@pytest.mark.parametrize("true", ["True", "true", "T", "t", "1"])
def test_flags_of_a_metaimage_are_read_as_itk_does(tmp_path: Path, true: str):
    volume = read_volume(meta(tmp_path / "a.mha", f"CompressedData = {true}\n", zlib.compress(VOXELS.tobytes("F"))))
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_array_equal(
        read_volume(meta(tmp_path / "b.mha", f"BinaryData = {true}\n", VOXELS.tobytes("F"))).array, VOXELS
    )


@pytest.mark.parametrize("letters", ["LPS", "???"])
def test_letters_of_axes_are_named_as_they_are_not_read(tmp_path: Path, letters: str):
    head = META.replace("TransformMatrix = -1 0 0 0 -1 0 0 0 1", f"AnatomicalOrientation = {letters}")
    (tmp_path / "a.mha").write_bytes(f"{head}ElementDataFile = LOCAL\n".encode() + VOXELS.tobytes("F"))
    (remark,) = read_volume(tmp_path / "a.mha").remarks
    assert (NO_SIDES in remark) == (letters == "???") and ("AnatomicalOrientation LPS alone" in remark) == (
        letters == "LPS"
    )


PLACE = "space: left-posterior-superior\nspace origin: (5,8,-9)\nencoding: raw\n"
DIRECTIONS = "space directions: (-2,0,0) (0,-2.2,0) (0,0,2.5)"
TIME = "space: left-posterior-superior-time\nencoding: raw\nspace directions: (-2,0,0,0) (0,-2.2,0,0) (0,0,2.5,0)"
CHANNELS = "has an axis of channels or time (space directions none) without a kind that says so"


@pytest.mark.parametrize(
    ("fields", "channels", "reason"),
    [
        (f"{PLACE}{DIRECTIONS} none", 2, CHANNELS),
        (f"{PLACE}{DIRECTIONS} none\nkinds: domain domain domain none", 2, CHANNELS),
        (f"{PLACE}{DIRECTIONS} none\nkinds: domain domain domain time", 2, CHANNELS),
        (f"{PLACE}spacings: 2 2.2 2.5", 1, "has the space left-posterior-superior and spacings; give it space direct"),
        (TIME, 1, "has the space left-posterior-superior-time; save it without time"),
    ],
)
def test_nrrd_headers_that_itk_does_not_read_say_what_to_change(tmp_path: Path, fields, channels: int, reason: str):
    path = nrrd(tmp_path / "a.nrrd", fields, VOXELS.tobytes("F") * channels)
    if channels > 1:
        path.write_bytes(
            path.read_bytes().replace(b"dimension: 3\nsizes: 6 5 4", b"dimension: 4\nsizes: 6 5 4 %d" % channels)
        )
    assert reason in complaint(path)
