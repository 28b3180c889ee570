"""Two domains without pairs: translation in every direction, and evaluation of both."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hagan3d import cli, evaluate, translate
from hagan3d.config import DegradeConfig
from hagan3d.data.preprocess.pairing import find_domains
from hagan3d.data.preprocess.pipeline import prepare
from hagan3d.data.preprocess.settings import PrepareConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.self_supervised import train_features
from hagan3d.evaluation.settings import FeatureTrainConfig
from tests.methods.small import make_trainer, small_config

METHODS = ("cyclegan", "unit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Bright blobs of 12 subjects, and the same inverted: CT-like from -1000 to 1000 and MR-like from 0 to 500."""
    folder = tmp_path_factory.mktemp("domains")
    for number in range(12):
        x = gaussian_filter(np.random.default_rng(number).standard_normal((32, 32, 32)), 3)
        x = (x - x.min()) / (x.max() - x.min())
        for name, values in (("ct", 2000 * x - 1000), ("mr", 500 * (1 - x))):
            (folder / name).mkdir(exist_ok=True)
            image = nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
            nib.save(image, folder / name / f"scan{number:02}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def store(folders):
    config = PrepareConfig(size=(32, 32, 32), validation=0.0, test=0.4, seed=2, workers=1)
    path = prepare(find_domains([folders / "ct", folders / "mr"]), folders / "d.h5", config, progress=False).path
    train_features(Store(path), FeatureTrainConfig(steps=2, batch_size=2))
    return path


@pytest.fixture(scope="module", params=METHODS)
def run(request, store, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    make_trainer(store, out, small_config(request.param, steps=1, degrade=DegradeConfig(), paired=False)).run()
    return out


def translated(run, folder, out, direction, *more):
    assert (
        cli.run(translate.main, [str(run), "--input", str(folder), "--out", str(out), "--direction", direction, *more])
        == 0
    )
    return {path.name: nib.load(path).get_fdata() for path in sorted(out.glob("*.nii.gz"))}


def test_each_direction_writes_the_units_of_where_it_ends(run, folders, tmp_path):
    there = translated(run, folders / "ct", tmp_path / "a2b", "a2b")
    back = translated(run, folders / "mr", tmp_path / "b2a", "b2a")
    around = translated(run, folders / "ct", tmp_path / "cycle", "cycle")
    assert len(there) == len(back) == len(around) == 12
    for made, (low, high) in ((there, (0, 500)), (back, (-1000, 1000)), (around, (-1000, 1000))):
        values = np.stack(list(made.values()))
        margin = 0.1 * (high - low)
        assert values.min() > low - margin and values.max() < high + margin
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.3 * (high - low))


def test_a_cycle_is_both_directions_one_after_the_other(run, store):
    from hagan3d.checkpoint import load_translation
    from hagan3d.inference.directions import directed

    model = load_translation(run, "ema")
    x = torch.rand(1, 1, 32, 32, 32) * 2 - 1

    def through(direction, x):
        return directed(model, direction).networks.translate(x).mean

    torch.testing.assert_close(through("cycle", x), through("b2a", through("a2b", x)))
    assert not torch.equal(through("a2b", x), through("b2a", x))


def test_the_api_translates_in_both_directions(run, store, tmp_path):
    import hagan3d as h3

    model = h3.Model.load(run)
    for direction, first in (("b2a", "target_"), ("a2b", "source_")):
        folder = model.translate(store, tmp_path / direction, "test", direction)
        names = [path.name for path in folder.glob("*.nii.gz")]
        assert names and all(name.startswith(first) for name in names)


def test_stores_give_the_domain_at_which_a_direction_begins(run, store, tmp_path):
    there = translated(run, store, tmp_path / "a2b", "a2b", "--split", "test")
    back = translated(run, store, tmp_path / "b2a", "b2a", "--split", "test")
    assert there and all(name.startswith("source_") for name in there)
    assert back and all(name.startswith("target_") for name in back)


def test_reconstruction_needs_an_encoder(run, folders, tmp_path, capsys):
    words = [str(run), "--input", str(folders / "ct"), "--out", str(tmp_path / "r"), "--direction", "reconstruct"]
    status = cli.run(translate.main, words)
    if "cyclegan" in str(run):
        assert status == 2 and "--direction reconstruct: method cyclegan translates a2b or b2a or cycle only" in (
            capsys.readouterr().err
        )
    else:
        assert status == 0


def test_a_method_of_one_direction_says_so(small_store, tmp_path, capsys):
    make_trainer(small_store, tmp_path / "run", small_config("pix2pix", steps=1)).run()
    words = [str(tmp_path / "run"), "--input", str(small_store), "--out", str(tmp_path / "b"), "--direction", "b2a"]
    assert cli.run(translate.main, words) == 2
    assert "--direction b2a: method pix2pix translates a2b only" in capsys.readouterr().err


def test_both_directions_are_evaluated(run, store, tmp_path, capsys):
    words = [str(run), "--store", str(store), "--out", str(tmp_path / "e")]
    assert cli.run(evaluate.main, words) == 0
    results = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert results["directions"].keys() == {"a2b", "b2a"} and results["volumes"]["source"] >= 3
    for found in results["directions"].values():
        assert found["translated"].keys() == {"fid", "kid", "mmd"} == found["floor"].keys()
        assert found["translated"]["kid"]["error"] > 0
        # untouched volumes of the other contrast are further away than training volumes of the domain itself
        assert found["untranslated"]["fid"]["value"] > found["floor"]["fid"]["value"]
        assert found["paired_untranslated"]["psnr_db"]["mean"] < 20
        assert found["pairs"] >= 3 and found["paired"].keys() == found["cycle"].keys() == {
            "psnr_db",
            "ssim",
            "mae_percent",
        }
    page = (tmp_path / "e" / "report.html").read_text()
    assert "Distances between sets" in page and "there and back" in page and "data:image/png" in page
    assert cli.run(evaluate.main, words) == 0
    assert "this evaluation is there already" in capsys.readouterr().out


def test_perfect_translations_have_perfect_pairs(store):
    from hagan3d.evaluation.translation.domains import _errors, _held_out, _pairs

    domains = {name: _held_out(Store(store), name) for name in ("source", "target")}
    pairs = _pairs(Store(store), domains["source"], domains["target"])
    assert len(pairs) == len(domains["source"])
    ct, mr = ([Store(store).volume(domains[name][p[k]])[0].numpy() for p in pairs] for k, name in enumerate(domains))
    errors = _errors([-x for x in ct], mr)
    assert errors["psnr_db"].mean > 40 and errors["ssim"].mean > 0.99


def test_too_few_held_out_volumes_are_one_line_before_features_are_trained(run, folders, tmp_path, capsys):
    config = PrepareConfig(size=(32, 32, 32), validation=0.1, workers=1)
    made = prepare(find_domains([folders / "ct", folders / "mr"]), tmp_path / "d.h5", config, progress=False)
    words = [str(run), "--store", str(made.path), "--out", str(tmp_path / "out"), "--train-features"]
    assert cli.run(evaluate.main, words) == 2
    assert "fewer than 3 held-out subjects of the source domain" in capsys.readouterr().err
    assert not (tmp_path / "d.features.pt").exists() and not (tmp_path / "out").exists()


def test_volumes_of_one_subject_do_not_make_distances_surer(store):
    from hagan3d.evaluation.translation.domains import _distances, _training

    random = np.random.default_rng(0)
    x, y = random.standard_normal((6, 8)), random.standard_normal((6, 8))
    each = np.arange(6)
    alone = _distances(x, y, (each, each))
    copies = _distances(x.repeat(4, axis=0), y.repeat(4, axis=0), (each.repeat(4), each.repeat(4)))
    for name in ("kid", "mmd"):
        assert copies[name].error == pytest.approx(alone[name].error, rel=0.35)
    opened = Store(store)
    opened.subjects = ["a" if number < 20 else subject for number, subject in enumerate(opened.subjects)]
    chosen = _training(opened, "target", 3)
    assert len({opened.subjects[i] for i in chosen}) == 3  # other subjects before further volumes of one
    opened.subjects = ["a"] * len(opened.subjects)
    with pytest.raises(InputError, match="the training volumes of the target domain are of 1 subjects"):
        _training(opened, "target", 3)
