"""`hagan3d generate` again: after a kill the same line goes on, at its end it does nothing, another one is refused."""

import json
from pathlib import Path

import pytest

from hagan3d.errors import InputError
from hagan3d.generate import RECORD, _is_done

COMMAND = {"run": "r", "num": 1, "checkpoint": ["step-00000002.pt", 5]}
VOLUME = "volume-000000.nii.gz"


def record(folder: Path, files: list[str] | None) -> None:
    (folder / RECORD).write_text(json.dumps({"command": COMMAND, "files": files}))


def test_volumes_of_a_killed_command_are_replaced_and_those_of_one_that_ended_are_left(tmp_path: Path):
    assert not _is_done(tmp_path, COMMAND)
    record(tmp_path, None)
    (tmp_path / VOLUME).write_bytes(b"")
    assert not _is_done(tmp_path, COMMAND)
    record(tmp_path, [VOLUME])
    assert _is_done(tmp_path, COMMAND)
    record(tmp_path, [VOLUME, "volume-000001.nii.gz"])  # since removed
    assert not _is_done(tmp_path, COMMAND)


@pytest.mark.parametrize("other", [{"num": 2}, {"checkpoint": ["step-00000002.pt", 6]}])
@pytest.mark.parametrize("files", [None, [VOLUME]])
def test_volumes_of_another_command_or_checkpoint_are_not_replaced(tmp_path: Path, other, files):
    (tmp_path / VOLUME).write_bytes(b"")
    record(tmp_path, files)
    with pytest.raises(InputError, match="use another --out, or --force"):
        _is_done(tmp_path, COMMAND | other)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_volumes_without_a_usable_record_are_not_replaced(tmp_path: Path, text: str):
    (tmp_path / VOLUME).write_bytes(b"")
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match="holds generated volumes already"):
        _is_done(tmp_path, COMMAND)
