"""Preparing: all files are checked first, a kill leaves no trace in the result, and a finished store is left alone."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hagan3d.data.io.files import locked
from hagan3d.data.io.geometry import reorient, to_output_axes
from hagan3d.data.io.volumes import read_volume
from hagan3d.data.io.writer import write_nifti
from hagan3d.data.preprocess.intensity import denormalize
from hagan3d.data.preprocess.pipeline import inspect, prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

CONFIG = PrepareConfig(size=(32, 32, 32), workers=1, validation=0.0)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six scans of three subjects."""
    for number in range(6):
        array = gaussian_filter(np.random.default_rng(number).standard_normal((20, 24, 18)), 2) * 1000
        write_nifti(tmp_path / "in" / f"s{number // 2}_{number}.nii.gz", array, np.diag([2.0, 2, 3, 1]))
    return tmp_path / "in"


def run(scans: Path, output: Path, **changes: object) -> Store:
    prepare(scans, output, replace(CONFIG, **changes), progress=False)  # type: ignore[arg-type]
    return Store(output)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_store_holds_volumes_low_resolution_and_records(scans: Path, tmp_path: Path):
    store = run(scans, tmp_path / "a.h5", subject=r"(s\d)_")
    assert store.ids == ["s0_0", "s0_1", "s1_2", "s1_3", "s2_4", "s2_5"] and store.subjects[::2] == ["s0", "s1", "s2"]
    assert store.files[0] == "s0_0.nii.gz" and len(set(store.hashes)) == 6 and store.labels.tolist() == [-1] * 6
    volume = store.volume(3)
    assert volume.shape == (1, 32, 32, 32) and volume.abs().max() <= 1 and volume.dtype.is_floating_point
    assert (store.window(3, 8, 4) == volume[:, 8:12]).all()
    expected = volume[0].reshape(8, 4, 8, 4, 8, 4).mean((1, 3, 5))
    assert (store.low(3)[0] - expected).abs().max() < 2e-5
    assert files_in(tmp_path) == ["a.h5", "a.json", "a.png", "in"]


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("orientation", ["RAS", "PSR"])
def test_units_and_geometry_survive_the_way_through_the_store(tmp_path: Path, axis: str, orientation: str):
    array = (gaussian_filter(np.random.default_rng(1).standard_normal((32, 64, 96)), 2) * 2000).astype(np.float32)
    affine = np.array([[0, -1.5, 0, 40], [0, 0, 2.0, -60], [-2.5, 0, 0, 33], [0, 0, 0, 1.0]])  # axes I, L, A
    write_nifti(tmp_path / "in" / "a.nii.gz", array, affine)
    sides = {"S": 32, "R": 64, "A": 96, "P": 96}
    letters = {"axial": "S", "coronal": orientation[0] if orientation == "PSR" else "A", "sagittal": "R"}[axis]
    letters += "".join(letter for letter in reversed(orientation) if letter != letters)
    config = replace(CONFIG, size=tuple(sides[letter] for letter in letters), axis=axis, orientation=orientation)
    prepare(tmp_path / "in", tmp_path / "a.h5", replace(config, percentiles=(0.0, 100.0)), progress=False)
    store = Store(tmp_path / "a.h5")
    values = denormalize(store.channel(0).numpy(), *store.intervals[0, 0])
    made, made_affine = to_output_axes(values, store.affines[0], orientation)
    step = np.diff(store.intervals[0, 0])[0] / 65534
    for index in ((0, 0, 0), (3, 50, 90), (31, 63, 95)):  # by hand: where is this voxel of the file?
        where = np.linalg.solve(made_affine, affine @ (*index, 1))[:3]
        np.testing.assert_allclose(where, np.rint(where), atol=1e-5)
        assert abs(made[tuple(np.rint(where).astype(int))] - array[index]) <= step
    np.testing.assert_allclose(store.description().affine_array, store.affines[0], atol=1e-9)


def test_all_bad_files_are_listed_and_nothing_is_left_behind(scans: Path, tmp_path: Path):
    (scans / "s1_2.nii.gz").write_bytes(b"junk")
    (scans / "s2_5.nii.gz").write_bytes((scans / "s2_4.nii.gz").read_bytes())
    write_nifti(scans / "flat.nii", np.ones((8, 8, 8)), np.eye(4))
    with pytest.raises(InputError) as caught:
        prepare(scans, tmp_path / "a.h5", CONFIG, progress=False)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].split("/")[-1] for line in lines] == ["flat.nii", "s1_2.nii.gz", "s2_5.nii.gz"]
    assert "is the same file as" in lines[2] and files_in(tmp_path) == ["in"]
    made = prepare(scans, tmp_path / "a.h5", replace(CONFIG, skip_bad=True), progress=False)
    assert made.volumes == 4 and list(made.left_out) == lines
    again = prepare(scans, tmp_path / "a.h5", replace(CONFIG, skip_bad=True), progress=False)
    assert again.done_before and set(again.left_out) == {"flat", "s1_2", "s2_5"}
    for path in scans.iterdir():
        path.touch()  # as after a copy of the folder: copies and junk are what they were
    assert prepare(scans, tmp_path / "a.h5", replace(CONFIG, skip_bad=True), progress=False).done_before
    write_nifti(scans / "flat.nii", np.random.default_rng(9).normal(size=(8, 8, 8)), np.eye(4))
    with pytest.raises(InputError, match=r"a.h5: was made without .*flat.nii, which can be read now; use another"):
        prepare(scans, tmp_path / "a.h5", replace(CONFIG, skip_bad=True), progress=False)


def test_labels_without_a_line_or_a_volume_are_refused_unless_partial(scans: Path, tmp_path: Path):
    text = "id,class,age\n" + "".join(f"s{n // 2}_{n},{'ab'[n % 2]},{n}\n" for n in range(5)) + "s9,a,1\n"
    (tmp_path / "l.csv").write_text(text)
    labels = {"labels": str(tmp_path / "l.csv")}
    with pytest.raises(InputError, match=r"no line for 1 volumes, s2_5(.|\n)*1 lines without a volume, s9"):
        run(scans, tmp_path / "a.h5", **labels)
    store = run(scans, tmp_path / "a.h5", partial_labels=True, **labels)
    assert store.labels.tolist() == [0, 1, 0, 1, 0, -1] and store.class_names == ("a", "b")
    np.testing.assert_array_equal(store.columns["age"], [0, 1, 2, 3, 4, np.nan])
    assert len(run(scans, tmp_path / "b.h5", skip_bad=True, **labels)) == 5


def test_a_finished_store_is_left_alone_and_never_overwritten(scans: Path, tmp_path: Path):
    path = tmp_path / "a.h5"
    run(scans, path)
    before = path.stat().st_mtime_ns
    assert prepare(scans, path, replace(CONFIG, workers=2), progress=False).done_before
    with pytest.raises(InputError, match=r"was made with other settings \(trim\)"):
        run(scans, path, trim=True)
    with pytest.raises(InputError, match="was made from other files"):
        run(scans / "s0_0.nii.gz", path)
    (scans / "s0_0.nii.gz").write_bytes((scans / "s0_0.nii.gz").read_bytes())
    assert prepare(scans, path, CONFIG, progress=False).done_before  # newer, but the same
    write_nifti(scans / "s0_0.nii.gz", np.random.default_rng(9).random((8, 8, 8)), np.eye(4))
    with pytest.raises(InputError, match=r"is older than .*s0_0.nii.gz, which has changed"):
        run(scans, path)
    assert path.stat().st_mtime_ns == before


KILLED = """
import os, signal
from pathlib import Path
import hagan3d.data.preprocess.checking, hagan3d.data.preprocess.pipeline, hagan3d.data.store.write
from tests.data.test_prepare import CONFIG

calls = 0
def deadly(work):
    def wrapped(*args):
        global calls
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args)
    return wrapped

{module}.{name} = deadly({module}.{name})
hagan3d.data.preprocess.pipeline.prepare({scans!r}, Path({output!r}), CONFIG, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("hagan3d.data.preprocess.checking", "check_file", 3),
        ("hagan3d.data.preprocess.pipeline", "write_cache_file", 3),
        ("hagan3d.data.store.write", "area_average", 3),
        ("hagan3d.data.store.write", "_write_records", 1),
    ],
)
def test_after_a_kill_the_same_call_ends_with_the_same_bytes(
    scans: Path, tmp_path: Path, module: str, name: str, call: int, monkeypatch: pytest.MonkeyPatch
):
    run(scans, tmp_path / "whole.h5")
    output = tmp_path / "out" / "whole.h5"
    script = KILLED.format(module=module, name=name, call=call, scans=str(scans), output=str(output))
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == -9
    assert not output.exists()
    done = []
    import hagan3d.data.preprocess.pipeline as module_under_test

    original = module_under_test.write_cache_file
    monkeypatch.setattr(module_under_test, "write_cache_file", lambda task: (done.append(task), original(task)))
    run(scans, output)
    assert len(done) == {"check_file": 6, "write_cache_file": 4}.get(name, 0)  # what was done before is not done again
    assert output.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert files_in(tmp_path / "out") == ["whole.h5", "whole.json", "whole.png"]


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_none(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(scans, tmp_path / "one.h5")
    monkeypatch.setattr("hagan3d.data.preprocess.checking.BYTES_PER_WORKER", 1)
    run(scans, tmp_path / "two.h5", workers=2)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def shards(scans: Path, folder: Path, numbers: tuple[int, ...] = (1, 2, 3), **changes: object) -> None:
    for k in numbers:
        config = replace(CONFIG, shard=f"{k}/3", subject=r"(s\d)_", validation=0.4, **changes)  # type: ignore[arg-type]
        prepare(scans, folder, config, progress=False)


def test_shards_are_one_store_with_one_split(scans: Path, tmp_path: Path):
    shards(scans, tmp_path / "parts")
    assert [name for name in files_in(tmp_path / "parts") if name.endswith(".h5")] == [
        f"shard-00{k}-of-003.h5" for k in (1, 2, 3)
    ]
    whole = run(scans, tmp_path / "a.h5", subject=r"(s\d)_", validation=0.4)
    parts = Store(tmp_path / "parts")
    assert sorted(parts.ids) == whole.ids and parts.settings == whole.settings
    splits = dict(zip(parts.ids, parts.splits, strict=True))
    assert splits == dict(zip(whole.ids, whole.splits, strict=True))
    for i, name in enumerate(parts.ids):
        assert (parts.volume(i) == whole.volume(whole.ids.index(name))).all()


def test_a_missing_shard_another_preparation_and_a_copy_are_said(scans: Path, tmp_path: Path):
    folder = tmp_path / "parts"
    shards(scans, folder, (1, 3))
    with pytest.raises(InputError, match="shard 2/3 is missing"):
        Store(folder)
    shards(scans, tmp_path / "other", (2,), trim=True)
    (folder / "shard-002-of-003.h5").write_bytes((tmp_path / "other" / "shard-002-of-003.h5").read_bytes())
    with pytest.raises(InputError, match="were prepared with different trim"):
        Store(folder)
    (folder / "shard-002-of-003.h5").unlink()
    shards(scans, folder, (2,))
    (folder / "copy.h5").write_bytes((folder / "shard-002-of-003.h5").read_bytes())
    with pytest.raises(InputError, match="4 files for 3 shards"):
        Store(folder)


@pytest.mark.parametrize(
    ("changes", "output", "reason"),
    [
        ({"orientation": "RAX"}, "a.h5", "must be three letters"),
        ({"shard": "4/3"}, "a", "must be k/n"),
        ({"shard": "1/3"}, "a.h5", "must be a folder with --shard"),
        ({}, "a", "ends in .h5"),
        ({"shard": "7/7"}, "a", "there are 6 volumes only"),
        ({"labels": "gone.csv"}, "a.h5", "does not exist"),
        ({"subject": "("}, "a.h5", "must be a regular expression"),
        ({"intensity": "percentiles", "percentiles": (50.0, 50.0)}, "a.h5", "percentiles"),
        ({"spacing": (1.0, 0.0, 1.0)}, "a.h5", "spacing"),
        ({"size": (32, 32, 40)}, "a.h5", "multiple of 32"),
    ],
)
def test_settings_that_cannot_work_leave_nothing_behind(
    scans: Path, tmp_path: Path, changes: dict[str, object], output: str, reason: str
):
    with pytest.raises(InputError, match=reason):
        run(scans, tmp_path / output, **changes)
    assert files_in(tmp_path) == ["in"]


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hagan3d.data.preprocess.cache.np.savez", full)
    with pytest.raises(InputError, match="the disk is full"):
        run(scans, tmp_path / "a.h5")
    monkeypatch.undo()
    assert "a.h5" not in files_in(tmp_path)
    run(scans, tmp_path / "a.h5")
    assert files_in(tmp_path) == ["a.h5", "a.json", "a.png", "in"]


def test_too_little_disk_is_said_before_anything_is_written(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Usage:
        free = 1000

    monkeypatch.setattr("hagan3d.data.preprocess.pipeline.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(InputError, match=r"needs 0\.4 MB of disk, 0\.0 MB are free"):
        run(scans, tmp_path / "a.h5")
    assert files_in(tmp_path) == ["in"]


def test_hippocampi_are_split_by_head(test_data: Path, tmp_path: Path):
    chosen = sorted((test_data / "hippocampus_msd" / "images").iterdir())[:24]
    config = replace(CONFIG, subject="pairs", validation=0.3)
    prepare(chosen, tmp_path / "a.h5", config, progress=False)
    store = Store(tmp_path / "a.h5")
    heads = [(int(name[-3:]) + 1) // 2 for name in store.ids]
    assert [int(name[-3:]) if name[-3:].isdigit() else int(name.split("_")[1]) for name in store.subjects] == heads
    by_head: dict[int, set[str]] = {}
    for head, split in zip(heads, store.splits, strict=True):
        by_head.setdefault(head, set()).add(split)
    assert all(len(splits) == 1 for splits in by_head.values())


def test_heads_keep_their_labels_and_stand_upright(test_data: Path, tmp_path: Path, nifti: Callable[..., Path]):
    folder = test_data / "brain_t1_ixi_2mm"
    chosen = sorted((folder / "t1").iterdir())[:3]
    config = replace(CONFIG, labels=str(folder / "participants.csv"), class_column="Sex", partial_labels=True)
    prepare(chosen, tmp_path / "a.h5", config, progress=False)
    store = Store(tmp_path / "a.h5")
    text = (folder / "participants.csv").read_text()
    for i, name in enumerate(store.ids):
        line = next(line for line in text.splitlines() if line.startswith(name.removesuffix("_T1")))
        assert line.split(",")[2] == store.class_names[store.labels[i]]
        assert float(line.split(",")[1]) == store.columns["Age"][i]
        volume = store.channel(i)  # the crown is rounder and more in the air than the neck, which leaves the picture
        assert volume[-1].mean() < volume[0].mean()


def test_a_z_score_looks_inside_the_masks(scans: Path, tmp_path: Path):
    for path in scans.iterdir():
        volume = read_volume(path)
        write_nifti(tmp_path / "masks" / path.name.replace(".nii", "_mask.nii"), volume.array > 100, volume.affine)
    masks = {"intensity": "z-score", "masks": str(tmp_path / "masks")}
    store = run(scans, tmp_path / "a.h5", **masks)
    volume = read_volume(scans / "s1_2.nii.gz").array
    inside = volume[volume > 100].astype(np.float64)
    assert store.intervals[2, 0, 0] == pytest.approx(inside.mean() - 3 * inside.std(), rel=1e-5)
    assert store.intervals[2, 0, 1] == pytest.approx(inside.mean() + 3 * inside.std(), rel=1e-5)
    assert prepare(scans, tmp_path / "a.h5", replace(CONFIG, **masks), progress=False).done_before  # type: ignore[arg-type]
    write_nifti(tmp_path / "masks" / "s1_2_mask.nii.gz", np.eye(9)[None].repeat(3, 0), np.eye(4))
    with pytest.raises(InputError, match=r"s1_2.nii.gz, which has changed"):
        run(scans, tmp_path / "a.h5", **masks)
    with pytest.raises(InputError, match="must have the shape and affine"):
        run(scans, tmp_path / "b.h5", **masks)
    (tmp_path / "masks" / "s1_2_mask.nii.gz").unlink()
    with pytest.raises(InputError, match="has 0 masks for s1_2"):
        run(scans, tmp_path / "b.h5", **masks)


@pytest.mark.parametrize("name", ["s.png", "s.json"])
def test_files_of_others_beside_a_store_are_never_replaced(scans: Path, tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b'{"Age": {"Units": "years"}}')
    with pytest.raises(InputError, match=f"{name}: would be replaced"):
        run(scans, tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists() and b"years" in (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    run(scans, tmp_path / "s.h5")
    (tmp_path / "s.h5").unlink()
    run(scans, tmp_path / "s.h5")  # those of a store that was deleted may be


def test_a_scan_packed_twice_is_a_copy(scans: Path, tmp_path: Path):
    first = sorted(scans.iterdir())[0]
    content = gzip.decompress(first.read_bytes())
    (scans / "copy.nii").write_bytes(content)
    with pytest.raises(InputError, match="has the same voxels as"):
        run(scans, tmp_path / "s.h5")


def test_both_ids_of_one_file_are_named(scans: Path, tmp_path: Path):
    path = sorted(scans.iterdir())[0]
    (tmp_path / "cases.csv").write_text(f"id,t1\na,{path}\nb,{path}\n")
    with pytest.raises(InputError, match=f"^{path}: has the ids a and b; leave one out$"):
        run(tmp_path / "cases.csv", tmp_path / "s.h5")


@pytest.mark.parametrize("size", [(4096, 32, 32), (32, 96, 4128)])
def test_long_volumes_are_stored_with_averages_of_whole_blocks(tmp_path: Path, nifti: Callable[..., Path], size):
    nifti("in/a.nii", np.random.default_rng(0).random((9, 8, 7), np.float32))
    store = Store(prepare(tmp_path / "in", tmp_path / "a.h5", replace(CONFIG, size=size), progress=False).path)
    assert store.volume(0).shape == (1, *size) and store.low(0).shape == (1, *(side // 32 for side in size))


def test_a_size_that_no_store_holds_is_refused():
    with pytest.raises(InputError, match=r"size \[1, 65536, 65536\]: slabs of 1 slices .* have 8 GiB"):
        PrepareConfig(size=(1, 65536, 65536))


def test_a_scan_in_another_format_is_a_copy(scans: Path, tmp_path: Path):
    volume = read_volume(sorted(scans.iterdir())[0])
    turned, affine = reorient(volume.array, volume.affine, "PLI")
    write_nifti(scans / "turned.nii", turned, affine)
    with pytest.raises(InputError, match="turned.nii: has the same voxels as"):
        run(scans, tmp_path / "s.h5")


@pytest.mark.parametrize(("factor", "said"), [(1.0, False), (1e3, True), (1e-6, True)])
def test_a_volume_in_a_wrong_unit_is_a_remark(scans: Path, factor: float, said: bool):
    for path in list(scans.iterdir())[1:]:
        path.unlink()
    volume = read_volume(next(scans.iterdir()))
    write_nifti(next(scans.iterdir()), volume.array, np.diag([factor] * 3 + [1]) @ volume.affine)
    remarks = inspect(scans, CONFIG, progress=False).remarks
    assert any("is the unit of its header right" in remark for remark in remarks) == said


def test_a_broken_link_is_left_out_with_skip_bad(scans: Path, tmp_path: Path):
    (scans / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="gone.nii.gz: broken symbolic link"):
        run(scans, tmp_path / "s.h5")
    assert list(run(scans, tmp_path / "s.h5", skip_bad=True).left_out) == ["gone"]


def test_a_second_process_that_makes_a_store_is_refused(scans: Path, tmp_path: Path):
    folder = tmp_path / ".a.h5.cache"
    folder.mkdir()
    with locked(folder, "held"), pytest.raises(InputError, match="another process makes this store"):
        run(scans, tmp_path / "a.h5")
    assert len(run(scans, tmp_path / "a.h5")) > 0 and not folder.exists()
