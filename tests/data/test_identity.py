"""Subjects where names and headers leave them open: nothing of one study in two splits, and what is assumed is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hagan3d.data.preprocess.inputs import collect_inputs
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.pipeline import inspect
from hagan3d.data.preprocess.settings import PrepareConfig
from tests.data.conftest import rewrite, smooth

CONFIG = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.4)


def subjects(folder: Path) -> tuple[list[str], list[str]]:
    found = collect_inputs([folder], CONFIG)
    return [found.subject(file, None) for file in found.files], found.remarks


@pytest.fixture
def studies(tmp_path: Path, series):
    def write(*headers: tuple[str, str]) -> Path:
        for number, (patient, study) in enumerate(headers):
            folder = series(f"dicom/scan{number}", smooth((8, 9, 7), number))
            for path in folder.iterdir():
                rewrite(path, PatientID=patient, StudyInstanceUID=f"1.2.{study}")
        return tmp_path / "dicom"

    return write


def test_series_of_one_study_without_a_patient_are_of_one_subject(studies):
    found, remarks = subjects(studies(("", "1"), ("", "1"), ("", "2"), ("", "2"), ("", "3")))
    assert found == ["1.2.1", "1.2.1", "1.2.2", "1.2.2", "scan4"]
    assert any("5 DICOM volumes have no PatientID" in line and "(3 subjects)" in line for line in remarks)


def test_a_series_without_a_patient_is_of_that_of_its_study(studies):
    found, _ = subjects(studies(("P1", "1"), ("", "1"), ("P2", "2"), ("", "3")))
    assert found == ["P1", "P1", "P2", "scan3"]


def test_all_of_one_study_without_a_patient_are_told(studies):
    found, (remark,) = subjects(studies(("", "1"), ("", "1")))
    assert found == ["1.2.1"] * 2 and "all 2 DICOM volumes are of one study and have no PatientID" in remark


def test_folders_that_may_be_patients_are_told(tmp_path: Path):
    for patient in ("a", "b", "c"):
        (tmp_path / "in" / patient).mkdir(parents=True)
        for number in range(2):
            image = smooth((34, 34), number).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "in" / patient / f"{number:03d}.png")
    found = collect_inputs([tmp_path / "in"], CONFIG)
    expected = f"{tmp_path / 'in' / 'a'} and 2 more folders hold several volumes each"
    assert [line for line in found.remarks if line.startswith(expected)]
    by_rule = PrepareConfig(size=(1, 32, 32), subject="^([abc])", workers=1)
    assert not [line for line in collect_inputs([tmp_path / "in"], by_rule).remarks if "folders hold" in line]
    for patient in ("a", "b", "c"):
        (tmp_path / "in" / patient / "001.png").unlink()  # a folder for each subject
    assert collect_inputs([tmp_path / "in"], CONFIG).remarks == []


def test_kinds_of_a_bids_folder_are_counted(tmp_path: Path, nifti):
    for subject in ("sub-01", "sub-02"):
        for kind in ("T1w", "mask"):
            nifti(f"bids/{subject}/anat/{subject}_{kind}.nii.gz", smooth((6, 5, 4)))
    found, remarks = subjects(tmp_path / "bids")
    assert found == ["sub-01", "sub-01", "sub-02", "sub-02"]
    assert any("are taken as one channel (T1w 2, mask 2)" in line for line in remarks)
    nifti("other/sub-01_T1w.nii.gz", smooth((6, 5, 4)))
    nifti("other/sub-02_T1w.nii.gz", smooth((6, 5, 4)))
    assert subjects(tmp_path / "other")[1] == []


def test_a_file_of_two_cases_is_told(tmp_path: Path, nifti):
    for name in ("a", "b", "c"):
        nifti(f"{name}.nii.gz", smooth((34, 35, 36), ord(name)))
    nifti("seg.nii.gz", np.ones((34, 35, 36), np.uint8))
    (tmp_path / "pairs.csv").write_text("id,source,target\nx,a.nii.gz,c.nii.gz\ny,b.nii.gz,c.nii.gz\n")
    found = inspect(find_pairs([tmp_path / "pairs.csv"]), CONFIG, progress=False)
    assert f"{tmp_path / 'c.nii.gz'}: is named by 2 volumes (x, y), which are taken as one subject" in found.remarks
    (tmp_path / "cases.csv").write_text("id,t1,seg\nx,a.nii.gz,seg.nii.gz\ny,b.nii.gz,seg.nii.gz\n")
    labelled = PrepareConfig(size=(32, 32, 32), workers=1, label_names=("background", "organ"))
    found = inspect(tmp_path / "cases.csv", labelled, progress=False)
    assert (
        f"{tmp_path / 'seg.nii.gz'}: is named by 2 volumes (x, y), which have this label map in common" in found.remarks
    )
