"""Paired recipes on windows, alone and beside an anchor: what moves, resume, memory, and the same door to inference."""

import dataclasses

import pytest
import torch
from hagan3d.checkpoint.build import make_networks
from hagan3d.methods.hierarchical import window_losses
from tests.recipes.test_translation import PAIRED, assert_equal, make_batch, make_config, make_updates, run, weights

from hagan3d import cli, train, translate
from hagan3d.checkpoint import files
from hagan3d.config import CascadeConfig, DataConfig, DegradeConfig
from hagan3d.data.batches.pairs import PairBatch, PairSource
from hagan3d.data.store.store import Store
from hagan3d.engine.memory_plan import Plan, advice, remedies
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.trainer import Trainer
from hagan3d.inference.windowed_translation import Translator
from hagan3d.methods.cache import Kept
from hagan3d.methods.registry import make_recipe

CPU = torch.device("cpu")


def windowed(recipe, window="hierarchical", depth=16, **settings):
    config = make_config(recipe, **settings)
    data = DataConfig(degrade=DegradeConfig(kind="noise"), window=window, subvolume_depth=depth)
    return dataclasses.replace(config, data=data)


def windows_of(batch, depth=16):
    """Windows of a batch of whole volumes, at different places."""
    starts = [4 * (i + 1) for i in range(len(batch))]

    def cut(x):
        return torch.stack([volume[:, start : start + depth] for volume, start in zip(x, starts, strict=True)])

    lows = {f"low_{name}": torch.nn.functional.avg_pool3d(getattr(batch, name), 4) for name in ("source", "target")}
    cuts = {name: cut(getattr(batch, name)) for name in ("source", "target", "mask")}
    return dataclasses.replace(batch, **cuts, **lows, start=torch.tensor(starts))


STAGES = [("upgan", name) for name in ("anchor", "g_1", "d_1", "g_2", "g")]


@pytest.mark.parametrize(("recipe", "phase"), [*STAGES, *((recipe, name) for recipe in PAIRED[1:] for name in "gd")])
def test_a_phase_moves_its_networks_and_no_other(recipe, phase):
    updates, made = make_updates(windowed(recipe, batch_size=1))
    before = weights(updates.networks)
    run(updates, made, phase, windows_of(make_batch(1, side=32)))
    after = weights(updates.networks)
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    follows = {"f"} if recipe in ("medgan", "restore") and phase == "d" else set()
    assert moved == {*next(p for p in made.phases if p.name == phase).updates} | follows
    assert moved == {"anchor"} or "anchor" not in moved


def test_the_anchor_of_stages_rests_after_the_first():
    config = windowed("upgan")
    alive = {step: [phase.name for phase in make_recipe(config).phases_at(step)] for step in (0, 1, 2, 5)}
    assert alive == {0: ["anchor", "g_1", "d_1"], 1: ["anchor", "g_1", "d_1"], 2: ["g_2", "d_2"], 5: ["g", "d"]}


@pytest.mark.parametrize("recipe", ["upgan", "pix2pix"])
def test_parts_of_a_batch_change_no_gradient(recipe):
    """Each part goes beside its own anchor, also where the anchor's phase left what it said."""
    seen = []
    for accumulate in (1, 2):
        config = windowed(recipe, translation={"norm": "rms"}, accumulate=accumulate, ema=0.0)
        updates, made = make_updates(config)
        batch = windows_of(make_batch(side=32))
        with torch.no_grad():  # so that it says something of its own
            updates.networks.anchor.unet.heads[0].weight.normal_()
        updates.optimizers["anchor"].step = lambda *_, **__: None
        for phase in made.phases_at(0)[:2]:
            updates.optimizers[phase.name].param_groups[0]["lr"] = 0.0
            terms = updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=0))
        seen.append({name: float(term) for name, term in terms.items()})
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


def make_trainer(path, out, config):
    store, data = Store(path), config.data
    torch.manual_seed(config.train.seed)
    source = train.make_source(config, store, config.train.batch_size, train.ALONE)
    assert isinstance(source, PairSource) and source.depth == (0 if data.window == "whole" else data.depth)
    fingerprint = store.store_fingerprint
    return Trainer(
        config, make_recipe(config), make_networks(config), source, store.description(), out, CPU, fingerprint
    )


@pytest.mark.parametrize(("recipe", "stop"), [("upgan", 2), ("pix2pix", 1)])
def test_a_resume_is_invisible(small_store, tmp_path, recipe, stop):
    config = windowed(recipe, steps=stop + 1)
    assert make_trainer(small_store, tmp_path / "straight", config).run()
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=stop))
    make_trainer(small_store, tmp_path / "stopped", short).run()
    assert make_trainer(small_store, tmp_path / "stopped", config).run()
    one, other = (files.load(files.newest(tmp_path / name)) for name in ("straight", "stopped"))
    for part in ("networks", "ema", "optimizers"):
        assert_equal(getattr(one, part), getattr(other, part))
    assert "anchor" in one.networks and "anchor" in one.ema


def test_a_window_of_the_whole_volume_is_the_whole_volume(small_store, tmp_path):
    for name, config in (
        ("whole", make_config("pix2pix", steps=2)),
        ("patch", windowed("pix2pix", "patch", 32, steps=2)),
    ):
        make_trainer(small_store, tmp_path / name, config).run()
    one, other = (files.load(files.newest(tmp_path / name)) for name in ("whole", "patch"))
    assert_equal(one.networks, other.networks)


@pytest.mark.parametrize(("recipe", "window"), [("upgan", "hierarchical"), ("pix2pix", "patch")])
def test_live_bytes_of_a_step_count_the_same_fake_and_real(recipe, window):
    stages = {"cascade": CascadeConfig(stages=1, stage_steps=2)} if recipe == "upgan" else {}
    config = windowed(recipe, window, translation=stages, batch_size=1, checkpointing=True)
    fake, real = (count_step(config, make_recipe(config), fake=is_fake) for is_fake in (True, False))
    assert fake.keys() == real.keys()
    for name in fake:
        assert abs(fake[name] - real[name]) <= 0.05 * real[name], name


def test_windows_take_less_memory_and_read_less():
    plans = [Plan(make_config("pix2pix"), make_recipe)]
    plans += [Plan(windowed("pix2pix", window, 8), make_recipe) for window in ("hierarchical", "patch")]
    whole, anchored, patch = (max(plan.peaks[name] for name in ("g", "d")) for plan in plans)
    assert patch < anchored < 0.6 * whole
    pairs = [
        dataclasses.replace(plan.config, data=dataclasses.replace(plan.config.data, degrade=DegradeConfig()))
        for plan in plans
    ]
    read = [dataclasses.replace(plan, config=config).bytes_read for plan, config in zip(plans, pairs, strict=True)]
    assert read == [2 * 2 * 2 * voxels for voxels in (32**3, 8 * 32**2 + 8**3, 8 * 32**2)]


def far_sighted(step, count=4):
    """Windows whose targets are bright or dark as the first slices of the volume are, which no window holds."""
    random = torch.Generator().manual_seed(step)
    coarse = torch.rand(count, 1, 8, 8, 8, generator=random) * 1.6 - 0.8
    source = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear")
    sign = (torch.randperm(count, generator=random) % 2 * 2.0 - 1).view(-1, 1, 1, 1, 1)
    source[:, :, :4] = 0.9 * sign
    target = 0.5 * source + 0.4 * sign
    samples = tuple(range(count))
    batch = PairBatch(source=source, target=target, mask=torch.ones_like(target), samples=samples, seed=0, step=step)
    return windows_of(batch, 8)


@pytest.mark.parametrize(("window", "low", "high"), [("patch", 0.35, 0.45), ("hierarchical", 0.0, 0.2)])
def test_the_anchor_tells_a_window_what_lies_far_from_it(window, low, high):
    weights = {"l1_weight": 1.0, "adversarial_weight": 0.0, "dropout": False}
    model = {"width": 8, "levels": 1, "norm": "rms", **weights}
    updates, recipe = make_updates(windowed("pix2pix", window, 8, translation=model, batch_size=4, lr_g=5e-3, ema=0.0))
    errors = []
    for step in range(60):
        batch = far_sighted(step)
        for phase in recipe.phases[:-1]:  # all but that of the critic
            terms = updates.run(phase, dataclasses.replace(batch, phase=phase.name))
        errors.append(terms["l1"])
    assert low < torch.stack(errors[-5:]).mean() < high


def test_thinner_windows_are_advised_while_networks_can_see_them():
    plan = Plan(windowed("pix2pix", depth=32, batch_size=1, optimizer_state="lean", precision="bf16"), make_recipe)
    said = [text for text, _ in remedies(plan)]
    assert [text.split("data.")[1] for text in said if "data." in text] == ["subvolume_depth 16", "subvolume_depth 8"]
    whole = Plan(make_config("pix2pix", batch_size=1), make_recipe)
    assert not any("data." in text for text, _ in remedies(whole))
    assert "or data.window" in advice(whole, 10**6)


def test_windows_in_training_are_those_of_inference(small_store, tmp_path):
    """What networks see of one place, beside the anchor: of a batch of windows, and of a whole volume that is read."""
    trainer = make_trainer(small_store, tmp_path, windowed("upgan", steps=2, ema=0.0))
    trainer.run()
    batch, seen = trainer.source.batch(5), []
    whole = dataclasses.replace(trainer.source, depth=0, anchored=False).batch(5).source[0]
    model = files.load_translation(tmp_path)
    assert set(model.loaded) == {"g_1", "g_2", "anchor"}
    with torch.no_grad():
        window_losses(Kept(), lambda nets, batch: seen.append(batch.source), model.networks, batch)
        read = Translator(model.networks)._anchored(lambda first, stop: whole[:, first:stop], 32)
        start = int(batch.start[0])
        torch.testing.assert_close(seen[0][0], read(start, start + 16), atol=1e-5, rtol=1e-4)
    assert seen[0].shape == (2, 2, 16, 32, 32)


def test_windows_with_overlap_equal_the_whole_pass():
    """With norms of single voxels; what is thrown away at the borders of windows is as thick as the field of view."""
    config = windowed("upgan", translation={"norm": "rms", "levels": 1, "cascade": CascadeConfig(stages=1)})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, size=(96, 32, 32)))
    torch.manual_seed(0)
    networks = make_networks(config).eval().requires_grad_(False)
    for name, value in networks.named_parameters():
        if "heads" in name and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.2)
    source = torch.rand(1, 96, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, cut = Translator(networks).whole(source), Translator(networks, depth=64, overlap=32).whole(source)
    for name in ("mean", "sigma"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), atol=2e-5, rtol=0)


def test_doors(small_store, tmp_path, capsys):
    words = "--recipe pix2pix --translation.width 4 --translation.critic_width 4 --translation.critic_layers 1".split()
    words += "--data.window hierarchical --data.subvolume_depth 16 --data.degrade.kind noise --train.steps 1".split()
    words += f"--train.batch_size 2 --train.device cpu --data.store {small_store} --out {tmp_path / 'run'}".split()
    assert cli.run(train.main, [*words, "--log.preview_every", "1"]) == 0
    assert len(list((tmp_path / "run" / "previews").glob("*.png"))) == 1
    where = [str(tmp_path / "run"), "--input", str(small_store), "--out", str(tmp_path / "made"), "--device", "cpu"]
    assert cli.run(translate.main, [*where, "--memory", "2GB"]) == 0
    assert len(list((tmp_path / "made").glob("*.nii.gz"))) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--recipe cyclegan --data.window patch", "recipe cyclegan sees whole volumes"),
        ("--recipe pix2pix --data.window patch --data.paired false", "data.paired false sees whole volumes"),
        ("--recipe pix2pix --data.window patch", "windows of pairs have 8, 16 or a multiple of 32 slices"),
        ("--recipe pix2pix --data.window patch --data.subvolume_depth 8 --translation.levels 4", "divisible by 16"),
        ("--recipe pix2pix --data.window patch --data.subvolume_depth 8", "makes 1 voxels of 8"),
        ("--data.window patch", "data.window: recipe hagan does not translate"),
    ],
)
def test_what_cannot_work_is_one_line(small_store, tmp_path, words, message, capsys):
    out = ["--data.store", str(small_store), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*out, *words.split()]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
