"""One step's terms of every method and phase are those written out, and no mutant of their losses is."""

from dataclasses import replace

import pytest
import torch

from hagan3d.config.methods import method_names
from hagan3d.methods.registry import make_method, make_networks
from tests.methods.mutants import VARIANTS, Case, differs, mutants, phases, survives
from tests.methods.small import small_batch, small_config
from tests.methods.written_out import TERMS

ALL = [(method, phase) for method in method_names() for phase in phases(method)]
OTHERS = [
    pytest.param(method, settings, phase, id=f"{name}-{phase}")
    for name, (method, settings) in VARIANTS.items()
    for phase in phases(method, **settings)
]


def test_every_phase_of_every_method_is_written_out():
    variants = {(method, phase) for method, settings in VARIANTS.values() for phase in phases(method, **settings)}
    assert {*ALL} | variants == {*TERMS}


@pytest.mark.parametrize(("method", "phase"), ALL)
def test_the_terms_are_those_of_the_equations(method, phase, small_store):
    case = Case.make(method, phase, small_store)
    expected = case.with_gradient(case.written)
    found = case.with_gradient(lambda: case.found()[1])
    assert differs(found, expected) == ""
    assert all(float(x.abs().max()) > 0 for x in expected.values()), "a term that is zero here tests nothing"


@pytest.mark.parametrize("phase", ["d", "g"])
@pytest.mark.parametrize("logits", ["mean", "each"])
@pytest.mark.parametrize("fresh_fakes", [True, False])
def test_relativistic_terms_are_those_of_the_equations(phase, logits, fresh_fakes, small_store):
    settings = {"objective": "relativistic", "logits": logits, "fresh_fakes": fresh_fakes}
    case = Case.make("hagan", phase, small_store, **settings)
    found = case.with_gradient(lambda: case.found()[1])
    assert differs(found, case.with_gradient(case.written)) == ""


@pytest.mark.parametrize(("method", "settings", "phase"), OTHERS)
def test_the_terms_of_variants_are_those_of_the_equations(method, settings, phase, small_store):
    case = Case.make(method, phase, small_store, **settings)
    expected = case.with_gradient(case.written)
    assert differs(case.with_gradient(lambda: case.found()[1]), expected) == ""
    assert all(float(x.abs().max()) > 0 for x in expected.values())


@pytest.mark.slow
@pytest.mark.parametrize(("method", "settings", "phase"), OTHERS)
def test_no_mutant_of_a_variant_survives(method, settings, phase, small_store):
    case = Case.make(method, phase, small_store, **settings)
    expected = case.with_gradient(case.written)
    assert [mutant.what for mutant in mutants(case) if survives(case, mutant, expected)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("method", "phase"), ALL)
def test_no_mutant_of_a_loss_survives(method, phase, small_store):
    case = Case.make(method, phase, small_store)
    expected = case.with_gradient(case.written)
    made = mutants(case)
    assert len(made) >= 3
    assert [mutant.what for mutant in made if survives(case, mutant, expected)] == []


def test_the_auxiliary_classifier_learns_on_fakes_if_asked(small_store):
    config = small_config("hagan", conditional=True, class_fakes=True)
    torch.manual_seed(0)
    nets, method = make_networks(config, 2), make_method(config)
    batch = replace(small_batch(config, small_store), phase="d", state=method.initial_state())
    terms = method.d_loss(nets, batch)
    with torch.no_grad():
        fakes = nets.g(nets.latent(batch.normal("z", nets.latent_dim), batch.label), batch.start, batch.label)
        expected = {
            name: torch.stack(
                [
                    -logits.log_softmax(1)[torch.arange(len(batch)), batch.label].mean()
                    for logits in (nets.d_h(window, batch.start)[1], nets.d_l(low)[1])
                ]
            ).mean()
            for name, (window, low) in {"class": (batch.window, batch.low), "class_fake": fakes}.items()
        }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].detach(), value)
    plain = make_method(small_config("hagan", conditional=True)).d_loss(nets, batch)
    assert "class_fake" not in plain and "class" in plain


def test_reused_fakes_keep_their_codes(small_store):
    codes = {"categories": 3, "continuous_codes": 2, "autoencode": 0.0, "prior": "normal", "encoder": False}
    config = small_config("hagan", fresh_fakes=False, **codes)
    torch.manual_seed(0)
    nets, method = make_networks(config), make_method(config)
    batch = replace(small_batch(config, small_store), state=method.initial_state())
    of_d = method.d_loss(nets, replace(batch, phase="d"))
    of_g = next(method.g_loss(nets, replace(batch, phase="g")))
    for name in ("info_category", "info_continuous"):
        torch.testing.assert_close(of_g[name], of_d[name])
    alone = next(method.g_loss(nets, replace(batch, phase="g")))  # with fakes of its own
    assert not torch.equal(alone["info_continuous"], of_d["info_continuous"])


def test_a_wrong_weight_is_noticed(small_store):
    case = Case.make("pix2pix", "g", small_store)
    expected = case.with_gradient(case.written)
    found = case.with_gradient(lambda: {name: (1 + (name == "l1")) * x for name, x in case.found()[1].items()})
    assert differs(found, expected) == "l1"
    assert differs(found | {"l1": torch.tensor(torch.nan)}, expected) == "l1"
