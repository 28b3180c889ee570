"""The plan: what it predicts is what is counted, and what it advises fits."""

from dataclasses import replace

import pytest
import yaml

from hagan3d.config import Config, DataConfig, ModelConfig, TrainConfig
from hagan3d.config.serialization import from_dict
from hagan3d.engine import memory_plan as planning
from hagan3d.engine.memory_plan import Plan, advice, cheapest, fitted
from hagan3d.engine.step_memory import count_step
from hagan3d.errors import InputError
from hagan3d.methods.hagan import losses as hagan
from hagan3d.methods.registry import make_recipe
from hagan3d.train import config_file


def make_plan(**train):
    return Plan(
        Config(
            data=DataConfig(size=(32, 32, 32), subvolume_depth=16),
            model=ModelConfig(latent_dim=8, channels=64, d_channels=64),
            train=TrainConfig(**{"batch_size": 4, **train}),
        ),
        lambda config: hagan.recipe(config.train),
    )


@pytest.fixture
def line(monkeypatch):
    """Memory as a simple function of the settings, so that the search is tested and not the count."""

    def count(config, recipe, num_classes=0):
        train = config.train
        activations = train.batch_size // train.accumulate * config.data.depth
        for saves in (train.recompute_norms, train.checkpointing, train.precision == "bf16"):
            activations *= 0.5 if saves else 1
        static = {"fp32": 100, "lean": 90, "bf16": 85, "offload": 80}[train.optimizer_state]
        return {"g": int((static + activations) * 2**20), "static": static * 2**20}

    monkeypatch.setattr(planning, "count_step", count)


@pytest.mark.parametrize("train", [{"checkpointing": True}, {"precision": "bf16", "r1_weight": 1.0}])
def test_predicts_what_real_tensors_hold(train):
    plan = make_plan(batch_size=2, **train)
    real = max(count_step(plan.config, hagan.recipe(plan.config.train), fake=False).values())
    assert abs(plan.live - real) <= 0.05 * real


def test_a_card_needs_more_than_the_live_tensors(line):
    plan = make_plan()
    assert plan.needed > plan.live + planning.CONTEXT
    assert plan.fits(plan.needed) and not plan.fits(plan.needed - 1)


def test_the_largest_batch_fits_and_the_next_does_not(line):
    plan = make_plan()
    vram = plan.changed(batch_size=6).needed
    largest = plan.largest_batch(vram)
    assert largest >= 6
    assert plan.changed(batch_size=largest).fits(vram) and not plan.changed(batch_size=largest + 1).fits(vram)
    assert plan.largest_batch(planning.CONTEXT) == 0


def test_the_cheapest_remedy_leaves_the_result_as_it_is(line):
    plan = make_plan(recompute_norms=False)
    again = plan.changed(recompute_norms=True)
    assert again.live < plan.live
    said, found = cheapest(plan, again.needed)
    assert said == "train.recompute_norms true" and found.config == again.config


def test_remedies_come_together_where_one_is_not_enough(line):
    plan = make_plan()
    vram = plan.changed(accumulate=4, optimizer_state="lean").needed
    said, found = fitted(plan, vram)
    assert found.fits(vram) and "accumulate" in said
    assert fitted(plan, plan.needed) == ("", plan)


def test_advice_names_the_setting_or_that_there_is_none(line):
    plan = make_plan()
    assert "train.accumulate 2" in advice(plan, plan.changed(accumulate=2, optimizer_state="lean").needed)
    assert "train.optimizer_state lean" in advice(plan, plan.changed(optimizer_state="lean").needed)
    kept = plan.changed(optimizer_state="bf16")
    assert "optimizer_state" not in advice(kept, kept.changed(accumulate=2).needed)
    assert "smaller data.size" in advice(plan, planning.CONTEXT)
    with pytest.raises(InputError, match="nothing that can be set"):
        fitted(plan, planning.CONTEXT)


def test_operations_grow_with_the_batch():
    two, three, four = (make_plan(batch_size=batch).flops for batch in (2, 3, 4))
    assert two.keys() == {"d", "g", "e_h", "e_g"}
    assert all(1.5 * two[name] < four[name] <= 2 * two[name] for name in two)  # folding kernels costs the same for all
    assert all(four[name] - three[name] == three[name] - two[name] for name in two)


def test_operations_of_a_penalty_are_counted_where_it_is_due_in_every_step():
    without, lazy, always = (make_plan(r1_weight=w, r1_every=every).flops for w, every in ((0, 1), (1, 8), (1, 1)))
    assert without == lazy
    assert always["d"] > lazy["d"]
    assert always["g"] == lazy["g"]


def test_operations_of_a_gradient_penalty_are_counted():
    penalised, plain = make_plan(objective="wgan-gp").flops, make_plan(objective="bce").flops
    assert penalised["d"] > plain["d"]
    assert penalised["g"] == plain["g"]


def test_operations_of_autoencoding_are_shared_out_over_the_steps():
    settings = ((0, 1), (1, 1), (1, 2))
    plain, always, lazy = (make_plan(batch_size=2, autoencode=w, encoder_every=k).flops for w, k in settings)
    assert always["g"] > 1.5 * plain["g"] and (always["d"], always["e_h"]) == (plain["d"], plain["e_h"])
    assert lazy["g"] == (plain["g"] + always["g"]) // 2


@pytest.mark.parametrize("name", ["red_wgan", "registration", "segan"])
def test_operations_of_shipped_configs_are_counted(name):
    config = from_dict(yaml.safe_load(config_file(f"{name}_32.yaml").read_text(encoding="utf-8")))
    assert all(Plan(config, make_recipe).flops[phase.name] > 0 for phase in make_recipe(config).phases)


def test_bytes_read_are_those_of_the_store():
    plan = make_plan(batch_size=1)
    assert plan.bytes_read == 2 * (32**3 + 16 * 32**2 + 8**3)
    without = plan.changed(encoder=False)
    assert without.bytes_read == 2 * (16 * 32**2 + 8**3)
    assert plan.changed(encoder_every=4).bytes_read == 2 * (32**3 // 4 + 16 * 32**2 + 8**3)
    twice = plan.changed(
        batch_size=2, encoder_every=2, autoencode=1.0
    )  # E^G's update and G's own look at whole volumes
    assert twice.bytes_read == 4 * (32**3 + 16 * 32**2 + 8**3)
    augmented = replace(
        plan.config, data=replace(plan.config.data, augment=replace(plan.config.data.augment, brightness=0.1))
    )
    assert replace(plan, config=augmented).bytes_read == 2 * (32**3 + 8**3)
