"""Labels, subjects and splits."""

from pathlib import Path

import numpy as np
import pytest

from hagan3d.data.preprocess.cases import find_table
from hagan3d.data.preprocess.inputs import collect_inputs
from hagan3d.data.preprocess.metadata import match_rows, read_labels, read_table, splits_of, subject_of
from hagan3d.data.preprocess.pairing import find_domains, find_pairs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from tests.data.conftest import rewrite, smooth


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
    assert subject_of("site2_003_left", "pairs") == subject_of("site2_004_left", "pairs") == "site2_2_left"
    assert subject_of("sub-12_ses-2_T1w", r"sub-(\d+)") == "12"
    for name, rule in (("scan", "pairs"), ("scan", r"sub-(\d+)"), ("scan", "("), ("scan", "s.*n")):
        with pytest.raises(InputError):
            subject_of(name, rule)


def test_splits_are_a_function_of_seed_and_subject_with_the_fractions_asked_for():
    names = [f"s{number}" for number in range(4000)]
    found = splits_of(names, 3, 0.2, 0.1)
    assert found == splits_of(names[::-1], 3, 0.2, 0.1)
    splits = np.array(list(found.values()))
    assert abs((splits == "validation").mean() - 0.2) < 0.02 and abs((splits == "test").mean() - 0.1) < 0.02
    assert found != splits_of(names, 4, 0.2, 0.1)
    assert {name: found[name] for name in names[:100]} == splits_of(names[:100], 3, 0.2, 0.1)


@pytest.mark.parametrize(
    ("count", "validation", "test", "held_out"),
    [(20, 1e-9, 0, 5), (20, 0, 1e-9, 5), (100, 0.02, 0.01, 5), (19, 1e-9, 0, 0), (20, 0, 0, 0), (40, 0.9, 0, None)],
)
def test_small_sets_hold_out_as_many_subjects_as_an_evaluation_needs(count, validation, test, held_out):
    names = [f"s{number}" for number in range(count)]
    splits = splits_of(names, 0, validation, test)
    asked = [name for name in names if splits[name] != "train"]
    assert len(asked) == held_out if held_out is not None else len(asked) > 30
    assert not test or validation or set(splits.values()) == {"train", "test"}
    more = splits_of([*names, "another"], 0, validation, test)
    assert count < 20 or not [name for name in names if splits[name] == "train" and more[name] != "train"]


def test_missing_is_missing_whatever_it_is_called(tmp_path: Path):
    text = "id,class,age,score\n001,a,61,1.5\n002,n/a,n/a,2.5\n003,NA,nan,NaN\n010,b,70,3\n"
    labels = read_labels(csv_of(tmp_path, text), "class")
    assert labels.class_names == ("a", "b") and labels.columns == ("age", "score")
    assert [line.rpartition("/")[2] for line in labels.remarks] == [
        "labels.csv: age is missing in 2 of 4 lines: 002, 003",
        "labels.csv: score is missing in 1 of 4 lines: 003",
        "labels.csv: class is missing in 2 of 4 lines: 002, 003",
    ]
    assert [labels.label(row) for row in labels.rows.values()] == [0, -1, -1, 1]
    ages = [row.columns["age"] for row in labels.rows.values()]
    assert ages[::3] == [61, 70] and np.isnan(ages[1:3]).all()


def test_equal_numbers_are_one_class(tmp_path: Path):
    labels = read_labels(csv_of(tmp_path, "id,class\n001,1\n002,1.0\n003,2\n010,01\n"), "class")
    assert labels.class_names == ("1", "2")
    assert [labels.label(row) for row in labels.rows.values()] == [0, 0, 1, 0]
    labels = read_labels(csv_of(tmp_path, "id,class\n001,1.0\n002,nan\n003,2.0\n010,\n"), "class")
    assert labels.class_names == ("1", "2")
    # where some are words, all are
    assert set(read_labels(csv_of(tmp_path, "id,class\na,1\nb,01\nc,x\n"), "class").class_names) == {"01", "1", "x"}


def test_columns_that_are_not_used_are_named(tmp_path: Path):
    text = 'id,age,site,weight,empty\na,61,Bonn,"61,5",\nb,70,Köln,70,n/a\nc,inf,Bonn,80,\n'
    labels = read_labels(csv_of(tmp_path, text), "class")
    assert labels.columns == ()
    said = [line.split(": ", 1)[1] for line in labels.remarks]
    assert said == [
        "the column age is not used, as 'inf' is no number",
        "the column site is not used, as it holds text",
        "the column weight is not used, as '61,5' is no number",
        "the column empty is not used, as all its cells are missing",
    ]


def test_sessions_of_a_participant_are_of_one_subject(tmp_path: Path, nifti):
    for subject in range(1, 7):
        for session in (1, 2):
            nifti(f"in/sub-{subject:02d}_ses-{session}_T1w.nii.gz", smooth((8, 9, 7), 10 * subject + session))
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tage\n" + "".join(f"sub-{s:02d}\t{60 + s}\n" for s in range(1, 7)))
    config = PrepareConfig(size=(32, 32, 32), labels=str(table), validation=0.5)
    store = Store(prepare(tmp_path / "in", tmp_path / "s.h5", config, progress=False).path)
    assert store.subjects == [f"sub-{s:02d}" for s in range(1, 7) for _ in (1, 2)]
    splits = {
        subject: {store.splits[i] for i in range(12) if store.subjects[i] == subject} for subject in store.subjects
    }
    assert all(len(one) == 1 for one in splits.values()) and set.union(*splits.values()) == {"train", "validation"}
    assert store.columns["age"].tolist() == [60 + s for s in range(1, 7) for _ in (1, 2)]


def test_a_patient_of_dicom_is_a_subject_unless_all_are_the_same(tmp_path: Path, series):
    def prepared(names: list[str], output: str, studies: str = "123"):
        for number, (name, study) in enumerate(zip(names, studies, strict=True)):
            folder = series(f"{output}/scan{number}", smooth((8, 9, 7), number))
            for path in folder.iterdir():
                rewrite(path, PatientID=name, StudyInstanceUID=f"1.2.{study}")
        config = PrepareConfig(size=(32, 32, 32), validation=0)
        result = prepare(tmp_path / output, tmp_path / f"{output}.h5", config, progress=False)
        return Store(result.path).subjects, result.remarks

    assert prepared(["P1", "P2", "P1"], "known") == (["P1", "P2", "P1"], ())
    subjects, remarks = prepared(["ANON"] * 3, "anonymous")
    assert subjects == ["scan0", "scan1", "scan2"] and "have the PatientID 'ANON'" in remarks[0]
    subjects, remarks = prepared(["ANON"] * 3, "shared", studies="121")  # CT and PET of one study
    assert subjects == ["1.2.1", "scan1", "1.2.1"] and "(2 subjects)" in remarks[0]
    subjects, remarks = prepared(["P"] * 3, "single", studies="111")
    assert subjects == ["1.2.1"] * 3 and "are of one study and have the PatientID 'P'" in remarks[0]


def test_an_nnunet_folder_is_no_folder_of_scans(tmp_path: Path, nifti):
    nifti("set/imagesTr/a_0000.nii.gz", smooth((6, 5, 4)))
    nifti("set/labelsTr/a.nii.gz", np.ones((6, 5, 4), np.uint8))
    (tmp_path / "set" / "dataset.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"set: holds an nnU-Net data set.*; use --nnunet .*set, or --input .*imagesTr"
    ):
        collect_inputs([tmp_path / "set"], PrepareConfig())
    assert len(collect_inputs([tmp_path / "set" / "imagesTr"], PrepareConfig()).files) == 1


def test_equal_names_in_two_folders_are_a_remark(tmp_path: Path, nifti):
    for name in ("ct/a.nii", "ct/b.nii", "pet/a.nii", "pet/c.nii", "sub/1/t1.nii", "sub/2/t1.nii"):
        nifti(name, smooth((6, 5, 4)))
    (remark,) = collect_inputs([tmp_path / "ct", tmp_path / "pet"], PrepareConfig()).remarks
    assert "ct/a.nii and" in remark and "as 1 in all: they are taken as different subjects; use --pairs" in remark
    assert collect_inputs([tmp_path / "sub"], PrepareConfig()).remarks == []  # a folder for each subject


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id;source;target\na;b;c\n", "'id;source;target', is one cell; use commas between cells"),
        (b'\xef\xbb\xbfid;"source";"target"\na;b;c\n', "is one cell; use commas"),
        (b"sep=;\nid;source\n", "'sep=;', is one cell"),
        (b"id\tsource\na\tb\n", "is one cell; use commas"),
        ("id,source\nä,b\n".encode("cp1252"), "is no text in UTF-8; save it as CSV in UTF-8"),
        ("id,source\nä,b\n".encode("utf-16"), "is no text in UTF-8; save it as CSV in UTF-8"),
    ],
)
def test_tables_of_other_programs_are_told_how_to_be_saved(content: bytes, reason: str, tmp_path: Path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(tmp_path / "table.csv")
    assert reason in str(caught.value)


def test_underscores_are_no_part_of_a_number(tmp_path: Path):
    labels = read_labels(csv_of(tmp_path, "id,class,visit\na,1_0,2020_01\nb,10,2020_02\n"), "class")
    assert labels.class_names == ("10", "1_0") and labels.columns == ()
    assert "the column visit is not used" in labels.remarks[0]


def test_classes_that_differ_in_case_alone_are_a_remark(tmp_path: Path):
    labels = read_labels(csv_of(tmp_path, "id,class\na,Male\nb,male\nc,female\n"), "class")
    assert labels.class_names == ("Male", "female", "male")
    assert len(labels.remarks) == 1 and "Male, male of the column class are 2 classes" in labels.remarks[0]


def test_subjects_that_look_alike_are_a_remark_in_every_table(tmp_path: Path, nifti):
    subjects = ["1", "1.0", "01", "P1", "p1", "n/a", "N/A"]
    paths = [nifti(f"{k}.nii", smooth((6, 5, 4), k)) for k in range(8)]
    labels = csv_of(tmp_path, "id,subject\n" + "".join(f"{k},{name}\n" for k, name in enumerate(subjects)))
    (tmp_path / "c.csv").write_text("id,Subject,t1\n" + "".join(f"{k},{n},{k}.nii\n" for k, n in enumerate(subjects)))
    (tmp_path / "p.csv").write_text(
        "id,subject,source,target\n" + "".join(f"{k},{n},{k}.nii,{paths[7]}\n" for k, n in enumerate(subjects))
    )
    config = PrepareConfig()
    for inputs, settings in (
        (paths[:7], PrepareConfig(labels=str(labels))),
        (tmp_path / "c.csv", config),
        (find_pairs([tmp_path / "p.csv"]), config),
    ):
        told = [line.split(": ", 1)[1] for line in collect_inputs(inputs, settings).remarks]
        assert [line for line in told if "subjects" in line] == [
            "01, 1, 1.0 of the column subject are 3 subjects: write them alike if they are one",
            "P1, p1 of the column subject are 2 subjects: write them alike if they are one",
        ]


def test_names_are_equal_in_composed_and_decomposed_unicode(tmp_path: Path, nifti):
    composed, decomposed = "M\u00fcller", "Mu\u0308ller"
    for name in (decomposed, "b"):
        nifti(f"in/{name}.nii", smooth((6, 5, 4), len(name)))
    text = f"id,subject,class,Gr\u00f6\u00dfe\n{composed},{decomposed},{composed},1\nb,{composed},{decomposed},2\n"
    labels = read_labels(csv_of(tmp_path, text), "class")
    assert labels.class_names == (composed,) and labels.remarks == ()
    config = PrepareConfig(labels=str(tmp_path / "labels.csv"), class_column="class")
    listed = collect_inputs(tmp_path / "in", config)
    assert listed.problems == [] and {listed.subject(file, None) for file in listed.files} == {composed}
    assert read_labels(tmp_path / "labels.csv", "gro\u0308\u00dfe").class_names == ("1", "2")
    assert match_rows(labels, [decomposed])[0].keys() == {decomposed}  # of a store of an older version
    nifti(f"in/{composed}.nii", smooth((6, 5, 4), 9))
    with pytest.raises(InputError, match=f"both have the id .*{composed}"):
        collect_inputs(tmp_path / "in", config)


def test_columns_that_differ_in_case_alone_are_refused_in_every_table(tmp_path: Path):
    for read in (
        lambda path: read_labels(path, "class"),
        lambda path: find_pairs([path]),
        lambda path: find_table(path, ()),
    ):
        for first, second in (("Subject", "subject"), ("id", "ID"), ("t\u00e9", "Te\u0301")):
            path = csv_of(tmp_path, f"id,{first},{second},source,target\na,b,c,d,e\n")
            with pytest.raises(InputError, match="labels.csv: the columns '.*' and '.*' have one name; rename one"):
                read(path)


def test_sessions_of_bids_are_of_one_subject_without_a_table(tmp_path: Path, nifti):
    for number in range(6):
        sub, ses = f"sub-{number // 2:02d}", f"ses-{number % 2}"
        nifti(f"bids/{sub}/{ses}/anat/{sub}_{ses}_T1w.nii.gz", smooth((6, 5, 4), number))
    config = PrepareConfig(size=(32, 32, 32), validation=0.5)
    store = Store(prepare(tmp_path / "bids", tmp_path / "s.h5", config, progress=False).path)
    assert list(store.subjects) == [f"sub-{number // 2:02d}" for number in range(6)]
    domains = find_domains([tmp_path / "bids/sub-00", tmp_path / "bids/sub-00"])
    listed = collect_inputs(domains, config)
    assert {listed.subject(file, None) for file in listed.files} == {"sub-00"}


@pytest.mark.parametrize(
    "names",
    [
        ["sub-01/ses-a1/T1.nii", "sub-01/ses-a2/T1.nii", "sub-02/ses-b1/T1.nii"],
        ["sub-01/scan001.nii", "sub-01/scan002.nii", "sub-02/scan003.nii"],
        ["sub-01/sub-01_a.nii", "x/sub-01.nii.gz", "x/y.nii"],
        ["in_sub-01/a.nii", "in/sub-01_T1/b.nii", "sub-01-2/c.nii"],
    ],
)
def test_a_participant_of_bids_is_one_subject_wherever_its_folder_is_named(tmp_path: Path, nifti, names: list[str]):
    paths = [nifti(f"sub-all/{name}", smooth((6, 5, 4), k)) for k, name in enumerate(names)]
    (tmp_path / "cases.csv").write_text("id,t1\n" + "".join(f"{k},{path}\n" for k, path in enumerate(paths)))
    for inputs in (tmp_path / "sub-all", paths, tmp_path / "cases.csv"):
        listed = collect_inputs(inputs, PrepareConfig())
        subjects = {file.path: listed.subject(file, None) for file in listed.files}
        assert [subjects[path] for path in paths[:2]] == ["sub-01"] * 2
        assert subjects[paths[2]] not in ("sub-01", "sub-all")  # the folder of all tells no subjects apart


def test_a_missing_subject_of_a_table_is_missing_and_a_shared_file_makes_one_subject(tmp_path: Path, nifti):
    for number in range(5):
        nifti(f"{number}.nii", smooth((6, 5, 4), number))
    table = tmp_path / "pairs.csv"
    table.write_text("id,source,target,subject\na,0.nii,1.nii,n/a\nb,2.nii,3.nii,NA\nc,0.nii,4.nii,p\n")
    listed = collect_inputs(find_pairs([table]), PrepareConfig())
    assert [listed.subject(file, None) for file in listed.files] == ["p", "b", "p"]


def test_a_patient_known_from_the_source_of_a_pair_is_a_subject(tmp_path: Path, series, nifti):
    for number, patient in enumerate(["x", "x", "y"]):
        for path in series(f"s{number}", smooth((4, 5, 6), number)).iterdir():
            rewrite(path, PatientID=patient)
        nifti(f"{number}.nii", smooth((6, 5, 4), number))
    table = tmp_path / "pairs.csv"
    table.write_text("id,source,target\n" + "".join(f"{number},s{number},{number}.nii\n" for number in range(3)))
    listed = collect_inputs(find_pairs([table]), PrepareConfig())
    assert [listed.subject(file, None) for file in listed.files] == ["x", "x", "y"]


def test_a_mask_begins_with_the_whole_id_of_its_scan(tmp_path: Path, nifti):
    masks = {"a": nifti("masks/a.nii", smooth((3, 4, 5))), "a1": nifti("masks/a1_mask.nii", smooth((3, 4, 5)))}
    for name in masks:
        nifti(f"in/{name}.nii", smooth((3, 4, 5)))
    config = PrepareConfig(intensity="z-score", masks=str(tmp_path / "masks"))
    assert collect_inputs(tmp_path / "in", config).masks == masks


def test_masks_of_another_patient_are_refused(nifti, tmp_path):
    """Scans p1/v1 and p2/v2 have the ids v1 and v2, and so have the masks p2/v1 and p1/v2."""
    for name in ("in/p1/v1.nii", "in/p2/v2.nii", "same/p1/masks/v1.nii", "same/p2/masks/v2.nii"):
        nifti(name, smooth((3, 4, 5)))
    for name in ("masks/p2/v1.nii", "masks/p1/v2.nii"):
        nifti(name, smooth((3, 4, 5)))
    found = collect_inputs(tmp_path / "in", PrepareConfig(intensity="z-score", masks=str(tmp_path / "same"))).masks
    assert {name: path.parent.parent.name for name, path in found.items()} == {"v1": "p1", "v2": "p2"}
    with pytest.raises(InputError, match="is the mask of v1 by its name, but .*p1/v1.nii lies in other folders"):
        collect_inputs(tmp_path / "in", PrepareConfig(intensity="z-score", masks=str(tmp_path / "masks")))


def test_hidden_copies_of_slices_do_not_hide_a_patient(tmp_path: Path, series):
    for number, name in enumerate(["A", "A", "B"]):
        folder = series(f"in/scan{number}", smooth((4, 5, 6), number))
        for path in list(folder.iterdir()):
            rewrite(path, PatientID=name)
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))  # as macOS leaves them
    listed = collect_inputs([tmp_path / "in"], PrepareConfig())
    assert [listed.subject(file, None) for file in listed.files] == ["A", "A", "B"]


def test_slices_of_a_series_in_several_folders_are_a_remark(tmp_path: Path, series):
    for number in range(2):
        for path in series(f"in/{number}", smooth((4, 5, 6), number)).iterdir():
            rewrite(path, SeriesInstanceUID="1.2.3", PatientID="A")
    (remark,) = [text for text in collect_inputs([tmp_path / "in"], PrepareConfig()).remarks if "series" in text]
    assert "are of one DICOM series" in remark and all(str(tmp_path / "in" / name) in remark for name in "01")
    for path in (tmp_path / "in/1").iterdir():
        rewrite(path, SeriesInstanceUID="1.2.4")
    assert not any("series" in text for text in collect_inputs([tmp_path / "in"], PrepareConfig()).remarks)


def test_a_store_whose_subjects_were_put_right_is_not_there_already(tmp_path: Path, nifti):
    for number in range(4):
        nifti(f"{number}.nii", smooth((6, 5, 4), number))
    table, config = tmp_path / "cases.csv", PrepareConfig(size=(32, 32, 32), workers=1)
    for subjects in ("abcd", "aabb"):
        rows = "".join(f"{number},{number}.nii,{subject}\n" for number, subject in enumerate(subjects))
        table.write_text(f"id,image,subject\n{rows}")
        if subjects == "abcd":
            prepare(table, tmp_path / "s.h5", config, progress=False)
            assert prepare(table, tmp_path / "s.h5", config, progress=False).done_before
    with pytest.raises(InputError, match="s.h5: was made with other subjects or splits, as of"):
        prepare(table, tmp_path / "s.h5", config, progress=False)
    assert Store(tmp_path / "s.h5").subjects == list("abcd")
