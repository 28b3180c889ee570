"""Files whose header leaves something open, whose ending lies, or whose voxels are damaged."""

import bz2
import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from hagan3d.data.io.geometry import NO_PLACE, NO_SIDES
from hagan3d.data.io.registry import parts_of
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.preprocess.cache import file_hash
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.errors import InputError
from tests.data.conftest import smooth

AFFINE = np.array([[2.0, 0, 0, -5], [0, 2.2, 0, -8], [0, 0, 2.5, -9], [0, 0, 0, 1]])
VOXELS = smooth((6, 5, 4))


def nifti(path: Path, compress: bool = False, **header: object) -> Path:
    """Write NIfTI whose header elements are changed afterwards, as no library would write it."""
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_qform(AFFINE, 1)
    raw = bytearray(image.to_bytes())
    changed = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in header.items():
        changed[name] = value
    raw[:348] = changed.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)) if compress else bytes(raw))
    return path


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "packed"), [("a.nii", True), ("a.nii.gz", False), ("A.Nii.GZ", True), ("A.NII", False)]
)
def test_whether_a_nifti_file_is_packed_is_read_from_its_bytes(tmp_path: Path, name: str, packed: bool):
    volume = read_volume(nifti(tmp_path / name, packed))
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.remarks == ()


def test_every_flipped_bit_of_a_packed_file_is_noticed(tmp_path: Path):
    path = nifti(tmp_path / "a.nii.gz", compress=True)
    original = path.read_bytes()
    for place in np.random.default_rng(0).integers(12, len(original), 60):
        mutated = bytearray(original)
        mutated[place] ^= 1 << int(place % 8)
        path.write_bytes(mutated)
        complaint(path)  # a flipped header may have another reason, but is never read
    for cut in (1, 4, 8, 40):
        path.write_bytes(original[:-cut])
        assert "damaged" in complaint(path)


def test_a_nifti_header_that_leaves_geometry_open(tmp_path: Path):
    path = tmp_path / "a.nii"
    assert "vox_offset is 0" in complaint(nifti(path, vox_offset=0))
    zero = [1, 2, 0, 2.5, 1, 1, 1, 1]
    assert "voxel sizes (pixdim) of 2, 0, 2.5 mm and no sform" in complaint(nifti(path, sform_code=0, pixdim=zero))
    assert read_volume(nifti(path, pixdim=zero)).affine[0, 0] == 2  # the sform knows
    volume = read_volume(nifti(path, sform_code=0, qform_code=0))
    assert [word in " ".join(volume.remarks) for word in ("those of RAS", "where it lies")] == [True, True]
    np.testing.assert_array_equal(volume.affine, np.diag([2, 2.2, 2.5, 1]).astype(np.float32))
    result = prepare(path, tmp_path / "s.h5", PrepareConfig(size=(32, 32, 32), validation=0), progress=False)
    assert result.remarks == volume.remarks  # it is said


def test_values_beyond_float32_and_empty_files_are_named(tmp_path: Path):
    path = tmp_path / "a.nii"
    values = VOXELS.astype(np.float64)
    values[2, 2, 2] = 1e39
    nib.Nifti1Image(values, AFFINE).to_filename(path)
    assert "beyond the range of float32" in complaint(path)
    for name in ("b.nii.gz", "b.mha", "b.nrrd"):
        (tmp_path / name).write_bytes(b"")
        assert "is empty (0 bytes)" in complaint(tmp_path / name)


def itk_image() -> sitk.Image:
    image = sitk.GetImageFromArray(VOXELS.transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.2, 2.5))
    image.SetOrigin((5.0, 8.0, -9.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "A.MHA", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("packed", [False, True])
def test_itk_formats_are_read_whatever_the_case_of_their_ending(tmp_path: Path, name: str, packed: bool):
    lower = tmp_path / name.lower()
    sitk.WriteImage(itk_image(), lower, useCompression=packed)
    path = lower.rename(tmp_path / name)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.remarks == ()


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_damaged_voxels_of_packed_itk_files_are_noticed(tmp_path: Path, name: str):
    sitk.WriteImage(itk_image(), tmp_path / name, useCompression=True)
    voxels = parts_of(tmp_path / name)[-1]
    original = voxels.read_bytes()
    start = original.find(b"LOCAL\n") + 6 if name == "a.mha" else original.find(b"\n\n") + 2 if name == "a.nrrd" else 0
    for place in np.random.default_rng(1).integers(start + 12, len(original), 40):
        mutated = bytearray(original)
        mutated[place] ^= 16
        voxels.write_bytes(mutated)
        assert "damaged" in complaint(tmp_path / name)
    voxels.write_bytes(original[:-20])
    assert "damaged" in complaint(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_truncated_voxels_are_noticed(tmp_path: Path, name: str):
    sitk.WriteImage(itk_image(), tmp_path / name)
    voxels = parts_of(tmp_path / name)[-1]
    voxels.write_bytes(voxels.read_bytes()[:-7])
    assert "truncated" in complaint(tmp_path / name)
    voxels.unlink()
    assert "does not exist" in complaint(tmp_path / name)


def nrrd(path: Path, fields: str, voxels: bytes | None = None) -> Path:
    head = f"NRRD0004\ntype: int16\ndimension: 3\nsizes: 6 5 4\nendian: little\n{fields}\n\n"
    path.write_bytes(head.encode() + (VOXELS.tobytes("F") if voxels is None else voxels))
    return path


def test_an_nrrd_header_that_leaves_geometry_open(tmp_path: Path):
    path = tmp_path / "a.nrrd"
    assert "neither spacings nor space directions" in complaint(nrrd(path, "encoding: raw"))
    volume = read_volume(nrrd(path, "spacings: 2 2.2 2.5\nencoding: raw"))
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert [word in " ".join(volume.remarks) for word in ("those of RAS", "where it lies")] == [True, True]
    np.testing.assert_allclose(volume.affine, np.diag([2, 2.2, 2.5, 1]))  # one rule for all formats
    text = (tmp_path / "b.mha").write_text
    text("ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n")
    assert "has no ElementSpacing" in complaint(tmp_path / "b.mha")


def test_bzip2_is_read_and_checked(tmp_path: Path):
    place = "space: left-posterior-superior\nspace directions: (-2,0,0) (0,-2.2,0) (0,0,2.5)\nspace origin: (5,8,-9)"
    packed = bz2.compress(VOXELS.tobytes("F"))
    volume = read_volume(nrrd(tmp_path / "a.nrrd", f"{place}\nencoding: bzip2", packed))
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert "damaged" in complaint(nrrd(tmp_path / "a.nrrd", f"{place}\nencoding: bzip2", packed[:-9]))


def test_files_beside_a_header_are_part_of_the_volume(tmp_path: Path):
    hashes = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        image = sitk.GetImageFromArray((VOXELS + number).transpose(2, 1, 0))
        sitk.WriteImage(image, folder / "a.mhd")
        assert [part.name for part in parts_of(folder / "a.mhd")] == ["a.mhd", "a.raw"]
        hashes.add(file_hash(folder / "a.mhd"))
    assert len(hashes) == 2 and (tmp_path / "0/a.mhd").read_bytes() == (tmp_path / "1/a.mhd").read_bytes()


def test_a_list_of_files_of_voxels_is_complete_or_refused(tmp_path: Path):
    head = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    for number in range(4):
        (tmp_path / f"s{number}.raw").write_bytes(VOXELS[:, :, number].tobytes("F"))
    (tmp_path / "a.mhd").write_text(head + "ElementDataFile = s%d.raw 0 3 1\n")
    assert [part.name for part in parts_of(tmp_path / "a.mhd")][1:] == [f"s{number}.raw" for number in range(4)]
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd").array, VOXELS)
    (tmp_path / "s2.raw").write_bytes(b"\0" * 10)
    assert "is truncated: s2.raw has 10 bytes" in complaint(tmp_path / "a.mhd")
    (tmp_path / "s2.raw").unlink()
    assert "names the file of its voxels s2.raw" in complaint(tmp_path / "a.mhd")


def test_a_packed_block_that_expands_without_bound_is_refused(tmp_path: Path):
    bomb = zlib.compress(b"\0" * 2**26)
    head = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    (tmp_path / "a.mha").write_bytes((head + "CompressedData = True\nElementDataFile = LOCAL\n").encode() + bomb)
    assert "declares 240 bytes of voxels, it holds others" in complaint(tmp_path / "a.mha")


@pytest.mark.parametrize("bands", [(), (3,)])
def test_every_flipped_byte_of_a_png_is_noticed(tmp_path: Path, bands: tuple[int, ...]):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, *bands)).astype(np.uint8)).save(path)
    original = path.read_bytes()
    for place in range(8, len(original)):
        for bits in (1, 0x5A):  # 1 in the first byte of pixels: their stream does not end, and is not checked by Pillow
            path.write_bytes(original[:place] + bytes([original[place] ^ bits]) + original[place + 1 :])
            with pytest.raises(InputError, match=r"damaged|not an image"):
                read_volume(path)


META = "ObjectType = Image\nNDims = 3\nDimSize = 6 5 4\nElementType = MET_SHORT\nElementSpacing = 2 2.2 2.5\n"
META += "TransformMatrix = -1 0 0 0 -1 0 0 0 1\nOffset = 5 8 -9\n"


def meta(path: Path, fields: str, voxels: bytes, named: str = "LOCAL") -> Path:
    path.write_bytes(f"{META}{fields}ElementDataFile = {named}\n".encode() + voxels)
    return path


@pytest.mark.parametrize("size", ["", "CompressedDataSize = 50\n"])
def test_packed_voxels_are_read_whatever_size_the_header_gives_them(tmp_path: Path, size: str, capfd):
    packed = zlib.compress(VOXELS.tobytes("F"))
    volume = read_volume(meta(tmp_path / "a.mha", f"CompressedData = True\n{size}", packed))
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)
    big = zlib.compress(VOXELS.astype(">i2").tobytes("F"))
    order = "BinaryDataByteOrderMSB = True\n"
    other = read_volume(meta(tmp_path / "b.mha", f"CompressedData = True\n{order}{size}", big))
    np.testing.assert_array_equal(other.array, VOXELS)
    assert capfd.readouterr() == ("", "")  # of ITK, which would read memory contents


def test_packed_voxels_in_a_list_of_files_are_read(tmp_path: Path):
    for number in range(4):
        (tmp_path / f"s{number}.zraw").write_bytes(zlib.compress(VOXELS[:, :, number].tobytes("F")))
    names = "".join(f"s{number}.zraw\n" for number in range(4)).encode()
    volume = read_volume(meta(tmp_path / "a.mhd", "CompressedData = True\n", names, "LIST"))
    np.testing.assert_array_equal(volume.array, VOXELS)


def test_bytes_of_a_metaimage_header_are_never_voxels(tmp_path: Path):
    voxels = VOXELS.tobytes("F")
    assert "HeaderSize is 30" in complaint(meta(tmp_path / "a.mha", "HeaderSize = 30\n", voxels))
    np.testing.assert_array_equal(read_volume(meta(tmp_path / "b.mha", "HeaderSize = -1\n", voxels)).array, VOXELS)
    (tmp_path / "v.raw").write_bytes(b"header" + voxels)
    assert "v.raw has 246 bytes of voxels, its header declares 240" in complaint(
        meta(tmp_path / "c.mhd", "", b"", "v.raw")
    )
    for size in (6, -1):
        volume = read_volume(meta(tmp_path / "d.mhd", f"HeaderSize = {size}\n", b"", "v.raw"))
        np.testing.assert_array_equal(volume.array, VOXELS)


def test_more_voxels_than_a_header_declares_are_noticed(tmp_path: Path):
    five = np.concatenate([VOXELS, VOXELS[:, :, :1]], axis=2)
    for number in range(5):
        (tmp_path / f"s{number}.raw").write_bytes(five[:, :, number].tobytes("F"))
    assert "names 5 files of voxels, its sizes need 4" in complaint(meta(tmp_path / "a.mhd", "", b"", "s%d.raw 0 4 1"))
    place = "space: left-posterior-superior\nspace directions: (-2,0,0) (0,-2.2,0) (0,0,2.5)\nspace origin: (5,8,-9)"
    for path in (
        meta(tmp_path / "a.mha", "", five.tobytes("F")),
        nrrd(tmp_path / "a.nrrd", f"{place}\nencoding: raw", five.tobytes("F")),
        nifti(tmp_path / "a.nii"),
    ):
        if path.suffix == ".nii":
            path.write_bytes(path.read_bytes() + bytes(60))
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, VOXELS)
        assert volume.remarks == (
            f"{path}: 60 bytes after its voxels are not read: are the sizes in its header right?",
        )


def test_scaled_values_of_a_metaimage_are_refused(tmp_path: Path):
    scale = "ElementToIntensityFunctionSlope = 2\nElementToIntensityFunctionOffset = -1024\n"
    assert "are to be scaled" in complaint(meta(tmp_path / "a.mha", scale, VOXELS.tobytes("F")))


def test_an_nrrd_header_of_windows_is_read_and_skips_before_packed_voxels_are_named(tmp_path: Path):
    path = nrrd(tmp_path / "a.nrrd", "spacings: 2 2.2 2.5\nencoding: raw", b"")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + VOXELS.tobytes("F"))
    np.testing.assert_array_equal(read_volume(path).array, VOXELS)
    fields = "spacings: 2 2.2 2.5\nbyte skip: 4\nencoding: gzip"
    packed = gzip.compress(b"head" + VOXELS.tobytes("F"))
    assert "skip before packed voxels" in complaint(nrrd(tmp_path / "b.nrrd", fields, packed))


def test_a_place_that_is_not_known_is_0_whatever_itk_makes_of_axis_mins(tmp_path: Path):
    volume = read_volume(nrrd(tmp_path / "a.nrrd", "spacings: 2 2.2 2.5\naxis mins: 5 6 7\nencoding: raw"))
    np.testing.assert_array_equal(volume.affine[:3, 3], 0)
    assert "where it lies" in " ".join(volume.remarks)


@pytest.mark.parametrize("name", ["a.npy", "a.mha", "a.nrrd"])
def test_values_beyond_float32_are_named_in_every_format(tmp_path: Path, name: str):
    values = VOXELS.astype(np.float64)
    values[2, 2, 2] = 1e39
    if name == "a.npy":
        np.save(tmp_path / name, values)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / name)
    assert "beyond the range of float32" in complaint(tmp_path / name)


def test_a_sform_and_a_qform_that_differ_are_a_remark(tmp_path: Path):
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.set_sform(AFFINE, 1)
    for shift, expected in ((0.0, ()), (30.0, ("place the voxels differently: the sform is used",))):
        other = AFFINE.copy()
        other[1, 3] += shift
        image.set_qform(other, 1)
        nib.save(image, tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
        assert len(volume.remarks) == len(expected) and all(text in volume.remarks[0] for text in expected)


@pytest.mark.parametrize(
    ("codes", "used", "remarks"),
    [
        ((5, 0), "sform", []),
        ((6, 0), "sform", ["sform_code 6 is unknown: the sform is used"]),
        ((6, 1), "qform", ["sform_code 6 is unknown: the qform is used"]),
        ((0, 9), "qform", ["qform_code 9 is unknown: the qform is used"]),
        ((1, 9), "sform", ["qform_code 9 is unknown: the sform is used"]),
        ((-1, 0), "", [NO_SIDES, NO_PLACE]),
    ],
)
def test_transforms_of_unknown_codes_come_last_and_are_said(tmp_path: Path, codes, used: str, remarks, capfd):
    place = {"qoffset_x": 40, "sform_code": codes[0], "qform_code": codes[1]}
    volume = read_volume(nifti(tmp_path / "a.nii", **place))
    expected = {"sform": AFFINE, "qform": AFFINE.copy(), "": np.diag([2, 2.2, 2.5, 1])}
    expected["qform"][0, 3] = 40
    np.testing.assert_allclose(volume.affine, expected[used], atol=1e-5)
    assert [remark.split("a.nii: ")[1] for remark in volume.remarks] == remarks
    assert capfd.readouterr() == ("", "")
