"""The plan of a run: predicted memory equals counted memory, and what the plan advises fits."""

from dataclasses import replace

import pytest

from hagan3d.config import AugmentConfig
from hagan3d.engine import memory_plan as planning
from hagan3d.engine import optimizers
from hagan3d.engine.margins import Margins
from hagan3d.engine.memory_plan import Plan, advice, cheapest, fitted
from hagan3d.engine.step_memory import count_step
from hagan3d.engine.trainer import MAY_CHANGE
from hagan3d.errors import InputError
from hagan3d.methods.registry import make_method
from hagan3d.run_settings import load_config
from tests.helpers import make_config

SMALL = {"subvolume_depth": 16, "latent_dim": 8, "channels": 64, "d_channels": 64, "batch_size": 4}


def make_plan(**settings):
    return Plan(make_config("hagan", **SMALL | settings))


@pytest.fixture
def line(monkeypatch):
    """Memory as a simple function of the settings, so that the search is tested and not the count."""

    def count(method, num_classes=0, fake=True, only=None, kind="cpu"):
        config, train = method.config, method.train
        activations = train.batch_size // train.accumulate * config.data.depth
        for saves in (train.recompute_norms, train.checkpointing, train.precision in ("bf16", "fp16")):
            activations *= 0.5 if saves else 1
        static = {"fp32": 100, "lean": 90, "bf16": 85, "offload": 80}[train.optimizer_state]
        return {"g": int((static + activations) * 2**20), "static": static * 2**20}

    monkeypatch.setattr(planning, "count_step", count)


@pytest.mark.slow
@pytest.mark.parametrize("train", [{"checkpointing": True}, {"precision": "bf16", "r1_weight": 1.0}])
def test_the_predicted_peak_is_that_of_real_tensors(train):
    plan = make_plan(batch_size=2, **train)
    real = max(count_step(plan.method, fake=False).values())
    assert abs(plan.peak - real) <= 0.05 * real


def test_a_card_needs_more_than_the_peak_of_tensors(line):
    plan = make_plan()
    assert plan.needed > plan.peak + Margins().context
    assert plan.fits(plan.needed) and not plan.fits(plan.needed - 1)


def test_the_largest_batch_fits_and_the_next_does_not(line):
    plan = make_plan()
    vram = plan.changed(batch_size=6).needed
    largest = plan.largest_batch(vram)
    assert largest >= 6
    assert plan.changed(batch_size=largest).fits(vram) and not plan.changed(batch_size=largest + 1).fits(vram)
    assert plan.largest_batch(Margins().context) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "unit", "largest"),
    [
        (make_config("pix2pix", width=4, levels=2, critic_width=4, critic_layers=2), 1, 12),
        (make_config("hagan", **SMALL | {"minibatch_std": 2, "encoder": False}), 2, 8),
    ],
    ids=["pix2pix", "hagan"],
)
def test_the_largest_batch_is_that_of_an_exhaustive_search_with_few_counts(monkeypatch, config, unit, largest):
    known, counts = {}, []

    def count(method, num_classes, fake=True, only=None, kind="cpu"):
        batch = method.config.train.batch_size
        counts.append(batch)
        if batch not in known:
            known[batch] = count_step(method, num_classes)
        return known[batch]

    monkeypatch.setattr(planning, "count_step", count)
    monkeypatch.setattr(planning, "LARGEST_BATCH", largest)
    plan = Plan(config)
    needed = {batch: plan.changed(batch_size=batch).needed for batch in range(unit, largest + 1, unit)}
    assert sorted(set(needed.values())) == list(needed.values())
    middles = [(needed[batch] + needed[batch + unit]) // 2 for batch in range(unit, largest, unit)]
    for vram in (needed[unit] - 1, *needed.values(), *middles, 2 * needed[largest]):
        counts.clear()
        assert plan.largest_batch(vram) == max((batch for batch in needed if needed[batch] <= vram), default=0)
        assert 1 <= len(counts) <= 4


def test_the_largest_batch_is_found_where_memory_is_not_affine(monkeypatch):
    # flat, as where the optimizer needs more than the losses; then a line
    def count(method, num_classes, fake=True, only=None, kind="cpu"):
        return {"g": max(200, 20 * method.config.train.batch_size) * 2**20, "static": 100 * 2**20}

    monkeypatch.setattr(planning, "count_step", count)
    plan = make_plan()
    assert [plan.largest_batch(planning.with_margin(mib * 2**20)) for mib in (199, 200, 219, 220, 10**4)] == [
        *(0, 10, 10, 11, planning.LARGEST_BATCH)
    ]


def test_the_cheapest_remedy_leaves_the_result_as_it_is(line):
    plan = make_plan(recompute_norms=False)
    recomputing = plan.changed(recompute_norms=True)
    assert recomputing.peak < plan.peak
    changes, result = cheapest(plan, recomputing.needed)
    assert changes == "train.recompute_norms true" and result.config == recomputing.config


def test_remedies_are_combined_where_one_is_not_enough(line):
    plan = make_plan()
    vram = plan.changed(accumulate=4, optimizer_state="lean").needed
    changes, result = fitted(plan, vram)
    assert result.fits(vram) and "accumulate" in changes
    assert fitted(plan, plan.needed) == ("", plan)


def test_a_change_that_lowers_nothing_is_no_advice(line, monkeypatch):
    count = planning.count_step

    def without_checkpointing(method, *args, **keywords):
        train = replace(method.config.train, checkpointing=False)
        return count(make_method(replace(method.config, train=train)), *args, **keywords)

    monkeypatch.setattr(planning, "count_step", without_checkpointing)
    plan = make_plan(batch_size=1, optimizer_state="offload")
    changes, result = fitted(plan, plan.changed(precision="bf16").needed)
    assert changes == "train.precision bf16" and not result.config.train.checkpointing


def test_advice_names_the_setting_or_that_there_is_none(line):
    plan = make_plan()
    assert "train.accumulate 2" in advice(plan, plan.changed(accumulate=2, optimizer_state="lean").needed)
    assert "train.optimizer_state lean" in advice(plan, plan.changed(optimizer_state="lean").needed)
    bf16 = plan.changed(optimizer_state="bf16")
    assert "optimizer_state" not in advice(bf16, bf16.changed(accumulate=2).needed)
    assert "smaller data.size" in advice(plan, Margins().context)
    with pytest.raises(InputError, match="no setting makes it fit"):
        fitted(plan, Margins().context)


@pytest.mark.parametrize(
    ("kind", "has", "narrow"), [("cuda", True, "bf16"), ("cuda", False, "fp16"), ("cpu", False, "bf16")]
)
def test_advice_names_a_precision_that_the_card_has(line, monkeypatch, kind, has, narrow):
    for module in (planning, optimizers):
        monkeypatch.setattr(module, "has_bf16", lambda _: has)
    plan = replace(make_plan(batch_size=1, optimizer_state="offload", checkpointing=True), kind=kind)
    assert f"train.precision {narrow}" in advice(plan, plan.needed - 1)
    auto = plan.changed(precision="auto")
    assert ("train.precision" in advice(auto, plan.needed - 1)) == (not has)


@pytest.mark.slow
def test_operations_grow_with_the_batch():
    two, three, four = (make_plan(batch_size=batch).flops for batch in (2, 3, 4))
    assert two.keys() == {"d", "g", "e_h", "e_g"}
    assert all(1.5 * two[name] < four[name] <= 2 * two[name] for name in two)  # folding kernels costs the same for all
    assert all(four[name] - three[name] == three[name] - two[name] for name in two)


@pytest.mark.slow
def test_operations_of_a_penalty_are_counted_where_it_is_due_in_every_step():
    without, lazy, always = (make_plan(r1_weight=w, r1_every=every).flops for w, every in ((0, 1), (1, 8), (1, 1)))
    assert without == lazy
    assert always["d"] > lazy["d"]
    assert always["g"] == lazy["g"]


@pytest.mark.slow
def test_operations_of_a_gradient_penalty_are_counted():
    penalised, plain = make_plan(objective="wgan-gp").flops, make_plan(objective="bce").flops
    assert penalised["d"] > plain["d"]
    assert penalised["g"] == plain["g"]


@pytest.mark.slow
def test_operations_of_autoencoding_are_averaged_over_the_steps():
    settings = ((0, 1), (1, 1), (1, 2))
    plain, always, lazy = (make_plan(batch_size=2, autoencode=w, encoder_every=k).flops for w, k in settings)
    assert always["g"] > 1.5 * plain["g"] and (always["d"], always["e_h"]) == (plain["d"], plain["e_h"])
    assert lazy["g"] == (plain["g"] + always["g"]) // 2


@pytest.mark.parametrize("name", ["red_wgan", "registration", "segan"])
def test_operations_of_shipped_configs_are_counted(name):
    flops = Plan(load_config(f"{name}_32")).flops
    assert all(flops[phase.name] > 0 for phase in make_method(load_config(f"{name}_32")).training_phases())


@pytest.mark.parametrize(
    ("settings", "voxels"),
    [
        ({}, 32**3 + 16 * 32**2 + 8**3),
        ({"encoder": False}, 16 * 32**2 + 8**3),
        ({"encoder_every": 4}, 32**3 // 4 + 16 * 32**2 + 8**3),
        # E^G and G learn from the same whole volumes
        ({"batch_size": 2, "encoder_every": 2, "autoencode": 1.0}, 2 * (32**3 // 2 + 16 * 32**2 + 8**3)),
        ({"augment": AugmentConfig(brightness=0.1)}, 32**3 + 8**3),
    ],
)
def test_bytes_read_are_those_of_the_store(settings, voxels):
    config = make_config("hagan", **SMALL | {"batch_size": 1} | settings)
    assert make_method(config).bytes_per_step() == 2 * voxels


def test_a_run_that_goes_on_is_given_what_it_can_go_on_with(line):
    plan = make_plan()
    vram = plan.changed(accumulate=2, optimizer_state="lean").needed
    assert "optimizer_state" in advice(plan, vram)
    found = cheapest(plan, vram, resumes=True)
    assert found is None or not {"optimizer_state", "precision"} & set(found[0].replace("train.", " ").split())
    names = {name for changes, _ in planning.remedies(plan, resumes=True) for name in changes.split()[::2]}
    assert names and all(name.startswith(MAY_CHANGE) for name in names)
    offloaded = plan.changed(accumulate=4, checkpointing=True, optimizer_state="offload")
    assert "use a new --out with the same --vram" in advice(plan, offloaded.needed, resumes=True)
