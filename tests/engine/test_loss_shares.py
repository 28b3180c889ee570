"""Shares of loss terms: the gradients measured, the weights found, the file written."""

from dataclasses import replace

import pytest
import torch

from hagan3d.checkpoint import files
from hagan3d.engine.loss_shares import LossShare, loss_shares, write_shares
from hagan3d.errors import InputError
from hagan3d.methods.phase import Phase
from tests.helpers import assert_equal, weights
from tests.methods.small import make_trainer, make_updates, small_batch, small_config


def phase(shares):
    return Phase("g", ("g",), lambda nets, batch: {}, 1e-3, {"l1": 10.0}, shares)


def test_weights_give_terms_their_target_shares():
    rows = loss_shares(
        phase({"style": 0.1, "content": 0.2}), {"l1": 10.0}, {"l1": 0.3, "gan": 4.0, "style": 1e-7, "content": 50.0}
    )
    by_term = {row.term: row for row in rows}
    assert [by_term[name].share for name in ("style", "content")] == pytest.approx([0.1, 0.2])
    assert [by_term[name].weight for name in ("l1", "gan")] == [10.0, 1.0]
    assert by_term["style"].weight == pytest.approx(0.1 * (10 * 0.3 + 4) / 0.7 / 1e-7)
    assert by_term["gan"].share / by_term["l1"].share == pytest.approx(4 / 3)
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_a_term_that_no_weight_can_raise_is_named():
    with pytest.raises(InputError, match="g/style: has no gradient in the first step, so no weight gives it 0.1"):
        loss_shares(phase({"style": 0.1}), {"l1": 10.0}, {"l1": 0.3, "style": 0.0})
    with pytest.raises(InputError, match="g/style"):
        loss_shares(phase({"style": 0.1}), {"l1": 10.0}, {"l1": 0.0, "style": 1.0})
    rows = loss_shares(phase({"style": 0.0}), {"l1": 10.0}, {"l1": 0.3, "style": 1.0})
    assert rows[1] == LossShare("g", "style", 0.0, 0.0)


def test_a_loss_without_a_weighted_term_is_refused():
    with pytest.raises(InputError, match=r"the phase g trains g, but the weights of all terms .* \(l1\) are 0"):
        loss_shares(phase({}), {"l1": 0.0}, {"l1": 3.0})
    rows = loss_shares(phase({}), {"l1": 1.0}, {"l1": 0.0})  # of a first batch without a voxel in its masks
    assert rows == [LossShare("g", "l1", 1.0, 0.0)]


def test_rows_of_a_phase_replace_those_of_before(tmp_path):
    path = tmp_path / "loss_shares.csv"
    write_shares(path, [LossShare("g_1", "l1", 1.0, 0.5), LossShare("d_1", "gan", 1.0, 1.0)])
    write_shares(path, [LossShare("g_1", "l1", 2.0, 0.25)])
    assert path.read_text() == "phase,term,weight,share\nd_1,gan,1.0,1.0\ng_1,l1,2.0,0.25\n"


@pytest.mark.parametrize("method", ["medgan", "cyclegan", "upgan"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_norms_are_those_of_the_terms_alone_and_nothing_changes(method, accumulate, small_store):
    config = small_config(method, accumulate=accumulate)
    updates, batch = make_updates(config), small_batch(config, small_store)
    first = updates.phases[0]
    batch = replace(batch, phase=first.name)
    before = weights(updates.networks)
    norms = updates.gradient_norms(first, batch)
    assert_equal(before, weights(updates.networks))
    assert all(p.grad is None for p in updates.networks.parameters())
    loss = first.loss(updates.networks, batch)
    terms = loss if isinstance(loss, dict) else {name: x for group in list(loss) for name, x in group.items()}
    parameters = [p for name in first.updates for p in updates.networks[name].parameters()]
    assert norms.keys() == terms.keys() - {*first.measures}
    for name, norm in norms.items():
        gradients = torch.autograd.grad(terms[name], parameters, retain_graph=True, allow_unused=True)
        expected = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
        assert norm == pytest.approx(expected, rel=1e-3)


def test_a_run_has_the_shares_and_resumes_with_the_weights_found(small_store, tmp_path, capsys):
    short, config = (small_config("medgan", steps=steps, style_share=0.2, content_share=0.3) for steps in (1, 3))
    straight = make_trainer(small_store, tmp_path / "straight", config)
    assert straight.run()
    printed = capsys.readouterr().err
    assert "g/style: weight" in printed and "20 % of the gradient" in printed
    rows = [line.split(",") for line in (tmp_path / "straight" / "loss_shares.csv").read_text().splitlines()]
    shares = {row[1]: float(row[3]) for row in rows if row[0] == "g"}
    assert shares["style"] == pytest.approx(0.2) and shares["content"] == pytest.approx(0.3)
    assert straight.state["g/style"] == pytest.approx(float(next(row[2] for row in rows if row[1] == "style")))
    make_trainer(
        small_store, tmp_path / "stopped", small_config("medgan", steps=1, style_share=0.2, content_share=0.3)
    ).run()
    resumed = make_trainer(small_store, tmp_path / "stopped", config)
    assert resumed.state == straight.state and resumed.run()
    one, other = (files.load(files.newest(tmp_path / name)) for name in ("straight", "stopped"))
    assert_equal(one.networks, other.networks)


def test_the_weighted_terms_of_a_step_have_the_shares(small_store, tmp_path):
    config = small_config("restore", steps=1, perceptual_share=0.4, objective="bce")
    trainer = make_trainer(small_store, tmp_path, config)
    batch = trainer.source.batch(0)
    g = next(phase for phase in trainer.phases if phase.name == "g")
    norms = trainer.updates.gradient_norms(g, replace(batch, phase="g"))
    terms = trainer.step(batch)
    found = g.weights_at(0, trainer.state)
    weighted = {name: found.get(name, 1.0) * norm for name, norm in norms.items()}
    assert weighted["perceptual"] / sum(weighted.values()) == pytest.approx(0.4, rel=1e-3)
    assert terms["g/perceptual"] > 0
