"""Ensembles of translations: several runs, dropout, mirrored and shifted sources; their mean and their spread."""

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from hagan3d import cli, evaluate, translate
from hagan3d.checkpoint import load_translation
from hagan3d.config import DegradeConfig
from hagan3d.errors import InputError
from hagan3d.inference.ensemble import CHANGES, EnsembleOptions, EnsembleTranslator, ensemble, ensemble_bytes_of
from hagan3d.inference.memory import MAPS_WRITTEN, ensemble_bytes
from hagan3d.inference.translate_files import make_translator
from hagan3d.inference.windowed_translation import Translator
from hagan3d.methods.registry import make_networks
from hagan3d.peak_memory import PeakMemory
from tests.methods.small import make_trainer, small_config


@pytest.fixture(scope="module")
def runs(small_store, tmp_path_factory):
    """Two pix2pix runs and two of UP-GAN, of other seeds, and one of SegAN."""
    folder = tmp_path_factory.mktemp("ensemble")
    for name, method, seed in (("p1", "pix2pix", 1), ("p2", "pix2pix", 2), ("u1", "upgan", 1), ("u2", "upgan", 2)):
        make_trainer(small_store, folder / name, small_config(method, steps=2, seed=seed, ema=0.0)).run()
    return folder


def models(runs, *names):
    return [load_translation(runs / name, "raw") for name in names]


def combined(found, options=None):
    return ensemble(found, [Translator(model.networks) for model in found], options or EnsembleOptions())


def source():
    return torch.rand(1, 32, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_undone(name):
    x = torch.arange(16.0**3).view(1, 16, 16, 16)
    inner = (slice(None), *(slice(2, -2),) * 3)
    for change, undo in CHANGES[name]:
        assert not torch.equal(change(x), x) and change(x).shape == x.shape
        assert torch.equal(undo(change(x))[inner], x[inner])
        assert torch.equal(undo(change(x[None]))[0][inner], x[inner])  # maps have one axis more


def test_runs_of_other_data_have_no_mean(runs):
    first, other = models(runs, "p1", "p2")
    own = other.description
    for changed, named in (
        (replace(own, channels=(replace(own.channels[0], lo=-160.0, hi=240.0),)), "window -160 to 240 of image"),
        (replace(own, orientation="LPS"), "--orientation LPS, the model's is RAS"),
    ):
        with pytest.raises(InputError, match="p2.*: was trained on other data than .*p1.*: ") as refused:
            combined([first, replace(other, description=changed)])
        assert named in str(refused.value)


def test_means_and_spread_of_runs(runs):
    found, x = models(runs, "p1", "p2"), source()
    each = torch.stack([Translator(model.networks).whole(x).mean for model in found])
    made = combined(found).whole(x)
    torch.testing.assert_close(made.mean, each.mean(0))
    torch.testing.assert_close(made.epistemic, each.std(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(made.sigma, made.epistemic)
    assert torch.equal(made.beta, torch.full_like(made.beta, 2))  # a normal density, alpha = sigma sqrt(2)
    positive = made.sigma > 1e-6
    torch.testing.assert_close(made.alpha[positive], made.sigma[positive] * 2**0.5)


def test_predicted_and_epistemic_variance_add_up(runs):
    found, x = models(runs, "u1", "u2"), source()
    each = [Translator(model.networks).whole(x) for model in found]
    made = combined(found).whole(x)
    aleatoric = (each[0].sigma ** 2 + each[1].sigma ** 2) / 2
    torch.testing.assert_close(made.sigma**2, aleatoric + made.epistemic**2, rtol=1e-4, atol=1e-8)
    # alpha and beta are of a density with that sigma
    variance = made.alpha**2 * (torch.lgamma(3 / made.beta) - torch.lgamma(1 / made.beta)).exp()
    torch.testing.assert_close(variance, made.sigma**2, rtol=1e-3, atol=1e-8)


def test_dropout_samples_are_seeded_and_leave_the_model_as_it_was(runs):
    found, x = models(runs, "p1"), source()
    before = Translator(found[0].networks).whole(x).mean
    translator = combined(found, EnsembleOptions(samples=4))
    one, again = translator.whole(x), translator.whole(x)
    assert torch.equal(one.mean, again.mean) and one.epistemic.max() > 0
    assert torch.equal(Translator(found[0].networks).whole(x).mean, before)
    few = combined(found, EnsembleOptions(samples=2)).whole(x)
    assert not torch.equal(few.mean, one.mean)


def test_augmented_passes_are_averaged_where_they_belong(runs):
    class Identity:
        """A translator whose translation is its source."""

        networks, depth, overlap = models(runs, "p1")[0].networks, 0, 0

        def whole(self, x):
            from hagan3d.networks.translation import Translation

            return Translation(x[None])

    from hagan3d.inference.ensemble import EnsembleTranslator

    x = source()
    made = EnsembleTranslator([Identity()], EnsembleOptions(augment=("flips", "shifts"))).whole(x)
    inner = (slice(None), slice(None), *(slice(2, -2),) * 3)
    torch.testing.assert_close(made.mean[inner], x[None][inner])
    assert made.sigma[inner].max() < 1e-6


def test_one_run_without_options_is_no_ensemble(runs):
    found = models(runs, "p1")
    assert type(combined(found)) is Translator


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("u1",), {"samples": 4}, "has no dropout; give several runs"),
        (("p1",), {"samples": 1}, "--samples 1: must be at least 2"),
        (("p1",), {"augment": ("turns",)}, "--augment turns: must be one or both of flips, shifts"),
    ],
)
def test_what_has_no_spread_is_one_line(runs, names, options, message):
    with pytest.raises(InputError, match=message):
        combined(models(runs, *names), EnsembleOptions(**options))


def test_from_runs_to_files_and_their_calibration(runs, small_store, tmp_path, capsys):
    both = [str(runs / name) for name in ("p1", "p2")]
    words = [
        *both,
        "--input",
        str(small_store),
        "--simulate",
        "true",
        "--out",
        str(tmp_path / "t"),
        "--augment",
        "flips",
    ]
    assert cli.run(translate.main, words) == 0
    maps = {
        s: nib.load(tmp_path / "t" / f"scan0{s}.nii.gz").get_fdata()
        for s in ("", "_sigma", "_epistemic", "_lower", "_upper")
    }
    assert (maps["_sigma"] > 0).mean() > 0.99 and np.allclose(maps["_sigma"], maps["_epistemic"], rtol=1e-3)
    assert np.allclose((maps["_lower"] + maps["_upper"]) / 2, maps[""], rtol=1e-3, atol=1e-2)
    # the 90 % interval of a normal density
    assert np.allclose(maps["_upper"] - maps[""], 1.645 * maps["_sigma"], rtol=2e-2, atol=1e-2)


def test_an_ensemble_is_evaluated_with_its_calibration(runs, phantom_store, tmp_path, capsys):
    both = []
    for seed in (1, 2):
        out = tmp_path / f"run{seed}"
        make_trainer(phantom_store, out, small_config("pix2pix", steps=1, seed=seed)).run()
        both.append(str(out))
    assert cli.run(evaluate.main, [*both, "--store", str(phantom_store), "--out", str(tmp_path / "e")]) == 0
    results = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert results["passes"] == "2 runs" and "coverage" in results["calibration"]["as predicted"]
    assert "mean of 2 runs" in (tmp_path / "e" / "report.html").read_text()
    assert cli.run(evaluate.main, [both[0], "--store", str(phantom_store), "--out", str(tmp_path / "e")]) == 2
    assert "of another run, step, store or setting" in capsys.readouterr().err


def test_runs_of_other_tasks_do_not_mix(runs, small_store, tmp_path, capsys):
    out = tmp_path / "two"
    make_trainer(small_store, out, small_config("pix2pix", steps=1)).run()
    found = [*models(runs, "p1"), load_translation(out, "raw")]
    from dataclasses import replace

    other = replace(found[1], description=replace(found[1].description, size=(64, 32, 32)))
    with pytest.raises(InputError, match="translates other channels or sizes"):
        combined([found[0], other])


def test_no_features_are_trained_that_an_evaluation_of_pairs_would_not_read(runs, phantom_store, tmp_path, capsys):
    words = [str(runs / "p1"), "--store", str(phantom_store), "--train-features", "--out", str(tmp_path / "e")]
    assert cli.run(evaluate.main, words) == 2
    assert "compared voxel by voxel; leave out --train-features" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_members_without_sigma_do_not_halve_the_variance_of_those_that_predict_it():
    from hagan3d.inference.ensemble import _Moments
    from hagan3d.networks.translation import Translation

    moments, x = _Moments(), torch.ones(1, 1, 4, 4, 4)
    moments.add(Translation(x, x, 2 * x, x))
    moments.add(Translation(x))
    made = moments.result()
    torch.testing.assert_close(made.sigma, x)
    torch.testing.assert_close(made.beta, 2 * x)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("method", "samples"), [("upgan", 0), ("pix2pix", 2)])
def test_an_ensemble_keeps_to_its_budget(method: str, samples: int, channels: int):
    size, options = (64, 32, 32), EnsembleOptions(samples, ("flips",))
    many = {"source_channels": channels, "target_channels": channels, "degrade": DegradeConfig(kind="none")}
    config = small_config(method, norm="rms", size=size, width=4, levels=2, **many)
    networks = make_networks(config).eval().requires_grad_(False)
    model = SimpleNamespace(
        config=config, description=SimpleNamespace(size=size), networks=networks, path="run", device=torch.device("cpu")
    )
    held = ensemble_bytes_of([model], options)
    with pytest.raises(InputError) as caught:
        make_translator(model, None, 32, 1, held)
    budget = int(re.search(r"(\d+)MB$", str(caught.value))[1]) * 10**6
    translator = EnsembleTranslator([make_translator(model, None, 32, budget, held)], options)
    weights = [tensor for name in networks.averaged for tensor in networks[name].state_dict().values()]
    source = torch.rand(channels, *size) * 2 - 1
    with PeakMemory([*weights, source]) as memory:
        translator.whole(source)
    written = MAPS_WRITTEN * 4 * math.prod(size)
    assert budget / 2 < memory.peak + written <= budget


def test_weights_of_further_runs_are_counted():
    configs = [small_config("pix2pix", size=(32, 32, 32), width=width) for width in (4, 4, 8)]
    alone, two, three = (ensemble_bytes(configs[:count], (32, 32, 32), False) for count in (1, 2, 3))
    generators = [make_networks(config)["g"] for config in configs]
    sizes = [sum(tensor.untyped_storage().nbytes() for tensor in g.state_dict().values()) for g in generators]
    assert (two - alone, three - two) == (sizes[1], sizes[2])
