"""Volumes of several channels with label maps: the ways in, the store, and what is refused."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from hagan3d import cli
from hagan3d import prepare as prepare_command
from hagan3d.data.batches.subvolumes import BatchSource
from hagan3d.data.batches.whole_volumes import VolumesInMemory, VolumesInStore
from hagan3d.data.io import volumes
from hagan3d.data.preprocess.cases import Cases, find_channels, find_nnunet, find_table
from hagan3d.data.preprocess.inputs import find_inputs
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import ChannelConfig, PrepareConfig
from hagan3d.data.store.derived import write_subset
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

SHAPE = (32, 40, 36)
AFFINE = np.diag([2.0, 2, 2, 1])
NAMES = ("background", "core", "shell")


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def label_map(seed: int) -> np.ndarray:
    """A ball within a ball, at a place that depends on the seed."""
    centre = np.random.default_rng(seed).uniform(12, 20, 3)[:, None, None, None]
    distance = np.sqrt(((np.indices(SHAPE) - centre) ** 2).sum(0))
    return np.where(distance < 5, 1, np.where(distance < 9, 2, 0)).astype(np.uint8)


def contrast(seed: int, channel: int) -> np.ndarray:
    """Intensities that differ from channel to channel, with noise."""
    means = np.array([[10, 100, 50], [900, 200, 400]], np.float32)[channel]
    noise = np.random.default_rng([seed, channel]).normal(0, 3, SHAPE)
    return (means[label_map(seed)] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory) -> Path:
    """An nnU-Net data set of six cases with two channels and three labels."""
    folder = tmp_path_factory.mktemp("Dataset001_Balls")
    about = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {name: value for value, name in enumerate(NAMES)},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    for seed in range(6):
        for channel in range(2):
            write(folder / "imagesTr" / f"case_{seed}_{channel:04d}.nii.gz", contrast(seed, channel))
        write(folder / "labelsTr" / f"case_{seed}.nii.gz", label_map(seed))
    return folder


CONFIG = PrepareConfig(size=(32, 32, 32), validation=0.3)


@pytest.fixture(scope="module")
def store(nnunet: Path) -> Store:
    cases = find_inputs(None, nnunet=nnunet)
    return Store(prepare(cases, nnunet / "store.h5", CONFIG, progress=False).path)


def test_an_nnunet_data_set_is_read_with_its_channels_and_labels(store: Store):
    assert store.channels == ("T1", "T2") and store.label_names == NAMES
    assert len(store) == 6 and store.intervals.shape == (6, 2, 2)
    x = store.volume(0)
    assert x.shape == (5, 32, 32, 32) and store.num_channels == 5
    labels = store.label_map(0)
    assert set(np.unique(labels)) == {0, 1, 2}
    # the one-hot channels are those of the label map
    assert torch.equal(x[2:].argmax(0), torch.from_numpy(labels.astype(np.int64)))
    assert set(x[2:].unique().tolist()) == {-1.0, 1.0} and torch.equal(x[2:].sum(0), torch.full((32, 32, 32), -1.0))
    # the contrast of each channel follows the labels: bright core in T1, dark core in T2
    t1, t2 = x[0].numpy(), x[1].numpy()
    assert t1[labels == 1].mean() > t1[labels == 0].mean() + 1 and t2[labels == 1].mean() < t2[labels == 0].mean() - 1


def test_a_window_holds_all_channels_and_low_resolution_is_their_average(store: Store):
    x = store.volume(3)
    assert torch.equal(store.window(3, 8, 4), x[:, 8:12])
    assert torch.equal(VolumesInStore(store, (3, 1)).slab(8, 12).decoded(torch.device("cpu"))[0], x[:, 8:12])
    assert torch.equal(store.channel(3, 1), x[1])
    low = torch.nn.functional.avg_pool3d(x, 4)
    assert store.low(3).shape == (5, 8, 8, 8) and (store.low(3) - low).abs().max() < 4e-5


def test_the_bytes_of_a_slab_are_those_that_it_takes(store: Store):
    volumes, x = VolumesInStore(store, (3, 1)), VolumesInMemory(torch.zeros(2, 3, 16, 4, 5))
    images, label_map, _ = volumes.slab(8, 12)
    assert volumes.slab_bytes(4) == images.nbytes + label_map.nbytes
    assert x.slab_bytes(4) == x.slab(8, 12).numel() * 4


def test_a_batch_holds_all_channels(store: Store):
    batch = BatchSource(store, "train", 8, 2, seed=3).batch(0)
    assert batch.window.shape == (2, 5, 8, 32, 32) and batch.low.shape == (2, 5, 8, 8, 8)
    volumes = torch.cat(list(batch.slabs()), dim=2)
    for row, start in enumerate(batch.start.tolist()):
        assert torch.equal(batch.window[row], volumes[row, :, start : start + 8])


def test_labels_are_augmented_with_their_volume_and_never_averaged(store: Store):
    from hagan3d.config import AugmentConfig

    config = AugmentConfig(rotate_deg=20, scale=0.1, noise=0.05, brightness=0.3)
    batch = BatchSource(store, "train", 32, 2, seed=3, augment=config).batch(0)
    labels = batch.window[:, 2:]
    assert set(labels.unique().tolist()) == {-1.0, 1.0} and torch.equal(
        labels.sum(1), torch.full_like(labels[:, 0], -1)
    )
    # the images moved with them: the core is still the brightest part of T1
    t1, core = batch.window[:, 0], labels[:, 1] > 0
    assert t1[core].mean() > t1[labels[:, 0] > 0].mean() + 0.8


def test_a_subset_keeps_channels_and_labels(store: Store, tmp_path: Path):
    part = write_subset(tmp_path / "part.h5", store, [4, 1])
    assert part.channels == store.channels and part.label_names == store.label_names
    assert torch.equal(part.volume(0), store.volume(4)) and torch.equal(part.low(1), store.low(1))


def test_the_description_has_every_channel(store: Store):
    description = store.description()
    assert [channel.name for channel in description.channels] == ["T1", "T2"]
    assert description.label_names == NAMES and description.source_channels == ()
    medians = np.median(store.intervals[store.indices("train")], axis=0)
    np.testing.assert_allclose([channel.interval for channel in description.channels], medians)


def test_a_csv_has_a_column_per_channel_and_each_its_intensities(nnunet: Path, tmp_path: Path):
    lines = ["id,subject,t1,t2,seg"]
    lines += [
        f"c{i},s{i // 2},{nnunet}/imagesTr/case_{i}_0000.nii.gz,{nnunet}/imagesTr/case_{i}_0001.nii.gz,"
        f"{nnunet}/labelsTr/case_{i}.nii.gz"
        for i in range(6)
    ]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    own = {"t2": ChannelConfig(intensity="window", window=(0, 1000), units="a.u.")}
    config = PrepareConfig(size=(32, 32, 32), label_names=NAMES, intensities=own)
    store = Store(prepare(tmp_path / "cases.csv", tmp_path / "s.h5", config, progress=False).path)
    assert store.channels == ("t1", "t2") and store.subjects == ["s0", "s0", "s1", "s1", "s2", "s2"]
    t1, t2 = store.description().channels
    assert (t2.intensity, t2.interval, t2.units) == ("window", (0, 1000), "a.u.") and t1.intensity == "percentiles"


def test_a_4d_file_is_read_by_its_last_axis(store: Store, tmp_path: Path):
    for seed in range(3):
        both = np.stack([contrast(seed, channel) for channel in range(2)], axis=-1)
        write(tmp_path / "in" / f"case_{seed}.nii.gz", both)
    config = PrepareConfig(size=(32, 32, 32), channels="4d", channel_names=("t1", "t2"), validation=0)
    made = Store(prepare(tmp_path / "in", tmp_path / "s.h5", config, progress=False).path)
    assert made.channels == ("t1", "t2") and made.label_names == ()
    assert torch.equal(made.volume(1), store.volume(1)[:2])
    with pytest.raises(InputError, match="use --channels 4d if the last axis are channels"):
        prepare(tmp_path / "in", tmp_path / "t.h5", CONFIG, progress=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_4d_file_of_another_number_of_channels_is_named(channels: int, tmp_path: Path):
    for seed, count in enumerate((2, channels, 2)):
        frames = np.stack([contrast(seed, channel % 2) for channel in range(count)], axis=-1)
        write(tmp_path / "in" / f"case_{seed}.nii.gz", frames)
    config = PrepareConfig(size=(32, 32, 32), channels="4d", validation=0)
    with pytest.raises(InputError, match=rf"case_1.nii.gz: has {channels} channels along its last axis, expected 2"):
        prepare(tmp_path / "in", tmp_path / "s.h5", config, progress=False)
    assert not (tmp_path / "s.h5").exists()


def test_a_4d_file_is_read_once_to_be_checked_and_once_to_be_written(tmp_path: Path, monkeypatch):
    for seed in range(2):
        write(tmp_path / "in" / f"case_{seed}.nii.gz", np.stack([contrast(seed, k) for k in range(2)], axis=-1))
    config = PrepareConfig(size=(32, 32, 32), channels="4d", validation=0)
    read, count = volumes._read_frames, []
    monkeypatch.setattr(volumes, "_read_frames", lambda path: count.append(path) or read(path))
    prepare(tmp_path / "in", tmp_path / "s.h5", config, progress=False)
    assert sorted(path.name for path in count[1:]) == ["case_0.nii.gz"] * 2 + ["case_1.nii.gz"] * 2
    assert count[0].name == "case_0.nii.gz"  # its channels are counted


def test_other_grids_are_resampled_onto_the_first_channel_and_said(nnunet: Path, store: Store, tmp_path: Path):
    coarse = contrast(0, 1)[::2, ::2, ::2]
    affine = AFFINE @ np.array([[2.0, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    write(tmp_path / "t2.nii.gz", coarse, affine)
    (tmp_path / "cases.csv").write_text(f"id,t1,t2\na,{nnunet}/imagesTr/case_0_0000.nii.gz,t2.nii.gz\n")
    result = prepare(tmp_path / "cases.csv", tmp_path / "s.h5", PrepareConfig(size=(32, 32, 32)), progress=False)
    assert len(result.remarks) == 1 and "t2.nii.gz: resampled onto the grid of" in result.remarks[0]
    x = Store(result.path).volume(0).numpy()
    assert np.corrcoef(x[1].ravel(), store.channel(0, 1).numpy().ravel())[0, 1] > 0.9


def broken(folder: Path, **changes: object) -> Path:
    about = json.loads((folder / "dataset.json").read_text()) | changes
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def copy(nnunet: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(nnunet, tmp_path / "data", ignore=shutil.ignore_patterns("store*"))
    return tmp_path / "data"


DATASETS = [
    ("version 1", {"modality": {"0": "T1"}, "channel_names": None}, "lacks channel_names"),
    ("names twice", {"channel_names": {"0": "T1", "1": "T1"}}, "channel name 'T1' is used twice"),
    ("three channels", {"channel_names": {"0": "T1", "1": "T2", "2": "PD"}}, "case_0_0002.nii.gz: does not exist"),
    ("numbers", {"channel_names": {"1": "T1", "2": "T2"}}, "must number the channels from 0"),
    ("no channel", {"channel_names": {}}, "lacks channel_names"),
    ("regions", {"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions of several labels"),
    ("gap", {"labels": {"background": 0, "core": 1, "shell": 3}}, "without gaps"),
    ("ignored", {"labels": {"background": 0, "core": 1, "ignore": 2}}, "label `ignore`"),
    (
        "few labels",
        {"labels": {"background": 0, "core": 1}},
        "has the label 2, but the labels are 0 background, 1 core",
    ),
]


@pytest.mark.parametrize(("changes", "reason"), [case[1:] for case in DATASETS], ids=[case[0] for case in DATASETS])
def test_what_is_wrong_with_a_data_set_is_one_line(copy: Path, changes, reason: str, tmp_path: Path):
    folder = broken(copy, **changes)
    with pytest.raises(InputError) as caught:
        prepare(find_inputs(None, nnunet=folder), tmp_path / "s.h5", CONFIG, progress=False)
    lines = str(caught.value).splitlines()
    assert all(str(folder) in line for line in lines) and reason in lines[0]
    assert not (tmp_path / "s.h5").exists()


def test_a_data_set_that_is_not_json_or_of_version_1_is_refused(copy: Path):
    (copy / "dataset.json").write_text('{"modality": {"0": "T1"}, "labels": {"0": "background"}}')
    with pytest.raises(InputError, match="of nnU-Net version 1; convert it"):
        find_inputs(None, nnunet=copy)
    (copy / "dataset.json").write_text("no json")
    with pytest.raises(InputError, match="not JSON"):
        find_inputs(None, nnunet=copy)
    (copy / "dataset.json").unlink()
    with pytest.raises(InputError, match="does not exist; --nnunet takes the folder"):
        find_inputs(None, nnunet=copy)


MAPS = [
    ("NaN", lambda labels: np.where(labels == 1, np.float32("nan"), labels), "labels must be integers, got NaN"),
    (
        "one-hot",
        lambda labels: np.stack([labels == 0, labels == 1], -1).astype("u1"),
        "expected one 3D volume, got 4D (32 x 40 x 36 x 2); a label map has one integer",
    ),
    ("fractions", lambda labels: labels * np.float32(0.5), "labels must be integers, got fractions"),
    ("negative", lambda labels: labels.astype(np.int16) - 1, "has the label -1, but the labels are 0 background"),
    ("large", lambda labels: np.where(labels == 2, 7, labels).astype(np.uint8), "has the label 7"),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in MAPS], ids=[case[0] for case in MAPS])
def test_a_label_map_that_is_none_is_named(copy: Path, change, reason: str, tmp_path: Path):
    write(copy / "labelsTr" / "case_2.nii.gz", change(label_map(2)))
    with pytest.raises(InputError) as caught:
        prepare(find_inputs(None, nnunet=copy), tmp_path / "s.h5", CONFIG, progress=False)
    assert str(caught.value).startswith(f"{copy}/labelsTr/case_2.nii.gz: {reason}")
    assert str(caught.value).count("\n") == 0 and not (tmp_path / "s.h5").exists()


def test_channels_of_a_data_set_are_in_the_order_of_their_numbers(tmp_path: Path):
    names = [f"channel {number}" for number in range(11)]  # 10 comes after 9, not after 1
    about = {"channel_names": {str(k): name for k, name in enumerate(names)}, "labels": {"background": 0, "core": 1}}
    for path in ("labelsTr/a.nii.gz", *(f"imagesTr/a_{number:04d}.nii.gz" for number in range(11))):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "dataset.json").write_text(json.dumps(about | {"file_ending": ".nii.gz"}))
    cases = find_nnunet(tmp_path)
    assert list(cases.channels) == names and cases.files[0].channels[-1].name == "a_0010.nii.gz"


def test_a_channel_elsewhere_is_named(copy: Path, tmp_path: Path):
    far = AFFINE.copy()
    far[:3, 3] = 500
    write(copy / "imagesTr" / "case_1_0001.nii.gz", contrast(1, 1), far)
    with pytest.raises(InputError, match=r"case_1_0001.nii.gz: its grid does not overlap with that of .*case_1_0000"):
        prepare(find_inputs(None, nnunet=copy), tmp_path / "s.h5", CONFIG, progress=False)


TABLES = [
    ("no labels named", "id,t1,seg\na,x.nii.gz,y.nii.gz", {}, "has the column seg, so name its labels"),
    ("labels, no seg", "id,t1\na,x.nii.gz", {"label_names": NAMES}, "has no column seg"),
    ("id twice", "id,t1\na,x.nii.gz\na,y.nii.gz", {}, "the id 'a' is repeated"),
    ("empty cell", "id,t1,t2\na,x.nii.gz,", {}, "a has no t2"),
    ("a number", "id,t1,age\na,x.nii.gz,63", {}, "the age of a, "),
    ("no channel", "id,subject\na,s", {}, "a column of files per channel"),
    ("Seg", "id,t1,Seg\na,x.nii.gz,y.nii.gz", {}, "has the column seg, so name its labels"),
    ("file names", "id,T1 w,T1-w\na,x.nii.gz,y.nii.gz", {}, "the channels 'T1 w' and 'T1-w' would be written to files"),
    ("one label", "id,t1,seg\na,x.nii.gz,y.nii.gz", {"label_names": ("a",)}, "2 to 256 different names"),
    ("unknown channel", "id,t1\na,x.nii.gz", {"intensities": {"t2": ChannelConfig()}}, "no channel is named 't2'"),
]


@pytest.mark.parametrize(("text", "settings", "reason"), [c[1:] for c in TABLES], ids=[c[0] for c in TABLES])
def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path, text: str, settings, reason: str):
    for name in ("x", "y"):
        write(tmp_path / f"{name}.nii.gz", contrast(0, 0))
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "cases.csv", tmp_path / "s.h5", PrepareConfig(size=(32, 32, 32), **settings), progress=False)
    assert reason in str(caught.value) and not (tmp_path / "s.h5").exists()


def test_a_table_of_pairs_has_channels_and_refuses_other_columns(nnunet: Path, tmp_path: Path):
    def cells(i: int) -> str:
        return f"p{i},{nnunet}/imagesTr/case_{i}_0000.nii.gz,{nnunet}/imagesTr/case_{i}_0001.nii.gz"

    header = "id,source,source_2,target"
    lines = [f"{cells(i)},{nnunet}/imagesTr/case_{(i + 1) % 4}_0000.nii.gz" for i in range(4)]
    (tmp_path / "p.csv").write_text("\n".join([header, *lines]))
    made = prepare(find_inputs(None, [tmp_path / "p.csv"]), tmp_path / "s.h5", CONFIG, progress=False)
    store = Store(made.path)
    assert store.source_channels == ("source", "source_2") and store.channels == ("target",)
    assert store.source(0).shape == (2, 32, 32, 32) and store.source_intervals.shape == (4, 2, 2)
    assert len({*store.subjects}) == 1  # since each shares files with the next
    twice = f"{cells(0)},{nnunet}/imagesTr/../imagesTr/case_0_0001.nii.gz"
    (tmp_path / "p.csv").write_text(f"{header}\n{twice}")
    with pytest.raises(InputError, match="is both the source_2 and the target of p0"):
        find_inputs(None, [tmp_path / "p.csv"])
    (tmp_path / "p.csv").write_text("\n".join([header.replace("source_2", "source2"), *lines]))
    with pytest.raises(InputError, match="the column 'source2' has no meaning here"):
        find_inputs(None, [tmp_path / "p.csv"])


def test_no_two_channels_have_one_file_name():
    with pytest.raises(InputError, match="'seg' and 'seg' would be written"):
        Cases([], ("t1", "seg"), NAMES)
    with pytest.raises(InputError, match="'a/b' and 'A-b' would be written"):
        Cases([], sources=("a/b", "A-b"))
    assert Cases([], ("t1", "seg"), sources=("t1",)).channels == ("t1", "seg")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{T2: {intensity: foo}}", "intensities: intensity foo: must be one of window, percentiles, z-score"),
        ("{T2: {windw: [0, 1]}}", "intensities: Option 'windw' is not accepted; did you mean window?"),
        ("{T2: {window: [5, 4]}}", "intensities.window: must be two finite values in ascending order"),
        ("{T2: 5}", "intensities 5: must be settings by name"),
        ("{T2: {class_path: os.system}}", "Importing 'os.system' is not allowed"),
        ("{PD: {units: a.u.}}", "no channel is named 'PD'; the channels are T1, T2"),
    ],
)
def test_intensities_of_a_channel_that_cannot_be_are_one_line(nnunet: Path, tmp_path: Path, capsys, value, reason):
    words = ["--nnunet", str(nnunet), "--output", str(tmp_path / "s.h5"), "--size", "32", "32", "32"]
    assert cli.run(prepare_command.main, [*words, "--intensities", value]) == 2
    message = capsys.readouterr().err
    assert reason in message and message.count("\n") == 1 and not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize("names", [list(NAMES), [f"[{','.join(NAMES)}]"], ["background", "left core", "shell"]])
def test_names_are_written_with_blanks_between_them(nnunet: Path, tmp_path: Path, names: list[str]):
    images, maps = nnunet / "imagesTr", nnunet / "labelsTr"
    lines = [f"c{i},{images}/case_{i}_0000.nii.gz,{maps}/case_{i}.nii.gz" for i in range(2)]
    (tmp_path / "cases.csv").write_text("\n".join(["id,t1,seg", *lines]))
    words = ["--input", str(tmp_path / "cases.csv"), "--output", str(tmp_path / "s.h5"), "--validation", "0"]
    assert cli.run(prepare_command.main, [*words, "--label_names", *names, "--size", "32", "32", "32"]) == 0
    written = names if len(names) == 3 else list(NAMES)
    assert list(Store(tmp_path / "s.h5").label_names) == written


def test_columns_are_recognised_in_upper_and_lower_case(nnunet: Path, tmp_path: Path):
    cells = f"a,s,{nnunet}/imagesTr/case_0_0000.nii.gz,{nnunet}/labelsTr/case_0.nii.gz"
    (tmp_path / "cases.csv").write_text(f"ID,Subject,T1,SEG\n{cells}\n")
    (file,) = find_table(tmp_path / "cases.csv", NAMES).files
    assert (file.id, file.subject, file.label_map.name) == ("a", "s", "case_0.nii.gz")
    assert find_table(tmp_path / "cases.csv", NAMES).channels == ("T1",)
    assert find_channels(tmp_path / "cases.csv", ["t1"])[0].path == file.path


def test_shards_hold_channels_and_labels(nnunet: Path, store: Store, tmp_path: Path):
    words = ["--nnunet", str(nnunet), "--output", str(tmp_path / "parts"), "--validation", "0.3"]
    for shard in ("1/2", "2/2"):
        assert cli.run(prepare_command.main, [*words, "--size", "32", "32", "32", "--shard", shard]) == 0
    parts = Store(tmp_path / "parts")
    assert parts.channels == store.channels and parts.label_names == NAMES and sorted(parts.ids) == store.ids
    for i, name in enumerate(parts.ids):
        assert torch.equal(parts.volume(i), store.volume(store.ids.index(name)))
