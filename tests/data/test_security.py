"""Files of others run no code, are not written outside of the given folder, and do not expand without bound."""

import gzip
import os
import pickle
import sys
import zipfile
import zlib
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
import torch
from PIL import Image

from hagan3d import checkpoint
from hagan3d.config_file import check_config_file
from hagan3d.data.io.dicom_files import read_dataset
from hagan3d.data.io.files import file_name, replacing
from hagan3d.data.io.volumes import read_volume
from hagan3d.errors import InputError
from hagan3d.evaluation.report import page
from hagan3d.inference.inputs import check_out
from hagan3d.networks.extractors.weight_files import read_weights
from tests.data.conftest import smooth, write_series
from tests.data.test_listing import volume

MARK = "<script>alert(1)</script>"


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_in_a_checkpoint_or_in_weights_does_not_run(tmp_path: Path, zipped: bool):
    torch.save({"state": Hostile(tmp_path / "run")}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    for read in (checkpoint.load, lambda path: read_weights(path, "a network")):
        with pytest.raises(InputError, match="could run code"):
            read(tmp_path / "a.pt")
    assert not (tmp_path / "run").exists()


def test_a_pickle_in_an_array_does_not_run(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([Hostile(tmp_path / "run")], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Hostile(tmp_path / "run")))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(InputError):
            read_volume(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_a_tag_in_a_config_does_not_run(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(f"method: !!python/object/apply:os.mkdir ['{tmp_path}/run']\n")
    with pytest.raises(InputError, match="not valid YAML"):
        check_config_file(tmp_path / "a.yaml")
    assert not (tmp_path / "run").exists()


def test_packed_files_do_not_expand_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = volume(tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes() + bytes(2**26)))  # more than it declares
    assert read_volume(tmp_path / "a.nii.gz").array.shape == (8, 9, 10)
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(InputError, match="compressed parts"):
        read_weights(tmp_path / "b.pt", "a network")
    monkeypatch.setattr("hagan3d.data.io.dicom_files.available_bytes", lambda: 2**20)
    (tmp_path / "in").mkdir()
    write_series(tmp_path / "in", smooth((1, 4, 4)))
    plain = next((tmp_path / "in").iterdir()).read_bytes()
    syntax = b"1.2.840.10008.1.2.1\0"
    assert plain.count(syntax) == 1
    # a deflated data set: its meta information, of 4 bytes more, then what expands
    start = 144 + int.from_bytes(plain[140:144], "little")
    meta = plain[:start].replace(b"UI\x14\0" + syntax, b"UI\x16\0" + syntax[:-1] + b".99")
    meta = meta[:140] + (len(meta) - 144).to_bytes(4, "little") + meta[144:]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    (tmp_path / "bomb.dcm").write_bytes(meta + packer.compress(plain[start:] + bytes(2**24)) + packer.flush())
    with pytest.raises(InputError, match="is deflated and expands"):
        read_dataset(tmp_path / "bomb.dcm")


def test_an_image_with_more_pixels_than_bytes_is_refused(tmp_path: Path):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (12000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match="12000 x 12000 pixels in"):
        read_volume(tmp_path / "a.png")


def test_a_link_does_not_lead_writes_elsewhere(tmp_path: Path):
    (tmp_path / "other").write_text("kept")
    for name in ("a", ".part.a"):
        (tmp_path / name).symlink_to(tmp_path / "other")
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "other").read_text() == "kept" and (tmp_path / "a").read_text() == "new"


def test_a_file_that_another_process_writes_is_refused(tmp_path: Path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("first")
        code = "import sys, pathlib, hagan3d.data.io.files as f; f.write_text(pathlib.Path(sys.argv[1]), 'second')"
        other = run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=False)
        assert f"{tmp_path / 'a'}: another process is writing this file" in other.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "first"


@pytest.mark.parametrize("name", ["..", ".", "", "...", "../x", "a/../../x", "a\0b"])
def test_no_channel_is_written_outside_its_folder(name: str, tmp_path: Path):
    path = (tmp_path / file_name(name)).resolve()
    assert path.parent == tmp_path.resolve() and path != tmp_path.resolve()


def test_what_a_kill_left_is_emptied(tmp_path: Path):
    (tmp_path / ".part.a").write_text("half of another file")
    with replacing(tmp_path / "a") as temporary:
        assert temporary.stat().st_size == 0
        temporary.write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_text() == "new"


def test_results_are_not_written_next_to_their_sources(tmp_path: Path):
    volume(tmp_path / "in" / "sub" / "a.nii.gz")
    (tmp_path / "cases.csv").write_text("id,t1\na,in/sub/../sub/a.nii.gz\n")
    for given in (tmp_path / "in", tmp_path / "in" / "sub" / "a.nii.gz", tmp_path / "cases.csv"):
        with pytest.raises(InputError, match="use another --out"):
            check_out(given, tmp_path / "in" / "sub", "results", [tmp_path / "out"])
        check_out(given, tmp_path / "out", "results", [])


def test_results_are_not_written_where_volumes_are_searched_for(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(InputError, match="lies in --input .*, which is searched with all its folders"):
        check_out(tmp_path / "in", tmp_path / "in" / "results", "results", [])
    check_out(tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "results", "results", [])


def test_volumes_of_others_are_not_among_results(tmp_path: Path):
    volume(tmp_path / "in" / "a.nii.gz")
    volume(tmp_path / "out" / "b.nii.gz")
    with pytest.raises(InputError, match=r"holds volumes that are no results \(b.nii.gz\)"):
        check_out(tmp_path / "in", tmp_path / "out", "results", [tmp_path / "out" / "table.csv"])
    (tmp_path / "out" / "table.csv").write_text("")
    check_out(tmp_path / "in", tmp_path / "out", "results", [tmp_path / "out" / "table.csv"])


def test_messages_hold_no_control_characters():
    assert str(InputError("a\x1b[2J\x07: b")) == "a?[2J?: b"
    assert len(str(InputError("x" * 10**6))) < 1100


def test_reports_escape_texts():
    for text in (page.table([MARK], [[MARK]]), page.bullets([MARK]), page.note(MARK), page.picture(b"", MARK)):
        assert "<script" not in text and "&lt;script" in text
