"""`hagan3d augment`: the result is a store like any other, whose generated volumes are never held out."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from hagan3d import __main__, augment, cli, encode, evaluate, train
from hagan3d.checkpoint import load_model
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.derived import write_subset
from hagan3d.data.store.store import Store
from hagan3d.inference import augmentation
from hagan3d.inference.generation import samples

TINY = (
    "--data.size 32 32 32 --data.subvolume-depth 16 --hagan.latent-dim 8 --hagan.channels 64 --hagan.d-channels 64 "
    "--train.batch-size 2 --train.device cpu --train.steps 2 --log.preview-every 0 --log.every 1"
).split()
NO_ENCODER = "--hagan.encoder false --hagan.autoencode 0 --hagan.prior normal".split()
FAST = "--num 5 --bootstrap 2 --kid-subsets 1 --pairs 0 --shown 1 --reconstructions 0 --features random".split()


def make_store(folder, size=(32, 32, 32), classes=("mild", "severe"), window=(-1024.0, 600.0), count=16, spacing=None):
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = ["id,class,age"]
    for number in range(count):
        volume = gaussian_filter(random.standard_normal(size), 3) * 3000 - 200
        nib.save(nib.Nifti1Image(volume.astype(np.int16), np.diag([2.0, 2, 2, 1])), folder / f"s{number:02d}.nii.gz")
        rows.append(f"s{number:02d},{classes[number % len(classes)]},{50 + number}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    settings = PrepareConfig(
        size=size,
        intensity="window",
        window=window,
        validation=0.4,
        workers=1,
        labels=str(folder / "labels.csv"),
        spacing=spacing,
    )
    prepare([folder], folder / "s.h5", settings, progress=False)
    return folder / "s.h5"


def trained(store, out, *words):
    assert cli.run(train.main, ["--data.store", str(store), "--out", str(out), *TINY, *words]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("augment")


@pytest.fixture(scope="module")
def store(folder):
    return make_store(folder / "store")


@pytest.fixture(scope="module")
def run(store, folder):
    return trained(store, folder / "run", "--hagan.conditional", "true")


@pytest.fixture(scope="module")
def more(run, store, folder):
    words = f"{run} --store {store} --per-class 3 --out {folder}/more.h5".split()
    assert cli.run(augment.main, words) == 0
    return folder / "more.h5"


def status(capsys, run, store, out, *words):
    capsys.readouterr()
    code = cli.run(augment.main, [str(run), "--store", str(store), "--out", str(out), "--per-class", "2", *words])
    lines = capsys.readouterr().err.splitlines()
    return code, [line for line in lines if line.startswith(("error", "warning"))]


def test_real_volumes_stay_and_generated_ones_are_those_of_the_run(run, store, more):
    real, made = Store(store), Store(more)
    count = len(real)
    assert made.generated.tolist() == [False] * count + [True] * 6
    assert made.labels[count:].tolist() == [0, 0, 0, 1, 1, 1] and made.splits[count:] == ["train"] * 6
    assert (
        made.ids[:count] == real.ids and made.splits[:count] == real.splits and made.subjects[:count] == real.subjects
    )
    assert made.files[-1] == "run step 2 class severe seed 5"
    model = load_model(run, generate=True)
    for seed, label in ((0, 0), (5, 1)):
        wanted = next(samples(model, [seed], label)).volume
        np.testing.assert_allclose(made.volume(count + seed).numpy(), wanted, atol=2e-5)
    assert torch.equal(made.volume(3), real.volume(3))
    assert Image.open(more.with_suffix(".png")).width > 300


def test_the_result_can_be_trained_on_and_encoded(run, more, tmp_path):
    assert cli.run(encode.main, [str(run), "--input", str(more), "--out", str(tmp_path / "features")]) == 0
    rows = list(csv.DictReader((tmp_path / "features" / "features.csv").open()))
    assert [row["split"] for row in rows if row["id"].startswith("generated-")] == ["train"] * 6
    again = trained(more, tmp_path / "run", "--train.steps", "1", *NO_ENCODER)
    assert load_model(again, generate=True).step == 1


@pytest.mark.slow
def test_evaluation_measures_against_real_volumes_alone_whatever_the_split_says(run, store, more, tmp_path):
    forged = tmp_path / "forged.h5"
    shutil.copy(more, forged)
    with h5py.File(forged, "r+") as file:
        file["split"][-2:] = "validation"
    assert cli.run(evaluate.main, [str(run), "--store", str(forged), "--out", str(tmp_path / "out"), *FAST]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    splits = Store(store).splits
    held = splits.count("validation") + splits.count("test")
    assert metrics["volumes"] == {"generated": 5, "held-out": held, "train": len(splits) - held}
    assert any("6 generated volumes, which were excluded" in line for line in metrics["warnings"])


def test_more_can_be_added_but_not_the_same_seeds(run, more, tmp_path, capsys):
    code, lines = status(capsys, run, more, tmp_path / "most.h5", "--first-seed", "4")
    assert code == 2 and len(lines) == 1 and "2 volumes of this run and these seeds" in lines[0]
    assert "--first-seed 6" in lines[0] and not (tmp_path / "most.h5").exists()
    assert status(capsys, run, more, tmp_path / "most.h5", "--first-seed", "6") == (0, [])
    assert Store(tmp_path / "most.h5").generated.sum() == 10


def test_nothing_is_overwritten_unless_forced(run, store, tmp_path, capsys):
    out = tmp_path / "more.h5"
    assert status(capsys, run, store, out) == (0, [])
    before = digest(out)
    code, lines = status(capsys, run, store, out, "--first-seed", "50")
    assert code == 2 and len(lines) == 1 and "--force" in lines[0] and digest(out) == before
    assert status(capsys, run, store, out, "--force") == (0, []) and digest(out) == before
    assert status(capsys, run, store, out, "--first-seed", "50", "--force") == (0, []) and digest(out) != before
    original = digest(store)
    code, lines = status(capsys, run, store, store, "--force")
    assert code == 2 and "the store with the real volumes" in lines[0] and digest(store) == original


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_of_another_store_is_warned_of(run, store, tmp_path, capsys):
    other = write_subset(tmp_path / "part.h5", Store(store), range(12))
    code, lines = status(capsys, run, other.path, tmp_path / "out.h5")
    assert code == 0 and len(lines) == 1 and "was not trained on" in lines[0]


def test_bad_input_is_one_line_and_status_2(run, store, tmp_path, capsys):
    plain = trained(store, tmp_path / "plain", "--train.steps", "1", *NO_ENCODER)
    stores = {
        "others": make_store(tmp_path / "others", classes=("mild", "moderate", "severe")),
        "one": make_store(tmp_path / "one", classes=("mild",), count=6),
        "wide": make_store(tmp_path / "wide", size=(32, 32, 64), count=6),
        "bright": make_store(tmp_path / "bright", window=(-500.0, 600.0), count=6),
        "fine": make_store(tmp_path / "fine", spacing=(1.5, 1.5, 1.5), count=6),
    }
    out = tmp_path / "out.h5"
    for a_run, a_store, words, message in [
        (plain, store, [], "without classes"),
        (run, stores["one"], [], "fewer than 2 classes"),
        (run, stores["others"], [], "has the classes mild, moderate, severe, the run those of s.h5: mild, severe"),
        (run, stores["wide"], [], "volumes of [32, 32, 64] voxels, but the model's are [32, 32, 32]"),
        (run, stores["bright"], [], "window -500 to 600 of image, the model's is -1024 to 600"),
        (run, stores["fine"], [], "voxels of 1.5 x 1.5 x 1.5 mm, the model's are 2 x 2 x 2 (--spacing, --fit)"),
        (run, tmp_path / "nothing.h5", [], "does not exist"),
        (tmp_path / "nothing", store, [], "no such run"),
        (run, store, ["--first-seed", "-1"], "--first-seed from 0 up"),
        (run, store, ["--per-class", "0"], "--per-class from 1 up"),
    ]:
        code, lines = status(capsys, a_run, a_store, out, *words)
        errors = [line for line in lines if line.startswith("error")]
        assert code == 2 and len(errors) == 1 and message in errors[0], lines
    code, lines = status(capsys, run, store, tmp_path / "folder")
    assert code == 2 and "ends in .h5" in lines[0]
    assert not list(tmp_path.glob("*out*"))


def test_the_command_is_listed():
    assert "augment" in __main__.usage()


def test_the_picture_shows_volumes_without_a_class_too(monkeypatch, tmp_path):
    shown = {}
    monkeypatch.setattr(augmentation, "comparison_sheet", lambda volumes, *_, **__: shown.update(volumes))
    labels, generated = np.array([0, 1, 0, -1]), np.array([False, False, False, True])
    store = SimpleNamespace(
        labels=labels,
        generated=generated,
        splits=["train"] * 4,
        class_names=("mild", "severe"),
        channel=lambda i: torch.full((2, 2, 2), float(i)),
        description=lambda: SimpleNamespace(affine_array=np.eye(4)),
    )
    augmentation._draw(store, tmp_path / "a.png")
    assert {title: len(volumes) for title, volumes in shown.items()} == {
        "mild, real": 2,
        "severe, real": 1,
        "volumes, generated": 1,
    }
