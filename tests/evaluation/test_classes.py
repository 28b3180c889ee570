"""Classes told from features: closed forms, and the score of torch-fidelity."""

import numpy as np
import pytest
import torch

from hagan3d.evaluation.metrics.classes import class_scores, inception_score
from hagan3d.evaluation.progress import no_progress
from hagan3d.evaluation.settings import EvaluateConfig


def test_the_inception_score_of_extremes():
    assert inception_score(np.full((10, 4), 0.25)) == pytest.approx(1)
    assert inception_score(np.tile(np.eye(4), (5, 1))) == pytest.approx(4)
    assert inception_score(np.tile(np.eye(4)[:1], (5, 1))) == pytest.approx(1)


def test_the_inception_score_is_that_of_torch_fidelity():
    library = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity does not run here")
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)) * 3)
    found = library.isc_features_to_metric(logits, splits=1, shuffle=False)
    assert inception_score(logits.softmax(1).numpy()) == pytest.approx(found["inception_score_mean"], rel=1e-6)


def sets(offset):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = random.normal(size=(60, 8)) + offset * np.eye(8)[labels]
    features = {"train": rows, "held-out": rows + 0.1, "generated": rows[::-1] * 0.9}
    return features, {"train": labels, "held-out": labels, "generated": labels[::-1]}, subjects(features)


def subjects(features):
    return {name: np.arange(len(each)) for name, each in features.items()}


def test_classes_that_are_made_as_asked_are_named():
    found = class_scores(*sets(20.0), rounds=5)
    assert found.num_classes == 3
    assert found.sets["generated"].accuracy.value == 1
    assert found.sets["generated"].inception_score.value > 2.2
    assert found.sets["train"].accuracy is None  # of its own training volumes it would be 1 whatever the features


def test_an_accuracy_of_1_is_no_certainty_and_repeats_do_not_add_to_it():
    features, labels, own = sets(20.0)
    each = class_scores(features, labels, own, rounds=5).sets["held-out"].accuracy
    assert each.value == 1 and 0 < each.error < 0.03
    of_six = class_scores(features, labels, own | {"held-out": np.arange(60) // 10}, rounds=5).sets["held-out"].accuracy
    assert of_six.value == 1 and of_six.error > 0.1


def test_generated_volumes_of_no_class_have_a_score_and_no_accuracy():
    features, labels, own = sets(20.0)
    found = class_scores(features, {**labels, "generated": None}, own, rounds=5)
    assert found.sets["generated"].accuracy is None and found.sets["generated"].inception_score.value > 2.2


@pytest.mark.parametrize("known", [np.full(60, -1), np.zeros(60, dtype=int), None])
def test_without_two_classes_there_is_nothing_to_tell(known):
    features, labels, own = sets(1.0)
    assert class_scores(features, {**labels, "train": known}, own, rounds=5) is None


def test_volumes_without_a_class_of_the_model_are_not_reconstructed(monkeypatch):
    from types import SimpleNamespace

    from hagan3d.evaluation.report import protocol, reconstruction

    def inputs(path, description, split):
        labels = {"validation": [0, -1, 1], "test": [-1, 1]}[split]
        return len(labels), iter([SimpleNamespace(label=label, x=np.full((1, 2, 2, 2), label)) for label in labels])

    def latents(model, chosen, reconstruct):
        return (SimpleNamespace(reconstruction=item.x, input=item) for item in chosen)

    for name, function in (("inputs_of_store", inputs), ("latents", latents), ("has_encoder", lambda model: True)):
        monkeypatch.setattr(reconstruction, name, function)
    monkeypatch.setattr(protocol, "has_encoder", lambda model: True)
    description = SimpleNamespace(class_names=("ill",))
    store = SimpleNamespace(
        path=None,
        splits=["train", "validation", "test", "test"],
        class_names=("well", "ill"),
        labels=np.array([-1, -1, 0, 1]),
    )
    for classes, expected in ((2, [0, 1, 1]), (0, [0, -1, 1, -1, 1])):
        model = SimpleNamespace(num_classes=classes, description=description)
        found = list(reconstruction.reconstructions(model, store, EvaluateConfig(), no_progress))
        assert [int(real[0, 0, 0, 0]) for _, real in found] == expected
        assert protocol._without_class(model, store) == (2 if classes else 0)  # without one, and of another name
