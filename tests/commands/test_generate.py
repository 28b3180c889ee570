"""`hagan3d generate` after a kill: the same line goes on, another one is refused."""

from pathlib import Path

from hagan3d.generate import UNFINISHED, _holds_others


def test_only_volumes_of_the_same_command_are_replaced(tmp_path: Path):
    assert not _holds_others(tmp_path, "a")
    (tmp_path / "volume-000000.nii.gz").write_bytes(b"")
    assert _holds_others(tmp_path, "a")  # of a command that ended
    (tmp_path / UNFINISHED).write_text("a")
    assert not _holds_others(tmp_path, "a")  # of the same one, which was killed
    assert _holds_others(tmp_path, "b")
