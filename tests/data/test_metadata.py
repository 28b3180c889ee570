"""Labels, subjects and splits."""

from pathlib import Path

import numpy as np
import pytest

from hagan3d.data.preprocess.metadata import match_rows, read_labels, split_of, subject_of
from hagan3d.errors import InputError


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_ids_classes_subjects_and_numbers_are_found(tmp_path: Path):
    path = csv_of(tmp_path, "MRID,Age,Sex,subject,note\na1,38.5,M,s1,hello\na2,,F,s1,\na10,20,,s2,x\n")
    labels = read_labels(path, "sex")
    assert labels.class_names == ("F", "M") and labels.columns == ("Age",)
    assert [labels.label(row) for row in labels.rows.values()] == [1, 0, -1]
    assert labels.rows["a1"].subject == "s1" and np.isnan(labels.rows["a2"].columns["Age"])


def test_classes_that_are_numbers_are_sorted_by_value(tmp_path: Path):
    assert read_labels(csv_of(tmp_path, "id,class\na,10\nb,2\nc,0\n"), "class").class_names == ("0", "2", "10")


def test_a_row_is_matched_by_the_longest_whole_beginning(tmp_path: Path):
    labels = read_labels(csv_of(tmp_path, "id,class\nsub-1,a\nsub-1_left,b\nsub-10,c\nsub-3,d\n"), "class")
    found, missing, unknown = match_rows(labels, ["sub-1_left_t1", "sub-1_right", "sub-10", "sub-2"])
    assert {key: row.class_name for key, row in found.items()} == {
        "sub-1_left_t1": "b",
        "sub-1_right": "a",
        "sub-10": "c",
    }
    assert missing == ["sub-2"] and unknown == ["sub-3"]


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("name,class\na,1\n", "class", "no id column"),
        ("id,class\na,1\na,2\n", "class", "repeated or empty"),
        ("id,class\n,1\n", "class", "repeated or empty"),
        ("id,class\na,1\n", "Sex", "no column 'Sex'"),
        ("id,class\na\n", "class", "line 2 and the header differ"),
        ("id,class\n", "class", "no lines below its header"),
    ],
)
def test_a_labels_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, column: str, reason: str):
    with pytest.raises(InputError, match=reason) as caught:
        read_labels(csv_of(tmp_path, text), column)
    assert "labels.csv" in str(caught.value)


def test_subject_rules():
    assert subject_of("scan_007", None) == "scan_007"
    assert subject_of("hippocampus_001", "pairs") == subject_of("hippocampus_002", "pairs")
    assert subject_of("hippocampus_002", "pairs") != subject_of("hippocampus_003", "pairs")
    assert subject_of("sub-12_ses-2_T1w", r"sub-(\d+)") == "12"
    for name, rule in (("scan", "pairs"), ("scan", r"sub-(\d+)"), ("scan", "("), ("scan", "s.*n")):
        with pytest.raises(InputError):
            subject_of(name, rule)


def test_splits_are_a_function_of_seed_and_subject_with_the_fractions_asked_for():
    names = [f"s{number}" for number in range(4000)]
    splits = np.array([split_of(name, 3, 0.2, 0.1) for name in names])
    assert list(splits) == [split_of(name, 3, 0.2, 0.1) for name in names]
    assert abs((splits == "validation").mean() - 0.2) < 0.02 and abs((splits == "test").mean() - 0.1) < 0.02
    assert (splits != np.array([split_of(name, 4, 0.2, 0.1) for name in names])).any()
