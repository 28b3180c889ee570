"""The sets that an evaluation compares, its settings, and the pictures of its log."""

import numpy as np
import pytest

from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.metrics.estimate import one_per_subject_first
from hagan3d.evaluation.report.figures import losses_png
from hagan3d.evaluation.report.protocol import _real_set
from hagan3d.evaluation.run_evaluation import EvaluateOptions, _check_has_effect
from hagan3d.evaluation.settings import EvaluateConfig


def test_the_limit_of_training_volumes_leaves_held_out_ones_alone(small_store):
    store, config = Store(small_store), EvaluateConfig(train_limit=5)
    sets = {name: _real_set(name, store, np.arange(8), config) for name in ("train", "held-out")}
    assert {name: one.count for name, one in sets.items()} == {"train": 5, "held-out": 8}
    assert sets["held-out"].identity["indices"][:5] == sets["train"].identity["indices"]


def test_volumes_of_one_subject_are_no_neighbours_and_the_first_are_of_as_many_as_there_are():
    subjects = ["a"] * 6 + ["b", "b", "c", "d"]
    for seed in range(20):
        order = one_per_subject_first(range(10), subjects, seed)
        assert sorted(order) == list(range(10))
        assert {subjects[i] for i in order[:4]} == {*"abcd"} and {subjects[i] for i in order[4:6]} == {*"ab"}
    assert one_per_subject_first(range(10), subjects, 0) != one_per_subject_first(range(10), subjects, 1)


@pytest.mark.parametrize(("settings", "limit"), [({"num": 5}, "num 5"), ({"train_limit": 6}, "train_limit 6")])
def test_neighbours_that_a_set_cannot_have_are_refused(settings, limit):
    with pytest.raises(InputError, match=f"neighbours: must be below {limit}, got 6"):
        EvaluateConfig(neighbours=6, least=7, **settings)


def test_settings_without_effect_on_a_translation_are_refused(tmp_path):
    _check_has_effect(tmp_path, EvaluateConfig(), EvaluateOptions())
    with pytest.raises(InputError, match="^--num, --truncation, --audit: is of generated volumes, and .* translates"):
        _check_has_effect(tmp_path, EvaluateConfig(num=50, truncation=0.5), EvaluateOptions(audit=True))


def test_the_log_of_a_killed_run_is_drawn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "d/loss": 1.0}\n{"step": 2, "d/loss": 0.5}\n{"step": 3, "d/lo')
    assert losses_png(tmp_path / "metrics.jsonl") is not None
