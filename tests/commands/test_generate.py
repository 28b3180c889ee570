"""`hagan3d generate` after a kill: the same line goes on, another one is refused."""

from pathlib import Path

import pytest

from hagan3d.errors import InputError
from hagan3d.generate import UNFINISHED, _check_out
from hagan3d.inference.generation import SAMPLES, remove_others, seeds_of


def test_volumes_that_are_replaced_by_none_are_removed(tmp_path: Path):
    assert seeds_of(tmp_path / SAMPLES) == []
    (tmp_path / SAMPLES).write_text("file,seed,class\nvolume-000001.nii.gz,1,\nvolume-000012.h5,12,\n")
    assert seeds_of(tmp_path / SAMPLES) == [1, 12]
    names = ["volume-000001.nii.gz", "volume-000001.nii", "volume-000012_t1.h5", "volume-000012_seg.h5"]
    others = ["volume-000002.nii.gz", "volume-000001.txt", "volume-0000012.nii"]
    for name in (*names, *others):
        (tmp_path / name).write_bytes(b"")
    remove_others(tmp_path, [1, 12], [tmp_path / "volume-000001.nii.gz"])
    assert {path.name for path in tmp_path.iterdir()} == {SAMPLES, "volume-000001.nii.gz", *others}


def test_only_volumes_of_the_same_command_are_replaced(tmp_path: Path):
    _check_out(tmp_path, "a")
    (tmp_path / "volume-000000.nii.gz").write_bytes(b"")
    for command in (None, "a"):  # of a command that ended
        with pytest.raises(InputError, match="use another --out, or --force"):
            _check_out(tmp_path, command)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.csv").write_text("of others")
    with pytest.raises(InputError, match="use another --out, or --force"):
        _check_out(tmp_path / "mine")
    (tmp_path / UNFINISHED).write_text("a")
    _check_out(tmp_path)
    _check_out(tmp_path, "a")  # of the same one, which was killed
    with pytest.raises(InputError, match="holds generated volumes or their table"):
        _check_out(tmp_path, "b")
