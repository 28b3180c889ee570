"""Every translation recipe: what a phase moves, loss groups, resume, and that it learns a pair by heart."""

import dataclasses
import math

import pytest
import torch
from hagan3d.checkpoint.build import make_networks

from hagan3d.checkpoint import files
from hagan3d.config import (
    CascadeConfig,
    Config,
    CycleConfig,
    DataConfig,
    DegradeConfig,
    LogConfig,
    MedganConfig,
    RegistrationConfig,
    RestoreConfig,
    TrainConfig,
    TranslationConfig,
    UnitConfig,
)
from hagan3d.data.batches.pairs import PairBatch, PairSource
from hagan3d.data.store.store import Store
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.trainer import Trainer
from hagan3d.engine.updates import Updates
from hagan3d.methods.registry import make_recipe

CPU = torch.device("cpu")
RECIPES = ("upgan", "pix2pix", "medgan", "restore", "cyclegan", "unit", "segan", "registration")
PAIRED = RECIPES[:4]  # those whose results are compared with targets voxel by voxel
OBJECTIVES = {"restore": "wgan-gp", "segan": "feature-l1", "registration": "wgan-gp"}
ALL_TERMS = RestoreConfig(
    generator="skips",
    depth=4,
    critic_steps=2,
    nmse_weight=1.0,
    frequency_weight=0.1,
    perceptual_weight=0.1,
    slice_tv_weight=0.01,
)
SMALL = {
    "upgan": {"cascade": CascadeConfig(stages=2, stage_steps=2)},
    "pix2pix": {},
    "medgan": {"medgan": MedganConfig(blocks=2)},
    "restore": {"restore": ALL_TERMS},
    "cyclegan": {"cycle": CycleConfig(blocks=1, pool=3)},
    "unit": {"unit": UnitConfig(blocks=1, attention=True, spectral_norm=True, charbonnier=True)},
    "segan": {"critic_layers": 2},
    "registration": {"source_channels": 2, "registration": RegistrationConfig(transform="affine", spacing=(2, 2, 2))},
}


def make_config(recipe, translation=None, **train):
    translation = {"width": 4, "levels": 2, "critic_width": 4, "critic_layers": 1} | (translation or {})
    translation = SMALL[recipe] | translation
    train = {
        "steps": 6,
        "batch_size": 2,
        "device": "cpu",
        "betas": (0.5, 0.999),
        "objective": OBJECTIVES.get(recipe, "lsgan"),
    } | train
    return Config(
        recipe=recipe,
        data=DataConfig(degrade=DegradeConfig(kind="misalign" if recipe == "registration" else "noise")),
        translation=TranslationConfig(**translation),
        train=TrainConfig(**train),
        log=LogConfig(every=1, preview_every=0, keep_last=1),
    )


def make_batch(count=2, side=16):
    """Smooth targets, and sources that are noisy versions of them; each volume has a mask of another size."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, *(side // 4,) * 3, generator=random) * 2 - 1
    target = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear")
    source = (target + 0.2 * torch.randn(target.shape, generator=random)).clamp(-1, 1)
    half = torch.zeros_like(target)
    for i in range(count):
        half[i, :, 4 * (i + 1) :] = 1
    samples = tuple(range(count))
    return PairBatch(source=source, target=target, mask=half, samples=samples, seed=0, step=0)


def batch_for(recipe):
    """Volumes of 16^3, or of 32^3 where whole volumes are seen or pooled; registration has the fixed ones beside."""
    batch = make_batch(side=32 if recipe in ("restore", "registration", "cyclegan") else 16)
    if recipe != "registration":
        return batch
    misalignment = torch.linspace(-5, 5, 24).view(2, 12)
    return dataclasses.replace(batch, source=torch.cat([batch.source, batch.target], 1), misalignment=misalignment)


def make_updates(config):
    torch.manual_seed(config.train.seed)
    recipe = make_recipe(config)
    return Updates(config.train, recipe.phases, make_networks(config), CPU), recipe


def phases(config):
    return [pytest.param(recipe, phase.name, id=f"{recipe}-{phase.name}") for recipe in RECIPES
            for phase in make_recipe(config(recipe)).phases]  # fmt: skip


def run(updates, recipe, name, batch):
    phase = next(phase for phase in recipe.phases if phase.name == name)
    updates.prepare(phase.first)
    return updates.run(phase, dataclasses.replace(batch, phase=name, step=phase.first))


def weights(networks):
    return {key: value.clone() for key, value in networks.state_dict().items()}


@pytest.mark.parametrize(("recipe", "phase"), phases(make_config))
def test_a_phase_moves_its_networks_and_no_other(recipe, phase):
    updates, made = make_updates(make_config(recipe))
    before = weights(updates.networks)
    run(updates, made, phase, batch_for(recipe))
    after = weights(updates.networks)
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    expected = set(next(p for p in made.phases if p.name == phase).updates)
    beside = {
        ("medgan", "d"): {"f"},
        ("restore", "d"): {"f"},
        ("cyclegan", "d"): {"pool_source", "pool_target"},
    }  # no gradient moves those
    assert moved == expected | beside.get((recipe, phase), set())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in updates.networks.parameters())


def gradients(config, name, batch):
    """Gradients that an update would step along, the terms of its loss, in float64."""
    updates, recipe = make_updates(config)
    updates.networks.double()
    updates.prepare(next(p for p in recipe.phases if p.name == name).first)
    seen = {}
    updates.optimizers[name].step = lambda *_, **__: seen.update(
        {key: p.grad.clone() for key, p in updates.networks.named_parameters() if p.grad is not None}
    )
    terms = run(updates, recipe, name, batch)
    return seen, terms


@pytest.mark.parametrize("changes", [{"loss_groups": False}, {"accumulate": 2, "checkpointing": True}])
@pytest.mark.parametrize(("recipe", "phase"), phases(make_config))
def test_groups_parts_and_computing_again_change_no_gradient(recipe, phase, changes):
    batch = batch_for(recipe)
    batch = dataclasses.replace(batch, source=batch.source.double(), target=batch.target.double())
    changed = {"cycle": CycleConfig(blocks=1, pool=0)} if recipe == "cyclegan" else {}
    config = make_config(recipe, changed, recompute_norms=False, ema=0.0)
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, recompute_norms=True, **changes))
    (one, terms), (two, same) = gradients(config, phase, batch), gradients(other, phase, batch)
    assert one.keys() == two.keys() and one
    assert terms.keys() == same.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-6, rtol=1e-6)


def make_trainer(store_path, out, config):
    store = Store(store_path)
    torch.manual_seed(config.train.seed)
    source = PairSource(store, "train", config.train.batch_size, config.train.seed, config.data.degrade)
    recipe = make_recipe(config)
    nets = make_networks(config)
    return Trainer(config, recipe, nets, source, store.description(), out, CPU, store.store_fingerprint)


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


@pytest.mark.parametrize(("recipe", "stops"), [("upgan", (1, 2, 5)), *((recipe, (1,)) for recipe in RECIPES[1:])])
def test_a_resume_is_invisible_inside_and_between_stages(small_store, tmp_path, recipe, stops):
    config = make_config(recipe, lr_decay=(1, 8), steps=6 if recipe == "upgan" else 2)
    assert make_trainer(small_store, tmp_path / "straight", config).run()
    for stop in stops:
        short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=stop))
        make_trainer(small_store, tmp_path / "stopped", short).run()
    resumed = make_trainer(small_store, tmp_path / "stopped", config)
    assert resumed.steps_done == stops[-1]
    assert resumed.run()
    one, other = (files.load(files.newest(tmp_path / name)) for name in ("straight", "stopped"))
    assert one.step == other.step == config.train.steps
    for part in ("networks", "ema", "optimizers", "scalers"):
        assert_equal(getattr(one, part), getattr(other, part))
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == one.step


def test_the_end_of_each_stage_is_kept(small_store, tmp_path):
    make_trainer(small_store, tmp_path, make_config("upgan")).run()
    assert [path.stem for path in files.all_of(tmp_path)] == ["step-00000002", "step-00000004", "step-00000006"]
    first, second, _ = (files.load(path) for path in files.all_of(tmp_path))
    assert_equal(first.networks["g_1"], second.networks["g_1"])  # frozen while stage 2 learns
    assert not torch.equal(
        first.networks["g_2"]["unet.stem.conv.weight"], second.networks["g_2"]["unet.stem.conv.weight"]
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_saved_model_translates_as_the_trained_one(small_store, tmp_path, recipe):
    trainer = make_trainer(small_store, tmp_path, make_config(recipe, steps=1, ema=0.0))
    trainer.run()
    source = batch_for(recipe).source
    model = files.load_translation(tmp_path)
    trainer.networks.reached(1)
    with torch.no_grad():
        expected, found = trainer.networks.translate(source), model.networks.translate(source)
    assert torch.equal(expected.mean, found.mean)
    assert (found.sigma is not None) == (recipe == "upgan")
    assert set(model.loaded) == set(trainer.networks.averaged)


@pytest.mark.parametrize("recipe", PAIRED)
def test_learns_a_pair_by_heart(recipe):
    cascade = {"cascade": CascadeConfig(stages=1, stage_steps=30, parts=(1, 0, 0))} if recipe == "upgan" else {}
    model = {"width": 8, "residual": True, "adversarial_weight": 1e-3, "l1_weight": 1.0, **cascade}
    config = make_config(recipe, model, steps=30, lr_g=4e-3)
    updates, made = make_updates(config)

    batch = batch_for(recipe)

    def psnr():
        with torch.no_grad():
            mean = updates.networks.translate(batch.source).mean
        return -10 * math.log10((mean - batch.target).square().mean() / 4)

    before = psnr()
    for step in range(config.train.steps):
        for phase in made.phases_at(step):
            updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=step))
    assert psnr() > before + 3


@pytest.mark.parametrize("recipe", RECIPES)
def test_live_bytes_of_a_step_count_the_same_fake_and_real(recipe):
    config = make_config(recipe, checkpointing=True)
    fake = count_step(config, make_recipe(config))
    real = count_step(config, make_recipe(config), fake=False)
    assert fake.keys() == real.keys() == {*(phase.name for phase in make_recipe(config).phases), "static"}
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.05 * real[name], name
