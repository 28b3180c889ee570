"""The feature regression runs, and says so where a column cannot be predicted."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hagan3d import cli
from hagan3d.checkpoint import load_model
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.inference.encoding import inputs_of_store, latents

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "examples" / "feature_regression.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("feature_regression", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    assert cli.run(script.main, ["--quick", "--out", str(folder)]) == 0
    return folder


def test_the_quick_mode_leaves_a_table_of_all_features_and_a_picture(out):
    rows = list(csv.DictReader((out / "regression.csv").open()))
    names = [
        "mean",
        *(n for n in ("E, latent", "E, map", "untrained E, latent", "histogram", "VAE, latent") for _ in "12"),
    ]
    assert [row["features"] for row in rows] == names
    assert float(rows[0]["all"]) <= 0 and float(rows[0]["held out"]) <= 0
    best = max(rows, key=lambda row: float(row["all"]))
    assert best["regression"] == "ridge" and float(best["all"]) > 0.5
    assert all(float(row["all low"]) <= float(row["all"]) <= float(row["all high"]) for row in rows)
    assert Image.open(out / "regression.png").width > 1000


def test_features_are_those_of_encode_and_fresh_weights_give_others(script, out):
    store, model = Store(out / "phantoms.h5"), load_model(out / "run", encode=True)
    chosen = np.array([1, 5, 7])
    made = script.of_run(model, store, chosen)
    _, inputs = inputs_of_store(store.path, model.description, "all")
    wanted = np.stack([done.z for done in latents(model, inputs)])[chosen]
    np.testing.assert_array_equal(made["E, latent"], wanted)
    assert made["E, map"].shape == (3, 8 * model.networks.e_h(torch.zeros(1, 1, 16, 32, 32)).shape[1])
    assert np.abs(script.of_run(script.untrained(model), store, chosen)["E, latent"] - wanted).max() > 1e-3


def test_an_autoencoder_of_another_store_or_time_is_refused(script, out):
    store, model = Store(out / "phantoms.h5"), load_model(out / "run", encode=True)
    with pytest.raises(InputError, match=r"vae\.pt: was made by .*'minutes': 0.001.*; give another --out"):
        script.vae(store, model, 5.0, out / "vae.pt")


def test_the_autoencoder_loss_is_the_evidence_bound(script):
    x, again = torch.zeros(2, 1, 2, 2, 2), torch.full((2, 1, 2, 2, 2), 0.1)
    mean, logvar = torch.tensor([[1.0, 0.0]] * 2), torch.zeros(2, 2)
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    voxels = torch.distributions.Normal(again, script.VAE_NOISE)
    perfect = torch.distributions.Normal(x, script.VAE_NOISE).log_prob(x).flatten(1).sum(1)
    expected = (perfect - voxels.log_prob(x).flatten(1).sum(1) + divergence).mean()
    torch.testing.assert_close(script.vae_loss(x, again, mean, logvar), expected)


def test_bad_columns_are_one_line_and_status_2(script, out, tmp_path, capsys):
    begin = ["--run", str(out / "run"), "--store", str(out / "phantoms.h5"), "--out", str(tmp_path), "--columns"]
    assert cli.run(script.main, [*begin, "age"]) == 2
    assert "no numeric column 'age'" in capsys.readouterr().err
    store = Store(out / "phantoms.h5")
    store.columns["flat"] = np.ones(len(store))
    with pytest.raises(Exception, match="or one only"):
        script.target(store, "flat", store.indices("all"))
    assert cli.run(script.main, ["--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())
