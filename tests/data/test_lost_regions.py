"""Masks and labels that have no voxel left on the grid of a store: said, since nothing else would show it."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from hagan3d.data.io.geometry import GridRule, grid_of, to_grid
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import inspect, prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.preprocess.volume import LOST
from hagan3d.data.store.store import Store
from tests.data.conftest import smooth

SIDE, NAMES = 96, ("background", "organ", "lesion")
COARSE, FINE = (32, 32, 32), (96, 96, 96)


def write(path: Path, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def region(voxels: int) -> np.ndarray:
    """A cube of 1, ``voxels`` wide, at a corner between voxels of the coarse grid."""
    array = np.zeros((SIDE,) * 3, np.uint8)
    array[(slice(30, 30 + voxels),) * 3] = 1
    return array


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for seed, name in enumerate(("source", "target")):
        write(tmp_path / f"{name}.nii.gz", smooth((SIDE,) * 3, seed))
    return tmp_path


@pytest.mark.parametrize(
    ("voxels", "size", "lost"), [(1, COARSE, True), (1, FINE, False), (12, COARSE, False)], ids=str
)
def test_a_mask_without_voxels_on_the_grid_is_told(volumes: Path, voxels: int, size, lost: bool):
    write(volumes / "mask.nii.gz", region(voxels))
    (volumes / "pairs.csv").write_text("id,source,target,mask\na,source.nii.gz,target.nii.gz,mask.nii.gz")
    config = PrepareConfig(size=size, validation=0.0, workers=1)
    remarks = inspect(find_pairs([volumes / "pairs.csv"]), config, progress=False).remarks
    expected = [f"{volumes / 'mask.nii.gz'}: has no voxel {LOST}; nothing is measured in it"]
    assert list(remarks) == (expected if lost else [])


@pytest.mark.parametrize(("voxels", "lost"), [(1, True), (12, False)])
def test_labels_without_voxels_on_the_grid_are_told(volumes: Path, voxels: int, lost: bool):
    label_map = np.zeros((SIDE,) * 3, np.uint8)
    label_map[20:70, 20:70, 20:70] = 1
    label_map[region(voxels) > 0] = 2
    write(volumes / "labels.nii.gz", label_map)
    (volumes / "cases.csv").write_text("id,t1,seg\na,source.nii.gz,labels.nii.gz")
    config = PrepareConfig(size=COARSE, validation=0.0, workers=1, label_names=NAMES)
    done = prepare(volumes / "cases.csv", volumes / "a.h5", config, progress=False)
    expected = [f"{volumes / 'labels.nii.gz'}: has no voxel of lesion {LOST}"]
    assert list(done.remarks) == (expected if lost else [])
    assert (2 in Store(done.path).label_map(0)) is not lost


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize(("fit", "spacing"), [("resize", None), ("crop-pad", (3.0, 2.0, 2.5))])
def test_the_grid_alone_is_that_of_the_resampled_volume(fit: str, spacing, trim: bool):
    affine = np.diag([-1.0, 2.0, 1.5, 1.0])
    affine[:3, 3] = 5, -3, 8
    array = np.pad(smooth((20, 18, 16), 3), 4)
    rule = GridRule((7, 8, 9), "LPS", "coronal", spacing, fit, trim)
    np.testing.assert_array_equal(grid_of(array, affine, rule), to_grid(array, affine, rule)[1])
