"""Translation with several source and target channels, from files to files in the units of each channel."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d import cli, evaluate, plan, prepare, train, translate
from hagan3d.checkpoint import files
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.store.store import Store
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import assert_equal
from tests.methods.small import small_config

SHAPE = (36, 34, 40)
SMALL = (
    "--method pix2pix --pix2pix.width 4 --pix2pix.critic_width 4 --pix2pix.critic_layers 1 --pix2pix.source_channels 2 "
    "--train.batch_size 2 --train.device cpu --log.every 1"
).split()
TWO = ["--pix2pix.target_channels", "2"]
CHANNELS = {
    "source_t1": (400.0, 30.0),
    "source_flair": (90.0, 5.0),
    "target_t2": (1000.0, 200.0),
    "target_ct": (0.0, 60.0),
}
"""Mean and standard deviation of the intensities of each channel."""


def affine_of(number: int) -> np.ndarray:
    affine = np.array([[0, -1.1, 0, 10.0], [1.2, 0, 0, -20], [0, 0, 1.5, 5], [0, 0, 0, 1]])
    affine[:3, 3] += number
    return affine


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Six subjects with two source and two target channels, a mask, and a store of each kind of pair."""
    folder = tmp_path_factory.mktemp("channels")
    rows = [",".join(["id", *CHANNELS, "mask"])]
    for number in range(6):
        base = gaussian_filter(np.random.default_rng(number).standard_normal(SHAPE), 3)
        base /= base.std()
        for k, (name, (mean, deviation)) in enumerate(CHANNELS.items()):
            own = gaussian_filter(np.random.default_rng([number, k]).standard_normal(SHAPE), 2)
            volume = mean + deviation * (base + own).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(volume, affine_of(number)), folder / f"{name}{number}.nii.gz")
        mask = np.zeros(SHAPE, np.uint8)
        mask[4:-4, 4:-4, 4:-4] = 1
        nibabel.save(nibabel.Nifti1Image(mask, affine_of(number)), folder / f"mask{number}.nii.gz")
        rows.append(",".join([f"p{number}", *(f"{name}{number}.nii.gz" for name in (*CHANNELS, "mask"))]))
    (folder / "two.csv").write_text("\n".join(rows))
    (folder / "one.csv").write_text("\n".join(",".join(np.delete(row.split(","), [4, 5])) for row in rows))
    ct = "{target_ct: {intensity: window, window: [-300, 300], units: HU}}"
    for name, more in (("two", ["--intensities", ct]), ("one", [])):
        words = f"--pairs {folder}/{name}.csv --output {folder}/{name}.h5 --size 32 32 32 --validation 0.4 --workers 1"
        assert cli.run(prepare.main, [*words.split(), *more]) == 0
    return folder


def run(command, *words: object) -> None:
    assert cli.run(command.main, [str(word) for word in words]) == 0


def trained(folder: Path, name: str, out: Path, *words: object) -> Path:
    run(train, *SMALL, "--data.store", folder / f"{name}.h5", "--train.steps", 2, "--out", out, *words)
    return out


def test_tables_name_channels_and_each_has_its_intensities(folder, capsys):
    store = Store(folder / "two.h5")
    assert store.source_channels == ("source_t1", "source_flair") and store.channels == ("target_t2", "target_ct")
    assert (store.intervals[:, 1] == [-300, 300]).all() and store.description().channels[1].units == "HU"
    batch = PairSource(store, "train", 2, 0).batch(0)
    assert batch.source.shape == batch.target.shape == (2, 2, 32, 32, 32) and batch.mask.shape == (2, 1, 32, 32, 32)
    words = f"--pairs {folder}/two.csv --output {folder}/hint.h5 --size 32 32 32 --workers 1"
    run(prepare, *words.split())
    assert "--method METHOD --METHOD.source_channels 2 --METHOD.target_channels 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("two", "", "use --pix2pix.source_channels 2 --pix2pix.target_channels 2"),
        (
            "one",
            "--pix2pix.target_channels 2",
            "2 channels (source_t1, source_flair) per source and one channel (target",
        ),
        ("one", "--pix2pix.source_channels 1", "use --pix2pix.source_channels 2 --pix2pix.target_channels 1"),
        ("one", "--pix2pix.source_channels 1 --pix2pix.residual true --pix2pix.target_channels 2", "leave it out"),
    ],
)
def test_other_channels_than_those_of_the_store_are_refused(folder, tmp_path, name, words, message, capsys):
    where = ["--data.store", str(folder / f"{name}.h5"), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*SMALL, *where, *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (tmp_path / "run").exists()


def test_simulated_sources_of_several_channels_are_refused(folder, tmp_path, capsys):
    (folder / "cases.csv").write_text((folder / "two.csv").read_text().replace(",mask", ",other", 1))
    run(
        prepare,
        "--input",
        folder / "cases.csv",
        "--output",
        tmp_path / "cases.h5",
        "--size",
        32,
        32,
        32,
    )
    where = ["--data.store", str(tmp_path / "cases.h5"), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*SMALL, *TWO, *where, "--data.degrade.kind", "noise"]) == 2
    assert "a simulated source has one channel, but its volumes have 5" in capsys.readouterr().err


@pytest.mark.slow
def test_two_sources_to_two_targets_from_files_to_files(folder, tmp_path):
    out = trained(folder, "two", tmp_path / "run", *TWO, "--log.preview_every", 2)
    assert len(list((out / "previews").glob("*.png"))) == 1
    (tmp_path / "new.csv").write_text(
        f"ID,source_FLAIR,source_T1,age\nnew,{folder}/source_flair3.nii.gz,{folder}/source_t13.nii.gz,40\n"
    )
    run(translate, out, "--input", tmp_path / "new.csv", "--out", tmp_path / "made", "--device", "cpu")
    made = {path.name: nibabel.load(path) for path in (tmp_path / "made").glob("*.nii.gz")}
    assert sorted(made) == ["new_target_ct.nii.gz", "new_target_t2.nii.gz"]
    for name, (lo, hi) in zip(("t2", "ct"), np.median(Store(folder / "two.h5").intervals, 0), strict=True):
        image = made[f"new_target_{name}.nii.gz"]
        assert image.shape == SHAPE
        np.testing.assert_allclose(image.affine, affine_of(3), atol=1e-4)
        half = (hi - lo) / 2
        assert lo - half < image.get_fdata().mean() < hi + half and image.get_fdata().std() > 0
    ct = made["new_target_ct.nii.gz"].get_fdata()
    assert abs(ct).max() < 900 < made["new_target_t2.nii.gz"].get_fdata().max() + 900  # HU are not the units of t2
    with (tmp_path / "made" / "translations.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert {*row} >= {"id", "seam_ratio_target_t2", "mean_sigma_target_ct"}

    run(evaluate, out, "--store", folder / "two.h5", "--out", tmp_path / "evaluation", "--device", "cpu")
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert [*metrics["channels"]] == ["target_t2", "target_ct"] and metrics["channels"]["target_ct"]["units"] == "HU"
    assert "summary" not in metrics and [*metrics["rows"][0]["channels"]] == ["target_t2", "target_ct"]
    report = (tmp_path / "evaluation" / "report.html").read_text()
    assert "<h3>target_ct</h3>" in report and "MAE, HU" in report


@pytest.mark.slow
def test_errors_of_a_channel_are_in_its_units(folder, tmp_path):
    """A network of zeros predicts 0 everywhere: errors follow from the targets."""
    out = trained(folder, "two", tmp_path / "run", *TWO, "--train.ema", 0)
    path = files.newest(out)
    checkpoint = files.load(path)
    for value in checkpoint.networks["g"].values():
        value.zero_()
    files.save(checkpoint, path)
    run(evaluate, out, "--store", folder / "two.h5", "--out", tmp_path / "e", "--device", "cpu")
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    store = Store(folder / "two.h5")
    for channel, name in enumerate(store.channels):
        halves = np.diff(store.intervals[:, channel])[:, 0] / 2
        expected = [
            float(store.channel(row["index"], channel).abs().mean()) * halves[row["index"]] for row in metrics["rows"]
        ]
        found = [row["channels"][name]["translated"]["whole"]["mae"] for row in metrics["rows"]]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_two_sources_to_one_target_resumes_and_writes_one_file(folder, tmp_path):
    words = ["--pix2pix.residual", "true", "--train.seed", 3]
    straight = trained(folder, "one", tmp_path / "straight", *words, "--train.steps", 3)
    trained(folder, "one", tmp_path / "stopped", *words)
    stopped = trained(folder, "one", tmp_path / "stopped", *words, "--train.steps", 3)
    one, other = (files.load(files.newest(path)) for path in (straight, stopped))
    assert one.step == other.step == 3
    assert_equal(one.networks, other.networks)
    assert_equal(one.optimizers, other.optimizers)
    table = folder / "two.csv"  # a table of pairs serves: other columns are ignored
    run(translate, straight, "--input", table, "--out", tmp_path / "made", "--device", "cpu")
    assert sorted(path.name for path in (tmp_path / "made").glob("*.gz")) == [f"p{k}.nii.gz" for k in range(6)]
    run(translate, straight, "--input", folder / "one.h5", "--out", tmp_path / "again", "--device", "cpu")
    assert len(list((tmp_path / "again").glob("*.nii.gz"))) == 6
    run(evaluate, straight, "--store", folder / "one.h5", "--out", tmp_path / "e", "--device", "cpu")
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert "channels" not in metrics and metrics["summary"]["translated"]["mask"]["mae"]["mean"] > 0


@pytest.mark.slow
def test_channels_of_4d_files_are_those_of_a_table(folder, tmp_path):
    out = trained(folder, "one", tmp_path / "run")
    images = [nibabel.load(folder / f"source_{name}2.nii.gz") for name in ("t1", "flair")]
    stacked = np.stack([image.get_fdata(dtype=np.float32) for image in images], -1)
    nibabel.save(nibabel.Nifti1Image(stacked, affine_of(2)), tmp_path / "p2.nii.gz")
    for name, source in (("a", tmp_path / "p2.nii.gz"), ("b", folder / "one.csv")):
        run(translate, out, "--input", source, "--out", tmp_path / name, "--device", "cpu")
    one, other = (nibabel.load(tmp_path / name / "p2.nii.gz").get_fdata() for name in "ab")
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_input_of_other_channels_is_refused_in_one_line(folder, tmp_path, capsys):
    out = trained(folder, "one", tmp_path / "run")
    far = nibabel.load(folder / "source_flair1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(far.get_fdata(), affine_of(900)), tmp_path / "far.nii.gz")
    (tmp_path / "far.csv").write_text(f"id,source_t1,source_flair\na,{folder}/source_t11.nii.gz,far.nii.gz")
    (tmp_path / "less.csv").write_text(f"id,source_t1\na,{folder}/source_t11.nii.gz")
    run(prepare, "--pairs", *[_single(folder, tmp_path)], "--output", tmp_path / "s.h5", "--size", 32, 32, 32)
    for source, message in (
        (folder / "source_t11.nii.gz", "has 1 channels along its last axis, expected 2"),
        (
            tmp_path / "less.csv",
            "no column 'source_flair' among id, source_t1; use the columns id, source_t1, source_flair",
        ),
        (tmp_path / "far.csv", "far.nii.gz: its grid does not overlap"),
        (tmp_path / "s.h5", "its sources have the channels source, but those of the model are source_t1, source_flair"),
    ):
        words = [str(out), "--input", str(source), "--out", str(tmp_path / "made"), "--device", "cpu"]
        assert cli.run(translate.main, words) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error and not (tmp_path / "made").exists()


def _single(folder: Path, tmp_path: Path) -> Path:
    lines = [f"p{k},{folder}/source_t1{k}.nii.gz,{folder}/target_t2{k}.nii.gz" for k in range(4)]
    (tmp_path / "single.csv").write_text("\n".join(["id,source,target", *lines]))
    return tmp_path / "single.csv"


@pytest.mark.slow
@pytest.mark.parametrize("window", ["patch", "hierarchical"])
def test_windows_hold_every_channel(folder, tmp_path, window):
    words = ["--data.window", window, "--data.subvolume_depth", 8, "--pix2pix.masked_losses", "true"]
    out = trained(folder, "two", tmp_path / "run", *TWO, *words, "--log.preview_every", 2)
    run(translate, out, "--input", folder / "two.csv", "--out", tmp_path / "made", "--device", "cpu")
    assert len(list((tmp_path / "made").glob("*.nii.gz"))) == 12
    networks = make_networks(files.load(files.newest(out)).config)
    assert (networks.low_resolution is not None) == (window == "hierarchical")


@pytest.mark.slow
def test_a_plan_counts_the_channels(capsys):
    run(plan, *SMALL, *TWO, "--data.size", 32, 32, 32, "--vram", "4GB")
    assert "fits" in capsys.readouterr().out
    config = small_config("pix2pix", source_channels=2, target_channels=3)
    single = small_config("pix2pix")
    assert make_method(config).zero_batch().target.shape[1] == 3
    # the sources of both are simulated, so that targets alone are read
    assert make_method(config).bytes_per_step() == 3 * make_method(single).bytes_per_step()


@pytest.mark.slow
def test_uncertainty_is_calibrated_for_each_channel(folder, tmp_path):
    words = (
        "--method upgan --upgan.width 4 --upgan.levels 1 --upgan.critic_width 4 --upgan.critic_layers 1 "
        "--train.steps 1 --upgan.stages 1 --upgan.stage_steps 1 --upgan.source_channels 2 --upgan.target_channels 2 "
        "--train.device cpu"
    ).split()
    out = tmp_path / "run"
    run(train, *words, "--data.store", folder / "two.h5", "--out", out)
    run(evaluate, out, "--store", folder / "two.h5", "--out", tmp_path / "e", "--device", "cpu")
    metrics = tmp_path / "e" / "metrics.json"
    channels = json.loads(metrics.read_text())["channels"]
    scales = [channel["calibration"]["scale"] for channel in channels.values()]
    assert scales[0] != scales[1]  # one sigma for both, but errors of different size
    for name, more in (("plain", []), ("scaled", ["--calibration", metrics])):
        run(translate, out, "--input", folder / "one.csv", "--out", tmp_path / name, "--device", "cpu", *more)
    for channel, scale in zip(channels, scales, strict=True):
        plain, scaled = (
            nibabel.load(tmp_path / n / f"p0_{channel}_sigma.nii.gz").get_fdata() for n in ("plain", "scaled")
        )
        np.testing.assert_allclose(scaled, scale * plain, rtol=1e-5)
    assert len(list((tmp_path / "plain").glob("*.nii.gz"))) == 6 * 2 * 4


@pytest.mark.slow
def test_segmentation_of_several_modalities(folder, tmp_path):
    rows = ["id,source_t1,source_flair,target"]
    rows += [f"p{k},source_t1{k}.nii.gz,source_flair{k}.nii.gz,mask{k}.nii.gz" for k in range(6)]
    table = folder / "segmentation.csv"
    table.write_text("\n".join(rows))
    labels = "--size 32 32 32 --workers 1 --intensity labels --window 0 1 --validation 0.4".split()
    run(prepare, "--pairs", table, "--output", tmp_path / "s.h5", *labels)
    words = "--segan.width 4 --segan.levels 2 --segan.critic_width 4 --segan.critic_layers 2 --segan.labels 2".split()
    words += "--method segan --segan.source_channels 2 --train.batch_size 2 --train.device cpu --train.steps 2".split()
    run(train, *words, "--data.store", tmp_path / "s.h5", "--out", tmp_path / "run")
    checkpoint = files.load(files.newest(tmp_path / "run"))
    assert next(iter(checkpoint.networks["g"].values())).shape[1] == 2
    run(translate, tmp_path / "run", "--input", table, "--out", tmp_path / "made", "--device", "cpu")
    made = nibabel.load(tmp_path / "made" / "p4.nii.gz")
    assert made.shape == SHAPE and set(np.unique(made.get_fdata())) <= {0, 1}
    np.testing.assert_allclose(made.affine, affine_of(4), atol=1e-4)
    run(evaluate, tmp_path / "run", "--store", tmp_path / "s.h5", "--out", tmp_path / "e", "--device", "cpu")
    assert set(json.loads((tmp_path / "e" / "metrics.json").read_text())["dice"]) == {"1"}
    wrong = ["--data.store", str(tmp_path / "s.h5"), "--out", str(tmp_path / "x"), "--segan.target_channels", "2"]
    assert cli.run(train.main, [*words, *wrong]) == 2


def test_a_residual_adds_the_first_source_channels():
    config = small_config("pix2pix", source_channels=3, target_channels=2, residual=True)
    networks = make_networks(config).eval()
    for parameter in networks.g.parameters():
        parameter.data.zero_()
    source = torch.rand(1, 3, 16, 16, 16)
    assert torch.equal(networks.translate(source).mean, source[:, :2])
