"""The table of formats: one entry per reader, and nothing else to edit for a new one."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from hagan3d.data.io import registry
from hagan3d.data.io.listing import find_volumes
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.io.writer import FORMATS, Format


def test_a_new_reader_is_used_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = list(registry.readers())
    monkeypatch.setattr(registry, "_READERS", table)
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    registry.reader(".xyz", title="XYZ")(lambda path: registry.RawVolume(voxels, np.eye(4), ("is a test",)))
    registry.readers.cache_clear()
    try:
        (tmp_path / "Scan.XYZ").write_text("")
        (listed,) = find_volumes(tmp_path)
        assert listed.id == "Scan" and "XYZ (.xyz)" in registry.supported_formats()
        volume = read_volume(listed.path)
        np.testing.assert_array_equal(volume.array, voxels)
        assert volume.remarks == (f"{listed.path}: is a test",)
    finally:
        registry.readers.cache_clear()


def test_no_ending_has_two_readers_and_all_are_lower_case():
    suffixes = [suffix for entry in registry.readers() for suffix in entry.suffixes]
    assert len(set(suffixes)) == len(suffixes) and all(suffix == suffix.lower() for suffix in suffixes)
    assert set(registry.volume_suffixes()) >= {".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".npy"}


def test_the_command_line_offers_the_formats_of_the_writer():
    assert {f".{name}" for name in get_args(Format)} == set(FORMATS)


@pytest.mark.slow
def test_the_table_does_not_depend_on_what_was_imported_first():
    code = "from hagan3d.data.io import {}registry; print(registry.supported_formats())"
    texts = [
        subprocess.run([sys.executable, "-c", code.format(first)], capture_output=True, text=True, check=True).stdout
        for first in ("", "npy, itk, ")
    ]
    assert texts[0] == texts[1]
