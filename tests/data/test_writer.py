"""Volumes written slab by slab are those that nibabel writes whole."""

from itertools import product
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from hagan3d.data.io import writer
from hagan3d.data.io.geometry import stored_code, to_output_axes
from hagan3d.data.io.writer import thin, volume_writer
from hagan3d.errors import InputError

SIZE = (6, 5, 4)


def stored_affine(code: str) -> np.ndarray:
    """Of a stored volume whose axes run as `code` says, a little oblique."""
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, letter in enumerate(code):
        row, sign = axes[letter]
        affine[row, column] = sign * (1.0 + column / 2)
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (-31, 40, 7.5)
    return affine


def voxels(kind: str) -> np.ndarray:
    random = np.random.default_rng(0).random(SIZE, dtype=np.float32)
    return {"hu": random * 1600 - 1000, "small": random * 3 - 1, "whole": np.rint(random * 90), "zero": random * 0}[
        kind
    ]


def written_whole(path: Path, array: np.ndarray, affine: np.ndarray, orientation: str, dtype: str) -> None:
    """What nibabel makes of a volume that is in memory."""
    array, affine = to_output_axes(array, affine, orientation)
    if dtype == "int16" and (np.ptp(array) >= 1000 or np.array_equal(array, np.rint(array))):
        array = np.rint(array).astype(np.int16)
    image = nibabel.Nifti1Image(array, affine)
    image.set_data_dtype(dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write(path: Path, array: np.ndarray, affine: np.ndarray, orientation: str, dtype: str) -> None:
    with volume_writer(path, SIZE, affine, orientation, dtype) as add:  # type: ignore[arg-type]
        for first in range(0, SIZE[0], 4):  # the last slab is thinner
            add(array[first : first + 4])


@pytest.mark.parametrize(
    ("axis", "orientation"), list(product(["axial", "coronal", "sagittal"], ["RAS", "LPI", "SRA"]))
)
@pytest.mark.parametrize(("kind", "dtype"), [("hu", "float32"), ("hu", "int16"), ("small", "int16"), ("zero", "int16")])
def test_every_orientation_gives_the_bytes_that_nibabel_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: str, orientation: str, kind: str, dtype: str
):
    monkeypatch.setattr(writer, "BLOCK_BYTES", 300)  # several blocks
    affine = stored_affine(stored_code(orientation, axis))  # type: ignore[arg-type]
    write(tmp_path / "slabs.nii", voxels(kind), affine, orientation, dtype)
    written_whole(tmp_path / "whole.nii", voxels(kind), affine, orientation, dtype)
    assert (tmp_path / "slabs.nii").read_bytes() == (tmp_path / "whole.nii").read_bytes()


@pytest.mark.parametrize("code", ["SAR", "IAR", "ASR", "RSA", "RAS", "LPI", "ARI"])
@pytest.mark.parametrize("kind", ["hu", "whole", "small"])
def test_axes_may_be_mirrored_and_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: str):
    monkeypatch.setattr(writer, "BLOCK_BYTES", 300)
    for dtype in ("float32", "int16"):
        write(tmp_path / "slabs.nii.gz", voxels(kind), stored_affine(code), "RAS", dtype)
        written_whole(tmp_path / "whole.nii.gz", voxels(kind), stored_affine(code), "RAS", dtype)
        slabs, whole = nibabel.load(tmp_path / "slabs.nii.gz"), nibabel.load(tmp_path / "whole.nii.gz")
        assert slabs.header == whole.header
        np.testing.assert_array_equal(slabs.affine, whole.affine)
        np.testing.assert_array_equal(np.asarray(slabs.dataobj), np.asarray(whole.dataobj))


def test_broken_voxels_are_written_as_nibabel_writes_them(tmp_path: Path):
    array = voxels("hu")
    array[2, 3, 1], array[4, 0, 0] = np.nan, np.inf
    write(tmp_path / "slabs.nii", array, stored_affine("ASR"), "RAS", "int16")
    out, affine = to_output_axes(array, stored_affine("ASR"), "RAS")
    image = nibabel.Nifti1Image(out, affine)
    image.set_data_dtype("int16")
    nibabel.save(image, tmp_path / "whole.nii")
    slabs, whole = (np.asarray(nibabel.load(tmp_path / name).dataobj) for name in ("slabs.nii", "whole.nii"))
    np.testing.assert_array_equal(slabs, whole)


@pytest.mark.parametrize(("kind", "dtype"), [("hu", "float32"), ("hu", "int16"), ("small", "int16")])
def test_hdf5_holds_the_stored_volume_and_its_place(tmp_path: Path, kind: str, dtype: str):
    write(tmp_path / "a.h5", voxels(kind), stored_affine("SAR"), "RAS", dtype)
    with h5py.File(tmp_path / "a.h5") as file:
        held = file["voxels"]
        assert held.dtype == dtype and held.shape == SIZE
        np.testing.assert_array_equal(held.attrs["affine"], stored_affine("SAR"))
        values = held[:] * held.attrs["slope"] + held.attrs["intercept"]
    atol = {"hu": 0.5, "small": 3e-5}[kind] if dtype == "int16" else 0
    np.testing.assert_allclose(values, voxels(kind), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.h5"])
@pytest.mark.parametrize("code", ["SAR", "ASR"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_write_that_is_interrupted_leaves_nothing(tmp_path: Path, name: str, code: str, stop: type[BaseException]):
    with pytest.raises(stop), volume_writer(tmp_path / name, SIZE, stored_affine(code), "RAS") as add:
        add(voxels("hu")[:4])
        raise stop
    assert not list(tmp_path.iterdir())


def test_too_few_or_too_many_slices_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="expected 6 slices, got 4"):  # noqa: SIM117
        with volume_writer(tmp_path / "a.nii", SIZE, stored_affine("SAR"), "RAS") as add:
            add(voxels("hu")[:4])
    with pytest.raises(ValueError, match="up to slice 8"):  # noqa: SIM117
        with volume_writer(tmp_path / "a.nii", SIZE, stored_affine("SAR"), "RAS") as add:
            add(voxels("hu")[:4])
            add(voxels("hu")[:4])
    with pytest.raises(InputError, match="a.png: the name of a volume file must end in .nii, .nii.gz, .h5"):
        volume_writer(tmp_path / "a.png", SIZE, np.eye(4), "RAS").__enter__()
    assert not list(tmp_path.iterdir())


def test_a_slab_is_cut_into_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "BLOCK_BYTES", 2 * 4 * 5 * 4)
    assert [len(piece) for piece in thin(np.zeros((7, 5, 4)))] == [2, 2, 2, 1]
