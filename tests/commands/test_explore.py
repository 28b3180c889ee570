"""`hagan3d explore`: a known direction is recovered and walked, files are whole, bad input is one line."""

import csv
import json
import re
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from hagan3d import cli, explore
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.exploration import attributes, exploration, measures, walks
from hagan3d.evaluation.exploration.measurement import measurement_for
from hagan3d.evaluation.progress import no_progress
from hagan3d.evaluation.settings import ExploreConfig
from hagan3d.inference.encoding import Input

CT = PrepareConfig(size=(32, 32, 32), intensity="window", validation=0.25)


def command(*words):
    return cli.run(explore.main, [str(word) for word in words])


def lungs_of(z, side=32):
    """A made-up generator: a body in which lungs grow with the first number of z and move with the second."""
    d, h, w = np.meshgrid(*[np.arange(side) - side / 2] * 3, indexing="ij")
    body, radius = np.hypot(h, w) < 14, 8 * np.exp(0.08 * z[0])
    x = np.full(d.shape, -1.0, np.float32)
    x[body] = 0.3
    x[body & (np.sqrt(d**2 + h**2 + (w - np.clip(z[1], -2, 2)) ** 2) < radius)] = -0.6  # -700 HU
    return x


@pytest.fixture
def known_generator(monkeypatch):
    for module in (exploration, walks):
        monkeypatch.setattr(module, "volume_at", lambda model, z, label=None: lungs_of(z)[None])


@pytest.mark.slow
def test_a_known_direction_is_found_and_walked(phantom_run, phantom_store, tmp_path, known_generator, capsys):
    words = "--attribute lung_volume_ml --source generated --num 150 --steps 5 --seeds 3".split()
    assert command(phantom_run, "--store", phantom_store, *words, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "explore.json").read_text())
    assert found["regression"]["r2"]["low"] > 0.9 and found["regression"]["cosine_of_halves"]["low"] > 0.9
    assert found["walk"]["all"]["correlation"]["low"] > 0.97 and found["walk"]["all"]["monotone"] == 1
    assert found["walk"]["all"]["slope"] == pytest.approx(1, abs=0.15)
    assert found["measure"]["on_real_held_out"]["correlation"] > 0.95
    step = np.load(tmp_path / "out" / "direction.npz")["step"]
    assert step[0] / np.linalg.norm(step) > 0.95
    assert "intended and measured correlate" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_walk_leaves(phantom_run, phantom_store, tmp_path):
    words = "--attribute fat_mm --steps 3 --starts 2 --seeds 1".split()
    assert command(phantom_run, "--store", phantom_store, *words, "--out", tmp_path) == 0
    rows = list(csv.DictReader((tmp_path / "walk.csv").open()))
    assert len(rows) == 9 and {row["step"] for row in rows} == {"0", "1", "2"}
    store = Store(phantom_store)
    start = rows[0]["start"]
    assert store.splits[store.ids.index(start)] == "validation"
    image = nibabel.load(tmp_path / "volumes" / rows[0]["file"])
    real = nibabel.load(phantom_store.parent / "volumes" / f"{start}.nii.gz")
    np.testing.assert_allclose(image.affine, real.affine, atol=1e-3)
    assert image.get_fdata().min() >= -1024 and image.get_fdata().max() <= 600
    low, high = (float(rows[i]["intended"]) for i in (0, 2))
    assert store.columns["fat_mm"].min() <= low < high <= store.columns["fat_mm"].max()
    with Image.open(tmp_path / "walk.gif") as moving:
        assert moving.n_frames == 4  # there and back
    assert Image.open(tmp_path / "strip.png").width > 500
    assert "no independent check" in (tmp_path / "explore.json").read_text()


@pytest.mark.slow
def test_components_interpolation_and_truncation(phantom_run, phantom_store, tmp_path):
    base = (phantom_run, "--store", phantom_store, "--steps", 3)
    assert command(*base, "--pca", 2, "--starts", 1, "--out", tmp_path / "pca") == 0
    assert (tmp_path / "pca" / "component-2" / "strip.png").exists()
    assert len(list((tmp_path / "pca" / "component-1" / "volumes").iterdir())) == 3
    ids = Store(phantom_store).ids
    assert command(*base, "--between", ids[0], ids[1], "--out", tmp_path / "between") == 0
    rows = list(csv.DictReader((tmp_path / "between" / "walk.csv").open()))
    assert [row["position"] for row in rows] == ["0", "0.5", "1"]
    assert command(*base, "--truncations", 0, 0.5, 1, "--seeds", 2, "--out", tmp_path / "truncation") == 0
    spread = json.loads((tmp_path / "truncation" / "explore.json").read_text())["mean_difference"]
    assert spread["0"] < 1e-6 < spread["0.5"]


@pytest.mark.slow
def test_label_maps_are_an_attribute_and_its_measure(phantom_run, phantom_store, tmp_path, monkeypatch):
    from hagan3d.evaluation.exploration import measurement, segmentation

    short = segmentation.UNetConfig(steps=2, batch_size=1)
    monkeypatch.setattr(measurement, "train_unet", lambda *a, **k: segmentation.train_unet(*a, short, **k))
    words = "--attribute label_2+3+8_ml --steps 2 --starts 1 --label-maps".split()
    assert (
        command(phantom_run, "--store", phantom_store, *words, phantom_store.parent / "labels", "--out", tmp_path) == 0
    )
    found = json.loads((tmp_path / "explore.json").read_text())
    assert found["attribute"]["from"] == "label maps" and found["measure"]["segmenter"].startswith("U-Net, Dice")
    truth = Store(phantom_store).columns["lung_volume_ml"]
    low, high = found["range"]["real"]
    assert truth.min() * 0.9 < low < high < truth.max() * 1.1


TABLE = "id,constant,partial\n" + "".join(f"phantom-{i:05d},3,{i if i != 4 else ''}\n" for i in range(28))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--attribute age", "unknown attribute; .* has lung_volume_ml, emphysema_percent, .*thresholds give"),
        ("--attribute constant --table T", "constant is 3 for every volume"),
        ("--attribute partial --table T", "partial is missing for phantom-00004; .*--skip-missing"),
        ("--attribute partial --table NONE", "does not exist"),
        ("--attribute lung_volume_ml --limit 20 --num 10", "--num: must be at least 50"),
        ("--attribute fat_mm --source generated", "fat_mm cannot be measured on generated volumes"),
        ("--attribute fat_mm --measure fat", "unknown measure; use one of lung_volume_ml"),
        ("--attribute fat_mm --label-maps T", "no label map for phantom"),
        ("--attribute fat_mm --starts 0", "at least one walk is needed"),
        ("--pca 40", "must be 1 to 7"),
        ("--between phantom-00001 nobody", "has no volume nobody"),
        ("--truncations -1 1", "factors must be 0 to 10"),
        ("--pca 2 --attribute fat_mm", "expected one of .* got --attribute and --pca"),
        ("", "expected one of .* got none"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(phantom_run, phantom_store, tmp_path, capsys, words, message):
    (tmp_path / "table.csv").write_text(TABLE)
    words = [str(tmp_path / "table.csv") if word == "T" else word for word in words.split()]
    assert command(phantom_run, "--store", phantom_store, *words, "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert re.search(message, lines[-1]), lines[-1]
    assert not (tmp_path / "out").exists()


def test_a_generator_of_one_volume_has_no_directions(phantom_run, phantom_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exploration, "volume_at", lambda model, z, label=None: lungs_of([0, 0])[None])
    words = "--attribute lung_volume_ml --source generated --num 50 --out".split()
    assert command(phantom_run, "--store", phantom_store, *words, tmp_path / "out") == 2
    assert re.search("lung_volume_ml is .* in all 50 generated volumes; train longer", capsys.readouterr().err)


def test_too_few_volumes_and_another_size(phantom_run, small_store, tmp_path, capsys):
    assert command(phantom_run, "--store", small_store, "--attribute", "age", "--out", tmp_path / "out") == 2
    assert "age has values for 8 volumes; at least 20 are needed" in capsys.readouterr().err
    settings = PrepareConfig(size=(32, 32, 64), validation=0.0, workers=1)
    prepare([small_store.parent / "scan1.nii.gz"], tmp_path / "wide.h5", settings, progress=False)
    assert command(phantom_run, "--store", tmp_path / "wide.h5", "--pca", 1, "--out", tmp_path / "out") == 2
    assert "volumes of [32, 32, 64] voxels, but the model's are [32, 32, 32]" in capsys.readouterr().err


def test_a_model_without_encoders_explores_the_prior_only(phantom_run, phantom_store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exploration, "_need_encoders", _refuse)
    assert command(phantom_run, "--store", phantom_store, "--pca", 1, "--out", tmp_path / "out") == 2
    assert "no encoders" in capsys.readouterr().err
    words = "--truncations 0.5 --seeds 1 --out".split()
    assert command(phantom_run, "--store", phantom_store, *words, tmp_path / "out") == 0
    assert "difference between seeds" not in capsys.readouterr().out  # there is one


def _refuse(model):
    raise InputError("no encoders")


@pytest.mark.parametrize(
    ("window", "names"),
    [
        ((-1024, 600), ["lung_volume_ml", "emphysema_percent", "bone_volume_ml", "body_volume_ml"]),
        ((-1024, -200), ["lung_volume_ml", "emphysema_percent", "body_volume_ml"]),
        ((-900, 600), []),
        ((-1024, -400), []),
    ],
)
def test_thresholds_measure_what_lies_in_the_window(phantom_store, tmp_path, window, names):
    settings = PrepareConfig(size=(32, 32, 32), intensity="window", window=window, validation=0.0, workers=1)
    volumes = sorted((phantom_store.parent / "volumes").iterdir())[3:5]
    prepare(volumes, tmp_path / "narrow.h5", settings, progress=False)
    narrow, wide = Store(tmp_path / "narrow.h5"), Store(phantom_store)
    offered = attributes.ct_measures(narrow)
    assert [measure.name for measure in offered] == names
    for i, identifier in enumerate(narrow.ids):
        labels, theirs = (_labels(store, identifier) for store in (narrow, wide))
        for measure in offered:
            assert measure(labels, narrow.affines[i]) == pytest.approx(measure(theirs, narrow.affines[i]), rel=0.02)


def _labels(store, identifier):
    i = store.ids.index(identifier)
    return measures.ChestCT()(store.channel(i).numpy(), tuple(store.intervals[i, 0]), store.affines[i])


def test_nothing_is_overwritten_unasked(phantom_run, phantom_store, tmp_path, capsys):
    words = (phantom_run, "--store", phantom_store, "--truncations", 0.5, "--seeds", 1, "--out", tmp_path)
    (tmp_path / "explore.json").write_text("mine")
    assert command(*words) == 2 and "--force" in capsys.readouterr().err
    assert (tmp_path / "explore.json").read_text() == "mine"
    assert command(*words, "--force") == 0
    (tmp_path / "explore.json").unlink()  # as of an exploration that was killed
    assert command(*words) == 2 and "exists already" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "volumes").iterdir()} == {"seed-0_0.nii.gz"}
    (tmp_path / "volumes" / "mine.nii.gz").write_bytes(b"")
    ids = Store(phantom_store).ids
    others = ("--between", ids[0], ids[1], "--steps", 2, "--out", tmp_path, "--force")
    assert command(phantom_run, "--store", phantom_store, *others) == 0
    left = {path.name for path in (tmp_path / "volumes").iterdir()}
    assert left == {"mine.nii.gz", *(f"{ids[0]}_to_{ids[1]}_{step}.nii.gz" for step in range(2))}


def test_a_quantity_is_not_calibrated_against_itself(phantom_store, tmp_path):
    store = Store(prepare([phantom_store.parent / "volumes"], tmp_path / "s.h5", CT, progress=False).path)
    train, held_out = store.indices("train"), store.indices("validation")
    found = measurement_for(store, train, held_out, "lung_volume_ml", ExploreConfig(), no_progress)
    assert found.attribute.origin == "thresholds in the volumes" and "on_real_held_out" not in found.summary()
    x, i = store.volume(0).numpy(), list(found.attribute.indices).index(0)
    value, _ = found.reader.read(x, [tuple(store.intervals[0, 0])], store.affines[0])
    assert value == pytest.approx(found.attribute.values[i])


@pytest.mark.parametrize("labels", [(-1, 0), (0, 1)])
def test_walks_of_a_conditional_model_stay_in_a_class(monkeypatch, phantom_store, tmp_path, labels):
    store, names = Store(phantom_store), Store(phantom_store).ids[:2]
    model = SimpleNamespace(num_classes=2)
    items = {
        name: (Input(name, None, 32, np.eye(4), [], label=label), np.ones(4))
        for name, label in zip(names, labels, strict=True)
    }
    monkeypatch.setattr(exploration, "_need_encoders", lambda model: None)
    monkeypatch.setattr(exploration, "select_volumes", lambda *a: None)
    monkeypatch.setattr(exploration, "encode_volumes", lambda *a: items)
    message = "has no class, but the model needs one" if min(labels) < 0 else "of two classes, and a walk has one"
    with pytest.raises(InputError, match=message):
        exploration.explore_between(model, store, names, tmp_path, ExploreConfig())
