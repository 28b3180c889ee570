"""Tables of files in which something was copied or named wrongly: refused or told, since nothing else would show it."""

from pathlib import Path

import pytest

from hagan3d.data.io.listing import scans_in
from hagan3d.data.preprocess.inputs import collect_inputs
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import inspect, prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.errors import InputError
from hagan3d.inference.augmentation import check_out
from hagan3d.inference.inputs import is_store
from tests.data.conftest import smooth

CONFIG = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.0)


@pytest.fixture
def files(tmp_path: Path, nifti) -> Path:
    for number, name in enumerate(("a", "b", "c", "d")):
        nifti(f"{name}.nii.gz", smooth((34, 35, 36), number))
    (tmp_path / "copy.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    return tmp_path


def test_a_target_that_is_a_copy_of_its_source_is_refused(files: Path):
    (files / "pairs.csv").write_text("id,source,target\nx,copy.nii.gz,a.nii.gz\ny,b.nii.gz,c.nii.gz\n")
    (problem,) = inspect(find_pairs([files / "pairs.csv"]), CONFIG, progress=False).problems
    assert problem.startswith(f"{files / 'copy.nii.gz'}: has the same voxels as {files / 'a.nii.gz'}")


def test_two_channels_that_are_copies_are_refused(files: Path):
    (files / "cases.csv").write_text("id,t1,t2\nx,a.nii.gz,copy.nii.gz\ny,b.nii.gz,c.nii.gz\n")
    (problem,) = inspect(files / "cases.csv", CONFIG, progress=False).problems
    assert "has the same voxels as" in problem and problem.endswith("(t1); give the file of t2")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("id,source,target", "has the columns source and target, of pairs; use it as --pairs"),
        ("id,Source,Target", "use it as --pairs"),
        ("id,t1,mask", "has a column mask, which would be an image channel; use --masks"),
    ],
)
def test_columns_of_other_tables_are_no_channels(files: Path, header: str, reason: str):
    (files / "cases.csv").write_text(f"{header}\nx,a.nii.gz,b.nii.gz\n")
    with pytest.raises(InputError, match=reason):
        collect_inputs(files / "cases.csv", CONFIG)


@pytest.mark.parametrize("cell", ["", "n/a"])
def test_a_missing_subject_is_told(files: Path, cell: str):
    (files / "cases.csv").write_text(f"id,subject,t1\nx,p1,a.nii.gz\ny,{cell},b.nii.gz\n")
    expected = "subject is missing in 1 of 2 lines: y"
    assert any(expected in line for line in collect_inputs(files / "cases.csv", CONFIG).remarks)
    (files / "labels.csv").write_text(f"id,subject,class\na,p1,k\nb,{cell},k\nc,p2,k\nd,p3,k\n")
    (files / "copy.nii.gz").unlink()
    labelled = PrepareConfig(size=(32, 32, 32), workers=1, labels=str(files / "labels.csv"))
    assert any("subject is missing in 1 of 4 lines: b" in line for line in collect_inputs([files], labelled).remarks)


def test_a_folder_with_a_store_and_scans_is_neither(files: Path):
    prepare([files / "a.nii.gz", files / "b.nii.gz"], files / "store.h5", CONFIG, progress=False)
    with pytest.raises(InputError, match=r"holds both a store \(store.h5\) and scans \(5, such as a.nii.gz\)"):
        is_store(files)
    assert is_store(files / "store.h5") and not is_store(files / "a.nii.gz")
    for scan in scans_in(files):
        scan.unlink()
    assert is_store(files)  # its picture is no scan


@pytest.mark.parametrize("force", [False, True])
def test_an_augmented_store_does_not_join_the_shards_of_its_own(tmp_path: Path, force: bool):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "shard-001-of-002.h5").touch()
    for name in ("shard-001-of-002.h5", "more.h5"):
        with pytest.raises(InputError, match="lies among the shards of"):
            check_out(shards / name, shards, force)
    check_out(tmp_path / "more.h5", shards, force)
