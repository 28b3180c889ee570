"""What is due in which step of HA-GAN, and the random numbers of its augmentation; the terms themselves: test_terms."""

from dataclasses import replace

import pytest
import torch

from hagan3d.config.diffaug import DiffAugConfig
from hagan3d.losses.diffaug import NUM_RANDOMS, diffaug
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.registry import make_method, make_networks
from tests.methods.small import small_batch, small_config


def made(store, **settings):
    config = small_config("hagan", **{"batch_size": 2} | settings)
    torch.manual_seed(0)
    method = make_method(config)
    batch = replace(small_batch(config, store), state=method.initial_state())
    return method, make_networks(config).requires_grad_(False), batch


def terms_of(loss):
    return set(loss) if isinstance(loss, dict) else set().union(*loss)


def test_penalties_are_due_in_every_nth_step_with_n_times_the_weight(small_store, monkeypatch):
    method, networks, batch = made(small_store, r1_weight=3.0, r1_every=2, r2_weight=0.5, r2_every=3)
    monkeypatch.setattr(method, "_squared_gradient", lambda *_: torch.zeros(()))
    monkeypatch.setattr(hagan, "generate", lambda *_: (batch.window, batch.low))
    due = [terms_of(method.d_loss(networks, replace(batch, step=step))) & {"r1", "r2"} for step in range(7)]
    assert due == [{"r1", "r2"}, set(), {"r1"}, {"r2"}, {"r1"}, set(), {"r1", "r2"}]
    assert {name: method.phases()[0].weights[name] for name in ("r1", "r2")} == {"r1": 6.0, "r2": 1.5}


def test_g_reconstructs_when_the_encoders_learn(small_store, monkeypatch):
    method, networks, batch = made(small_store, encoder_every=3)
    monkeypatch.setattr(method, "_adversarial", lambda *_: {"gan": torch.zeros(())})
    monkeypatch.setattr(method, "_reconstruction", lambda *_: {"l1_high": torch.zeros(())})
    monkeypatch.setattr(networks, "encode", lambda _: torch.zeros(len(batch), networks.latent_dim))
    due = ["l1_high" in terms_of(method.g_loss(networks, replace(batch, step=step))) for step in range(5)]
    assert due == [True, False, False, True, False]
    for phase in method.phases():
        reads = [phase.reads_volumes(step) for step in range(5)]
        assert reads == (due if phase.name == "g" else [False] * 5), phase.name
        assert [phase.is_due(step) for step in range(5)] == (due if phase.name == "e_h" else [True] * 5), phase.name


def test_e_g_learns_with_g_if_it_reconstructs_and_by_itself_if_not(small_store):
    joint = {phase.name: phase for phase in made(small_store, encoder_every=3, lr_g=1e-4, lr_e=3e-4)[0].phases()}
    assert joint.keys() == {"d", "g", "e_h"}
    assert joint["g"].updates == ("g", "e_g") and (joint["g"].lr, joint["g"].lr_of) == (1e-4, {"e_g": 3e-4})
    method, *_ = made(small_store, encoder_every=3, lr_e=3e-4, autoencode=0.0, prior="normal")
    apart = {phase.name: phase for phase in method.phases()}
    assert apart["g"].updates == ("g",) and (apart["e_g"].updates, apart["e_g"].lr) == (("e_g",), 3e-4)
    for step, is_due in enumerate((True, False, False, True)):
        assert apart["e_g"].is_due(step) == apart["e_g"].reads_volumes(step) == is_due
        assert not apart["g"].reads_volumes(step)


@pytest.mark.parametrize("objective", ["relativistic", "wgan-gp", "bce"])
def test_the_sign_of_d_follows_what_its_objective_determines(small_store, monkeypatch, objective):
    method, networks, batch = made(small_store, objective=objective, r1_weight=0.0, r2_weight=0.0, gp_weight=0.0)
    monkeypatch.setattr(hagan, "generate", lambda *_: (batch.window, batch.low))
    monkeypatch.setattr(method, "_gradient_penalty", lambda *_: torch.zeros(()))

    def sign(real, fake):
        logits = iter((torch.full((2,), real), torch.full((2,), fake)))
        monkeypatch.setattr(method, "_logits", lambda *_: (next(logits), []))
        return float(method.d_loss(networks, batch)["sign_real"])

    if objective == "bce":
        assert (sign(1.0, 2.0), sign(-1.0, -2.0)) == (1.0, -1.0)
    else:
        assert (sign(1.0, 2.0), sign(-1.0, -2.0)) == (-1.0, 1.0)


@pytest.mark.parametrize(("sign", "change"), [(0.9, 1), (0.3, -1)])
def test_augmentation_becomes_likelier_where_d_is_sure_of_real_volumes(sign, change, small_store):
    config = DiffAugConfig(probability=0.5, adaptive=True, brightness=0.1, target=0.6, ramp=100)
    method, *_ = made(small_store, diffaug=config)
    state = method.adapted_state(method.initial_state(), {"d/sign_real": sign}, 4)
    assert state == {hagan.PROBABILITY: pytest.approx(0.5 + change * 0.04)}


def test_real_and_generated_pairs_are_augmented_by_numbers_of_their_own(small_store, monkeypatch):
    """Every input of D is that of its penalty, and the fakes of G's update have numbers of G's phase."""
    config = DiffAugConfig(brightness=0.4, contrast=0.3, translate=0.2, probability=0.8)
    method, networks, batch = made(small_store, diffaug=config, r1_every=1, r2_every=1)
    seen, logits = [], type(networks).logits
    monkeypatch.setattr(type(networks), "logits", lambda nets, *x: seen.append(x[1:]) or logits(nets, *x))

    def augmented(batch, name, pair):
        return diffaug(*pair, config, 0.8, batch.uniform(name, NUM_RANDOMS))

    d_batch, g_batch = replace(batch, phase="d"), replace(batch, phase="g")
    networks.d_h.requires_grad_(True)
    method.d_loss(networks, d_batch)
    fake = networks.g(hagan.latents(networks, d_batch), batch.start)
    real = batch.window, batch.low
    expected = [augmented(d_batch, name, pair) for name, pair in 2 * (("real", real), ("fake", fake))]
    assert len(seen) == 4
    for found, wanted in zip(seen, expected, strict=True):
        for x, y in zip(found, wanted, strict=True):
            torch.testing.assert_close(x, y)
    seen.clear()
    next(method.g_loss(networks, g_batch))
    fake = networks.g(hagan.latents(networks, g_batch), batch.start)
    for x, y in zip(seen[0], augmented(g_batch, "fake", fake), strict=True):
        torch.testing.assert_close(x, y)


def test_the_gradient_penalty_is_taken_where_d_looks(small_store, monkeypatch):
    method, networks, batch = made(
        small_store, objective="wgan-gp", diffaug=DiffAugConfig(probability=1.0, translate=0.5)
    )
    seen, penalised = {}, []
    real = method._augmented
    monkeypatch.setattr(method, "_augmented", lambda batch, name, *x: seen.setdefault(name, real(batch, name, *x)))
    monkeypatch.setattr(
        hagan, "interpolated_penalty", lambda logits_of, *pairs: penalised.append(pairs[:2]) or torch.zeros(())
    )
    method.d_loss(networks, batch)
    ((real_pair, fake_pair),) = penalised
    for name, pair in (("real", real_pair), ("fake", fake_pair)):
        assert len(pair) == 2 and all(torch.equal(x, y) for x, y in zip(pair, seen[name], strict=True))
    assert not torch.equal(real_pair[0], batch.window) and not torch.equal(real_pair[1], batch.low)


@pytest.mark.parametrize(("low", "names"), [(True, ("d_h", "d_l")), (False, ("d_h",))])
def test_an_audit_asks_discriminators_that_learn(small_store, low, names):
    method, networks, batch = made(small_store, low_resolution_branch=low)
    assert networks.discriminators == names == method.phases()[0].updates
    assert networks.discriminate(torch.zeros(1, 1, 32, 32, 32)).shape == (len(names),)
