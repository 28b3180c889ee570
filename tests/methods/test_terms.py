"""One step's terms of every method and phase are those written out, and no mutant of their losses is."""

import pytest
import torch

from hagan3d.config.methods import method_names
from tests.methods.mutants import Case, differs, mutants, phases, survives
from tests.methods.written_out import TERMS

ALL = [(method, phase) for method in method_names() for phase in phases(method)]


def test_every_phase_of_every_method_is_written_out():
    assert {*ALL} == {*TERMS}


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


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["d", "g"])
def test_no_mutant_of_the_relativistic_loss_survives(phase, small_store):
    case = Case.make("hagan", phase, small_store, objective="relativistic", logits="each")
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


def test_a_wrong_weight_is_noticed(small_store):
    case = Case.make("pix2pix", "g", small_store)
    expected = case.with_gradient(case.written)
    found = case.with_gradient(lambda: {name: (1 + (name == "l1")) * x for name, x in case.found()[1].items()})
    assert differs(found, expected) == "l1"
    assert differs(found | {"l1": torch.tensor(torch.nan)}, expected) == "l1"
