"""Networks of slices: no tap, stride or padding along D, and the 2D networks of PyTorch on the same weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hagan3d.config import UnpairedDataConfig
from hagan3d.config.methods import config_class, method_names
from hagan3d.methods.registry import make_networks
from hagan3d.networks.discriminators import GlobalDiscriminator, PatchDiscriminator
from hagan3d.networks.flat_layers import PlainConv3d, TransposedConv3d, flat_layers
from hagan3d.networks.layers import Conv3d, StridedConv3d, UpConv3d
from hagan3d.networks.residual_unet import num_levels
from hagan3d.networks.spectral import SpectralConv3d
from hagan3d.networks.strided_unet import StridedUNet
from tests.methods.small import small_config

CONVS = nn.Conv3d | nn.ConvTranspose3d
SLICED = [name for name in method_names() if config_class(name).takes_slices]
WITH_CONTEXT = [
    name
    for name in SLICED
    if config_class(name).translates and config_class(name).data_config is not UnpairedDataConfig
]
FLAT = {"slice_tv_weight": 0.0}  # of slices there is no variation along D


def convs_of(network: nn.Module) -> dict[str, CONVS]:
    return {name: module for name, module in network.named_modules() if isinstance(module, CONVS)}


@pytest.mark.parametrize("method", SLICED)
def test_a_network_of_slices_has_the_weights_of_one_tap_along_d(method):
    with torch.device("meta"):
        flat = make_networks(small_config(method, size=(1, 32, 32), **(FLAT if method == "restore" else {})))
        deep = make_networks(small_config(method, size=(32, 32, 32)))
    flat_convs, deep_convs = convs_of(flat), convs_of(deep)
    assert flat_convs.keys() == deep_convs.keys() and flat_convs
    for name, conv in flat_convs.items():
        taps = deep_convs[name].kernel_size[0]
        assert conv.weight.numel() * taps == deep_convs[name].weight.numel(), name
        assert conv.kernel_size[1:] == deep_convs[name].kernel_size[1:], name
        along_d = conv.kernel_size[0], conv.stride[0], conv.padding[0], conv.output_padding[0]
        assert along_d == (1, 1, 0, 0), name
    assert any(deep_convs[name].kernel_size[0] > 1 for name in deep_convs)


@pytest.mark.parametrize("outside", [True, False])
def test_layers_are_flat_inside_the_context_alone(outside):
    with flat_layers(not outside):
        inside = PlainConv3d(2, 3, 3, stride=2, padding=1)
    after = PlainConv3d(2, 3, 3, stride=2, padding=1)
    assert inside.kernel_size == ((3, 3, 3) if outside else (1, 3, 3))
    assert (after.kernel_size, after.stride, after.padding) == ((3, 3, 3), (2, 2, 2), (1, 1, 1))
    with pytest.raises(RuntimeError, match="inside"), flat_layers():
        raise RuntimeError("inside")
    assert PlainConv3d(2, 3, 3).kernel_size == (3, 3, 3)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["plain", "reflect", "strided", "spectral", "conv", "one channel", "up", "transposed"])
def test_a_flat_layer_is_the_2d_convolution_on_the_same_weights(name, frozen, device):
    torch.manual_seed(0)
    with flat_layers():
        layer = {
            "plain": lambda: PlainConv3d(4, 6, 7, stride=2, padding=3),
            "reflect": lambda: PlainConv3d(4, 6, 3, padding=1, padding_mode="reflect"),
            "strided": lambda: StridedConv3d(4, 6, (4, 4, 4), stride=2, padding=1),
            "spectral": lambda: SpectralConv3d(4, 6, (3, 3, 3), stride=2, padding=1),
            "conv": lambda: Conv3d(4, 6),
            "one channel": lambda: Conv3d(4, 1),
            "up": lambda: UpConv3d(4, 6),
            "transposed": lambda: TransposedConv3d(4, 6, 3, padding=1, output_padding=1),
        }[name]()
    layer = layer.to(device, torch.float64).requires_grad_(not frozen)
    x = torch.randn(2, 4, 1, 12, 16, device=device, dtype=torch.float64).requires_grad_()
    weight = (layer.used_weight() if isinstance(layer, StridedConv3d) else layer.weight)[:, :, 0]
    image, stride, padding = x[:, :, 0], layer.stride[1:], layer.padding[1:]
    if name == "transposed":
        expected = F.conv_transpose2d(image, weight, layer.bias, stride, padding, layer.output_padding[1:])
    elif name == "reflect":
        expected = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), weight, layer.bias)
    else:
        image = F.interpolate(image, scale_factor=2) if name == "up" else image
        expected = F.conv2d(image, weight, layer.bias, stride, padding)
    result = layer(x)
    torch.testing.assert_close(result[:, :, 0], expected)
    grad = torch.randn_like(expected)
    (one,) = torch.autograd.grad(result, x, grad[:, :, None], retain_graph=True)
    (other,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(one, other)


def test_a_patch_discriminator_of_slices_is_the_2d_one():
    torch.manual_seed(0)
    with flat_layers():
        critic = PatchDiscriminator(2, width=4, layers=2)
    x = torch.randn(2, 2, 1, 32, 64)
    y = x[:, :, 0]
    for number, conv in enumerate(critic.convs):
        y = F.conv2d(y, conv.weight[:, :, 0], conv.bias, 2 if number < 2 else 1, 1)
        y = F.leaky_relu(F.instance_norm(y) if number else y, 0.2)
    expected = F.conv2d(y, critic.logits.weight[:, :, 0], critic.logits.bias, 1, 1)
    torch.testing.assert_close(critic(x)[:, :, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_shortest_side_is_that_of_h_and_w():
    assert num_levels((1, 64, 128), None) == num_levels((64, 64, 128), None) == 4
    with flat_layers():
        critic = GlobalDiscriminator(1, (1, 64, 32), width=4)
        unet = StridedUNet(1, 1, (1, 64, 32), width=4, levels=num_levels((1, 64, 32), None), norm="instance")
    assert len(critic.convs) == 4 and critic.logits.kernel_size == (1, 4, 2)
    assert critic(torch.zeros(3, 1, 1, 64, 32)).shape == (3,)
    assert unet(torch.zeros(2, 1, 1, 64, 32)).shape == (2, 1, 1, 64, 32)


@pytest.mark.parametrize("method", WITH_CONTEXT)
def test_context_adds_channels_of_the_source_alone(method):
    settings = {"size": (1, 32, 32), "slices": "axial", **(FLAT if method == "restore" else {})}
    for context in (1, 3):
        config = small_config(method, **settings, context=context)
        networks = make_networks(config)
        output = networks.translate(torch.zeros(2, context, 1, 32, 32)).mean
        assert output.shape == (2, 3 if method == "segan" else 1, 1, 32, 32)  # of segan: a channel per label
