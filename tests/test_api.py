"""The public API: `import hagan3d` is light, and its objects do what the commands do."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import hagan3d as h3
from hagan3d import cli, generate, plan
from hagan3d.config import DegradeConfig
from hagan3d.data.batches.pairs import PairSource
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError

TINY = {"latent_dim": 8, "channels": 64, "d_channels": 64, "minibatch_std": 2}
TRAIN = {"steps": 2, "batch_size": 2, "device": "cpu"}


def test_importing_costs_nothing_and_changes_no_environment():
    script = (
        "import os, sys; before = dict(os.environ); import hagan3d; "
        "print(sorted({'torch', 'numpy', 'h5py', 'yaml', 'jsonargparse'} & set(sys.modules)), "
        "before == dict(os.environ))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[] True"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = h3.Nothing


def test_the_package_is_typed():
    assert (Path(h3.__file__).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def trained(small_store, tmp_path_factory):
    """A tiny run trained by the API; the same call again resumes."""
    out = tmp_path_factory.mktemp("api") / "run"
    config = h3.Config.load("hagan_32", hagan=TINY, data={"store": str(small_store)}, train=TRAIN)
    assert h3.Run(config, out).train()
    longer = h3.Config.load("hagan_32", hagan=TINY, data={"store": str(small_store)}, train=TRAIN | {"steps": 3})
    assert h3.Run(longer, out).train()
    return out


def test_a_store_is_prepared_once(small_store, tmp_path):
    inputs, out = small_store.parent, tmp_path / "s.h5"
    settings = {"size": (32, 32, 32), "intensity": "window", "validation": 0.0, "workers": 1}
    store = h3.Store.prepare(inputs, out, **settings)
    written = out.stat().st_mtime_ns
    assert len(h3.Store.prepare(inputs, out, **settings)) == len(store) == 8
    assert out.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_plan_tells_whether_a_run_fits():
    config = h3.Config.load("hagan_32", hagan=TINY)
    assert "fits" in config.plan("16GB") and "does not fit" in config.plan("1GB")


def test_settings_are_checked():
    with pytest.raises(InputError, match="train.steps: must be at least 1, got 0"):
        h3.Config.load("hagan_32", train={"steps": 0})
    with pytest.raises(InputError, match="known: "):
        h3.Config.load("hagan_32", train={"stepps": 1})
    with pytest.raises(InputError, match="no such config"):
        h3.Config.load("hagan_33")
    with pytest.raises(InputError, match="data None: must be a section of settings, such as data="):
        h3.Config.load("hagan_32", data=None)


def test_settings_may_be_paths_and_numbers_of_numpy(small_store):
    size, steps = np.array([32, 32, 32]), np.int64(3)
    config = h3.Config.load("hagan_32", data={"store": small_store, "size": size}, train={"steps": steps})
    assert config == h3.Config.load("hagan_32", data={"store": str(small_store)}, train={"steps": 3})
    assert (config.data.size, type(config.train.steps)) == ((32, 32, 32), int)
    with pytest.raises(InputError, match="in: does not exist"):  # its settings are good
        h3.Store.prepare("in", "a.h5", size=tuple(size))


@pytest.mark.slow
def test_volumes_are_those_of_the_command(trained, tmp_path):
    model = h3.Model.load(trained, device="cpu")
    volumes = model.generate(2, seed=3)
    assert volumes.numpy().shape == (2, 1, 32, 32, 32) and len(volumes) == 2
    assert cli.run(generate.main, f"{trained} --seeds 3-4 --out {tmp_path / 'a'} --device cpu".split()) == 0
    saved = volumes.save(tmp_path / "b")
    commanded = sorted((tmp_path / "a").glob("volume-*.nii.gz"))
    assert len(saved) == len(commanded) == 2
    for one, other in zip(saved, commanded, strict=True):
        left, right = nibabel.load(one), nibabel.load(other)
        np.testing.assert_allclose(left.get_fdata(), right.get_fdata(), atol=0.01)
        np.testing.assert_allclose(left.affine, right.affine)
    np.testing.assert_allclose(np.abs(volumes.affine[:3, :3]).max(axis=1), 2.0)


def test_encoding_and_decoding(trained, small_store):
    model = h3.Model.load(trained, device="cpu")
    z = model.encode(h3.Store(small_store))
    assert z.shape == (8, 8)
    np.testing.assert_array_equal(z, model.encode(small_store))
    decoded = model.decode(z[:2])
    assert decoded.numpy().shape == (2, 1, 32, 32, 32)
    assert model.encode(decoded).shape == (2, 8)


def test_what_a_model_cannot_do_is_one_line(trained, tmp_path):
    with pytest.raises(InputError, match="train one by"):
        h3.Model.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="trained without classes"):
        h3.Model.load(trained, device="cpu").generate(1, class_name="severe")


@pytest.mark.slow
def test_evaluation_has_its_metrics_by_name(phantom_run, phantom_store, tmp_path):
    model, few = h3.Model.load(phantom_run, device="cpu"), {"bootstrap": 2, "kid_subsets": 2, "pairs": 2}
    result = model.evaluate(h3.Store(phantom_store), tmp_path, features="random", num=6, reconstructions=1, **few)
    assert {"kid", "mmd", "precision", "recall"} <= set(result.metrics)
    assert (result.folder / "report.html").is_file() and result.lines
    assert os.path.samefile(result.folder, tmp_path)


def test_evaluation_and_exploration_use_the_weights_and_the_device_of_the_model(trained, small_store, monkeypatch):
    seen = []
    monkeypatch.setattr("hagan3d.api.run_exploration", lambda *_, **chosen: seen.append(chosen))

    def run_evaluation(run, store, out, config, options):
        seen.append({"weights": options.weights, "device": options.device})
        raise InputError("enough")

    monkeypatch.setattr("hagan3d.api.run_evaluation", run_evaluation)
    model = h3.Model.load(trained, weights="raw", device="cpu")
    model.explore(small_store, "age")
    with pytest.raises(InputError, match="enough"):
        model.evaluate(small_store, features="random")
    assert seen == [{"force": False, "weights": "raw", "device": "cpu"}, {"weights": "raw", "device": "cpu"}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"intensity": "windows"}, "intensity 'windows': must be"),
        ({"trim": "no"}, "trim 'no': must be"),
        ({"sizes": (32, 32, 32)}, "unknown setting 'sizes' in PrepareConfig"),
    ],
)
def test_settings_of_a_store_are_checked_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(InputError, match=message):
        h3.Store.prepare(tmp_path, tmp_path / "s.h5", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "value"), [("weights", "best"), ("weights", "EMA"), ("device", "gpu")])
def test_other_weights_or_devices_are_refused(trained, name, value):
    with pytest.raises(InputError, match=f"{value}: must be"):
        h3.Model.load(trained, **{name: value})


def test_arguments_that_a_model_cannot_use_are_one_line(trained, small_store, tmp_path):
    model = h3.Model.load(trained)
    size = model.loaded.networks.latent_dim
    for call, message in (
        (lambda: model.generate(0), "num, seed, truncation: must be at least 1"),
        (lambda: model.generate(1, seed=-1), "num, seed, truncation"),
        (lambda: model.generate(1, truncation=0), "num, seed, truncation"),
        (lambda: model.decode(np.zeros(size)), rf"latents: must be finite numbers \[N, {size}\], got \[{size}\]"),
        (lambda: model.decode(np.full((1, size), np.nan)), "latents: must be finite"),
        (lambda: model.decode(np.zeros((0, size))), "latents: must be finite numbers"),
        (lambda: model.explore(small_store, "age", foo=1), "unknown setting 'foo' in ExploreConfig"),
        (lambda: model.explore(small_store, "age", steps="3"), "steps '3': must be"),
        (lambda: model.translate(small_store, tmp_path), "a generating model .hagan.; use generate"),
        (lambda: model.evaluate(small_store, foo=1), "unknown setting 'foo' in EvaluateConfig"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_plan_is_for_the_device_of_the_run(monkeypatch):
    from hagan3d import api

    kinds = []
    monkeypatch.setattr(api, "Plan", lambda config, classes, kind: kinds.append(kind))
    monkeypatch.setattr(api, "memory_lines", lambda plan, vram: [])
    for device in ("cpu", "auto"):
        h3.Config.load("hagan_32", train={"device": device}).plan()
    assert kinds == ["cpu", "cuda"]


def test_a_run_that_began_with_vram_goes_on_with_it(small_store, tmp_path, monkeypatch):
    from hagan3d.engine import training

    seen = []

    def fitted(plan, vram, resumes):
        seen.append((resumes, plan.config.train.optimizer_state))
        return ("", plan) if resumes else ("train.optimizer_state lean", plan.changed(optimizer_state="lean"))

    monkeypatch.setattr(training, "fitted", fitted)
    for steps in (1, 2):
        settings = {"hagan": TINY, "data": {"store": str(small_store)}, "train": TRAIN | {"steps": steps}}
        assert training.train(h3.Config.load("hagan_32", **settings), tmp_path / "run", vram=10**9)
    assert seen == [(False, "fp32"), (True, "lean")]


def test_with_vram_settings_that_it_did_not_choose_are_refused_as_without(small_store, tmp_path, monkeypatch):
    from hagan3d.engine import training

    monkeypatch.setattr(training, "fitted", lambda plan, vram, resumes: ("", plan))
    settings = {"hagan": TINY, "data": {"store": str(small_store)}, "train": TRAIN | {"steps": 1}}
    assert training.train(h3.Config.load("hagan_32", **settings), tmp_path / "run", vram=10**9)
    for name, value in (("precision", "bf16"), ("optimizer_state", "lean")):
        other = settings | {"train": TRAIN | {"steps": 2, name: value}}
        with pytest.raises(InputError, match=f"this run was started with train.{name} = fp32, now it is {value}"):
            training.train(h3.Config.load("hagan_32", **other), tmp_path / "run", vram=10**9)


def test_precision_auto_goes_on_with_the_precision_of_the_run(small_store, tmp_path, monkeypatch):
    from hagan3d.engine import optimizers, training

    for steps, has_bf16 in ((1, False), (2, True)):  # two nodes of a cluster
        monkeypatch.setattr(optimizers, "has_bf16", lambda kind, has=has_bf16: has)
        train = TRAIN | {"steps": steps, "precision": "auto"}
        config = h3.Config.load("hagan_32", hagan=TINY, data={"store": str(small_store)}, train=train)
        assert training.train(config, tmp_path / "run")
    assert "precision: fp32" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_plan_is_of_the_volumes_that_a_run_sees(small_store, capsys):
    words = (
        f"--config pix2pix_32 --data.store {small_store} --data.degrade.kind noise --train.steps 100 --pix2pix.width 4"
    )
    assert cli.run(plan.main, [*words.split(), "--data.fraction", "0.5", "--train.batch_size", "2"]) == 0
    count = PairSource(Store(small_store), "train", 2, 0, DegradeConfig(kind="noise"), fraction=0.5).num_volumes
    assert (
        f"epochs                 {200 / count:.0f} (200 samples, of {count} volumes to train on)"
        in capsys.readouterr().out
    )
    assert cli.run(plan.main, ["--config", "hagan_64", "--data.store", str(small_store)]) == 2
    assert "but data.size is [64, 64, 64]" in capsys.readouterr().err
