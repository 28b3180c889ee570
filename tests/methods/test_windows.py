"""Translation methods on windows, alone and hierarchical: what learns, resume, memory, and the same at inference."""

import dataclasses

import pytest
import torch

from hagan3d import cli, train, translate
from hagan3d.checkpoint import files
from hagan3d.config import DegradeConfig
from hagan3d.data.batches.pairs import PairBatch, PairSource
from hagan3d.engine.memory_plan import Plan, advice, remedies
from hagan3d.inference.windowed_translation import Translator
from hagan3d.methods.registry import make_method, make_networks
from tests.helpers import assert_equal, changed_networks, weights
from tests.methods.small import (
    WINDOWED,
    assert_counts_agree,
    make_trainer,
    make_updates,
    pair_batch,
    run_phase,
    small_config,
    train_with_stops,
)


def windowed(method, window="hierarchical", depth=16, **settings):
    return small_config(method, window=window, subvolume_depth=depth, **settings)


def windows_of(batch, depth=16):
    """Windows of a batch of whole volumes, at different places."""
    starts = [4 * (i + 1) for i in range(len(batch))]

    def cut(x):
        return torch.stack([volume[:, start : start + depth] for volume, start in zip(x, starts, strict=True)])

    lows = {f"low_{name}": torch.nn.functional.avg_pool3d(getattr(batch, name), 4) for name in ("source", "target")}
    cuts = {name: cut(getattr(batch, name)) for name in ("source", "target", "mask")}
    return dataclasses.replace(batch, **cuts, **lows, start=torch.tensor(starts))


PHASES = [
    pytest.param(method, phase.name, id=f"{method}-{phase.name}")
    for method in WINDOWED
    for phase in make_method(windowed(method)).training_phases()
]


@pytest.mark.parametrize(("method", "name"), PHASES)
def test_a_phase_updates_its_networks_and_no_other(method, name):
    updates = make_updates(windowed(method, batch_size=1))
    before = weights(updates.networks)
    run_phase(updates, name, windows_of(pair_batch(1)))
    changed = changed_networks(before, weights(updates.networks))
    followers = {"f"} if method in ("medgan", "restore") and name == "d" else set()
    assert changed == {*next(phase for phase in updates.phases if phase.name == name).updates} | followers
    assert changed == {"low_resolution"} or "low_resolution" not in changed


def test_the_low_resolution_network_of_a_cascade_learns_in_the_first_stage_alone():
    phases = make_method(windowed("upgan")).training_phases()
    due = {step: [phase.name for phase in phases if phase.is_due(step)] for step in (0, 1, 2, 5)}
    first = ["low_resolution", "g_1", "d_1"]
    assert due == {0: first, 1: first, 2: ["g_2", "d_2"], 5: ["g", "d"]}


@pytest.mark.parametrize("method", ["upgan", "pix2pix"])
def test_micro_batches_change_no_loss(method):
    """Each micro-batch is concatenated with its own low-resolution prediction, also where that is cached."""
    seen = []
    for accumulate in (1, 2):
        updates = make_updates(windowed(method, norm="rms", accumulate=accumulate, ema=0.0))
        batch = windows_of(pair_batch())
        with torch.no_grad():  # a prediction that differs from zero
            updates.networks.low_resolution.unet.heads[0].weight.normal_()
        updates.optimizers["low_resolution"].step = lambda *_, **__: None
        for phase in [phase for phase in updates.phases if phase.is_due(0)][:2]:
            updates.optimizers[phase.name].param_groups[0]["lr"] = 0.0
            terms = updates.run(phase, dataclasses.replace(batch, phase=phase.name, step=0))
        seen.append({name: float(term) for name, term in terms.items()})
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


@pytest.mark.parametrize(("window", "depth"), [("whole", None), ("patch", 16), ("hierarchical", 16)])
def test_batches_have_the_depth_of_the_settings(small_store, tmp_path, window, depth):
    trainer = make_trainer(small_store, tmp_path, windowed("pix2pix", window, depth))
    assert isinstance(trainer.source, PairSource) and trainer.source.depth == (depth or 0)


@pytest.mark.parametrize(("method", "stop"), [("upgan", 2), ("pix2pix", 1)])
@pytest.mark.slow
def test_a_resume_is_invisible(small_store, tmp_path, method, stop):
    one, other = train_with_stops(small_store, tmp_path, windowed(method, steps=stop + 1), [stop])
    for part in ("networks", "ema", "optimizers"):
        assert_equal(getattr(one, part), getattr(other, part))
    assert "low_resolution" in one.networks and "low_resolution" in one.ema


def test_a_window_of_all_slices_is_the_whole_volume(small_store, tmp_path):
    for name, config in (
        ("whole", small_config("pix2pix", steps=2)),
        ("patch", windowed("pix2pix", "patch", 32, steps=2)),
    ):
        make_trainer(small_store, tmp_path / name, config).run()
    one, other = (files.load(files.newest(tmp_path / name)) for name in ("whole", "patch"))
    assert_equal(one.networks, other.networks)


@pytest.mark.parametrize(("method", "window"), [("upgan", "hierarchical"), ("pix2pix", "patch")])
@pytest.mark.slow
def test_peak_memory_is_the_same_on_fake_and_real_tensors(method, window):
    stages = {"stages": 1, "stage_steps": 2} if method == "upgan" else {}
    assert_counts_agree(windowed(method, window, batch_size=1, checkpointing=True, **stages))


@pytest.mark.slow
def test_windows_take_less_memory_and_read_less():
    plans = [Plan(small_config("pix2pix"))]
    plans += [Plan(windowed("pix2pix", window, 8)) for window in ("hierarchical", "patch")]
    whole, hierarchical, patch = (max(plan.peaks[name] for name in ("g", "d")) for plan in plans)
    assert patch < hierarchical < 0.6 * whole
    stored = [
        dataclasses.replace(plan.config, data=dataclasses.replace(plan.config.data, degrade=DegradeConfig()))
        for plan in plans
    ]
    read = [make_method(config).bytes_per_step() for config in stored]
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
@pytest.mark.slow
def test_the_low_resolution_prediction_informs_a_window_of_distant_slices(window, low, high):
    losses = {"l1_weight": 1.0, "adversarial_weight": 0.0, "dropout": False}
    model = {"width": 8, "levels": 1, "norm": "rms", **losses}
    updates = make_updates(windowed("pix2pix", window, 8, batch_size=4, lr_g=5e-3, ema=0.0, **model))
    errors = []
    for step in range(60):
        batch = far_sighted(step)
        for phase in updates.phases:
            terms = updates.run(phase, dataclasses.replace(batch, phase=phase.name))
        errors.append(terms["l1"])
    assert low < torch.stack(errors[-5:]).mean() < high


def test_thinner_windows_are_advised_while_networks_can_see_them():
    plan = Plan(windowed("pix2pix", depth=32, batch_size=1, optimizer_state="lean", precision="bf16"))
    texts = [text for text, _ in remedies(plan)]
    assert [text.split("data.")[1] for text in texts if "data." in text] == ["subvolume_depth 16", "subvolume_depth 8"]
    whole = Plan(small_config("pix2pix", batch_size=1))
    assert not any("data." in text for text, _ in remedies(whole))
    assert "or data.window" in advice(whole, 10**6)


def test_windows_in_training_are_those_of_inference(small_store, tmp_path):
    """A window and its low-resolution prediction are the same in a batch and cut out of a whole volume."""
    trainer = make_trainer(small_store, tmp_path, windowed("upgan", steps=2, ema=0.0))
    trainer.run()
    batch, method, seen = trainer.source.batch(5), make_method(trainer.config), []
    whole = dataclasses.replace(trainer.source, depth=0, with_low=False).batch(5).source[0]
    model = files.load_translation(tmp_path)
    assert set(model.loaded) == {"g_1", "g_2", "low_resolution"}
    with torch.no_grad():
        method._window_loss(lambda nets, batch: seen.append(batch.source), model.networks, batch)
        read = Translator(model.networks)._with_low_resolution(lambda first, stop: whole[:, first:stop], 32)
        start = int(batch.start[0])
        torch.testing.assert_close(seen[0][0], read(start, start + 16), atol=1e-5, rtol=1e-4)
    assert seen[0].shape == (2, 2, 16, 32, 32)


def test_windows_with_overlap_equal_the_whole_pass():
    """With norms of single voxels and an overlap as large as the receptive field."""
    config = windowed("upgan", norm="rms", levels=1, stages=1, stage_steps=1000, size=(96, 32, 32))
    torch.manual_seed(0)
    networks = make_networks(config).eval().requires_grad_(False)
    for name, value in networks.named_parameters():
        if "heads" in name and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.2)
    source = torch.rand(1, 96, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole, cut = Translator(networks).whole(source), Translator(networks, depth=64, overlap=32).whole(source)
    for name in ("mean", "sigma"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), atol=2e-5, rtol=0)


def test_a_hierarchical_run_from_training_to_translated_files(small_store, tmp_path, capsys):
    words = "--method pix2pix --pix2pix.width 4 --pix2pix.critic_width 4 --pix2pix.critic_layers 1".split()
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
        ("--method registration --data.window patch", "data.window: method registration does not read it"),
        ("--method unit --data.window hierarchical", "data.window"),
        ("--method pix2pix --data.window patch --data.paired false", "data.paired: method pix2pix does not read it"),
        ("--method pix2pix --data.window patch", "windows have 8, 16 or a multiple of 32 slices"),
        (
            "--method pix2pix --data.window patch --data.subvolume_depth 8 --pix2pix.critic_layers 1 "
            "--pix2pix.levels 4",
            "divisible by 16",
        ),
        ("--method pix2pix --data.window patch --data.subvolume_depth 8", "leaves 1 voxels of 8"),
        ("--method hagan --data.window patch", "data.window: method hagan does not read it"),
    ],
)
def test_invalid_settings_are_refused_in_one_line(small_store, tmp_path, words, message, capsys):
    out = ["--data.store", str(small_store), "--out", str(tmp_path / "run")]
    assert cli.run(train.main, [*out, *words.split()]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
