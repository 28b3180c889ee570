"""Losses on features of an extractor: which one a run has, its file, its memory, and that it stays the same."""

import pytest
import torch

from hagan3d import cli, train
from hagan3d.data.store.store import Store
from hagan3d.engine.memory_plan import Plan
from hagan3d.errors import InputError
from hagan3d.evaluation.features.self_supervised import train_features
from hagan3d.evaluation.settings import FeatureTrainConfig
from hagan3d.methods.registry import make_method, make_networks
from hagan3d.networks.extractors.medicalnet import MedicalNet
from tests.helpers import CPU
from tests.methods.small import assert_counts_agree, make_trainer, small_batch, small_config

METHODS = ("medgan", "restore")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of its own, with a features file."""
    from tests.conftest import make_small_store

    path = make_small_store(tmp_path_factory.mktemp("with_features"))
    train_features(Store(path), FeatureTrainConfig(steps=2, batch_size=2))
    return path


def extractor_of(method, store, **settings):
    made = make_method(small_config(method, **settings))
    made.add_extractor(Store(store), CPU)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_several_channels_are_those_of_each(method, store):
    made = extractor_of(method, store, extractor="self")
    network = made.extractor[0]
    made.extractor = torch.nn.ModuleList([network, network])
    x = torch.rand(2, 2, 16, 16, 16)
    for both, first, second in zip(
        made.feature_maps(None, None, x), network.maps(x[:, :1]), network.maps(x[:, 1:]), strict=True
    ):
        assert torch.equal(both, torch.cat([first, second]))


@pytest.mark.parametrize("method", METHODS)
def test_medicalnet_sees_standardized_volumes(method, store, tmp_path):
    path = tmp_path / "resnet_10.pth"
    torch.save({"state_dict": {f"module.{name}": x for name, x in MedicalNet(10).state_dict().items()}}, path)
    made = extractor_of(method, store, extractor="medicalnet", extractor_weights=str(path))
    x = torch.rand(1, 1, 16, 16, 16)
    for one, other in zip(made.feature_maps(None, None, x), made.feature_maps(None, None, 0.3 * x - 0.2), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_extractor_is_the_moving_average_of_the_discriminator(method):
    networks = make_networks(small_config(method, extractor_decay=0.75)).requires_grad_(False)
    (before, *_), (own, *_) = networks.f.parameters(), networks.d.parameters()
    assert torch.equal(before, own)
    expected = before.clone()
    for _ in range(2):
        own.add_(torch.randn_like(own))
        networks.after_update(("g",))
        torch.testing.assert_close(before, expected)
        networks.after_update(("d",))
        expected = 0.75 * expected + 0.25 * own
        torch.testing.assert_close(before, expected)


@pytest.mark.parametrize("method", METHODS)
def test_without_the_discriminator_as_extractor_there_is_no_average_of_it(method, store):
    config = small_config(method, extractor="self")
    networks, made = make_networks(config), extractor_of(method, store, extractor="self")
    assert networks.f is None and "f" not in networks.names()
    batch = small_batch(config, store, 32)
    phase = next(phase for phase in made.phases() if phase.name == "g")
    terms = phase.loss(networks, batch)
    assert all(torch.isfinite(terms[name]) and terms[name] > 0 for name in phase.shares)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_memory_counts_the_extractor(method):
    assert_counts_agree(small_config(method, extractor="self"))
    narrow, wide = (
        sum(x.numel() for x in made.extractor.state_dict().values()) if made.extractor is not None else 0
        for made in (make_method(small_config(method)), _with_random("medicalnet", method))
    )
    assert narrow == 0 and wide > 4e7


@pytest.mark.parametrize("extractor", ["self", "medicalnet"])
@pytest.mark.parametrize("method", METHODS)
def test_a_plan_counts_the_operations_of_the_extractor(method, extractor):
    plain, more = (
        Plan(small_config(method, extractor=name, extractor_weights="resnet_50.pth" if name == "medicalnet" else None))
        for name in ("discriminator", extractor)
    )
    assert more.flops["g"] > plain.flops["g"] > 0


def _with_random(extractor, method):
    made = make_method(small_config(method, extractor=extractor, extractor_weights="resnet_50.pth"))
    made.add_extractor(None, CPU)
    return made


def test_a_run_with_other_weights_of_the_extractor_is_not_resumed(store, tmp_path):
    def trainer(steps):
        config = small_config("medgan", steps=steps, extractor="self")
        made = make_method(config)
        made.add_extractor(Store(store), CPU)
        return make_trainer(store, tmp_path / "run", config, made)

    assert trainer(1).run()
    assert trainer(2).run()
    train_features(Store(store), FeatureTrainConfig(steps=3, batch_size=2))
    with pytest.raises(InputError, match="started with other weights of the extractor self"):
        trainer(3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--medgan.extractor vgg19 --medgan.extractor_weights x.pth", "sees slices; use self or medicalnet"),
        ("--medgan.extractor medicalnet", "needs the file of its weights as medgan.extractor_weights"),
        ("--medgan.extractor_weights x.pth", "discriminator: has no file of published weights"),
        ("--medgan.extractor medicalnet --medgan.extractor_weights nowhere.pth", "nowhere.pth: no such file"),
        ("--medgan.extractor self", "no features trained on the store yet; train them with `hagan3d evaluate --store"),
    ],
)
def test_bad_settings_are_one_line(words, message, small_store, tmp_path, capsys):
    out = tmp_path / "run"
    line = [
        "--config",
        "medgan_32",
        "--data.store",
        str(small_store),
        "--data.degrade.kind",
        "noise",
        "--out",
        str(out),
    ]
    assert cli.run(train.main, [*line, "--train.device", "cpu", *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and sum(line.startswith("error") for line in error) == 1
    assert not (out / "checkpoints").exists()
