"""The forward pass of every network of translation and of WGAN-GP is that of its paper, written out in plain layers."""

import pytest
import torch

from hagan3d.methods.registration.networks import Regressor
from hagan3d.methods.unit.config import UNITConfig
from hagan3d.methods.unit.networks import UNITDiscriminator, UNITNetworks
from hagan3d.methods.wgan_gp.networks import VolumeGenerator
from hagan3d.networks.discriminators import FeatureCritic, GlobalDiscriminator, PatchDiscriminator
from hagan3d.networks.full_resolution import FullResolution
from hagan3d.networks.layers import VolumeOutput
from hagan3d.networks.residual_unet import ResidualUNet
from hagan3d.networks.resnet import ResNetGenerator
from hagan3d.networks.strided_unet import StridedUNet, seeded_dropout
from tests.networks.plain import (
    conv,
    doubling_conv,
    group,
    instance,
    leaky,
    linear,
    normal,
    randomised,
    reflecting_conv,
    relu,
    rms,
    standardised,
    up_conv,
)

assert_close = torch.testing.assert_close


def plain_instance(x):
    return standardised(x, x.shape[1])


def test_a_patch_discriminator():
    network, state = randomised(PatchDiscriminator(2, width=4, layers=2))
    x = normal(2, 2, 16, 16, 20)
    first = leaky(conv(x, state, "convs.0", 2, 1))
    second = leaky(plain_instance(conv(first, state, "convs.1", 2, 1)))
    third = leaky(plain_instance(conv(second, state, "convs.2", 1, 1)))
    for found, expected in zip(network.features(x), (first, second, third), strict=True):
        assert_close(found, expected)
    assert_close(network(x), conv(third, state, "logits", 1, 1))


def test_a_feature_critic():
    network, state = randomised(FeatureCritic(2, width=4, layers=2))
    x = normal(2, 2, 16, 16, 16)
    first = leaky(conv(x, state, "convs.0", 2, 1))
    second = leaky(plain_instance(conv(first, state, "convs.1", 2, 1)))
    for found, expected in zip(network(x), (x, first, second), strict=True):
        assert_close(found, expected)


def test_a_global_discriminator():
    network, state = randomised(GlobalDiscriminator(2, (8, 16, 32), width=4))
    x = normal(3, 2, 8, 16, 32)
    y = leaky(conv(leaky(conv(x, state, "convs.0", 2, 1)), state, "convs.1", 2, 1))
    y = leaky(conv(y, state, "convs.2", (1, 2, 2), (0, 1, 1)))
    assert state["convs.2.weight"].shape == (16, 8, 1, 4, 4)  # an axis below 4 voxels is kept
    assert y.shape[2:] == (2, 2, 4)
    assert_close(network(x), conv(y, state, "logits")[:, 0, 0, 0, 0])


def test_plain_convolutions_at_full_resolution():
    network, state = randomised(FullResolution(2, 1, width=4, depth=3, skips=False))
    x = normal(1, 2, 8, 6, 7)
    y = relu(conv(relu(conv(x, state, "convs.0", padding=1)), state, "convs.1", padding=1))
    assert_close(network(x), conv(y, state, "convs.2", padding=1))


def test_skips_at_full_resolution_join_layers_from_the_outside_in():
    network, state = randomised(FullResolution(2, 1, width=4, depth=6, skips=True))
    x = normal(1, 2, 8, 6, 7)
    first = conv(x, state, "convs.0", padding=1)
    second = conv(relu(first), state, "convs.1", padding=1)
    middle = conv(relu(second), state, "convs.2", padding=1)
    fourth = conv(relu(middle), state, "convs.3", padding=1) + second
    fifth = conv(relu(fourth), state, "convs.4", padding=1) + first
    assert_close(network(x), conv(relu(fifth), state, "convs.5", padding=1))


@pytest.mark.parametrize(("norm", "normalised"), [("instance", instance), ("group", group), ("rms", rms)])
def test_a_residual_unet(norm, normalised):
    network, state = randomised(ResidualUNet(2, [1, 3], width=8, levels=2, norm=norm))
    x = normal(2, 2, 8, 8, 12)

    def residual(y, name):
        return y + relu(normalised(conv(y, state, f"{name}.second", padding=1), state, f"{name}.second_norm"))

    def down(y, name):
        return residual(relu(normalised(conv(y, state, f"{name}.conv", 2, 1), state, f"{name}.norm")), name)

    def up(y, name, skip):
        return residual(relu(normalised(up_conv(y, state, f"{name}.conv"), state, f"{name}.norm")) + skip, name)

    full = relu(normalised(conv(x, state, "stem.conv", padding=1), state, "stem.norm"))
    half = down(full, "downs.0")
    y = up(up(down(half, "downs.1"), "ups.0", half), "ups.1", full)
    for found, name in zip(network(x), ("heads.0", "heads.1"), strict=True):
        assert_close(found, conv(y, state, name))


def test_the_innermost_level_of_one_voxel_depends_on_the_input():
    network, _ = randomised(ResidualUNet(1, [1], width=4, levels=3, norm="instance"))
    inner = []
    network.downs[-1].register_forward_hook(lambda module, inputs, y: inner.append(y))
    network(normal(3, 1, 8, 8, 8))
    assert inner[0].shape == (3, 32, 1, 1, 1) and inner[0].std(0).mean() > 0.05


@pytest.mark.parametrize("seeds", [None, (3, 4)])
@pytest.mark.parametrize(("norm", "normalised"), [("instance", instance), ("rms", rms)])
def test_a_strided_unet(norm, normalised, seeds):
    network, state = randomised(StridedUNet(2, 1, (32, 32, 32), width=2, levels=5, norm=norm, labels=0))
    x = normal(2, 2, 32, 32, 32)
    maps = [leaky(conv(x, state, "downs.0", 2, 1))]
    for level in range(1, 5):
        y = conv(maps[-1], state, f"downs.{level}", 2, 1)
        alone = norm == "instance" and y[0, 0].numel() == 1  # a single voxel has no statistics over space
        maps.append(leaky(y if alone else normalised(y, state, f"norms.{level - 1}")))
    y = maps.pop()
    for level in range(4):
        weight, bias = state[f"ups.{level}.weight"], state[f"ups.{level}.bias"]
        y = relu(normalised(torch.conv_transpose3d(y, weight, bias, 2, 1), state, f"up_norms.{level}"))
        if seeds and level < 3:  # of Isola et al.: in the three innermost layers of the decoder
            y = seeded_dropout(y, seeds, level)
        y = torch.cat([y, maps.pop()], 1)
    assert_close(network(x, seeds), torch.conv_transpose3d(y, state["ups.4.weight"], state["ups.4.bias"], 2, 1).tanh())


def residual_block(x, state, name, normalised=instance):
    y = relu(normalised(reflecting_conv(x, state, f"{name}.change.0", 1), state, f"{name}.change.1"))
    return x + normalised(reflecting_conv(y, state, f"{name}.change.2", 1), state, f"{name}.change.3")


def test_a_resnet_generator():
    network, state = randomised(ResNetGenerator(2, 1, width=4, blocks=2, norm="instance"))
    x = normal(1, 2, 8, 12, 16)
    y = relu(instance(reflecting_conv(x, state, "parts.0.0", 3), state, "parts.0.1"))
    for part in (1, 2):
        y = relu(instance(conv(y, state, f"parts.{part}.0", 2, 1), state, f"parts.{part}.1"))
    for part in (3, 4):
        y = residual_block(y, state, f"parts.{part}.0")
    for part in (5, 6):
        y = relu(instance(doubling_conv(y, state, f"parts.{part}.0"), state, f"parts.{part}.1"))
    assert_close(network(x), reflecting_conv(y, state, "last", 3).tanh())


@pytest.mark.parametrize("spectral", ["none", "all"])
def test_the_encoders_and_decoders_of_unit(spectral):
    settings = UNITConfig(width=4, blocks=1, attention="both", spectral_norm=spectral, critic_width=4, critic_layers=2)
    networks, state = randomised(UNITNetworks((16, 16, 16), settings))
    x = normal(1, 1, 8, 12, 16)
    for name in ("source", "target"):
        y = leaky(conv(x, state, f"e_{name}.0.0", padding=3))
        for layer in (1, 2):
            y = leaky(conv(y, state, f"e_{name}.{layer}.0", 2, 1))
        y = networks[f"e_{name}"][4](residual_block(y, state, f"e_{name}.3"))  # attention is tested alone
        z = residual_block(y, state, "e_shared.0")
        assert_close(networks.encode(name, x), z)
        y = residual_block(residual_block(z, state, "g_shared.0"), state, f"g_{name}.0")
        y = networks[f"g_{name}"][1](y)
        for layer in (2, 3):
            y = leaky(doubling_conv(y, state, f"g_{name}.{layer}.0"))
        assert_close(networks.decode(name, z), conv(y, state, f"g_{name}.4.0").tanh())


@pytest.mark.parametrize("spectral", [False, True])
def test_the_discriminator_of_unit(spectral):
    network, state = randomised(UNITDiscriminator(1, width=4, layers=2, spectral=spectral))
    x = normal(2, 1, 8, 12, 16)
    y = leaky(conv(leaky(conv(x, state, "convs.0", 2, 1)), state, "convs.1", 2, 1))
    assert_close(network(x), conv(y, state, "logits"))


def test_the_regressor_of_registration():
    network, state = randomised(Regressor(2, (16, 16, 16), 6, width=4))
    y = x = normal(2, 2, 16, 16, 16)
    for layer in (0, 1):
        y = leaky(plain_instance(conv(y, state, f"convs.{layer}", 2, 1)))
    hidden = relu(linear(y.flatten(1), state, "hidden"))
    assert_close(network(x), 10 * linear(hidden, state, "last"))  # a unit is 10 degrees, mm or per cent


def test_the_generator_of_wgan_gp():
    network, state = randomised(VolumeGenerator((16, 16, 32), 5, 8, VolumeOutput(1, 3)))
    z = normal(2, 5)
    y = linear(z, state, "fc").view(2, 32, 4, 4, 8)
    for block in (0, 1):
        y = relu(group(up_conv(y, state, f"blocks.{block}.conv"), state, f"blocks.{block}.norm"))
    y = conv(y, state, "last", padding=1)
    assert_close(network(z), torch.cat([y[:, :1].tanh(), 2 * y[:, 1:].softmax(1) - 1], 1))
