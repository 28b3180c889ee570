"""The trainer: which networks a phase updates, and along which gradients."""

import dataclasses
import json

import pytest
import torch

from hagan3d.checkpoint import files
from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.errors import InputError
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.hagan.prior import RATE
from tests.engine.small_runs import make_trainer, phase_of, tiny_config, with_train
from tests.helpers import changed_networks, weights

NETWORKS = ("g", "d_h", "d_l", "e_h", "e_g")


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize(
    ("phase", "networks"), [("d", {"d_h", "d_l"}), ("g", {"g"}), ("e_h", {"e_h"}), ("e_g", {"e_g"})]
)
def test_a_phase_updates_its_networks_and_no_other(small_store, tmp_path, phase, networks, conditional):
    trainer = make_trainer(small_store, tmp_path, tiny_config(conditional=conditional, r1_weight=1.0))
    batch = dataclasses.replace(trainer.source.batch(0), phase=phase, state=trainer.state)
    before = weights(trainer.networks)
    trainer.updates.run(phase_of(trainer, phase), batch)
    assert changed_networks(before, weights(trainer.networks)) == networks
    assert all(parameter.grad is None and parameter.requires_grad for parameter in trainer.networks.parameters())


def test_the_prior_is_fitted_when_e_g_is_updated(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path, tiny_config(autoencode=1.0, encoder_every=2))
    for step, fitted in enumerate([{"g.prior.mean", "g.prior.factor"}, set()]):
        before = weights(trainer.networks)
        trainer.step(trainer.source.batch(step))
        after = weights(trainer.networks)
        assert changed_networks(before, after) >= {"g", "d_h", "d_l"}
        assert {
            key for key in before if key.startswith("g.prior") and not torch.equal(before[key], after[key])
        } == fitted


def test_the_shares_of_the_first_step_leave_the_prior_as_it_is(small_store, tmp_path):
    """The terms of a step are computed several times to measure their gradients; the latents count once."""
    trainer = make_trainer(small_store, tmp_path, tiny_config(autoencode=1.0))
    g = phase_of(trainer, "g")
    batch = dataclasses.replace(trainer.source.batch(0), phase="g", state=trainer.state)
    with torch.no_grad():
        z = trainer.networks.encode(batch.slabs())
    trainer.updates.gradient_norms(g, batch)
    trainer.updates.run(g, batch)
    torch.testing.assert_close(trainer.networks.g.prior.mean, RATE * z.mean(0, keepdim=True))


def test_networks_of_a_phase_have_learning_rates_of_their_own(small_store, tmp_path):
    config = tiny_config(autoencode=1.0, lr_g=1e-3, lr_e=3e-3, lr_decay=(0.0, 1.0), steps=10)
    trainer = make_trainer(small_store, tmp_path, config)
    trainer.step(trainer.source.batch(0))
    trainer.step(trainer.source.batch(1))
    groups = trainer.updates.optimizers["g"].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.9e-3, 2.7e-3])
    for group, name in zip(groups, ("g", "e_g"), strict=True):
        parameters = list(trainer.networks[name].parameters())
        assert len(parameters) == len(group["params"])
        assert all(one is other for one, other in zip(parameters, group["params"], strict=True))


def test_encoders_are_updated_every_nth_step(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path, tiny_config(encoder_every=2))
    for expected in (set(NETWORKS), {"g", "d_h", "d_l"}, set(NETWORKS)):
        before = weights(trainer.networks)
        trainer.step(trainer.source.batch(trainer.steps_done))
        assert changed_networks(before, weights(trainer.networks)) == expected


@pytest.mark.slow
def test_autoencoding_g_reconstructs_real_volumes_and_latents_match_the_prior(small_store, tmp_path):
    """With this term alone, G learns to reconstruct a real batch, from latents with the norm of the prior's."""
    trainer = make_trainer(small_store, tmp_path, tiny_config(autoencode=10.0, lr_g=2e-3, lr_e=2e-3))
    batch = dataclasses.replace(trainer.source.batch(0), state=trainer.state)
    g, rows = phase_of(trainer, "g"), []
    for _ in range(30):
        before = weights(trainer.networks)
        rows.append(trainer.updates.run(g, dataclasses.replace(batch, phase="g")))
        assert changed_networks(before, weights(trainer.networks)) == {"g", "e_g"}
    for name in ("l1_low", "sorted_l1"):
        assert rows[-1][name] < 0.8 * rows[0][name]
    assert rows[-1]["prior"] < 0.2 < rows[0]["prior"]


def test_without_fresh_fakes_g_learns_from_the_fakes_that_d_classified(small_store, tmp_path, monkeypatch):
    """The gradient of G is that of a second pass over the latents of D's phase, but one of the two passes is saved."""
    trainer = make_trainer(small_store, tmp_path, tiny_config(fresh_fakes=False, accumulate=2))
    batch, passes, d = trainer.source.batch(0), [], trainer.phases[0]
    trainer.networks["g"].register_forward_hook(lambda *_: passes.append(1))
    before = weights(trainer.networks)
    trainer.updates.run(d, dataclasses.replace(batch, phase="d", state=trainer.state))
    assert changed_networks(before, weights(trainer.networks)) == {"d_h", "d_l"}
    micro_batches = dataclasses.replace(batch, phase="d").micro_batches(2)
    pairs = [
        hagan.generate(trainer.networks, micro_batch, hagan.latents(trainer.networks, micro_batch))
        for micro_batch in micro_batches
    ]
    got = gradients(trainer, "g", batch)
    assert len(passes) == 4
    monkeypatch.setattr(hagan, "generate", lambda *_: pairs.pop(0))
    for name, gradient in gradients(trainer, "g", batch).items():
        torch.testing.assert_close(got[name], gradient)


@pytest.mark.slow
def test_compiled_networks_step_along_the_same_gradients(small_store, tmp_path, monkeypatch):
    compiled, backends = torch.nn.Module.compile, []

    def traced(module):
        backends.append(type(module).__name__)
        compiled(module, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    trainers = [
        make_trainer(small_store, tmp_path / str(on), tiny_config(compile=on, r1_weight=1.0)) for on in (False, True)
    ]
    assert set(backends) == {"Generator", "HighEncoder", "GroundEncoder"}
    plain, ours = (gradients(trainer, "g", trainer.source.batch(0)) for trainer in trainers)
    assert plain.keys() == ours.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_step_updates_every_network(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path)
    before = weights(trainer.networks)
    terms = trainer.step(trainer.source.batch(0))
    assert changed_networks(before, weights(trainer.networks)) == set(NETWORKS)
    assert set(terms) == {"d/gan", "d/sign_real", "g/gan", "e_h/l1", "e_g/l1_high", "e_g/l1_low"}


def test_a_minibatch_std_group_larger_than_the_batch_shrinks_to_it(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path, tiny_config(minibatch_std=4, batch_size=2))
    assert trainer.networks.d_l.group == trainer.config.group == 2
    before = weights(trainer.networks)
    trainer.step(trainer.source.batch(0))
    assert changed_networks(before, weights(trainer.networks)) == set(NETWORKS)


@pytest.mark.parametrize("train", [{"r1_weight": 1.0}, {"objective": "wgan-gp"}, {"logits": "each"}])
def test_without_the_low_resolution_branch_nothing_at_low_resolution_learns(small_store, tmp_path, train):
    trainer = make_trainer(small_store, tmp_path, tiny_config(low_resolution_branch=False, **train))
    before = weights(trainer.networks)
    terms = trainer.step(trainer.source.batch(0))
    after = weights(trainer.networks)
    assert changed_networks(before, after) == {"g", "d_h", "e_h", "e_g"}
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("g.low."))
    assert "e_g/l1_low" not in terms and "e_g/l1_high" in terms


def gradients(trainer, phase_name, batch):
    """Gradients that an update would step along."""
    phase = phase_of(trainer, phase_name)
    seen = {}
    optimizer = trainer.updates.optimizers[phase_name]
    optimizer.step = lambda *_, **__: seen.update(
        {key: p.grad.clone() for key, p in trainer.networks.named_parameters() if p.grad is not None}
    )
    trainer.updates.run(phase, dataclasses.replace(batch, phase=phase_name, state=trainer.state))
    return seen


@pytest.mark.parametrize("phase", ["d", "g", "e_h"])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(small_store, tmp_path, phase):
    augment = DiffAugConfig(translate=0.1, contrast=0.1)
    config = tiny_config(batch_size=4, r1_weight=1.0, autoencode=1.0, diffaug=augment)
    whole = make_trainer(small_store, tmp_path / "a", config)
    split = make_trainer(small_store, tmp_path / "b", with_train(config, accumulate=2))
    batch = whole.source.batch(0)
    one, other = gradients(whole, phase, batch), gradients(split, phase, batch)
    assert one.keys() == other.keys() and one
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(whole.networks.g.prior.state_dict(), split.networks.g.prior.state_dict())


@pytest.mark.parametrize("switch", ["checkpointing", "recompute_norms"])
@pytest.mark.parametrize("phase", ["d", "g", "e_h"])
def test_recomputation_changes_no_gradient(small_store, tmp_path, phase, switch):
    config = tiny_config(r1_weight=1.0, autoencode=1.0, recompute_norms=False)
    stored = make_trainer(small_store, tmp_path / "a", config)
    recomputed = make_trainer(
        small_store,
        tmp_path / "b",
        with_train(config, **{switch: True}),
    )
    batch = stored.source.batch(0)
    one, other = gradients(stored, phase, batch), gradients(recomputed, phase, batch)
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=1e-4)
    buffers = [{key: value for key, value in t.networks.named_buffers()} for t in (stored, recomputed)]
    assert buffers[0] and all(torch.equal(buffers[0][key], buffers[1][key]) for key in buffers[0])


def test_sharing_spectral_norms_changes_no_gradient(small_store, tmp_path):
    config = tiny_config(r1_weight=1.0, accumulate=2, checkpointing=True, share_spectral=False)
    apart = make_trainer(small_store, tmp_path / "a", config)
    config = with_train(config, share_spectral=True)
    shared = make_trainer(small_store, tmp_path / "b", config)
    batch = apart.source.batch(0)
    one, other = gradients(apart, "d", batch), gradients(shared, "d", batch)
    assert one.keys() == other.keys() and one
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("objective", ["bce", "hinge", "lsgan", "wgan-gp", "relativistic"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_objective_and_precision_trains(small_store, tmp_path, objective, precision):
    trainer = make_trainer(
        small_store,
        tmp_path,
        tiny_config(objective=objective, precision=precision, r1_weight=0.1, r2_weight=0.1, steps=2),
    )
    terms = trainer.step(trainer.source.batch(0))
    assert ("d/gp" in terms) == (objective == "wgan-gp")
    assert "d/r1" in terms
    assert all(parameter.dtype == torch.float32 for parameter in trainer.networks.parameters())


@pytest.mark.slow
def test_fp16_has_a_loss_scaler_per_phase(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path, tiny_config(precision="fp16", steps=2))
    trainer.step(trainer.source.batch(0))
    before = weights(trainer.networks)
    trainer.updates.scalers["g"].update(8.0)
    trainer.step(trainer.source.batch(1))
    assert changed_networks(before, weights(trainer.networks)) == set(NETWORKS)
    assert trainer.updates.scalers["g"].get_scale() == 8.0
    assert trainer.updates.scalers["e_h"].get_scale() > 8.0


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path)
    trainer.step(trainer.source.batch(0))
    good = trainer.save()
    content = good.read_bytes()
    with torch.no_grad():
        trainer.networks.e_g.last.bias[0] = float("nan")
    with pytest.raises(InputError, match=r"step 2: e_g/l1_high is nan"):
        trainer.step(trainer.source.batch(1))
    with pytest.raises(InputError, match="not finite"):
        trainer.save()
    assert files.newest(tmp_path) == good and good.read_bytes() == content


def test_the_moving_average_follows_the_weights(small_store, tmp_path):
    trainer = make_trainer(small_store, tmp_path, tiny_config(ema=0.9))
    expected = trainer.networks.g.low[2].weight.detach().clone()
    for step in range(3):
        trainer.step(trainer.source.batch(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = expected * decay + trainer.networks.g.low[2].weight.detach() * (1 - decay)
    torch.testing.assert_close(trainer.updates.averages["g"].state["low.2.weight"], expected)
    raw = trainer.networks.g.low[2].weight.detach().clone()
    with trainer.updates.averages["g"].applied():
        torch.testing.assert_close(trainer.networks.g.low[2].weight.detach(), expected)
    assert torch.equal(trainer.networks.g.low[2].weight.detach(), raw)


def test_rows_of_the_log_are_json(small_store, tmp_path):
    make_trainer(small_store, tmp_path, tiny_config(steps=2)).run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"step", "d/gan", "d/sign_real", "g/gan", "e_h/l1", "e_g/l1_high", "e_g/l1_low"}
