"""Feature extractors of losses: VGG-19 against torchvision's, feature maps of the others, files that are refused."""

import pytest
import torch
import torchvision
from torch import nn

from hagan3d.errors import InputError
from hagan3d.networks.extractors.feature_net import FeatureNet
from hagan3d.networks.extractors.medicalnet import MedicalNet
from hagan3d.networks.extractors.vgg19 import VGG19, load_vgg19


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """torchvision's convolutions with random weights, and a file of them with a classifier, as torchvision has it."""
    torch.manual_seed(0)
    vgg = torchvision.models.vgg
    features = vgg.make_layers(vgg.cfgs["E"])
    state = {f"features.{name}": x for name, x in features.state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    return features.eval(), path


@torch.no_grad()
def test_vgg19_is_that_of_torchvision(published):
    features, path = published
    network = load_vgg19(path)
    assert not any(p.requires_grad for p in network.parameters())
    x = torch.rand(2, 1, 1, 32, 64) * 2 - 1
    colours = ((x[:, 0] + 1) / 2).repeat(1, 3, 1, 1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = (colours - mean[:, None, None]) / deviation[:, None, None]
    convs = {0: "conv1_1", 5: "conv2_1", 10: "conv3_1", 19: "conv4_1", 28: "conv5_1"}
    expected = []
    for number, layer in enumerate(features):
        layer = nn.ReLU() if isinstance(layer, nn.ReLU) else layer  # torchvision's works in place
        y = layer(y)
        expected += [y] if number in convs else []
    maps = network.maps(x)
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512, 512] and all(m.shape[2] == 1 for m in maps)
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found[:, :, 0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if k != "features.28.weight"}, "features.28.weight"),
        (lambda state: state | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, "features.0.weight"),
        (lambda state: {"model": state}, "a dictionary of tensors"),
    ],
)
def test_weights_of_another_network_are_refused(published, tmp_path, change, message):
    torch.save(change(torch.load(published[1])), tmp_path / "x.pth")
    with pytest.raises(InputError, match=message):
        load_vgg19(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("network", "shape", "widths"),
    [
        (FeatureNet(), (1, 1, 16, 32, 16), [8, 24, 64]),
        (MedicalNet(10), (1, 1, 16, 32, 16), [64, 64, 128, 256, 512]),
        (VGG19(), (1, 1, 1, 32, 32), [64, 128, 256, 512, 512]),
    ],
)
def test_feature_maps_pass_gradients_on_to_the_volume(network, shape, widths):
    x = torch.rand(shape, requires_grad=True)
    maps = network.eval().requires_grad_(False).maps(x)
    assert [m.shape[1] for m in maps] == widths
    for m in maps:
        (gradient,) = torch.autograd.grad(m.square().sum(), x, retain_graph=True)
        assert gradient.abs().max() > 0
