"""Lists of volumes: links, names, files that are not read, and what is said of each."""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hagan3d import cli, prepare
from hagan3d.data.io.listing import find_volumes, unread_files
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.preprocess import pipeline
from hagan3d.data.preprocess.cases import find_channels, find_table
from hagan3d.data.preprocess.facts import grouped, read_report
from hagan3d.data.preprocess.inputs import find_cases
from hagan3d.data.preprocess.pairing import find_pairs
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from tests.data.conftest import SeriesWriter, smooth

CONFIG = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.0)


def volume(path: Path, seed: int = 0, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(smooth((8, 9, 10), seed) if array is None else array, np.diag([2, 2, 3, 1])), path)
    return path


def test_a_table_names_files_in_either_form_of_unicode(tmp_path: Path):
    composed, decomposed = "M\u00fcller", "Mu\u0308ller"
    on_disk = volume(tmp_path / decomposed / f"{decomposed}.nii.gz")
    other = volume(tmp_path / "ct.nii.gz", 1)
    written = f"{composed}/{composed}.nii.gz"
    table = tmp_path / "table.csv"
    table.write_text(f"id,source,target\na,{written},ct.nii.gz\n")
    (pair,) = find_pairs([table]).files
    assert set(pair.files) == {other, on_disk}
    (given,) = find_channels(table, ("source", "target"))
    table.write_text(f"id,t1,t2\na,{written},ct.nii.gz\n")
    (case,) = find_table(table, ()).files
    assert [*case.files] == [*given.files] == [on_disk, other]
    (tmp_path / "list.txt").write_text(f"{tmp_path / written}\n")
    assert [file.path for file in find_volumes([tmp_path / "list.txt"])] == [on_disk]
    table.write_text("id,source,target\na,M\u00fcnch/a.nii.gz,ct.nii.gz\n")
    with pytest.raises(InputError, match="M\u00fcnch/a.nii.gz, does not exist"):
        find_pairs([table])


def test_ids_are_those_of_links_not_of_what_they_lead_to(tmp_path: Path):
    for number in (1, 2):
        link = tmp_path / f"sub{number}" / "t1.nii.gz"
        link.parent.mkdir()
        link.symlink_to(volume(tmp_path / "objects" / f"k{number}" / "SHA.nii.gz", number))
    assert [file.id for file in find_volumes([tmp_path / "sub1", tmp_path / "sub2"])] == ["sub1_t1", "sub2_t1"]


def test_links_to_a_parent_end_and_are_named(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    for name in ("x", "y"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    assert [file.id for file in find_volumes(tmp_path / "in")] == ["a"]
    assert [line.split(": ")[1][:8] for line in unread_files(tmp_path / "in")] == ["not read"] * 2


def test_a_name_that_is_no_text_is_refused_first(tmp_path: Path):
    os.rename(volume(tmp_path / "in" / "a.nii.gz"), bytes(tmp_path / "in") + b"/\xff.nii.gz")
    with pytest.raises(InputError, match="its name is no text in UTF-8"):
        pipeline.prepare(tmp_path / "in", tmp_path / "a.h5", CONFIG, progress=False)


def test_files_that_are_not_read_are_named(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    nib.save(nib.Nifti1Pair(smooth((8, 8, 8)), np.eye(4)), tmp_path / "in" / "b.hdr")
    (tmp_path / "in" / "labels.csv").write_text("id,class\na,1\n")
    config = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.0, labels=str(tmp_path / "in" / "labels.csv"))
    done = pipeline.prepare(tmp_path / "in", tmp_path / "in" / "a.h5", config, progress=False)
    assert done.remarks == (f"{tmp_path / 'in'}: 2 files are not read: b.hdr, b.img",)
    again = pipeline.prepare(tmp_path / "in", tmp_path / "in" / "a.h5", config, progress=False)
    assert again.done_before and again.remarks == done.remarks  # of the report


def test_slices_that_are_not_read_are_named_in_all_ways_in(tmp_path: Path, series: SeriesWriter):
    folder = series("s", smooth((6, 8, 9)), ending="")
    (folder / "im006").write_bytes(b"")
    (folder / "im005").write_bytes((folder / "im005").read_bytes()[:100])
    volume(tmp_path / "t.nii.gz")
    texts = {"a.txt": "s\n", "cases.csv": "id,t1\na,s\n", "pairs.csv": "id,source,target\na,s,t.nii.gz\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    expected = (f"{folder}: 2 files are not read: im005, im006",)
    for name in ("s", "a.txt", "cases.csv"):
        assert find_cases([tmp_path / name], CONFIG).remarks == expected
    assert find_pairs([tmp_path / "pairs.csv"]).remarks == expected
    assert tuple(unread_files([tmp_path, tmp_path / "a.txt", folder])) == (
        f"{tmp_path}: 5 files are not read: a.txt, cases.csv, pairs.csv, s/im005, s/im006",
    )


def test_a_series_without_endings_and_preambles_is_read(tmp_path: Path, series: SeriesWriter):
    folder = series("in", array := smooth((5, 6, 7)))
    expected = read_volume(folder)
    for path in list(folder.iterdir()):
        (folder / path.stem).write_bytes(path.read_bytes()[132:])
        path.unlink()
    np.testing.assert_array_equal(read_volume(folder).array, expected.array)
    assert expected.array.shape == array.shape[::-1] and [file.id for file in find_volumes(folder)] == ["in"]


def test_a_changed_file_is_noticed_whatever_its_date(tmp_path: Path, series: SeriesWriter):
    volume(tmp_path / "in" / "a.nii.gz")
    pipeline.prepare(tmp_path / "in", tmp_path / "a.h5", CONFIG, progress=False)
    other = volume(tmp_path / "b.nii.gz", 1)
    os.utime(other, (1e9, 1e9))
    shutil.copy2(other, tmp_path / "in" / "a.nii.gz")  # keeps the date
    with pytest.raises(InputError, match=r"a.nii.gz, which has changed"):
        pipeline.prepare(tmp_path / "in", tmp_path / "a.h5", CONFIG, progress=False)
    folder = series("ct", smooth((6, 8, 8)))
    pipeline.prepare(folder, tmp_path / "c.h5", CONFIG, progress=False)
    (folder / "im001.dcm").unlink()
    with pytest.raises(InputError, match="which has changed"):
        pipeline.prepare(folder, tmp_path / "c.h5", CONFIG, progress=False)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (smooth((8, 9, 10)) + 3000, "0% of its voxels lie below the window -1024 to 600 and 100% above it"),
        (smooth((8, 9, 10)) / np.float32(1000), "fill 0.1% of the window -1024 to 600"),
        (smooth((8, 9, 2)), "has 2 slices along one axis"),
    ],
)
def test_odd_values_and_slices_are_said(tmp_path: Path, array: np.ndarray, words: str):
    volume(tmp_path / "in" / "a.nii.gz", array=array)
    config = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.0, intensity="window")
    (remark,) = pipeline.inspect(tmp_path / "in", config, progress=False).remarks
    assert words in remark


def test_a_dry_run_prints_what_would_be_read_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    volume(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "notes.md").write_text("")
    line = f"--input {tmp_path}/in --output {tmp_path}/a.h5 --size 32 32 32 --workers 1 --dry-run"
    assert cli.run(prepare.main, line.split()) == 0
    told = capsys.readouterr()
    assert "a: subject a, train" in told.out and "8 x 9 x 10 voxels of 2 x 2 x 3 mm, RAS, -1000 to" in told.out
    assert "1 file is not read: notes.md" in told.err and "nothing was written" in told.out
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"x")
    assert cli.run(prepare.main, line.split()) == 2
    assert "b.nii.gz" in capsys.readouterr().err


def test_a_report_holds_what_a_dry_run_prints(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    found = pipeline.inspect(tmp_path / "in", CONFIG, progress=False)
    pipeline.prepare(tmp_path / "in", tmp_path / "a.h5", CONFIG, progress=False)
    assert read_report(tmp_path / "a.h5")["states"] == {case.id: case.state for case in found.cases}


def test_many_remarks_of_one_text_are_one_line():
    assert grouped([f"{name}: is odd" for name in "abcde"]) == ["a and 4 more: is odd"]
    assert grouped(["a: is odd", "b: is odd", "c: is even"]) == ["a: is odd", "b: is odd", "c: is even"]


def test_hidden_files_in_a_folder_of_shards_are_passed_over(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    config = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.0, shard="1/1")
    pipeline.prepare(tmp_path / "in", tmp_path / "parts", config, progress=False)
    for name in ("._x.h5", ".part.x.h5"):
        (tmp_path / "parts" / name).write_bytes(b"x")
    assert len(Store(tmp_path / "parts")) == 1


def test_every_flipped_byte_of_the_voxels_of_a_store_is_noticed(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    path = pipeline.prepare(tmp_path / "in", tmp_path / "a.h5", CONFIG, progress=False).path
    original, expected = path.read_bytes(), Store(path).volume(0)
    for place in np.random.default_rng(0).integers(0, len(original), 40):
        path.write_bytes(original[:place] + bytes([original[place] ^ 4]) + original[place + 1 :])
        try:
            store = Store(path)
            assert (store.volume(0) == expected).all() and store.ids == ["a"]  # a byte that nothing uses
            store.close()
        except InputError as error:
            assert "damaged" in str(error)
