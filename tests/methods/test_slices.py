"""Every method that works on slices: resume, counted memory and data, previews, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hagan3d.checkpoint import files
from hagan3d.config import AugmentConfig, DegradeConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import assert_equal, make_config
from tests.methods.small import TRANSLATION, assert_counts_agree, make_trainer, small_config, train_with_stops

SLICED = [name for name in method_names() if config_class(name).takes_slices]
STATES = [("pix2pix", state) for state in ("lean", "bf16", "8bit", "offload")]


def slice_config(method, **settings):
    """Return a small config on coronal slices of volumes of 32^3."""
    own = {"slice_tv_weight": 0.0} if method == "restore" else {}
    return small_config(method, **({"size": (1, 32, 32), "slices": "coronal"} | own | settings))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "state"), [(method, "fp32") for method in SLICED] + STATES)
def test_a_resume_is_invisible(small_store, tmp_path, method, state):
    config = slice_config(method, steps=4, optimizer_state=state)
    one, other = train_with_stops(small_store, tmp_path, config, (1, 3))
    for part in ("networks", "ema", "optimizers", "scalers", "state"):
        assert_equal(getattr(one, part), getattr(other, part))


@pytest.mark.slow
@pytest.mark.parametrize("method", SLICED)
def test_peak_memory_is_the_same_on_fake_and_real_tensors(method):
    assert_counts_agree(slice_config(method, checkpointing=True, **({"context": 3} if method == "pix2pix" else {})))


@pytest.mark.parametrize("method", SLICED)
def test_batches_have_the_shapes_that_are_planned(small_store, method):
    config = slice_config(method, **({"context": 5} if method in ("medgan", "upgan") else {}))
    made = make_method(config)
    made.check_channels = lambda store: None  # label maps have no place in this store
    batch, zeros = made.batches(Store(small_store), 2).batch(0), made.zero_batch()
    for name in ("source", "target") if config.translates else ("window", "low"):
        assert getattr(batch, name).shape == getattr(zeros, name).shape
    networks = make_networks(config)
    for phase in made.training_phases():
        terms = phase.loss(networks, replace(zeros, phase=phase.name))
        terms = terms if isinstance(terms, dict) else next(terms)
        assert all(torch.isfinite(term).all() for term in terms.values())


@pytest.mark.parametrize(
    ("settings", "voxels"),
    [
        ({}, 64 * 32 * 2),
        ({"context": 3}, 64 * 32 * 4),
        ({"degrade": DegradeConfig(kind="noise")}, 64 * 64 * 32),
        ({"augment": AugmentConfig(noise=0.1)}, 64 * 64 * 32 * 2),
    ],
)
def test_bytes_read_are_those_of_the_slices_or_of_whole_volumes(settings, voxels):
    config = make_config("pix2pix", size=(1, 64, 32), slices="axial", batch_size=3, **settings)
    read = make_method(config).bytes_per_step
    assert read() == 2 * 3 * voxels
    whole = "degrade" in settings or "augment" in settings
    assert read((128, 64, 32)) == (2 if whole else 1) * read()


def test_generation_reads_slices_or_whole_volumes():
    config = make_config("wgan_gp", size=(1, 64, 32), slices="sagittal", batch_size=2)
    assert make_method(config).bytes_per_step((64, 32, 128)) == 2 * 2 * 64 * 32
    augmented = replace(config, data=replace(config.data, augment=AugmentConfig(noise=0.1)))
    assert make_method(augmented).bytes_per_step((64, 32, 128)) == 2 * 2 * 64 * 32 * 128


@pytest.mark.parametrize("method", ["pix2pix", "wgan_gp"])
def test_a_preview_shows_slices_in_their_plane(small_store, tmp_path, method):
    config = slice_config(method)
    trainer = make_trainer(small_store, tmp_path, config)
    preview = trainer.method.preview(trainer.source)
    with torch.no_grad():
        groups = preview.groups(trainer.networks)
    assert all(x.shape == (1, 32, 32) for volumes in groups.values() for x in volumes)
    assert {len(volumes) for volumes in groups.values()} == {4}
    description = trainer.method.description(Store(small_store))
    with torch.no_grad():
        preview.write(tmp_path / "a.png", trainer.networks, description)
    width, height = Image.open(tmp_path / "a.png").size
    assert width > 4 * 160 and height < 160 * (len(groups) + 1)  # a row per group, not one for each plane
    np.testing.assert_allclose(np.abs(preview.affine(description, "target")[:3, 0]), [0, 2, 0], atol=1e-6)  # across: y


def test_generated_slices_lie_in_the_middle_of_the_volume(small_store):
    store = Store(small_store)
    description = make_method(slice_config("wgan_gp")).description(store)
    assert description.size == (1, 32, 32) and description.axis == "coronal"
    whole = store.description().affine_array
    np.testing.assert_allclose(description.affine_array[:3, 3], whole[:3, 3] + 16 * whole[:3, 1])
    assert make_method(small_config("wgan_gp")).description(store) == store.description()


@pytest.mark.parametrize("method", [name for name in TRANSLATION if name in SLICED])
def test_a_loaded_model_translates_slices(small_store, tmp_path, method):
    config = slice_config(method, steps=1, ema=0.0)
    trainer = make_trainer(small_store, tmp_path, config)
    trainer.run()
    source = torch.rand(3, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = files.load_translation(tmp_path)
    trainer.networks.set_step(1)
    with torch.no_grad():
        expected, result = trainer.networks.translate(source), model.networks.translate(source)
    assert torch.equal(expected.mean, result.mean) and expected.mean.shape[0] == 3 and expected.mean.shape[2] == 1


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("hagan", {}, r"method hagan works on volumes alone; methods that work on slices too: cyclegan"),
        ("registration", {"source_channels": 2}, r"method registration works on volumes alone"),
        ("pix2pix", {"size": (32, 32, 32)}, r"slices have the size \[1, H, W\], but data.size is \[32, 32, 32\]"),
        ("pix2pix", {"window": "patch"}, r"data.window patch: a slice has no windows along D"),
        ("pix2pix", {"context": 2}, r"data.context: must be an odd number, got 2"),
        ("pix2pix", {"context": 3, "slices": "none"}, r"neighbouring slices need data.slices"),
        ("pix2pix", {"size": (1, 32, 48)}, r"must be a multiple of 32"),
        ("pix2pix", {"critic_layers": 4}, r"leaves 2 voxels of 32"),
        ("cyclegan", {"context": 3}, r"would have to predict the neighbours"),
        ("restore", {"slice_tv_weight": 0.1}, r"a single slice has no variation along D; use 0"),
    ],
)
def test_what_cannot_work_on_slices_is_refused(method, settings, message):
    with pytest.raises(InputError, match=message):
        make_config(method, **{"size": (1, 32, 32), "slices": "axial"} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (1, 64, 64)}, r"coronal slices of \[1, 32, 32\] voxels, but data.size is \[1, 64, 64\]"),
        ({"slices": "none"}, r"volumes of \[32, 32, 32\] voxels.*or set --data.slices to train on slices of them"),
    ],
)
def test_a_store_of_another_size_is_refused(small_store, settings, message):
    with pytest.raises(InputError, match=message):
        make_method(slice_config("wgan_gp", **settings)).check_store(Store(small_store))


def test_synthetic_volumes_have_slices_of_the_size():
    for plane, size in (("axial", (64, 64, 96)), ("coronal", (64, 64, 96)), ("sagittal", (64, 96, 64))):
        data = make_config("wgan_gp", size=(1, 64, 96), slices=plane).data
        assert data.phantom_size == size and math.prod(data.low_size) == 16 * 24
