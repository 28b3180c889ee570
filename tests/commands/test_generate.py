"""`hagan3d generate` after a kill: the same line goes on, another one is refused."""

from pathlib import Path

import pytest

from hagan3d.errors import InputError
from hagan3d.generate import UNFINISHED, _check_out


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
