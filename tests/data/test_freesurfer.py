"""FreeSurfer volumes: voxels and geometry as those of the same volume in NIfTI; damaged files in one line."""

import gzip

import nibabel
import numpy as np
import pytest

from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import read_volume
from hagan3d.errors import InputError


@pytest.fixture
def image():
    array = np.random.default_rng(0).integers(0, 200, (8, 9, 10)).astype(np.int16)
    affine = nibabel.affines.from_matvec(np.array([[-0.9, 0, 0], [0, 0, 1.1], [0, -1.2, 0]]), [30, -20, 10])
    return nibabel.Nifti1Image(array, affine)


@pytest.mark.parametrize("ending", [".mgz", ".mgh", ".MGZ"])
def test_it_is_the_volume_that_nifti_holds(image, tmp_path, ending):
    nibabel.save(nibabel.MGHImage(image.get_fdata().astype(np.int16), image.affine), tmp_path / "a.mgz")
    content = (tmp_path / "a.mgz").read_bytes()
    path = tmp_path / f"head{ending}"
    path.write_bytes(gzip.decompress(content) if ending == ".mgh" else content)
    (tmp_path / "a.mgz").unlink()
    nibabel.save(image, tmp_path / "head.nii.gz")
    found, expected = read_volume(path), read_volume(tmp_path / "head.nii.gz")
    np.testing.assert_array_equal(found.array, expected.array)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    (tmp_path / "head.nii.gz").unlink()
    assert [volume.id for volume in find_volumes(tmp_path)] == ["head"]


def test_what_is_no_volume_is_told_in_one_line(image, tmp_path):
    path = tmp_path / "head.mgz"
    nibabel.save(nibabel.MGHImage(image.get_fdata().astype(np.float32), image.affine), path)
    content, plain = path.read_bytes(), gzip.decompress(path.read_bytes())
    for bad in (content[: len(content) // 2], b"no volume", b"", gzip.compress(plain[:400]), gzip.compress(b"x" * 999)):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"truncated or damaged|is empty|not a FreeSurfer volume"):
            read_volume(path)


def test_a_series_in_time_is_refused(tmp_path):
    nibabel.save(nibabel.MGHImage(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "bold.mgz")
    with pytest.raises(InputError, match="got 4D"):
        read_volume(tmp_path / "bold.mgz")
