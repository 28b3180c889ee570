"""Pixels of DICOM in encodings that pydicom does not decode itself: as those of the plain file, or refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import uid
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames

from hagan3d.data.io.volumes import read_volume
from hagan3d.errors import InputError
from tests.data.conftest import rewrite, smooth, write_series
from tests.data.test_dicom import write_enhanced

KINDS = (
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.EnhancedPETImageStorage,
    uid.EnhancedUSVolumeStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.OphthalmicTomographyImageStorage,
)


def compress(path: Path) -> None:
    """Compress a file as JPEG lossless, which GDCM writes and pydicom has no decoder for."""
    data = pydicom.dcmread(path)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    packed, copy = [], path.with_name("packed")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(copy))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    for frame in frames:
        writer.Execute(sitk.GetImageFromArray(frame[None]))
        written = pydicom.dcmread(copy)
        packed += generate_frames(written.PixelData, number_of_frames=1)
    copy.unlink()
    data.PixelData = encapsulate(packed)
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    data.save_as(path)
    with pytest.raises(RuntimeError):
        _ = pydicom.dcmread(path).pixel_array


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("slopes", [None, {k: 3 + k / 8 for k in range(5)}], ids=["one slope", "a slope per frame"])
def test_a_compressed_multi_frame_file_has_the_values_of_the_plain_one(tmp_path: Path, kind: str, slopes):
    path = write_enhanced(tmp_path / "a.dcm", [4, 2, 0, 1, 3], slopes=slopes, SOPClassUID=kind)
    expected = read_volume(path)
    compress(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)


@pytest.mark.parametrize("shown", ["MONOCHROME1", "MONOCHROME2"])
def test_a_compressed_series_has_the_values_of_the_plain_one(tmp_path: Path, shown: str):
    write_series(tmp_path, array := smooth((3, 16, 12)), slopes=[1, 2, 0.5])
    stored = array.astype(np.float64) + 1024
    for path in sorted(tmp_path.iterdir()):
        rewrite(path, PhotometricInterpretation=shown)
        compress(path)
    expected = stored * np.array([1, 2, 0.5])[:, None, None] - 1024
    np.testing.assert_array_equal(read_volume(tmp_path).array, expected.transpose(2, 1, 0))


def test_a_compressed_slice_that_is_truncated_is_named(tmp_path: Path):
    write_series(tmp_path, smooth((3, 16, 12)))
    for path in sorted(tmp_path.iterdir()):
        compress(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="DICOM pixels cannot be read: truncated") as caught:
        read_volume(tmp_path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_a_file_without_transfer_syntax_has_that_of_its_header(tmp_path: Path, implicit: bool, little: bool):
    write_series(tmp_path, array := smooth((4, 5, 6)))
    for path in sorted(tmp_path.iterdir()):
        data = pydicom.dcmread(path)
        data.PixelData = data.pixel_array.astype("<u2" if little else ">u2").tobytes()
        data.file_meta, data.preamble = FileMetaDataset(), None
        pydicom.dcmwrite(path, data, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    np.testing.assert_array_equal(read_volume(tmp_path).array, array.transpose(2, 1, 0))
