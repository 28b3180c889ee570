"""Feature extractors: what they compute, what they refuse, and that nothing is downloaded."""

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from hagan3d.data.store.features import features_path
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError
from hagan3d.evaluation.features.extractors import medicalnet_extractor, random_extractor, standardized
from hagan3d.evaluation.features.self_supervised import load_features, train_features
from hagan3d.evaluation.settings import FeatureTrainConfig
from hagan3d.networks.extractors.feature_net import detail
from hagan3d.networks.extractors.medicalnet import MedicalNet


def volumes(count, size=(32, 32, 32), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *size)).astype(np.float32)


def test_batches_do_not_change_features():
    extractor = random_extractor()
    x = volumes(5)
    whole, single = extractor.features(iter(x), batch=5), extractor.features(iter(x), batch=2)
    assert whole.shape == (5, extractor.dim)
    np.testing.assert_allclose(whole, single, atol=1e-6)


def test_a_seed_is_a_random_pyramid_with_orthogonal_weights():
    one, again, other = random_extractor(0), random_extractor(0), random_extractor(1)
    assert one.sha256 == again.sha256 != other.sha256
    for conv in one.network.convs:
        rows = conv.weight.flatten(1).double()
        torch.testing.assert_close(rows @ rows.T, 2 * torch.eye(len(rows)).double(), atol=1e-5, rtol=0)


def test_standardized_volumes_have_zero_mean_and_unit_deviation():
    x = standardized(torch.from_numpy(volumes(3))[:, None] * 5 + 2)
    torch.testing.assert_close(x.mean(dim=(1, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=(1, 2, 3, 4)), torch.ones(3))
    assert not standardized(torch.ones(1, 1, 4, 4, 4)).any()


def published(tmp_path, depth):
    """Weights in the form of the published files."""
    torch.manual_seed(depth)
    state = {f"module.{name}": value for name, value in MedicalNet(depth).state_dict().items()}
    state["module.conv_seg.0.weight"] = torch.zeros(1)
    path = tmp_path / f"resnet_{depth}.pth"
    torch.save({"state_dict": state}, path)
    return path, state


@pytest.mark.parametrize(("depth", "dim", "tensors"), [(10, 512, 12), (50, 2048, 53)])
def test_medicalnet_is_the_published_network(tmp_path, depth, dim, tensors):
    path, state = published(tmp_path, depth)
    extractor = medicalnet_extractor(path)
    assert extractor.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.features(volumes(2, (16, 16, 16))).shape == (2, dim) == (2, extractor.dim)
    convs = {name: m for name, m in extractor.network.named_modules() if isinstance(m, nn.Conv3d)}
    assert len(convs) == tensors and all(conv.bias is None for conv in convs.values())
    assert state["module.conv1.weight"].shape == (64, 1, 7, 7, 7)
    strided = {name for name, conv in convs.items() if conv.stride == (2, 2, 2)}
    layer2 = "layer2.0.conv1" if depth == 10 else "layer2.0.conv2"
    assert strided == {"conv1", layer2, "layer2.0.downsample.0"}
    dilated = {name.split(".")[0]: conv.dilation[0] for name, conv in convs.items() if conv.kernel_size[0] == 3}
    assert dilated == {"layer1": 1, "layer2": 1, "layer3": 2, "layer4": 4}


def test_medicalnet_sees_neither_scale_nor_offset(tmp_path):
    extractor = medicalnet_extractor(published(tmp_path, 10)[0])
    x = volumes(2)
    np.testing.assert_allclose(extractor.features(x), extractor.features(x * 0.3 + 0.2), rtol=1e-3, atol=1e-4)


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/hagan3d-was-here", "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"module.conv1.weight": torch.zeros(3, 3)}}, "not the weights of MedicalNet"),
        ({"state_dict": {"module.conv1.weight": 3}}, "as published"),
        ([1], "as published"),
        (Evil(), "could run code"),
    ],
)
def test_the_weights_of_another_network_are_refused(tmp_path, content, message):
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=message) as error:
        medicalnet_extractor(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_not_fetched(tmp_path):
    with pytest.raises(InputError, match="not downloaded"):
        medicalnet_extractor(tmp_path / "resnet_10.pth")


@pytest.fixture(scope="module")
def store(small_store, tmp_path_factory):
    """A store of its own, as its features lie beside it."""
    path = tmp_path_factory.mktemp("features") / "own.h5"
    path.write_bytes(small_store.read_bytes())
    return Store(path)


def test_features_of_a_store_are_trained_kept_and_the_same_again(store):
    config = FeatureTrainConfig(steps=20, batch_size=4)
    with pytest.raises(InputError, match="--train-features"):
        load_features(store)
    first = train_features(store, config)
    loaded = load_features(store)
    assert first.path == features_path(store) and loaded.sha256 == first.extractor.sha256
    assert train_features(store, config).extractor.sha256 == loaded.sha256
    assert np.mean(first.losses[-5:]) < np.mean(first.losses[:5])
    rows = loaded.features(store.channel(int(i)).numpy() for i in store.indices("train"))
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-3)
    assert np.median(rows.std(axis=0)) == pytest.approx(1, abs=1e-2)


def test_detail_is_the_energy_of_noise_and_none_of_a_ramp():
    noise = 0.1 * torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = math.log(0.01 * 26 / 27)  # 27 voxels of unit weight: what is left of one after the mean
    torch.testing.assert_close(detail(noise), torch.full((2, 8), expected), atol=0.15, rtol=0)
    ramp = torch.linspace(-1, 1, 64)[None, None, :, None, None].expand(1, 1, 64, 32, 32)
    assert detail(ramp).max() < -9


def test_features_of_another_store_or_damaged_ones_are_refused(store, tmp_path):
    made = train_features(store, FeatureTrainConfig(steps=1, batch_size=2))
    values = torch.load(made.path, weights_only=True)
    odd = tmp_path / "odd.pt"
    for change, message in [
        ({"store": "0" * 64}, "another store"),
        ({"channel": "T9"}, "trained on channel T9"),
        ({"format": "x"}, "of this version"),
        ({"state": {}}, "another network"),
        ({"sha256": "0"}, "damaged"),
    ]:
        torch.save(values | change, odd)
        with pytest.raises(InputError, match=message):
            load_features(store, odd)
    odd.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a file of tensors"):
        load_features(store, odd)
