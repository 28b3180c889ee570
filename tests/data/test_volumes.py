"""Reading and writing: every format gives the file's own numbers, units and place in space."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.affines import apply_affine

from hagan3d.data.io.geometry import reorient
from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import Volume, read_volume
from hagan3d.data.io.writer import write_nifti
from hagan3d.errors import InputError
from tests.data.conftest import SeriesWriter, rewrite, smooth

OBLIQUE = np.array([[-1.9, 0.1, 0.2, 30], [0.1, -1.4, 0.5, 12], [0.2, 0.4, 2.8, -77], [0, 0, 0, 1]])


def same_place_and_values(a: Volume, b: Volume, within_mm: float = 1e-4, within: float = 1e-4) -> None:
    """Assert that two volumes are one, whatever the order of their axes."""
    first, second = (reorient(item.array, item.affine, "RAS") for item in (a, b))
    np.testing.assert_allclose(first[1], second[1], atol=within_mm)
    np.testing.assert_allclose(first[0], second[0], atol=within)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_keeps_axes_affine_slope_and_byte_order(tmp_path: Path, order: str, kind: type):
    array, path = smooth((4, 5, 6)), tmp_path / "a.nii"
    nibabel.save(kind(array, OBLIQUE, kind.header_class(endianness=order)), path)
    raw = bytearray(path.read_bytes())
    place, form = (112, "2f") if kind is nibabel.Nifti1Image else (176, "2d")
    struct.pack_into(order + form, raw, place, 2.5, -30)  # slope and intercept
    path.write_bytes(raw)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(volume.array, array * 2.5 - 30, atol=1e-3)
    assert volume.array.dtype == np.float32


def test_sform_goes_before_qform_and_qform_is_used_without_it(tmp_path: Path):
    image = nibabel.Nifti1Image(smooth((4, 5, 6)), None)
    image.set_qform(np.diag([2.0, 3, 4, 1]), code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "a.nii")
    assert np.allclose(read_volume(tmp_path / "a.nii").affine, np.diag([2, 3, 4, 1]))
    image.set_sform(OBLIQUE, code=2)
    nibabel.save(image, tmp_path / "b.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "b.nii").affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_the_affine_is_in_mm_whatever_the_unit_of_the_header(tmp_path: Path, unit: str, factor: float):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), OBLIQUE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").affine[:3], factor * OBLIQUE[:3], rtol=1e-5)


def test_a_link_to_nothing_is_named(tmp_path: Path, nifti: Callable[..., Path]):
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (link,) = find_volumes([tmp_path])
    with pytest.raises(InputError, match=r"gone\.nii\.gz: broken symbolic link"):
        read_volume(link.path)


def test_a_trailing_axis_of_one_is_dropped(nifti: Callable[..., Path]):
    array = smooth((4, 5, 6, 1))
    np.testing.assert_array_equal(read_volume(nifti("a.nii.gz", array)).array, array[..., 0])


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_agree_with_nifti(tmp_path: Path, ending: str, nifti: Callable[..., Path]):
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array([[0, 0, 2.0, 9], [1.5, 0, 0, -8], [0, -3.0, 0, 70], [0, 0, 0, 1]])
    array = smooth((4, 5, 6))
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing((1.5, 3.0, 2.0))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    image.SetOrigin((9, -8, 70))
    sitk.WriteImage(image, tmp_path / f"a{ending}")
    volume = read_volume(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, ras, atol=1e-9)
    same_place_and_values(volume, read_volume(nifti("b.nii.gz", array, ras)))


def test_npy_is_read_as_it_is(tmp_path: Path):
    array = smooth((4, 5, 6)).astype(np.float64)
    np.save(tmp_path / "a.npy", array)
    volume = read_volume(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(volume.affine, np.eye(4))


def test_a_series_is_in_hu_with_the_place_its_headers_give(series: SeriesWriter):
    array = smooth((5, 3, 4))  # slice, row, column
    volume = read_volume(series("ct", array))
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))
    ras = np.array([[-0.5, 0, 0, 12.5], [0, -0.75, 0, 20.25], [0, 0, 2.5, -40], [0, 0, 0, 1]])
    np.testing.assert_allclose(volume.affine, ras, atol=1e-9)


def test_slices_keep_their_own_slope(series: SeriesWriter):
    array = np.abs(smooth((4, 3, 4)))
    slopes = [1.0, 0.5, 0.25, 2.0]
    volume = read_volume(series("pet", array, slopes=slopes))
    expected = (array + 1024.0) * np.array(slopes)[:, None, None] - 1024
    np.testing.assert_allclose(volume.array, expected.transpose(2, 1, 0), atol=1e-3)


@pytest.mark.parametrize("changes", [{"ending": ""}, {"packed": True}], ids=["no endings", "compressed"])
def test_series_without_endings_or_compressed(series: SeriesWriter, changes: dict[str, object]):
    array = smooth((3, 16, 20))
    np.testing.assert_array_equal(read_volume(series("a", array, **changes)).array, array.transpose(2, 1, 0))


def test_sagittal_slices_are_stacked_along_their_normal(series: SeriesWriter):
    array = smooth((3, 4, 5))
    folder = series("sagittal", array)
    for number, path in enumerate(sorted(folder.iterdir())):  # the last slice of the array comes first
        rewrite(path, ImagePositionPatient=[2.0 * number, 0, 0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    volume = read_volume(folder)  # normal of rows to the back and columns down: -x in LPS, which is +x in RAS
    np.testing.assert_allclose(volume.affine[:3, 2], [2.0, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))


def test_dicomdir_reports_and_text_beside_slices_are_passed_over(series: SeriesWriter):
    array = smooth((3, 4, 5))
    folder = series("ct", array)
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    (folder / "readme.txt").write_text("notes")
    (folder / ".hidden.dcm").write_bytes(b"junk")
    np.testing.assert_array_equal(read_volume(folder).array, array.transpose(2, 1, 0))


def test_a_multi_frame_file_is_a_volume(tmp_path: Path):
    array = (smooth((6, 5, 4)) + 1000).astype(np.uint16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.75, 2.0))
    sitk.WriteImage(image, tmp_path / "multi.dcm")
    volume = read_volume(tmp_path / "multi.dcm")
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_volume(tmp_path).array, volume.array)


def test_fill_replaces_what_is_not_a_number(nifti: Callable[..., Path]):
    array = smooth((4, 5, 6)).astype(np.float32)
    array[1, 2, 3] = np.nan
    volume = read_volume(nifti("a.nii", array), fill=-1000.0)
    assert volume.array[1, 2, 3] == -1000 and np.isfinite(volume.array).all()
    assert [remark.partition("a.nii: ")[2] for remark in volume.remarks] == [
        "1 of 120 voxels are NaN or infinite and become -1000"
    ]


def test_volumes_are_found_in_folders_lists_and_series(
    nifti: Callable[..., Path], series: SeriesWriter, tmp_path: Path
):
    nifti("in/one/t1.nii.gz", smooth((4, 4, 4)))
    nifti("in/two/t1.nii.gz", smooth((4, 4, 4)))
    nifti("in/b.nii", smooth((4, 4, 4)))
    (tmp_path / "in" / "labels.csv").write_text("id\n")
    (tmp_path / "in" / "._b.nii").write_text("left by a Mac")
    for name in ("x", "y"):
        series(f"in/{name}", smooth((3, 4, 4)))
    assert [source.id for source in find_volumes(tmp_path / "in")] == ["b", "one_t1", "two_t1", "x", "y"]
    (tmp_path / "in" / "list.txt").write_text("# two of them\none/t1.nii.gz\n\ny\n")
    found = find_volumes(tmp_path / "in" / "list.txt")
    assert [source.id for source in found] == ["t1", "y"] and found[1].path.is_dir()
    assert len(find_volumes([tmp_path / "in", tmp_path / "in" / "b.nii"])) == 5  # one path twice is one volume


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str, dtype: str):
    array = smooth((4, 5, 6)) * (1.0 if dtype == "int16" else 1.25)
    write_nifti(tmp_path / name, array, OBLIQUE, dtype)
    volume, image = read_volume(tmp_path / name), nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert image.get_data_dtype() == dtype and image.header.get_xyzt_units()[0] == "mm"


def test_int16_of_small_numbers_is_scaled(tmp_path: Path):
    array = np.linspace(0, 21.7, 120, dtype=np.float32).reshape(4, 5, 6)
    write_nifti(tmp_path / "suv.nii.gz", array, np.eye(4), "int16")
    np.testing.assert_allclose(read_volume(tmp_path / "suv.nii.gz").array, array, atol=21.7 / 65000)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.nii.gz"
    write_nifti(path, smooth((4, 5, 6)), np.eye(4))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", full)
    with pytest.raises(InputError, match=r"a\.nii\.gz: the disk is full"):
        write_nifti(path, smooth((4, 5, 7)), np.eye(4))
    monkeypatch.undo()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["CT", "PET"])
def test_real_dicom_and_nifti_of_one_volume_agree(test_data: Path, kind: str):
    folder = test_data / "petctmr_sarcoma"
    dicom = read_volume(folder / f"STS_002_{kind}_dicom")
    same_place_and_values(dicom, read_volume(folder / f"STS_002_{kind}_image.nii.gz"))
    # spacing in DICOM is decimal text of a few digits


def test_real_dicom_and_nrrd_of_one_volume_agree(test_data: Path):
    dicom = read_volume(test_data / "thorax_ct" / "cip_ct-64_dicom")
    same_place_and_values(dicom, read_volume(test_data / "thorax_ct" / "cip_ct-64.nrrd"), within_mm=1e-3)


def test_real_big_endian_and_oblique_files(test_data: Path):
    assert read_volume(test_data / "odd" / "anatomical_bigendian_i2.nii").array.max() == 30393
    for name in ("example4d_oblique.nii.gz", "example_nifti2.nii.gz", "functional_4d_sclslope.nii"):
        with pytest.raises(InputError, match="got 4D"):
            read_volume(test_data / "odd" / name)
    oblique = read_volume(test_data / "brain_paired_raw_ms" / "patient20_study2_T1W.nii.gz")
    image = nibabel.load(test_data / "brain_paired_raw_ms" / "patient20_study2_T1W.nii.gz")
    index = (100, 37, 20)
    np.testing.assert_allclose(apply_affine(oblique.affine, index), apply_affine(image.affine, index))
    assert oblique.array[index] == image.get_fdata()[index]
