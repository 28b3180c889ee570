"""Files that do not say where their voxels lie: they fit the same grid, and are resampled onto no other."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from hagan3d.data.io.freesurfer import GOOD_RAS
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import inspect, prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.preprocess.volume import check_overlap
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration.segmentation import read_label_maps
from tests.data.conftest import smooth

SHAPE = (36, 34, 32)
PLACED = np.array([[-1.0, 0, 0, 20], [0, 1.0, 0, -17], [0, 0, 1.0, -16], [0, 0, 0, 1]])


def no_codes(path: Path, array: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(array, PLACED)
    image.header["sform_code"] = image.header["qform_code"] = 0
    image.header["vox_offset"] = 352
    path = path.with_name(f"{path.name}.nii")
    path.write_bytes(image.header.binaryblock + bytes(4) + array.tobytes("F"))
    return path


def bare(path: Path, array: np.ndarray, header: str, kinds: dict[str, str]) -> Path:
    """Write voxels after a text header that has neither directions nor an origin."""
    sides = " ".join(map(str, array.shape))
    path.write_bytes(header.format(kind=kinds[array.dtype.name], sides=sides).encode() + array.tobytes("F"))
    return path


def bare_nrrd(path: Path, array: np.ndarray) -> Path:
    header = "NRRD0004\ntype: {kind}\ndimension: 3\nsizes: {sides}\nspacings: 1 1 1\nendian: little\nencoding: raw\n\n"
    return bare(path.with_name(f"{path.name}.nrrd"), array, header, {"int16": "short", "uint8": "uchar"})


def bare_meta(path: Path, array: np.ndarray) -> Path:
    header = "NDims = 3\nDimSize = {sides}\nElementSpacing = 1 1 1\nElementType = {kind}\nElementDataFile = LOCAL\n"
    return bare(path.with_name(f"{path.name}.mha"), array, header, {"int16": "MET_SHORT", "uint8": "MET_UCHAR"})


def freesurfer(path: Path, array: np.ndarray) -> Path:
    path = path.with_name(f"{path.name}.mgh")
    nibabel.save(nibabel.MGHImage(array.astype(np.float32), PLACED), path)
    content = bytearray(path.read_bytes())
    content[GOOD_RAS] = bytes(2)
    path.write_bytes(content)
    return path


def numpy_file(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path.with_name(f"{path.name}.npy")


UNPLACED = [no_codes, bare_nrrd, bare_meta, freesurfer, numpy_file]


def placed(path: Path, array: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, PLACED), path)
    return path


def labels_of(number: int) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[4 + number : 20, 6:20, 5:22] = 1
    return array


@pytest.mark.parametrize("write", UNPLACED, ids=lambda write: write.__name__)
def test_a_file_without_a_place_fits_the_same_grid_alone(tmp_path: Path, write):
    scan = read_volume(placed(tmp_path / "scan.nii.gz", smooth(SHAPE)))
    without, twin, larger = (
        read_volume(write(tmp_path / name, smooth(shape)))
        for name, shape in (("a", SHAPE), ("b", SHAPE), ("c", (40, 34, 32)))
    )
    assert scan.is_placed and not without.is_placed and without.remarks
    check_overlap(without, twin)
    for one, other in ((without, scan), (scan, without), (without, larger)):
        with pytest.raises(InputError, match="a.*: does not say where it lies, and its grid is not that of"):
            check_overlap(one, other)


def test_images_fit_images_of_the_same_size_alone(tmp_path: Path):
    for name, side in (("a", 40), ("b", 40), ("c", 48)):
        Image.fromarray(smooth((side, side), ord(name)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    for target, problems in (("b", 0), ("c", 1)):
        (tmp_path / "pairs.csv").write_text(f"id,source,target\nx,a.png,{target}.png")
        found = inspect(find_pairs([tmp_path / "pairs.csv"]), PrepareConfig(size=(1, 32, 32)), progress=False)
        assert len(found.problems) == problems
    assert "a.png: does not say where it lies, and its grid is not that of" in found.problems[0]


@pytest.mark.parametrize("write", UNPLACED, ids=lambda write: write.__name__)
def test_a_label_map_without_a_place_is_not_resampled_onto_a_scan(tmp_path: Path, write):
    placed(tmp_path / "scan.nii.gz", smooth(SHAPE))
    path = write(tmp_path / "labels", labels_of(0))
    (tmp_path / "cases.csv").write_text(f"id,t1,seg\na,scan.nii.gz,{path.name}")
    config = PrepareConfig(size=(32, 32, 32), label_names=("background", "organ"), validation=0, workers=1)
    with pytest.raises(InputError, match=rf"{path.name}: does not say where it lies.* that of .*scan\.nii\.gz"):
        prepare(tmp_path / "cases.csv", tmp_path / "s.h5", config, progress=False)


@pytest.mark.parametrize("trim", [False, True])
def test_arrays_are_the_label_maps_of_arrays_and_not_of_scans(tmp_path: Path, trim: bool):
    for name, write in (("arrays", numpy_file), ("scans", lambda path, x: placed(path.with_suffix(".nii.gz"), x))):
        (tmp_path / name).mkdir()
        for number in range(3):
            write(tmp_path / name / f"v{number}", smooth(SHAPE, number))
    (tmp_path / "labels").mkdir()
    for number in range(3):
        numpy_file(tmp_path / "labels" / f"v{number}", labels_of(number))
    config = PrepareConfig(size=(32, 32, 32), validation=0, workers=1, trim=trim)
    arrays, scans = (
        Store(prepare(tmp_path / name, tmp_path / f"{name}.h5", config, progress=False).path)
        for name in ("arrays", "scans")
    )
    with pytest.raises(InputError, match=r"v0\.npy: does not say where it lies.* v0 in .*scans\.h5"):
        read_label_maps(scans, tmp_path / "labels", range(3))
    if trim:  # margins were left out that nothing tells of
        with pytest.raises(InputError, match="does not say where it lies"):
            read_label_maps(arrays, tmp_path / "labels", range(3))
    else:
        assert read_label_maps(arrays, tmp_path / "labels", range(3)).labels == (1,)


def test_a_written_affine_says_where_a_file_lies(tmp_path: Path):
    image = SimpleITK.GetImageFromArray(smooth((5, 6, 7)))
    for name in ("a.mha", "a.nrrd", "a.nii.gz"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        assert read_volume(tmp_path / name).is_placed
