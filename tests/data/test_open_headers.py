"""Headers that libraries read in a way of their own: taken as their standards say, or refused in one line."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from hagan3d.data.io.volumes import read_volume
from tests.data.conftest import rewrite, smooth, write_series
from tests.data.test_damage import AFFINE, META, VOXELS, complaint, meta, nifti, nrrd
from tests.data.test_dicom import STORED, write_enhanced

NRRD_PLACE = "space: left-posterior-superior\nspace directions: (-2,0,0) (0,-2.2,0) (0,0,2.5)\nspace origin: (5,8,-9)\n"


def text_of(values: np.ndarray) -> bytes:
    return " ".join(map(str, values.ravel("F"))).encode() + b"\n"


@pytest.mark.parametrize(("factor", "sign"), [(-2.0, -1), (-1.0, -1), (0.0, 1), (1.0, 1), (3.0, 1), (np.nan, 1)])
def test_the_sign_of_qfac_alone_turns_the_third_axis(tmp_path: Path, factor: float, sign: int):
    sizes = [factor, 2, 2.2, 2.5, 1, 1, 1, 1]
    volume = read_volume(nifti(tmp_path / "a.nii", sform_code=0, pixdim=sizes))
    np.testing.assert_allclose(volume.affine[:, :3], (AFFINE @ np.diag([1, 1, sign, 1]))[:, :3], atol=1e-5)


@pytest.mark.parametrize("kind", ["meta", "nrrd"])
def test_voxels_as_text_fit_their_type_and_are_as_many_as_declared(tmp_path: Path, kind: str, capfd):
    def written(content: bytes) -> Path:
        if kind == "meta":
            return meta(tmp_path / "a.mha", "BinaryData = False\n", content)
        return nrrd(tmp_path / "a.nrrd", f"encoding: ascii\n{NRRD_PLACE}"[:-1], content)

    text = text_of(VOXELS)
    volume = read_volume(written(text))
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.affine, AFFINE)
    first = text.split()[0]
    assert "do not fit the type in its header" in complaint(written(text.replace(first, first + b".7", 1)))
    assert "do not fit the type in its header" in complaint(written(text.replace(first, b"70000", 1)))
    assert "120 voxels are declared, and 121 are there as text" in complaint(written(text + b"5\n"))


def test_a_field_of_metaimage_has_one_value(tmp_path: Path):
    voxels = VOXELS.tobytes("F")
    assert "has two values of ElementSpacing" in complaint(meta(tmp_path / "a.mha", "ElementSpacing = 1 1 1\n", voxels))
    lines = META.encode() + b"ElementDataFile = LOCAL\n"
    path = tmp_path / "b.mha"
    path.write_bytes(lines.replace(b"TransformMatrix = -1", b"TransformMatrix = -2") + voxels)
    assert "has axes of length 2, 1, 1 (TransformMatrix)" in complaint(path)


def test_what_follows_an_array_is_told(tmp_path: Path):
    file = io.BytesIO()
    np.save(file, VOXELS)
    size = file.tell()
    np.save(file, VOXELS)
    (tmp_path / "a.npy").write_bytes(file.getvalue())
    (tmp_path / "b.npy").write_bytes(file.getvalue()[:size])
    assert f"{size} bytes after its voxels are not read" in " ".join(read_volume(tmp_path / "a.npy").remarks)
    assert "after its voxels" not in " ".join(read_volume(tmp_path / "b.npy").remarks)


def test_a_stack_of_imagej_in_one_page_is_refused(tmp_path: Path):
    image = Image.fromarray(smooth((20, 24)).astype(np.uint8))
    for name, count in (("a", 32), ("b", 1)):
        image.save(tmp_path / f"{name}.tif", description=f"ImageJ=1.54f\nimages={count}\nslices={count}\nloop=false\n")
    assert "is an ImageJ stack of 32 images" in complaint(tmp_path / "a.tif")
    assert read_volume(tmp_path / "b.tif").array.shape == (1, 20, 24)


def test_a_deflated_series_has_the_values_of_the_plain_one(tmp_path: Path):
    for name in ("plain", "deflated"):
        (tmp_path / name).mkdir()
        write_series(tmp_path / name, smooth((6, 9, 7)), uid="1.2.7")
    for path in (tmp_path / "deflated").iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    plain, deflated = (read_volume(tmp_path / name) for name in ("plain", "deflated"))
    np.testing.assert_array_equal(deflated.array, plain.array)
    np.testing.assert_array_equal(deflated.affine, plain.affine)


def scales(*slopes: float) -> list[Dataset]:
    found = []
    for slope in slopes:
        scale = Dataset()
        scale.RealWorldValueSlope, scale.RealWorldValueIntercept = slope, 0.0
        found.append(scale)
    return found


@pytest.mark.parametrize(("later", "is_read"), [(1.0, True), (3.0, False)])
def test_scales_that_are_real_world_values_alone_must_be_one(tmp_path: Path, later: float, is_read: bool):
    write_series(tmp_path, smooth((5, 9, 7)))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        data = pydicom.dcmread(path)
        del data.RescaleSlope, data.RescaleIntercept
        data.RealWorldValueMappingSequence = scales(1.0 if number < 3 else later)
        data.save_as(path)
    if is_read:
        assert read_volume(tmp_path).array.shape == (7, 9, 5)
    else:
        assert "no RescaleSlope, and 2 scales in its RealWorldValueMappings" in complaint(tmp_path)


def test_kinds_of_frames_of_an_enhanced_ct_are_stacks_of_their_own(tmp_path: Path):
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    path = write_enhanced(
        tmp_path / "a.dcm", groups={"CTImageFrameTypeSequence": kind}, ImageType=["ORIGINAL", "PRIMARY", "VOLUME"]
    )
    assert "holds 2 stacks" in complaint(path)


def test_pixels_beyond_the_declared_frames_are_refused(tmp_path: Path):
    path = write_enhanced(tmp_path / "a.dcm")
    rewrite(path, PixelData=STORED.astype(np.uint16).tobytes() * 2)
    assert "bytes more of pixels than its header declares" in complaint(path)


def test_two_names_without_a_patient_id_are_two_patients(tmp_path: Path):
    write_series(tmp_path, smooth((5, 9, 7)))
    for number, path in enumerate(sorted(tmp_path.iterdir())):
        rewrite(path, PatientID="", PatientName="A" if number < 3 else "B")
    assert "has slices of several patients" in complaint(tmp_path)
