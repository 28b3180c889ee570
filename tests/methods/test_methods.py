"""Every registered method: what a phase updates, gradients by groups and micro-batches, resume, plan, loading."""

from dataclasses import replace

import pytest
import torch

from hagan3d.checkpoint import files
from hagan3d.config.methods import method_names
from hagan3d.engine.memory_plan import Plan
from hagan3d.methods.phase import stage_starts
from hagan3d.methods.registry import make_method
from tests.helpers import assert_equal, changed_networks, weights
from tests.methods.small import (
    TRANSLATION,
    assert_counts_agree,
    float64,
    make_trainer,
    make_updates,
    run_phase,
    small_batch,
    small_config,
    train_with_stops,
)

PHASES = [
    pytest.param(method, phase.name, id=f"{method}-{phase.name}")
    for method in method_names()
    for phase in make_method(small_config(method)).training_phases()
]
FOLLOWERS = {
    ("medgan", "d"): ("f.",),
    ("restore", "d"): ("f.",),
    ("cyclegan", "d"): ("pool_source.", "pool_target."),
}
"""State that changes after an update without a gradient."""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "name"), PHASES)
def test_a_phase_updates_its_networks_and_no_other(method, name, small_store):
    config = small_config(method)
    updates = make_updates(config)
    before = weights(updates.networks)
    run_phase(updates, name, small_batch(config, small_store))
    after = weights(updates.networks)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    followers = FOLLOWERS.get((method, name), ())
    assert all(any(key.startswith(prefix) for key in changed) for prefix in followers)
    updated = {key.split(".")[0] for key in changed if not key.startswith(followers)}
    assert updated == set(next(phase for phase in updates.phases if phase.name == name).updates)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in updates.networks.parameters())


def gradients(config, name, batch):
    """Return the gradients that an update would step along, and the terms of its loss, in float64."""
    updates = make_updates(config)
    updates.networks.double()
    updates.prepare(next(phase for phase in updates.phases if phase.name == name).first)
    seen = {}
    updates.optimizers[name].step = lambda *_, **__: seen.update(
        {key: p.grad.clone() for key, p in updates.networks.named_parameters() if p.grad is not None}
    )
    return seen, run_phase(updates, name, batch)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"loss_groups": False}, {"accumulate": 2, "checkpointing": True}])
@pytest.mark.parametrize(("method", "name"), PHASES)
def test_loss_groups_micro_batches_and_recomputation_change_no_gradient(method, name, changes, small_store):
    is_pooled = method == "cyclegan"  # images swapped with the pool depend on the micro-batches
    config = small_config(method, recompute_norms=False, ema=0.0, **({"pool": 0} if is_pooled else {}))
    other = replace(config, train=replace(config.train, recompute_norms=True, **changes))
    batch = float64(small_batch(config, small_store, 16 if is_pooled else None))
    (one, terms), (two, same) = gradients(config, name, batch), gradients(other, name, batch)
    assert one.keys() == two.keys() and one
    assert terms.keys() == same.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", method_names())
@pytest.mark.slow
def test_a_resume_is_invisible_inside_and_between_stages(small_store, tmp_path, method):
    starts = stage_starts(make_method(small_config(method)).training_phases())
    steps, stops = (6, (1, 2, 5)) if len(starts) > 1 else (4, (2,))
    one, other = train_with_stops(small_store, tmp_path, small_config(method, lr_decay=(1.0, 8.0), steps=steps), stops)
    for part in ("networks", "ema", "optimizers", "scalers", "state"):
        assert_equal(getattr(one, part), getattr(other, part))
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "stopped")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == one.step


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_peak_memory_is_the_same_on_fake_and_real_tensors(method):
    assert_counts_agree(small_config(method, checkpointing=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", method_names())
def test_a_plan_counts_memory_operations_and_data_of_every_phase(method):
    plan = Plan(small_config(method))
    names = {phase.name for phase in plan.method.training_phases()}
    assert plan.peaks.keys() == names | {"static"} and plan.flops.keys() == names
    assert all(count > 0 for count in (*plan.peaks.values(), *plan.flops.values()))
    assert plan.peak == max(plan.peaks.values()) < plan.needed and plan.fits(plan.needed)
    assert plan.method.bytes_per_step() > 0


@pytest.mark.parametrize("method", TRANSLATION)
def test_a_loaded_model_translates_as_the_trained_one(small_store, tmp_path, method):
    config = small_config(method, steps=1, ema=0.0)
    trainer = make_trainer(small_store, tmp_path, config)
    trainer.run()
    source = small_batch(config, small_store).source
    model = files.load_translation(tmp_path)
    trainer.networks.set_step(1)
    with torch.no_grad():
        expected, result = trainer.networks.translate(source), model.networks.translate(source)
    assert torch.equal(expected.mean, result.mean)
    assert (result.sigma is not None) == (method == "upgan")
    assert set(model.loaded) == set(trainer.networks.averaged)


@pytest.mark.parametrize("method", sorted({*method_names()} - {*TRANSLATION}))
def test_a_loaded_model_generates_as_the_trained_one(small_store, tmp_path, method):
    trainer = make_trainer(small_store, tmp_path, small_config(method, steps=1, ema=0.0))
    trainer.run()
    model = files.load_model(tmp_path, generate=True)
    x = torch.randn(2, model.networks.latent_dim, generator=torch.Generator().manual_seed(0))
    trainer.networks.eval()
    with torch.no_grad():
        expected, result = (nets.volume(nets.latent(x)) for nets in (trainer.networks, model.networks))
    assert torch.equal(expected, result) and result.shape == (2, 1, 32, 32, 32)
    assert set(model.loaded) == set(trainer.networks.generators)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["lean", "bf16", "8bit", "offload"])
@pytest.mark.parametrize("method", method_names())
def test_every_method_trains_with_every_optimizer_state(method, state, small_store):
    config = small_config(method, optimizer_state=state, optimizer="adam")
    updates, batch = make_updates(config), small_batch(config, small_store)
    for phase in updates.phases:
        before = weights(updates.networks)
        run_phase(updates, phase.name, batch)
        assert set(phase.updates) <= changed_networks(before, weights(updates.networks))
